"""Combinations of fields of `model` that cannot work are refused, field by field, with what is allowed."""

from __future__ import annotations

import pytest

MODEL = "model.faster_rcnn"
POOLING = f"{MODEL}.roi_pooling"
SIZES = [f"-{MODEL}.{name}" for name in ("initial_crop_size", "maxpool_kernel_size", "maxpool_stride")]


@pytest.mark.parametrize(
    "changes",
    [
        [f"{POOLING}={{}}"],
        [f"{POOLING}={{min_level: 2 max_level: 5 canonical_level: 4 side_epsilon: 1e-8}}"],
        [f"{POOLING}={{min_level: 3 max_level: 3}}"],
        [*SIZES, f"{POOLING}={{roi_align {{}}}}"],
        [f"{MODEL}.maxpool_kernel_size=15", f"{POOLING}={{roi_align {{}}}}"],  # without effect
    ],
)
def test_pooling_of_rois_is_accepted(config, changes, change, refusals):
    change(config, *changes)
    assert refusals(config) == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        ([*SIZES[:1], f"{POOLING}={{min_level: 3}}"], f"{MODEL}.initial_crop_size is not set. Allowed: 1 or more"),
        ([f"{POOLING}.min_level=7"], f"{POOLING}.min_level = 7 is no level of feature_extractor.fpn. Allowed: 2 to 6."),
        ([f"{POOLING}.max_level=7"], f"{POOLING}.max_level = 7 is no level of feature_extractor.fpn. Allowed: 2 to 6."),
        (
            [f"{POOLING}.min_level=4", f"{POOLING}.max_level=3"],
            f"{POOLING}.max_level = 3 is below min_level = 4. Allowed: 4 or more.",
        ),
        ([f"{POOLING}.canonical_level=1"], f"{POOLING}.canonical_level = 1 is out of range. Allowed: 2 to 7."),
        ([f"{POOLING}.canonical_size=0"], f"{POOLING}.canonical_size = 0 is out of range. Allowed: above 0."),
        ([f"{POOLING}.level_epsilon=-1"], f"{POOLING}.level_epsilon = -1 is out of range. Allowed: 0 or more."),
        ([f"{POOLING}.roi_align.output_size=0"], "roi_align.output_size = 0 is out of range. Allowed: 1 or more."),
        ([f"{POOLING}.roi_align.sampling_ratio=-1"], "sampling_ratio = -1 is out of range. Allowed: 0 or more."),
        ([f"{POOLING}.roi_align.max_static_samples=0"], "max_static_samples = 0 is out of range. Allowed: 1 or more."),
    ],
)
def test_pooling_of_rois_is_refused(config, changes, expected, change, refusals):
    change(config, *changes)
    assert len(refused := refusals(config)) == 1
    assert expected in refused[0]
