from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.ops.crop_and_resize import kernel, sparse, static

_MODES = [(sparse.crop, False), (kernel.crop, False), (static.crop, False), (static.crop, True)]  # function, compiled


@pytest.fixture(params=_MODES, ids=["sparse", "kernel", "static", "static compiled"])
def mode(request):
    return request.param


@pytest.fixture(scope="session")
def crop():
    return _crop


@pytest.fixture(scope="session")
def gradient_of():
    return _gradient


@pytest.fixture(scope="session")
def random_case():
    return _random_case


@pytest.fixture(scope="session")
def reference():
    return _reference


def _crop(pyramid, boxes, levels, *, crop_size, mode, extrapolation_value=0.0):
    function, compiled = mode

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid, boxes, levels):
        return crop_ops.crop_by(function, pyramid, boxes, levels, crop_size, extrapolation_value)

    return run([tf.constant(features) for features in pyramid], boxes, levels)


def _random_case(seed=0, batch=2, rois=9, filters=3, dtype=np.float32):
    """A pyramid whose levels do not halve exactly, and boxes inside the image."""
    rng = np.random.default_rng(seed)
    pyramid = [rng.normal(size=(batch, *size, filters)).astype(dtype) for size in ((13, 9), (7, 5), (4, 3), (1, 1))]
    boxes = np.sort(rng.random((batch, rois, 2, 2)), axis=2).reshape(batch, rois, 4).astype(np.float32)
    return pyramid, boxes, rng.integers(0, len(pyramid), (batch, rois)).astype(np.int32)


def _reference(pyramid, boxes, levels, crop_size):
    """Boxes inside the image, one sample at a time."""
    out = np.zeros((*levels.shape, crop_size, crop_size, pyramid[0].shape[-1]))
    shares = np.linspace(0, 1, crop_size) if crop_size > 1 else [0.5]
    for b, r in np.ndindex(levels.shape):
        features = pyramid[levels[b, r]][b].astype(np.float64)
        last = np.array(features.shape[:2]) - 1
        ymin, xmin, ymax, xmax = boxes[b, r].astype(np.float64)
        for i, u in enumerate(shares):
            for j, v in enumerate(shares):
                y, x = (ymin + u * (ymax - ymin)) * last[0], (xmin + v * (xmax - xmin)) * last[1]
                y0, x0 = int(y), int(x)
                y1, x1 = min(y0 + 1, last[0]), min(x0 + 1, last[1])
                top = features[y0, x0] * (1 - x + x0) + features[y0, x1] * (x - x0)
                bottom = features[y1, x0] * (1 - x + x0) + features[y1, x1] * (x - x0)
                out[b, r, i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return out


def _gradient(pyramid, boxes, levels, upstream, mode):
    function, compiled = mode

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            crops = crop_ops.crop_by(function, pyramid, boxes, levels, 5)
            total = tf.reduce_sum(crops * upstream)
        return tape.gradient(total, pyramid)

    return run([tf.constant(features) for features in pyramid])
