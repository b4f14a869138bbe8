"""Real programs of a small model."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.planning import hlo

pytestmark = pytest.mark.no_cover  # tracing is slow under coverage


@pytest.fixture(scope="module")
def train(small_config, tiny_resnet18_throughout) -> hlo.TrainStep:
    return hlo.TrainStep(small_config)


@pytest.fixture(scope="module")
def program(train) -> bytes:
    return train.lower(2)


def test_program_of_the_train_step_holds_the_update_and_the_names_of_all_parts(program):
    for name in ("crop_and_resize", "suppression", "matching", "sampling", "losses"):
        assert name.encode() in program, name
    assert b"gradient_tape/feature_extractor" in program
    assert b"ResourceApply" in program


def test_program_does_not_grow_with_the_batch(train, program):
    assert len(train.lower(8)) <= 1.2 * len(program)


def test_state_is_the_weights_and_the_optimizers_share(train, small_config):
    detection = hlo.DetectionStep(small_config)
    assert detection.state_bytes < train.state_bytes <= 3 * detection.state_bytes
    assert 0 < train.reduced_bytes < detection.state_bytes
    assert b"suppression" in detection.lower(1)
