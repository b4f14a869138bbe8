"""From class logits and box deltas to detections, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.modeling import postprocess
from object_detection_fpn.ops import box_coder, nms
from object_detection_fpn.records import BoxOutputs, Proposals, RpnOutputs

# One image of 100 x 200 pixels, padded to 128 x 256; three RoIs and a padding row.
ROIS = [[0.0, 0, 50, 100], [0, 10, 50, 110], [80, 150, 120, 250], [0, 0, 0, 0]]
TRUE_SHAPES = tf.constant([[100, 200, 3]])
# Background, circle, square. The first two RoIs overlap (IoU 9/11) and show a circle, the third a square.
SCORES = np.array([[0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.2, 0.1, 0.7], [0.0, 1.0, 0.0]])
LEFT_BY_A_TENTH = [0.0, -1.0, 0.0, 0.0]

YX = [1, 0, 3, 2]  # from (x, y) to (y, x)

BOTH = pytest.mark.parametrize("static", [False, True])


def make_predictions(scores=SCORES, deltas=None, num_rois=3, rois=ROIS, num_boxes=2):
    deltas = np.zeros([1, len(rois), num_boxes, 4]) if deltas is None else deltas
    return (
        BoxOutputs(
            class_logits=tf.constant(np.log(np.maximum(scores, 1e-20))[None], tf.float32),
            box_deltas=tf.constant(deltas, tf.float32),
            roi_features=tf.zeros([0]),
        ),
        Proposals(
            tf.constant([rois], tf.float32), tf.linspace(0.9, 0.6, len(rois))[None], tf.constant([num_rois], tf.int32)
        ),
    )


def detect(predictions=None, *, suppression=None, **settings):
    suppression = {
        "max_detections_per_class": 3,
        "max_total_detections": 5,
        "score_threshold": 0.2,
        **(suppression or {}),
    }
    postprocessor = postprocess.Postprocessor(suppression=nms.Suppression(**suppression), **settings)
    return postprocessor(*(predictions or make_predictions()), TRUE_SHAPES)


@BOTH
def test_detections_worked_by_hand(static):
    detections = detect(static=static)
    # The circle of the second RoI (.5) is suppressed by the first's; its square (.3) is not.
    np.testing.assert_array_equal(detections.num_detections, [3])
    np.testing.assert_allclose(detections.scores, [[0.8, 0.7, 0.3, 0, 0]], rtol=1e-5)
    np.testing.assert_array_equal(detections.classes, [[0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(detections.roi_indices, [[0, 2, 1, 0, 0]])
    np.testing.assert_allclose(
        detections.boxes,
        # The third RoI sticks out of the true image on two sides.
        [[[0, 0, 0.5, 0.5], [0.8, 0.75, 1, 1], [0, 0.05, 0.5, 0.55], [0] * 4, [0] * 4]],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        detections.class_scores[0], [SCORES[0], SCORES[2], SCORES[1], [0] * 3, [0] * 3], atol=1e-6
    )
    np.testing.assert_allclose(detections.raw_class_scores[0], SCORES, atol=1e-6)
    np.testing.assert_allclose(
        detections.raw_boxes[0], [[0, 0, 0.5, 0.5], [0, 0.05, 0.5, 0.55], [0.8, 0.75, 1, 1], [0] * 4], atol=1e-6
    )


@BOTH
@pytest.mark.parametrize(
    "settings, scores",
    [
        ({"score_threshold": 0.6}, [0.8, 0.7]),
        ({"score_threshold": 0.0}, [0.8, 0.7, 0.3, 0.1]),
        ({"iou_threshold": 0.9}, [0.8, 0.7, 0.5, 0.3]),
        ({"max_detections_per_class": 1}, [0.8, 0.7]),
        ({"max_total_detections": 2}, [0.8, 0.7]),
        ({"class_agnostic": True}, [0.8, 0.7]),
    ],
)
def test_settings_of_suppression_arrive(static, settings, scores):
    found = detect(static=static, suppression=settings).scores.numpy()[0]
    np.testing.assert_allclose(found[found > 0], scores, rtol=1e-5)


@BOTH
def test_soft_suppression_lowers_a_score_instead(static):
    soft = {"soft_nms_sigma": 0.5, "iou_threshold": 1.0, "score_threshold": 0.01}
    detections = detect(static=static, suppression=soft)
    decayed = 0.5 * np.exp(-((9 / 11) ** 2) / (2 * 0.5))
    assert np.any(np.isclose(detections.scores[0], decayed, rtol=1e-4))


@BOTH
@pytest.mark.parametrize("scores", [SCORES, np.full([4, 3], [1.0, 0.0, 0.0])], ids=["no rois", "background"])
def test_an_image_without_detections_is_all_zeros(static, scores):
    predictions = make_predictions(scores, num_rois=0 if scores is SCORES else 3)
    detections = detect(predictions, static=static)
    for name in ("boxes", "scores", "classes", "num_detections", "class_scores", "roi_indices"):
        assert not np.any(getattr(detections, name)), name


def test_each_class_refines_its_own_box():
    deltas = np.zeros([1, 4, 2, 4])
    deltas[0, :, 1] = LEFT_BY_A_TENTH  # of the width, if the class is square
    detections = detect(make_predictions(deltas=deltas))
    np.testing.assert_allclose(
        detections.boxes[0, :3], [[0, 0, 0.5, 0.5], [0.8, 0.7, 1, 1], [0, 0, 0.5, 0.5]], atol=1e-6
    )
    # The best class of the RoIs is circle, circle, square; background does not compete.
    np.testing.assert_allclose(
        detections.raw_boxes[0, :3], [[0, 0, 0.5, 0.5], [0, 0.05, 0.5, 0.55], [0.8, 0.7, 1, 1]], atol=1e-6
    )
    mostly_background = make_predictions(SCORES * [100, 1, 1], deltas=deltas)
    np.testing.assert_allclose(detect(mostly_background).raw_boxes, detections.raw_boxes, atol=1e-6)


def test_a_shared_box_serves_every_class():
    deltas = np.full([1, 4, 1, 4], LEFT_BY_A_TENTH)
    detections = detect(make_predictions(deltas=deltas))
    expected = [[0, 0, 0.5, 0.45], [0.8, 0.7, 1, 1], [0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(detections.boxes[0, :3], expected, atol=1e-6)
    np.testing.assert_allclose(detections.raw_boxes[0, :3], [expected[0], expected[2], expected[1]], atol=1e-6)


def test_the_box_coder_arrives():
    deltas = np.full([1, 4, 1, 4], LEFT_BY_A_TENTH)
    coder = box_coder.BoxCoder(scales=(10.0, 2.0, 5.0, 5.0))
    detections = detect(make_predictions(deltas=deltas), coder=coder)  # now left by half
    np.testing.assert_allclose(detections.raw_boxes[0, 2], [0.8, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("IDENTITY", [1.0, 2.0, -1.0]),
        ("SIGMOID", [0.7310586, 0.880797, 0.26894143]),
        ("SOFTMAX", [0.2594965, 0.7053845, 0.035119]),
    ],
)
def test_score_converters(name, expected):
    np.testing.assert_allclose(postprocess.SCORE_CONVERTERS[name](tf.constant([1.0, 2.0, -1.0])), expected, rtol=1e-5)
    outputs, rois = make_predictions()
    outputs = outputs._replace(class_logits=tf.constant([[[1.0, 2.0, -1.0]] * 4]))
    detections = detect((outputs, rois), score_converter=postprocess.SCORE_CONVERTERS[name])
    np.testing.assert_allclose(detections.raw_class_scores[0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(detections.scores[0, 0], expected[1], rtol=1e-5)


def test_proposals_of_one_stage_are_detections_of_class_0():
    anchors = RpnOutputs(
        objectness_logits=tf.constant([[[0.0, np.log(4.0)], [0.0, 0.0]]]),
        box_deltas=tf.constant([[LEFT_BY_A_TENTH, [0.0] * 4]]) * 10.0,
        anchors=tf.constant([[0.0, 0, 50, 100], [80, 150, 120, 250]]),
        is_valid=tf.constant([True, True]),
    )
    _, rois = make_predictions(num_rois=3)
    detections = postprocess.proposals_as_detections(anchors, rois, TRUE_SHAPES)
    np.testing.assert_allclose(detections.boxes[0, 2], [0.8, 0.75, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(detections.scores, rois.scores)
    np.testing.assert_array_equal(detections.classes, np.zeros([1, 4]))
    np.testing.assert_array_equal(detections.num_detections, [3])
    np.testing.assert_allclose(detections.class_scores[0, :, 1], rois.scores[0] * [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(detections.class_scores[0].numpy().sum(-1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(detections.raw_boxes, [[[0, 0, 0.5, 0], [0.8, 0.75, 1, 1]]], atol=1e-6)
    np.testing.assert_allclose(detections.raw_class_scores, [[[0.2, 0.8], [0.5, 0.5]]], atol=1e-6)


@BOTH
@pytest.mark.parametrize(
    "case, image",
    [
        ("torchvision_fasterrcnn_resnet50_fpn", 0),
        ("torchvision_fasterrcnn_resnet50_fpn", 1),
        ("torchvision_fasterrcnn_resnet50_fpn_v2", 0),
        ("detectron2_faster_rcnn_R_50_FPN_3x", 0),
        ("detectron2_faster_rcnn_R_50_FPN_3x", 1),
    ],
)
def test_detections_of_the_pytorch_libraries(golden_dir, static, case, image):
    """Their logits and deltas of a box head give their detections, in pixels of the resized image."""
    stored = np.load(golden_dir / "pytorch" / f"detections_{case}.npz")
    golden = {name.removeprefix(f"image{image}/"): stored[name] for name in stored}
    is_torchvision = case.startswith("torchvision")
    logits, labels = golden["class_logits"], golden["labels"]
    deltas = golden["box_deltas"].reshape(len(logits), -1, 4)[..., YX]
    if is_torchvision:  # the background, column 0, has box deltas, too
        deltas, labels = deltas[:, 1:], labels - 1
    else:  # the background is the last column
        logits = np.roll(logits, 1, axis=-1)
    sizes = {True: [(205, 288), (284, 224)], False: [(206, 288), (285, 224)]}
    height, width = sizes[is_torchvision][image]
    postprocessor = postprocess.Postprocessor(
        suppression=nms.Suppression(
            score_threshold=0.05,
            iou_threshold=0.5,
            max_detections_per_class=100,
            max_total_detections=100,
            clip_before_suppression=True,
            min_box_side=0.01 if is_torchvision else 0.0,
        ),
        static=static,
    )
    detections = postprocessor(
        BoxOutputs(tf.constant(logits[None]), tf.constant(deltas[None]), tf.zeros([0])),
        Proposals(
            tf.constant(golden["proposals"][None][..., YX]), tf.zeros([1, len(logits)]), tf.constant([len(logits)])
        ),
        tf.constant([[height, width, 3]]),
    )
    assert detections.num_detections == [100]
    np.testing.assert_array_equal(detections.classes[0], labels)
    np.testing.assert_allclose(detections.scores[0], golden["scores"], atol=1e-6)
    boxes = detections.boxes[0].numpy() * [height, width, height, width]
    np.testing.assert_allclose(boxes, golden["boxes_input"][:, YX], atol=1e-3)


def test_proposals_of_one_logit_are_scored_by_a_sigmoid_and_decoded_by_their_coder():
    anchors = RpnOutputs(
        objectness_logits=tf.constant([[[np.log(4.0)], [0.0]]], tf.float32),
        box_deltas=tf.constant([[[0.0, 0.5, 0.0, 0.0], [0.0] * 4]]),
        anchors=tf.constant([[0.0, 0, 50, 100], [80, 150, 120, 250]]),
        is_valid=tf.constant([True, True]),
    )
    _, rois = make_predictions(num_rois=3)
    coder = box_coder.BoxCoder(scales=(1.0, 1.0, 1.0, 1.0))
    detections = postprocess.proposals_as_detections(anchors, rois, TRUE_SHAPES, coder=coder)
    np.testing.assert_allclose(detections.raw_class_scores, [[[0.2, 0.8], [0.5, 0.5]]], atol=1e-6)
    np.testing.assert_allclose(detections.raw_boxes[0, 0], [0, 0.25, 0.5, 0.75], atol=1e-6)
