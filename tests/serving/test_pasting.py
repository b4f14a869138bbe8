"""Masks that a SavedModel pastes: those that the host pastes, for every kind of input."""

from __future__ import annotations

import typing

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn import records
from object_detection_fpn.data import resize
from object_detection_fpn.ops import pasting as host
from object_detection_fpn.serving import pasting
from object_detection_fpn.serving.saved_model import INPUT_TYPES, export_saved_model, make_serving_function

PASTINGS = typing.get_args(host.MaskPasting)
BOXES = np.array(
    [
        [0.2, 0.3, 0.8, 0.9],
        [0.0, 0.0, 1.0, 1.0],  # the whole image
        [0.0, 0.51, 0.37, 1.0],  # at its borders
        [-0.2, 0.4, 0.3, 1.3],  # beyond them
        [1.1, 0.1, 1.4, 0.6],  # outside
        [0.4, 0.4, 0.4, 0.7],  # without height
        [0.6, 0.6, 0.3, 0.9],  # upside down
        [0.5, 0.5, 0.503, 0.502],  # smaller than a pixel
        [0.11, 0.2, 0.112, 0.9],  # thinner than one
        [0.25, 0.25, 0.75, 0.75],
        [0.1, np.nan, 0.6, 0.6],
        [-np.inf, 0.1, np.inf, 0.9],
        [0.0, 0.0, 0.0, 0.0],  # padding
    ],
    np.float32,
)


def paste_on_host(masks, boxes_normalized, size, pasting_name):
    boxes = boxes_normalized * np.tile(np.float32(size), 2)
    return host.fill_image(host.paste_masks(masks, boxes, size, pasting=pasting_name), size)


@pytest.mark.parametrize("kind", PASTINGS)
@pytest.mark.parametrize("sizes", [[(40, 60), (23, 31)], [(64, 1), (1, 64)]], ids=["images", "lines"])
@pytest.mark.parametrize("binary", [False, True], ids=["soft", "binary"])
def test_masks_are_those_of_the_host(kind, sizes, binary):
    masks = np.random.default_rng(0).uniform(size=(2, len(BOXES), 14, 9)).astype(np.float32)
    masks = np.rint(masks) if binary else masks
    pasted = tf.function(pasting.paste_masks, autograph=False)(
        tf.constant(masks), tf.constant([BOXES, BOXES[::-1]]), tf.constant(sizes), pasting=kind
    )
    height, width = np.max(sizes, axis=0)
    assert pasted.dtype == tf.uint8 and pasted.shape == (2, len(BOXES), height, width)
    for image, of_image, boxes, size in zip(pasted.numpy(), masks, (BOXES, BOXES[::-1]), sizes, strict=True):
        expected = paste_on_host(of_image, boxes, size, kind)
        assert expected.any()
        np.testing.assert_array_equal(image[:, : size[0], : size[1]], expected)
        assert image.sum() == expected.sum()  # nothing beyond a smaller image


@pytest.mark.parametrize("kind, is_inside", [("CORNERS_ALIGNED", 0), ("PIXEL_CENTERS", 1), ("ZERO_BORDER", 0)])
def test_a_half_is_inside_for_detectron2_alone(kind, is_inside):
    masks, boxes = np.full((1, 1, 4, 4), 0.5, np.float32), np.array([[[0.0, 0.0, 1.0, 1.0]]], np.float32)
    pasted = pasting.paste_masks(tf.constant(masks), tf.constant(boxes), tf.constant([[4, 4]]), pasting=kind)
    assert pasted.numpy().tolist() == [[[[is_inside] * 4] * 4]]


def test_an_unknown_pasting_is_refused():
    with pytest.raises(ValueError, match=r"pasting = 'NEAREST' is unknown\. Allowed: CORNERS_ALIGNED, PIXEL_CENTERS"):
        pasting.paste_masks(tf.zeros([1, 1, 2, 2]), tf.zeros([1, 1, 4]), tf.constant([[1, 1]]), pasting="NEAREST")


class DrawingModel(tf_keras.layers.Layer):
    """Two detections and a padding row, whose masks grow with the mean of the image."""

    boxes = ((0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.6), (0.0, 0.0, 0.0, 0.0))

    def preprocess(self, inputs):
        return inputs._replace(images=inputs.images / 255.0)

    def predict(self, inputs, *, training):
        return tf.reduce_mean(inputs.images, axis=[1, 2, 3])

    def postprocess(self, predictions, inputs):
        batch_size = tf.shape(predictions)[0]
        rows, columns = tf.meshgrid(tf.linspace(0.0, 1.0, 7), tf.linspace(0.0, 1.0, 5), indexing="ij")
        masks = tf.stack([1.2 - rows, 1.2 - columns, tf.zeros([7, 5])])
        return records.Detections(
            boxes=tf.tile([self.boxes], [batch_size, 1, 1]),
            scores=tf.tile([[0.9, 0.8, 0.0]], [batch_size, 1]),
            classes=tf.tile([[1, 7, 0]], [batch_size, 1]),
            num_detections=tf.fill([batch_size], 2),
            masks=tf.minimum(masks * predictions[:, None, None, None] * 1.5, 1.0),
        )


RESIZER = resize.fixed_shape(height=16, width=24)


def make_images(*sizes):
    return [np.full((*size, 3), 100 + 40 * i, np.uint8) for i, size in enumerate(sizes)]


def as_input(images, input_type):
    if input_type in ("image_tensor", "float_image_tensor"):
        return tf.constant(np.stack(images), tf.uint8 if input_type == "image_tensor" else tf.float32)
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    if input_type == "tf_example":
        lists = [tf.train.BytesList(value=[each]) for each in encoded]
        features = [tf.train.Features(feature={"image/encoded": tf.train.Feature(bytes_list=each)}) for each in lists]
        encoded = [tf.train.Example(features=each).SerializeToString() for each in features]
    return tf.constant(encoded)


@pytest.fixture(scope="module")
def model():
    return DrawingModel()


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_a_saved_model_pastes_into_the_images_it_was_given(model, input_type):
    """Not into the resized ones."""
    settings = {"model": model, "resizer": RESIZER, "input_type": input_type}
    images = make_images((40, 50), (40, 50))
    within = make_serving_function(**settings)(as_input(images, input_type))
    pasted = make_serving_function(**settings, paste_masks="PIXEL_CENTERS")(as_input(images, input_type))
    assert within["detection_masks"].dtype == tf.float32 and within["detection_masks"].shape == (2, 3, 7, 5)
    assert pasted["detection_masks"].dtype == tf.uint8 and pasted["detection_masks"].shape == (2, 3, 40, 50)
    for i in range(2):
        masks, boxes = within["detection_masks"][i].numpy(), within["detection_boxes"][i].numpy()
        expected = paste_on_host(masks, boxes, (40, 50), "PIXEL_CENTERS")
        assert expected[0].any() and expected[1].any() and not expected[2].any()
        np.testing.assert_array_equal(pasted["detection_masks"][i], expected)
    assert {name: value.shape for name, value in within.items() if name != "detection_masks"} == {
        name: value.shape for name, value in pasted.items() if name != "detection_masks"
    }


def test_encoded_images_of_several_sizes_are_pasted_into_the_largest(model):
    settings = {"resizer": RESIZER, "input_type": "encoded_image_string_tensor", "paste_masks": "ZERO_BORDER"}
    serve = make_serving_function(model=model, **settings)
    sizes = [(40, 30), (20, 64)]
    images = make_images(*sizes)
    together = serve(as_input(images, "encoded_image_string_tensor"))["detection_masks"].numpy()
    assert together.shape == (2, 3, 40, 64)
    for image, masks, (height, width) in zip(images, together, sizes, strict=True):
        alone = serve(as_input([image], "encoded_image_string_tensor"))["detection_masks"].numpy()
        np.testing.assert_array_equal(masks[:, :height, :width], alone[0])
        assert masks.sum() == alone.sum() > 0


def test_a_model_without_masks_pastes_none(model, tmp_path):
    class BoxModel(DrawingModel):
        def postprocess(self, predictions, inputs):
            return super().postprocess(predictions, inputs)._replace(masks=None)

    settings = {"model": BoxModel(), "resizer": RESIZER, "input_type": "image_tensor"}
    serve = make_serving_function(**settings, paste_masks="ZERO_BORDER")
    with pytest.raises(ValueError, match="paste_masks was asked of a model that gives no masks"):
        serve(as_input(make_images((4, 4)), "image_tensor"))
    with pytest.raises(ValueError, match="paste_masks needs a mask_pasting, which a model without masks lacks"):
        export_saved_model(**settings, output_dir=str(tmp_path / "a"), pipeline_config_text="", paste_masks=True)
    export_saved_model(**settings, output_dir=str(tmp_path / "b"), pipeline_config_text="")
    loaded = tf.saved_model.load(str(tmp_path / "b" / "saved_model"))
    assert "detection_masks" not in loaded.signatures["serving_default"].structured_outputs
    assert not hasattr(loaded, "mask_pasting")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_saved_model_says_how_its_masks_are_pasted(model, tmp_path, jit_compile):
    settings = {"model": model, "resizer": RESIZER, "input_type": "image_tensor", "jit_compile": jit_compile}
    images = as_input(make_images((40, 50)), "image_tensor")
    for name, paste_masks in (("within", False), ("pasted", True)):
        export_saved_model(
            **settings, output_dir=str(tmp_path / name), pipeline_config_text="", mask_pasting="ZERO_BORDER",
            paste_masks=paste_masks,
        )  # fmt: skip
        loaded = tf.saved_model.load(str(tmp_path / name / "saved_model"))
        assert loaded.mask_pasting().numpy() == b"ZERO_BORDER"
        masks = loaded.signatures["serving_default"](input_tensor=images)["detection_masks"]
        if name == "within":
            boxes = np.array(model.boxes, np.float32)
            expected = paste_on_host(masks[0].numpy(), boxes, (40, 50), "ZERO_BORDER")
        else:
            np.testing.assert_array_equal(masks[0], expected)
