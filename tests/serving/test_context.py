"""SavedModels of models that look at context: their side inputs, their records, and predictors of them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn import records
from object_detection_fpn.data import resize
from object_detection_fpn.data.context import FEATURES_KEY, LENGTH_KEY, ContextDecoding
from object_detection_fpn.data.failures import DataError
from object_detection_fpn.serving import record_images
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.saved_model import INPUT_TYPES, export_saved_model, make_serving_function

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

CONTEXT = ContextDecoding(max_num=4, length=3)
SIDE_INPUTS = {"context_features", "valid_context_size"}
FEATURES = np.float32([[0.5, 0.25, 0.0], [0.125, 0.0, 0.5]])


class ContextModel(tf_keras.layers.Layer):
    """Two detections an image, scored by the mean of the image, and by the sum of its context features."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=[], initializer="ones")

    def preprocess(self, inputs):
        return inputs._replace(images=inputs.images / 255.0)

    def predict(self, inputs, *, training):
        features, num_features = inputs.context
        is_real = tf.sequence_mask(num_features, tf.shape(features)[1])
        found = tf.reduce_sum(tf.where(is_real[..., None], features, 0.0), axis=[1, 2])
        return tf.reduce_mean(inputs.images, axis=[1, 2, 3]) * self.scale, found

    def postprocess(self, predictions, inputs):
        batch_size = tf.shape(predictions[0])[0]
        return records.Detections(
            boxes=tf.tile([[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5]]], [batch_size, 1, 1]),
            scores=tf.stack(predictions, axis=1),
            classes=tf.tile([[1, 7]], [batch_size, 1]),
            num_detections=tf.fill([batch_size], 2),
        )


def make_record(pixels, features=FEATURES, **more):
    example = tf.train.Example()
    feature = example.features.feature
    feature["image/encoded"].bytes_list.value.append(tf.io.encode_png(pixels).numpy())
    if features is not None:
        feature[FEATURES_KEY].float_list.value.extend(np.ravel(features).tolist())
        feature[LENGTH_KEY].int64_list.value.append(np.shape(features)[1])
    for key, value in more.items():
        feature[f"image/{key}"].bytes_list.value.append(value)
    return example.SerializeToString()


def image(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Input type -> folder of its export."""
    folders = {}
    for input_type in INPUT_TYPES:
        folders[input_type] = str(tmp_path_factory.mktemp(input_type))
        export_saved_model(
            model=ContextModel(), resizer=resize.identity(), input_type=input_type, output_dir=folders[input_type],
            pipeline_config_text="", context=CONTEXT,
        )  # fmt: skip
    return folders


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_context_stands_beside_the_image_or_in_its_record(exported, input_type):
    loaded = tf.saved_model.load(exported[input_type] + "/saved_model")
    inputs = loaded.signatures["serving_default"].structured_input_signature[1]
    assert int(loaded.context_feature_length()) == 3
    if input_type == "tf_example":
        assert set(inputs) == {"input_tensor"}
        outputs = loaded(tf.constant([make_record(image()), make_record(image(), FEATURES[:1])]))
        np.testing.assert_allclose(outputs["detection_scores"][:, 1], [1.375, 0.75], atol=1e-6)
        return
    assert set(inputs) == {"input_tensor", *SIDE_INPUTS}
    assert inputs["context_features"].shape.as_list() == [None, None, 3]
    assert (inputs["context_features"].dtype, inputs["valid_context_size"].dtype) == (tf.float32, tf.int32)
    images = np.stack([image(), image(1)])
    if input_type == "float_image_tensor":
        images = images.astype(np.float32)
    elif input_type == "encoded_image_string_tensor":
        images = np.array([tf.io.encode_png(each).numpy() for each in images])
    named = {
        "input_tensor": tf.constant(images),
        "context_features": tf.constant(np.stack([FEATURES, FEATURES])),
        "valid_context_size": tf.constant([2, 1]),
    }
    for outputs in (loaded.signatures["serving_default"](**named), loaded(*named.values()), loaded(**named)):
        np.testing.assert_allclose(outputs["detection_scores"][:, 1], [1.375, 0.75], atol=1e-6)


def test_a_compiled_model_has_as_many_rows_as_the_config_says():
    serve = make_serving_function(
        model=ContextModel(), resizer=resize.fixed_shape(height=16, width=16), input_type="image_tensor", context=CONTEXT,
        jit_compile=True,
    )  # fmt: skip
    assert serve.input_signature[1].shape.as_list() == [None, 4, 3]
    features = np.pad(FEATURES, [[0, 2], [0, 0]])[None]
    outputs = serve(tf.constant(image()[None]), tf.constant(features), tf.constant([2]))
    np.testing.assert_allclose(outputs["detection_scores"][:, 1], [1.375], atol=1e-6)


def test_a_record_without_context_is_refused_by_the_served_model(exported):
    loaded = tf.saved_model.load(exported["tf_example"] + "/saved_model")
    with pytest.raises(tf.errors.InvalidArgumentError, match="has no image/context_features and no"):
        loaded(tf.constant([make_record(image(), None)]))


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_predictors_of_every_input_type_take_context(exported, input_type):
    predictor = Predictor.from_saved_model(exported[input_type])
    assert predictor.context_length == 3
    direct = Predictor.from_model(model=ContextModel(), resizer=resize.identity(), context=CONTEXT)
    for features in (FEATURES, FEATURES[:0]):
        for found in (predictor.predict(image(), features), direct.predict(image(), features)):
            expected = [image().mean() / 255, features.sum()]
            np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "context, found", [(None, "none"), (np.zeros([2, 4], np.float32), r"an array of shape \(2, 4\)")]
)
def test_a_predictor_says_which_context_it_needs(exported, context, found):
    predictor = Predictor.from_saved_model(exported["image_tensor"])
    message = rf"looks at context features, .* there is {found}\. Allowed: float32 \[N, 3\]\."
    with pytest.raises(ValueError, match=message):
        predictor.predict(image(), context)


def test_saved_models_of_the_object_detection_api_have_fixed_rows(tmp_path):
    """Its exporter writes the shapes that --side_input_shapes gives; further features are cut, missing ones padded."""
    model = ContextModel()
    serve = make_serving_function(model=model, resizer=resize.identity(), input_type="image_tensor", context=CONTEXT)
    module = tf.Module()
    module.model_variables = model.variables
    signature = [
        tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor"),
        tf.TensorSpec([1, 4, 3], tf.float32, name="context_features"),
        tf.TensorSpec([1], tf.int32, name="valid_context_size"),
    ]
    call = tf.function(lambda *inputs: serve(*inputs), input_signature=signature)
    tf.saved_model.save(module, str(tmp_path), signatures=call.get_concrete_function())
    predictor = Predictor.from_saved_model(str(tmp_path))
    for rows in (2, 4, 6):
        features = np.ones([rows, 3], np.float32)
        np.testing.assert_allclose(predictor.predict(image(), features).scores[1], 3 * min(rows, 4))


# Records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, is_records",
    [
        ("a.tfrecord", True),
        ("a/b.record", True),
        ("train-00000-of-00002.tfrecord", True),
        ("train.record-00000-of-00100", True),
        ("a.jpg", False),
        ("record", False),
        ("a.tfrecord/b.png", False),
    ],
)
def test_record_files_are_known_by_their_names(name, is_records):
    assert record_images.is_record_file(name) == is_records


def write(path, *serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)
    return str(path)


def test_images_of_records_come_with_name_and_context(tmp_path):
    path = write(
        tmp_path / "a.tfrecord",
        make_record(image(), filename=b"cats/1.png"),
        make_record(image(1), FEATURES[:0]),
        make_record(image(2), None),
    )
    first, second, third = record_images.read_record_images(path)
    assert (first.name, first.file_name) == (f"{path}:0", "cats/1.png")
    assert (second.name, second.file_name) == (f"{path}:1", f"{path}:1")
    np.testing.assert_array_equal(first.context, FEATURES)
    assert second.context.shape == (0, 3) and third.context is None
    np.testing.assert_array_equal(tf.io.decode_png(first.encoded), image())


def test_a_broken_record_file_is_named(tmp_path):
    path = write(tmp_path / "a.tfrecord", make_record(image()), b"\xff nothing")
    with pytest.raises(DataError, match=r"a\.tfrecord, record 1: no serialized tf\.Example"):
        list(record_images.read_record_images(path))
    whole = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "a.tfrecord").write_bytes(whole[:-9])
    with pytest.raises(DataError, match="truncated or corrupted"):
        list(record_images.read_record_images(path))
