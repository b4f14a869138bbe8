from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import nms

_MODES = [(False, False), (True, False), (True, True)]  # static, compiled


@pytest.fixture(params=_MODES, ids=["native", "static", "static compiled"])
def mode(request):
    return request.param


@pytest.fixture(scope="session")
def run():
    return _run


@pytest.fixture(scope="session")
def multiclass():
    return _multiclass


@pytest.fixture(scope="session")
def random_boxes():
    return _random_boxes


@pytest.fixture(scope="session")
def reference():
    return _reference


def _run(function, *args, mode, **kwargs):
    static, compiled = mode
    run = tf.function(lambda *a: function(*a, static=static, **kwargs), jit_compile=compiled, autograph=False)
    return run(*args)


_SETTINGS = {
    "max_detections_per_class": 10,
    "max_total_detections": 12,
    "iou_threshold": 0.5,
    "score_threshold": 0.1,
}


def _multiclass(boxes, scores, windows, *, mode, num_valid=None, **changes):
    suppression = nms.Suppression(**{**_SETTINGS, **changes})

    def function(boxes, scores, windows, num_valid, *, static):
        return nms.multiclass_nms(boxes, scores, suppression, clip_window=windows, num_valid=num_valid, static=static)

    return _run(function, boxes, scores, windows, num_valid, mode=mode)


def _random_boxes(rng, shape, side=100.0):
    corner, size = rng.uniform(-side, 5 * side, (*shape, 2)), rng.uniform(0.0, side, (*shape, 2))
    return np.concatenate([corner, corner + size], axis=-1).astype(np.float32)


def _reference(boxes, scores, max_outputs, iou_threshold, score_threshold):
    """One row, in plain loops."""
    iou = box_ops.pairwise_iou(boxes, boxes).numpy()
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] > score_threshold and len(kept) < max_outputs and not any(iou[i, j] > iou_threshold for j in kept):
            kept.append(i)
    return kept
