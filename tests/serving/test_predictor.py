"""Predictors: of models and SavedModels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from object_detection_fpn import records
from object_detection_fpn.data import resize
from object_detection_fpn.ops.pasting import fill_image
from object_detection_fpn.serving.images import read_image
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.saved_model import INPUT_TYPES, export_saved_model, to_api_outputs


class MeanModel(tf_keras.layers.Layer):
    """Two detections an image: a square at a fixed place, scored 0.9, and one of class 8, scored by the image's mean."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=[], initializer=tf_keras.initializers.Constant(weight))

    def preprocess(self, inputs):
        return inputs._replace(images=inputs.images / 255.0)

    def predict(self, inputs, *, training):
        return tf.reduce_mean(inputs.images, axis=[1, 2, 3]) * self.scale

    def postprocess(self, predictions, inputs):
        batch_size = tf.shape(predictions)[0]
        boxes = [[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.0] * 4]
        return records.Detections(
            boxes=tf.tile([boxes], [batch_size, 1, 1]),
            scores=tf.stack([tf.fill([batch_size], 0.9), predictions, tf.zeros([batch_size])], axis=1),
            classes=tf.tile([[1, 7, 0]], [batch_size, 1]),
            num_detections=tf.fill([batch_size], 2),
        )


class MaskModel(MeanModel):
    """With masks: the left half of each box, more or less."""

    def postprocess(self, predictions, inputs):
        masks = tf.sigmoid(tf.linspace(4.0, -5.0, 6) + tf.zeros([tf.shape(predictions)[0], 3, 5, 6]))
        return super().postprocess(predictions, inputs)._replace(masks=masks * [[[[1.0]], [[1.0]], [[0.0]]]])


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_model(model=MeanModel(), resizer=resize.identity())


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_saved_models_of_every_input_type_predict_the_same(predictor, tmp_path, input_type):
    export_saved_model(
        model=MeanModel(), resizer=resize.identity(), input_type=input_type, output_dir=str(tmp_path),
        pipeline_config_text="",
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    expected = predictor.predict(image)
    for folder in (tmp_path, tmp_path / "saved_model"):
        served = Predictor.from_saved_model(str(folder))
        assert served.takes_batches
        darker, found = served.predict_batch(np.stack([image // 2, image]))
        assert darker.scores[1] < 0.6 * found.scores[1]
        for prediction in (served.predict(image), found):
            assert prediction.class_ids.tolist() == [2, 8]
            for field, value in zip(prediction[:3], expected[:3], strict=True):
                np.testing.assert_allclose(field, value, rtol=1e-5)


@pytest.mark.parametrize("kind", ["CORNERS_ALIGNED", "PIXEL_CENTERS", "ZERO_BORDER"])
def test_saved_models_with_masks_of_both_forms_give_the_pixels_of_the_model(tmp_path, kind):
    settings = {"model": MaskModel(), "resizer": resize.identity()}
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    predictor = Predictor.from_model(**settings, mask_pasting=kind)
    found = predictor.predict(image)
    assert found.masks.shape == (2, 5, 6) and found.masks.dtype == np.float32
    expected = fill_image(predictor.paste_masks(found, (31, 47)), (31, 47))
    assert expected.any(axis=(1, 2)).all()
    for paste_masks, shape in ((False, (2, 5, 6)), (True, (2, 31, 47))):
        export_saved_model(
            **settings, input_type="image_tensor", output_dir=str(tmp_path), pipeline_config_text="", mask_pasting=kind,
            paste_masks=paste_masks,
        )  # fmt: skip
        served = Predictor.from_saved_model(str(tmp_path))
        assert served.mask_pasting == kind
        found = served.predict(image)
        assert found.masks.shape == shape
        np.testing.assert_array_equal(fill_image(served.paste_masks(found, (31, 47)), (31, 47)), expected)
        best = found.select(found.scores > 0.8)
        np.testing.assert_array_equal(fill_image(served.paste_masks(best, (31, 47)), (31, 47)), expected[:1])


def test_masks_are_pasted_as_the_object_detection_api_does_where_nothing_else_is_said(tmp_path):
    export_saved_model(
        model=MaskModel(), resizer=resize.identity(), input_type="image_tensor", output_dir=str(tmp_path),
        pipeline_config_text="",
    )  # fmt: skip
    assert Predictor.from_saved_model(str(tmp_path)).mask_pasting == "CORNERS_ALIGNED"


def test_a_pasting_of_a_later_version_is_refused(tmp_path):
    export_saved_model(
        model=MaskModel(), resizer=resize.identity(), input_type="image_tensor", output_dir=str(tmp_path),
        pipeline_config_text="", mask_pasting="SPLINES",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"mask_pasting = 'SPLINES' is unknown\. Allowed: CORNERS_ALIGNED, "):
        Predictor.from_saved_model(str(tmp_path))


def test_a_model_without_masks_has_none_to_paste(predictor):
    found = predictor.predict(np.zeros((4, 4, 3), np.uint8))
    assert found.masks is None and found.select(found.scores > 0.5).masks is None
    with pytest.raises(ValueError, match="The model predicts no masks"):
        predictor.paste_masks(found, (4, 4))


def test_folder_without_saved_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no SavedModel in .*nowhere"):
        Predictor.from_saved_model(str(tmp_path / "nowhere"))


def test_saved_model_of_something_else_is_refused(tmp_path):
    module = tf.Module()
    module.double = tf.function(
        lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([], tf.float32, name="x")], autograph=False
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.double)
    with pytest.raises(
        ValueError, match=r"no exported detector: .* takes \['x'\] and gives \['y'\]. Wanted: input_tensor"
    ):
        Predictor.from_saved_model(str(tmp_path))


def test_channels_that_no_image_file_has_are_refused():
    with pytest.raises(ValueError, match="images of 5 channels"):
        Predictor(lambda image: {}, num_channels=5)


def test_grey_saved_model_gets_grey_images(tmp_path):
    export_saved_model(
        model=MeanModel(), resizer=resize.identity(), input_type="image_tensor", output_dir=str(tmp_path / "model"),
        pipeline_config_text="", num_channels=1,
    )  # fmt: skip
    predictor = Predictor.from_saved_model(str(tmp_path / "model"))
    for name in ("a.png", "a.webp"):  # TensorFlow reads one, Pillow the other
        Image.new("RGB", (60, 40), (102, 102, 102)).save(tmp_path / name)
        found = predictor.predict(read_image(str(tmp_path / name), num_channels=predictor.num_channels).pixels)
        assert found.scores[1] == pytest.approx(0.4, abs=0.01)


def test_a_saved_model_of_one_image_gets_a_batch_one_by_one(tmp_path):
    """As the Object Detection API exports it for encoded images: its batch is 1."""
    model = tf.Module()
    model.mean = MeanModel()

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")])
    def serve(input_tensor):
        inputs = records.Inputs(tf.cast(input_tensor, tf.float32), tf.shape(input_tensor)[tf.newaxis, 1:3])
        return to_api_outputs(
            model.mean.postprocess(model.mean.predict(model.mean.preprocess(inputs), training=False), inputs)
        )

    tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": serve})
    served = Predictor.from_saved_model(str(tmp_path))
    assert not served.takes_batches
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (51, 102)])
    np.testing.assert_allclose([found.scores[1] for found in served.predict_batch(images)], [0.2, 0.4], rtol=1e-5)
