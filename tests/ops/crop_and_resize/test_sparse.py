from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.ops.crop_and_resize import kernel, sparse, static

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


def test_beyond_the_border_sparse_and_kernel_give_the_same(crop, random_case):
    pyramid, boxes, levels = random_case(rois=40)
    boxes = boxes * 1.6 - 0.3
    crops = [
        crop(pyramid, boxes, levels, crop_size=6, mode=(function, False), extrapolation_value=0.5)
        for function in (sparse.crop, kernel.crop)
    ]
    assert np.any(crops[0] == 0.5)
    np.testing.assert_allclose(*crops, rtol=1e-4, atol=1e-5)


def test_the_gradient_on_a_cpu_is_whole_and_the_same_every_time(gradient_of, random_case):
    # Enough work for several threads: TensorFlow's own kernel loses up to a tenth of this gradient, another one each time.
    pyramid, boxes, levels = random_case(rois=400, filters=64)
    upstream = np.random.default_rng(1).normal(size=(2, 400, 5, 5, 64)).astype(np.float32)
    gradients = [gradient_of(pyramid, boxes, levels, upstream, (sparse.crop, False)) for _ in range(3)]
    expected = gradient_of(pyramid, boxes, levels, upstream, (static.crop, False))
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(gradients[0], expected, strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
