"""The mask head: sizes, one class a RoI, loss, and weights transferred from the box head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.heads import mask, transfer

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "masks"
FEATURES = np.random.RandomState(0).normal(size=[2, 3, 4, 4, 5]).astype(np.float32)
CLASSES = np.array([[0, 1, 2], [2, 2, 0]], np.int32)
KINDS = {
    "transposed_convolution": {"size": (8, 8)},
    "resize": {"size": (9, 7)},
    "repeat": {"size": (9, 9)},
}


def make_head(spec=layers.LayerSpec(), upsampling="transposed_convolution", **settings):
    settings = {"size": KINDS[upsampling]["size"], "num_masks": 3, "num_convolutions": 2, "depth": 6} | settings
    return mask.MaskHead(in_size=4, in_filters=5, upsampling=upsampling, spec=spec, **settings)


@pytest.mark.parametrize(
    "upsampling, size", [("transposed_convolution", (8, 8)), ("resize", (9, 7)), ("repeat", (8, 8))]
)
def test_masks_have_their_size(upsampling, size):
    head = make_head(upsampling=upsampling)
    assert head.size == size
    assert head(FEATURES, CLASSES, training=False).shape == (2, 3, *size)


def variables_of(head):
    return {f"{v.name}".removeprefix("mask_head/").removesuffix(":0"): tuple(v.shape) for v in head.variables}


def test_layers_are_those_of_the_paper():
    """Four convolutions, a transposed one and one that predicts: 2,643,280 numbers for 80 classes."""
    head = mask.MaskHead(
        in_size=14, in_filters=256, num_masks=80, spec=layers.LayerSpec(execution=Execution(is_restored=True))
    )
    assert head.count_params() == 2_643_280
    assert variables_of(head)["upsample/kernel"] == (2, 2, 256, 256)
    assert variables_of(head)["predictor/kernel"] == (1, 1, 256, 80)


@pytest.mark.parametrize("upsampling, num_hidden", [("resize", 3), ("repeat", 4), ("transposed_convolution", 4)])
def test_convolutions_are_counted_as_in_the_object_detection_api(upsampling, num_hidden):
    head = make_head(upsampling=upsampling, num_convolutions=4)
    hidden = [name for name in variables_of(head) if name.startswith("conv") and name.endswith("kernel")]
    assert len(hidden) == num_hidden
    side = 1 if upsampling == "transposed_convolution" else 3
    assert variables_of(head)["predictor/kernel"] == (side, side, 6, 3)


def test_depth_follows_the_rule_of_the_object_detection_api():
    for row in json.loads((GOLDEN / "mask_head_depth.json").read_text()):
        assert mask.choose_depth(num_filters=row["channels"], num_classes=row["num_classes"]) == row["depth"]


@pytest.mark.parametrize("upsampling", KINDS)
def test_a_mask_is_that_of_the_convolution_for_its_class(upsampling):
    """As if the masks of all classes were computed and one taken."""
    head = make_head(upsampling=upsampling)
    head.predictor.bias.assign([0.5, -0.5, 0.25])
    logits = head(FEATURES, CLASSES, training=False).numpy()
    hidden = FEATURES.reshape(6, 4, 4, 5)
    if upsampling == "resize":
        position = [np.linspace(0, 3, size) for size in head.size]
        near = [np.maximum(1 - np.abs(p[:, None] - np.arange(4)), 0) for p in position]
        hidden = np.einsum("yr,nrcf,xc->nyxf", near[0], hidden, near[1]).astype(np.float32)
    hidden = tf.constant(hidden)
    names = [name for name in ("conv1", "conv2") if hasattr(head, name)]
    for name in names:
        if upsampling == "repeat" and name == names[-1]:
            hidden = tf.repeat(tf.repeat(hidden, 2, axis=1), 2, axis=2)
        hidden = getattr(head, name)(hidden, training=False)
    if head.upsample is not None:
        hidden = head.upsample(hidden)
    of_all = head.predictor(hidden).numpy()  # [6, H, W, 3]
    expected = of_all[np.arange(6), :, :, CLASSES.ravel()].reshape(logits.shape)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_masks_that_are_the_same_for_all_classes():
    head = make_head(num_masks=1)
    logits = head(FEATURES, CLASSES, training=False)
    np.testing.assert_array_equal(logits, head(FEATURES, np.zeros_like(CLASSES), training=False))


def test_bfloat16_features_give_float32_logits():
    head = make_head(layers.LayerSpec(execution=Execution(dtype="mixed_bfloat16")))
    logits = head(FEATURES, CLASSES, training=False)
    assert logits.dtype == tf.float32


def test_loss_is_the_mean_over_the_cells_of_a_batch():
    random = np.random.RandomState(1)
    logits = random.normal(size=[2, 3, 4, 4]).astype(np.float32)
    targets = random.uniform(size=[2, 3, 4, 4]).astype(np.float32)
    weights = np.array([[1, 1, 0], [0.5, 0, 0]], np.float32)
    losses = np.log1p(np.exp(logits)) - targets * logits
    sums = np.sum(losses * weights[..., None, None], axis=(1, 2, 3))
    loss = mask.MaskLoss(weight=3.0)
    np.testing.assert_allclose(
        np.mean(loss(logits, targets, weights, is_batch=True)), 3 * np.sum(sums) / (2.5 * 16), rtol=1e-5
    )
    np.testing.assert_allclose(loss(logits, targets, weights, is_batch=False), 3 * sums / [2 * 16, 0.5 * 16], rtol=1e-5)


def test_loss_is_that_of_the_object_detection_api():
    with np.load(GOLDEN / "mask_targets.npz") as golden:
        logits, targets = golden["loss_logits"].reshape(1, 12, 14, 14), golden["matmul_14x14"][None]
        loss = mask.MaskLoss()(logits, targets, golden["loss_weights"][None], is_batch=True)
        np.testing.assert_allclose(loss, [golden["loss"]], rtol=1e-5)


def test_loss_without_objects_is_zero():
    zeros = np.zeros([2, 1, 4, 4], np.float32)
    np.testing.assert_array_equal(mask.MaskLoss()(zeros, zeros, np.zeros([2, 1], np.float32), is_batch=True), 0.0)


def test_transferred_kernels_follow_the_formula_and_leave_the_box_head_alone():
    """Hu et al. 2018, section 3.1: fully connected, LeakyReLU, fully connected; no bias in the kernel."""
    layer = transfer.WeightTransfer(in_units=7, num_hidden=4, out_units=6, spec=layers.LayerSpec())
    head = make_head(transfer=layer)
    assert not any("predictor" in name for name in variables_of(head))
    weights = tf.Variable(np.random.RandomState(2).normal(size=[3, 7]).astype(np.float32))
    fc1, fc2 = layer.fc1.get_weights(), layer.fc2.get_weights()
    hidden = weights.numpy() @ fc1[0] + fc1[1]
    expected = np.where(hidden > 0, hidden, 0.1 * hidden) @ fc2[0] + fc2[1]
    np.testing.assert_allclose(layer(weights), expected, atol=1e-5)
    with tf.GradientTape() as tape:
        logits = head(FEATURES, CLASSES, training=True, class_weights=weights)
    of_weights, *others = tape.gradient(logits, [weights, *head.trainable_variables])
    assert of_weights is None
    assert all(np.any(gradient.numpy() != 0) for gradient in others)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"size": (7, 8)}, r"size = \(7, 8\) of RoI features of 4 cells. Allowed: \(8, 8\)."),
        ({"size": (3, 8), "upsampling": "repeat"}, r"size = \(3, 8\) of RoI features of 4 cells. Allowed: 4 or more."),
    ],
)
def test_sizes_that_do_not_follow_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_head(**settings)
