"""Every field of the region proposal network arrives, and all of them together train the same with and without XLA."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers, proposals, targets
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.ops import box_coder
from object_detection_fpn.records import Inputs

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

OPTIONS = """
first_stage_anchor_generator { multiscale_anchor_generator { offset: 0 round_corners: true stride_of_image: true } }
first_stage_minibatch_size: 24
first_stage_nms_score_threshold: 0.125
first_stage_nms_iou_threshold: 0.75
second_stage_batch_size: 8
rpn {
  share_predictors: true
  objectness: SIGMOID
  num_convolutions: 2
  activation: RELU
  anchor_border: KEPT
  max_straddle: 4
  matched_threshold: 0.5
  unmatched_threshold: 0.25
  low_quality_matches: ALL_ANCHORS
  box_coder { y_scale: 1 x_scale: 2 height_scale: 3 width_scale: 4 max_size_ratio: 8 }
  max_candidates_per_level: 20
  max_candidates_per_level_in_training: 30
  suppress_within_levels: true
  max_proposals_in_training: 25
  min_proposal_side: 0.5
  clip_before_suppression: true
  loss_normalization: BATCH
  localization_loss { weighted_giou { } }
}
add_groundtruth_to_proposals: true
second_stage_matched_threshold: 0.5
second_stage_min_background_iou: 0.0625
second_stage_box_coder { y_scale: 5 x_scale: 6 height_scale: 7 width_scale: 8 max_size_ratio: 16 }
"""


@pytest.fixture(autouse=True)
def _tiny_backbone(monkeypatch):
    support.put_backbone(monkeypatch)


def build(*, static=False, num_stages=2):
    tf_keras.utils.set_random_seed(0)
    message = support.model_message(OPTIONS, f"number_of_stages: {num_stages}")
    return builder.build_model(message, execution=Execution(static=static))


def test_all_fields_arrive():
    model = build()
    rpn, coder = model.rpn, box_coder.BoxCoder(scales=(1.0, 2.0, 3.0, 4.0), max_size_ratio=8.0)
    assert rpn.coder == coder
    decoder = proposals.ProposalDecoder(
        max_proposals=40, max_candidates_per_level=20, iou_threshold=0.75, score_threshold=0.125, within_levels=True,
        clip_first=True, min_side=0.5, coder=coder,
    )  # fmt: skip
    assert rpn._decoder == decoder
    assert (rpn._training_decoder.max_proposals, rpn._training_decoder.max_candidates_per_level) == (25, 30)
    assert rpn._sampler == targets.AnchorSampler(
        num_samples=24, matched_threshold=0.5, unmatched_threshold=0.25, match_ties=True, coder=coder
    )
    assert (rpn._loss.normalization, rpn._loss.num_configured) == ("BATCH", 24)
    assert rpn._loss.localization_loss.decode.__self__ == coder
    assert (rpn._keep_anchors, rpn._max_straddle, rpn._clip_anchors) == (True, 4.0, False)
    head = rpn.head
    assert [layer.filters for layer in (*head.objectness, *head.deltas)] == [1, 4]
    assert len(head.further_convs) == 1
    assert head.activation.activation is layers.ACTIVATIONS["relu"]
    second_coder = box_coder.BoxCoder(scales=(5.0, 6.0, 7.0, 8.0), max_size_ratio=16.0)
    assert model.box_head._postprocessor.coder == second_coder
    assert model._roi_sampler == targets.RoISampler(
        num_samples=8, min_background_iou=0.0625, add_groundtruth=True, coder=second_coder
    )


def test_paths_of_the_layers_of_the_default_network_stay():
    tf_keras.utils.set_random_seed(0)
    head = builder.build_model(support.model_message()).rpn.head
    names = [variable.name.split("rpn_head/")[-1] for variable in head.trainable_variables]
    predictors = [f"{name}_{i}" for name in ("objectness", "deltas") for i in range(3)]
    assert sorted(names) == sorted(f"{name}/{kind}:0" for name in ("conv", *predictors) for kind in ("kernel", "bias"))


GROUNDTRUTH = support.make_groundtruth(
    [{"box": (8, 8, 24, 24)}, {"box": (30, 34, 62, 62), "class": 2}, {"box": (0, 40, 20, 60), "crowd": True}],
    [{"box": (4, 6, 36, 40), "class": 1}, {"box": (10, 10, 20, 20), "weight": 0.0}],
)
INPUTS = Inputs(
    tf.constant(np.random.RandomState(0).uniform(0, 255, [2, 64, 64, 3]), tf.float32),
    tf.constant([[64, 64, 3], [40, 44, 3]]),
)


def test_a_step_is_the_same_with_and_without_xla():
    found = []
    for static in (False, True):
        model = build(static=static)

        @tf.function(jit_compile=static, autograph=False)
        def step(images, model=model):
            inputs = model.preprocess(Inputs(images, INPUTS.true_shapes))
            with tf.GradientTape() as tape:
                predictions = model.predict(inputs, training=True, groundtruth=GROUNDTRUTH, seed=tf.constant([1, 2]))
                losses = mean_losses(model, predictions, GROUNDTRUTH)
                total = tf.add_n(list(losses.values()))
            return losses, predictions.rois.num_proposals, tape.gradient(total, model.rpn.trainable_variables)

        found.append(tf.nest.flatten(step(INPUTS.images)))
    for native, compiled in zip(*found, strict=True):
        assert np.all(np.isfinite(native))
        np.testing.assert_allclose(native, compiled, rtol=1e-3, atol=1e-5)


def test_proposals_are_the_detections_of_one_stage():
    model = build(num_stages=1)
    predictions = model.predict(model.preprocess(INPUTS), training=False)
    detections = model.postprocess(predictions, INPUTS)
    num_anchors = predictions.rpn.anchors.shape[0]
    assert predictions.rpn.objectness_logits.shape == (2, num_anchors, 1)
    assert detections.raw_class_scores.shape == (2, num_anchors, 2)
    assert all(np.all(np.isfinite(value)) for value in detections if value is not None)
