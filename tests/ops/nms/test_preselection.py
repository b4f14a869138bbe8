"""Looking at the best boxes first changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import nms

WINDOW = tf.constant([[0.0, 0.0, 100.0, 100.0]] * 2)


def make(num_boxes=300, num_classes=3, seed=0):
    random = np.random.RandomState(seed)
    corners = random.uniform(-10, 90, [2, num_boxes, 2])
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, [2, num_boxes, 2])], -1)
    scores = random.uniform(0, 1, [2, num_boxes, num_classes]).round(2)  # with ties
    return tf.constant(boxes, tf.float32), tf.constant(scores, tf.float32)


SUPPRESSIONS = [
    nms.Suppression(max_detections_per_class=10, max_total_detections=12),
    nms.Suppression(max_detections_per_class=3, max_total_detections=20),  # never fills
    nms.Suppression(score_threshold=0.97, max_total_detections=12),
    nms.Suppression(class_agnostic=True, max_total_detections=12, max_classes_per_detection=2),
    nms.Suppression(soft_nms_sigma=0.5, max_detections_per_class=10, max_total_detections=12),
    nms.Suppression(clip_before_suppression=True, min_box_side=8.0, max_total_detections=12),
]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("suppression", SUPPRESSIONS, ids=str)
@pytest.mark.parametrize("num_first", [10, 60])
def test_results_are_those_of_all_boxes(suppression, num_first, static):
    boxes, scores = make()
    wanted = nms.multiclass_nms(boxes[:, :, None], scores, suppression, clip_window=WINDOW, static=static)
    found = nms.multiclass_nms_of_many(
        boxes, scores, suppression, clip_window=WINDOW, num_first=num_first, static=static
    )
    for name, value in wanted._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_a_number_of_boxes_that_only_a_step_tells_is_no_matter():
    boxes, scores = make()
    suppression = SUPPRESSIONS[0]

    @tf.function(input_signature=[tf.TensorSpec([2, None, 4]), tf.TensorSpec([2, None, 3])])
    def suppress(boxes, scores):
        return nms.multiclass_nms_of_many(boxes, scores, suppression, clip_window=WINDOW, num_first=50)

    for n in (20, 300):
        wanted = nms.multiclass_nms(boxes[:, :n, None], scores[:, :n], suppression, clip_window=WINDOW)
        for name, value in wanted._asdict().items():
            np.testing.assert_array_equal(getattr(suppress(boxes[:, :n], scores[:, :n]), name), value, err_msg=name)


@pytest.mark.parametrize("static", [False, True])
def test_only_the_best_pairs_of_each_level_take_part(static):
    boxes, scores = make(num_boxes=8)
    suppression = nms.Suppression(iou_threshold=1.0, max_detections_per_class=50, max_total_detections=50)
    found = nms.multiclass_nms_of_levels(
        boxes, scores, suppression, clip_window=WINDOW, level_sizes=[6, 2], max_candidates=4, static=static
    )
    np.testing.assert_array_equal(found.num, [8, 8])
    for image in range(2):
        values = np.asarray(scores[image])
        best = np.sort(values[:6], axis=None)[::-1][:4].tolist() + np.sort(values[6:], axis=None)[::-1][:4].tolist()
        np.testing.assert_array_equal(found.scores[image, :8], sorted(best, reverse=True))
        rows, labels = found.roi_indices[image, :8].numpy(), found.classes[image, :8].numpy()
        np.testing.assert_array_equal(values[rows, labels], found.scores[image, :8])
