"""SavedModels of every input type, with a model whose outputs follow from its input so that each can be told by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn import records
from object_detection_fpn.data import resize
from object_detection_fpn.serving.saved_model import (
    INPUT_TYPES,
    export_saved_model,
    make_serving_function,
    to_api_outputs,
)

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

# Names, and the shapes for B = 2, D = 2, R = 3, C = 3, all float32: what the Object Detection API's exporter gives.
OUTPUTS = {
    "detection_boxes": (2, 2, 4),
    "detection_scores": (2, 2),
    "detection_classes": (2, 2),
    "num_detections": (2,),
    "detection_multiclass_scores": (2, 2, 4),
    "detection_anchor_indices": (2, 2),
    "raw_detection_boxes": (2, 3, 4),
    "raw_detection_scores": (2, 3, 4),
}
KEEP_ASPECT = resize.keep_aspect_ratio(min_dimension=24, max_dimension=48)


class ReportingModel(tf_keras.layers.Layer):
    """Says what it was given: scores = (mean of the true region, height / 1000), box = true shape / padded shape."""

    def __init__(self):
        super().__init__()
        self.conv = tf_keras.layers.Conv2D(1, 1, kernel_initializer="ones", bias_initializer="zeros")
        self.conv.build([None, None, None, 3])

    def preprocess(self, inputs):
        return inputs._replace(images=inputs.images / 255.0)

    def predict(self, inputs, *, training):
        assert training is False
        images, true_shapes = inputs.images, inputs.true_shapes
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        is_true = (
            tf.sequence_mask(true_shapes[:, 0], height)[:, :, None]
            & tf.sequence_mask(true_shapes[:, 1], width)[:, None]
        )
        tf.debugging.assert_equal(tf.reduce_sum(tf.where(is_true[..., None], 0.0, images)), 0.0)
        sums = tf.reduce_sum(self.conv(images)[..., 0] * tf.cast(is_true, tf.float32), axis=[1, 2])
        return sums, tf.stack([height, width])

    def postprocess(self, predictions, inputs):
        sums, padded = predictions
        true_shapes = inputs.true_shapes
        batch_size = tf.shape(sums)[0]
        size = tf.cast(true_shapes[:, :2], tf.float32)
        means = sums / (3 * size[:, 0] * size[:, 1])
        used = size / tf.cast(padded, tf.float32)
        boxes = tf.stack([tf.concat([tf.zeros_like(used), used], axis=1), tf.zeros([batch_size, 4])], axis=1)
        return records.Detections(
            boxes=boxes,
            scores=tf.stack([means, size[:, 0] / 1000], axis=1),
            classes=tf.tile([[2, 0]], [batch_size, 1]),
            num_detections=tf.ones([batch_size], tf.int32),
            class_scores=tf.zeros([batch_size, 2, 4]),
            roi_indices=tf.ones([batch_size, 2], tf.int32),
            raw_boxes=tf.zeros([batch_size, 3, 4]),
            raw_class_scores=tf.zeros([batch_size, 3, 4]),
        )


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_example(encoded):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()


def as_input(images, input_type):
    """A list of images as what a SavedModel of this type takes."""
    if input_type == "image_tensor":
        return tf.constant(np.stack(images))
    if input_type == "float_image_tensor":
        return tf.constant(np.stack(images).astype(np.float32))
    encoded = [tf.io.encode_png(each).numpy() for each in images]
    return tf.constant([as_example(each) for each in encoded] if input_type == "tf_example" else encoded)


@pytest.fixture(scope="module")
def model():
    return ReportingModel()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Input type -> folder of its export."""
    folders = {}
    for input_type in INPUT_TYPES:
        folders[input_type] = tmp_path_factory.mktemp(input_type) / "exported"
        export_saved_model(
            model=model, resizer=KEEP_ASPECT, input_type=input_type, output_dir=str(folders[input_type]),
            pipeline_config_text="model {}\n",
        )  # fmt: skip
    return folders


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_saved_model_gives_what_the_model_gives(model, exported, input_type):
    images = [image(40, 60, 1), image(40, 60, 2)]
    tensor = as_input(images, input_type)
    direct = make_serving_function(model=model, resizer=KEEP_ASPECT, input_type=input_type)(tensor)
    loaded = tf.saved_model.load(str(exported[input_type] / "saved_model"))
    served, called = loaded.signatures["serving_default"](input_tensor=tensor), loaded(tensor)
    for outputs in (direct, served, called):
        assert {name: (value.dtype, tuple(value.shape)) for name, value in outputs.items()} == {
            name: (tf.float32, shape) for name, shape in OUTPUTS.items()
        }
        for name, value in direct.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-6, err_msg=name)


def test_input_types_agree_on_the_same_images(exported):
    images = [image(30, 50, 1), image(30, 50, 2), image(30, 50, 3)]
    results = {}
    for input_type, folder in exported.items():
        results[input_type] = tf.saved_model.load(str(folder / "saved_model"))(as_input(images, input_type))
    for input_type, outputs in results.items():
        for name, value in outputs.items():
            np.testing.assert_allclose(value, results["image_tensor"][name], rtol=1e-6, err_msg=f"{input_type} {name}")


@pytest.mark.parametrize("input_type", ["encoded_image_string_tensor", "tf_example"])
def test_encoded_images_of_a_batch_may_differ_in_size(exported, input_type):
    loaded = tf.saved_model.load(str(exported[input_type] / "saved_model"))
    sizes = [(24, 48), (48, 24), (24, 24), (240, 240), (1, 1)]
    images = [image(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    together = loaded(as_input(images, input_type))
    # True heights 24, 48, 24, 24, 24 and widths 48, 24, 24, 24, 24 of a batch that is 48 x 48.
    np.testing.assert_allclose(together["detection_boxes"][:, 0, 2:] * 48, [[24, 48], [48, 24]] + [[24, 24]] * 3)
    for i, each in enumerate(images):  # scores do not depend on the company
        alone = loaded(as_input([each], input_type))
        np.testing.assert_allclose(alone["detection_scores"][0], together["detection_scores"][i], rtol=1e-5)


@pytest.mark.parametrize("input_type", ["image_tensor", "float_image_tensor"])
@pytest.mark.parametrize("batch_size, height, width", [(1, 24, 24), (5, 7, 100), (2, 300, 200), (1, 1, 1)])
def test_image_tensors_of_any_size_and_number_are_taken(exported, input_type, batch_size, height, width):
    loaded = tf.saved_model.load(str(exported[input_type] / "saved_model"))
    outputs = loaded(tf.fill([batch_size, height, width, 3], tf.constant(51, loaded_type(input_type))))
    np.testing.assert_allclose(outputs["detection_scores"][:, 0], [0.2] * batch_size, rtol=1e-5)


def loaded_type(input_type):
    return tf.uint8 if input_type == "image_tensor" else tf.float32


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_encoded_grey_and_colour_files_are_taken(exported, encode):
    loaded = tf.saved_model.load(str(exported["encoded_image_string_tensor"] / "saved_model"))
    files = [encode(tf.fill([30, 40, channels], tf.constant(102, tf.uint8))) for channels in (1, 3)]
    np.testing.assert_allclose(loaded(tf.stack(files))["detection_scores"][:, 0], [0.4, 0.4], rtol=1e-5)


def test_classes_are_one_based_and_boxes_normalized(exported):
    outputs = tf.saved_model.load(str(exported["image_tensor"] / "saved_model"))(
        as_input([image(24, 48)], "image_tensor")
    )
    assert outputs["detection_classes"].numpy().tolist() == [[3.0, 1.0]]
    assert outputs["detection_boxes"].numpy().tolist() == [[[0, 0, 1, 1], [0, 0, 0, 0]]]
    assert outputs["num_detections"].numpy().tolist() == [1.0]


def test_signature_takes_input_tensor_of_any_batch(exported):
    expected = {
        "image_tensor": ([None, None, None, 3], tf.uint8),
        "float_image_tensor": ([None, None, None, 3], tf.float32),
        "encoded_image_string_tensor": ([None], tf.string),
        "tf_example": ([None], tf.string),
    }
    for input_type, (shape, dtype) in expected.items():
        loaded = tf.saved_model.load(str(exported[input_type] / "saved_model"))
        positional, named = loaded.signatures["serving_default"].structured_input_signature
        assert positional == () and list(named) == ["input_tensor"]
        assert (named["input_tensor"].shape.as_list(), named["input_tensor"].dtype) == (shape, dtype)


def test_layout_is_that_of_the_object_detection_api(exported):
    folder = exported["image_tensor"]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "saved_model/saved_model.pb",
        "saved_model/variables/variables.index",
        "checkpoint/checkpoint",
        "checkpoint/ckpt-0.index",
        "checkpoint/ckpt-0.data-00000-of-00001",
        "pipeline.config",
    } <= files
    assert (folder / "pipeline.config").read_text() == "model {}\n"


def test_checkpoint_holds_the_weights_under_model(model, exported):
    path = tf.train.latest_checkpoint(str(exported["image_tensor"] / "checkpoint"))
    assert path.endswith("ckpt-0")
    other = ReportingModel()
    other.conv.kernel.assign(tf.zeros([1, 1, 3, 1]))
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other.conv.kernel, model.conv.kernel)


def test_saved_model_loads_without_this_package(exported):
    """In a process of its own that imports TensorFlow alone, as a server does."""
    program = (
        "import sys, tensorflow as tf\n"
        f"loaded = tf.saved_model.load({str(exported['image_tensor'] / 'saved_model')!r})\n"
        "outputs = loaded(tf.fill([1, 30, 40, 3], tf.constant(51, tf.uint8)))\n"
        "assert 'object_detection_fpn' not in sys.modules\n"
        "print(round(float(outputs['detection_scores'][0, 0]), 4))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "0.2", done.stderr


def test_export_replaces_an_earlier_one(model, tmp_path):
    options = {"model": model, "resizer": KEEP_ASPECT, "output_dir": str(tmp_path)}
    export_saved_model(input_type="image_tensor", pipeline_config_text="old, and longer", **options)
    export_saved_model(input_type="encoded_image_string_tensor", pipeline_config_text="new", **options)
    assert (tmp_path / "pipeline.config").read_text() == "new"
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    assert loaded(as_input([image(24, 24)], "encoded_image_string_tensor"))["num_detections"].numpy().tolist() == [1]


def test_a_model_that_cannot_be_traced_leaves_the_folder_alone(tmp_path):
    class Broken(ReportingModel):
        def postprocess(self, predictions, inputs):
            raise ValueError("no such operation")

    with pytest.raises(ValueError, match="no such operation"):
        export_saved_model(
            model=Broken(), resizer=KEEP_ASPECT, input_type="image_tensor", output_dir=str(tmp_path / "new"),
            pipeline_config_text="",
        )  # fmt: skip
    assert not (tmp_path / "new").exists()


class SpyModel(ReportingModel):
    """Keeps the static shape it was given, and takes any number of channels."""

    def predict(self, inputs, *, training):
        images = inputs.images
        self.shape = images.shape.as_list()
        return tf.reduce_sum(images, axis=[1, 2, 3]), tf.shape(images)[1:3]


@pytest.mark.parametrize("input_type", ["image_tensor", "encoded_image_string_tensor"])
@pytest.mark.parametrize(
    "resizer, shape",
    [
        (resize.fixed_shape(height=32, width=64), [None, 32, 64, 3]),
        (resize.keep_aspect_ratio(min_dimension=32, max_dimension=32, pad_to_max_dimension=True), [None, 32, 32, 3]),
        (
            resize.keep_aspect_ratio(min_dimension=32, max_dimension=64, convert_to_grayscale=True),
            [None, None, None, 1],
        ),
        (resize.identity(), [None, None, None, 3]),
        (resize.conditional_shape(condition="greater", size_threshold=25), [None, None, None, 3]),
        (resize.pad_to_multiple(multiple=32), [None, None, None, 3]),
    ],
    ids=["fixed", "padded", "grey", "identity", "conditional", "multiple"],
)
def test_what_a_resizer_fixes_is_static_in_the_graph(input_type, resizer, shape):
    model = SpyModel()
    outputs = make_serving_function(model=model, resizer=resizer, input_type=input_type)(
        as_input([image(20, 30), image(20, 30)], input_type)
    )
    assert model.shape == shape
    assert outputs["detection_scores"].shape[0] == 2


def test_a_record_decoder_brings_more_channels():
    model = SpyModel()
    serve = make_serving_function(
        model=model, resizer=resize.identity(), input_type="tf_example", num_channels=5,
        decode_record=lambda record: tf.reshape(tf.io.decode_raw(record, tf.uint8), [1, 2, 5]),
    )  # fmt: skip
    serve(tf.constant([b"0123456789", b"abcdefghij"]))
    assert model.shape == [None, None, None, 5]


@pytest.mark.parametrize("input_type", ["image_tensor", "encoded_image_string_tensor"])
def test_a_compiled_export_gives_the_same(model, input_type, tmp_path):
    settings = {"model": model, "resizer": resize.fixed_shape(height=32, width=64), "input_type": input_type}
    expected = make_serving_function(**settings)
    export_saved_model(**settings, output_dir=str(tmp_path), pipeline_config_text="", jit_compile=True)
    serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    functions = serve.graph.as_graph_def().library.function
    assert any(function.attr["_XlaMustCompile"].b for function in functions)
    for batch_size in (1, 2):  # compiled for each
        images = as_input([image(20, 30)] * batch_size, input_type)
        outputs = serve(input_tensor=images)
        for name, value in expected(images).items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-5, err_msg=name)


def test_images_of_different_sizes_are_not_compiled(model):
    with pytest.raises(ValueError, match="jit_compile needs a resizer with a static_size"):
        make_serving_function(model=model, resizer=KEEP_ASPECT, input_type="image_tensor", jit_compile=True)


class NormalizingModel(ReportingModel):
    """With a normalization after its convolution."""

    def __init__(self):
        super().__init__()
        convolve, self.norm = self.conv, tf_keras.layers.BatchNormalization()
        self.norm.build([None, None, None, 1])
        self.norm.moving_variance.assign([4.0])
        self._convolve, self.conv = convolve, lambda images: self.norm(convolve(images), training=False)


def test_what_is_exported_has_its_normalization_folded(tmp_path):
    model = NormalizingModel()
    settings = {"model": model, "resizer": KEEP_ASPECT, "input_type": "image_tensor"}
    expected = make_serving_function(**settings)(as_input([image(20, 30)], "image_tensor"))
    export_saved_model(**settings, output_dir=str(tmp_path), pipeline_config_text="")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    kernel, bias = loaded.folded_variables
    np.testing.assert_allclose(kernel, model._convolve.kernel / np.sqrt(4.001), rtol=1e-6)
    np.testing.assert_array_equal(bias, [0.0])
    assert len(loaded.model_variables) == 6  # the weights themselves are there too
    for name, value in loaded(as_input([image(20, 30)], "image_tensor")).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_optional_outputs_that_a_model_lacks_are_left_out():
    class Bare(ReportingModel):
        def postprocess(self, predictions, inputs):
            return super().postprocess(predictions, inputs)._replace(class_scores=None, raw_boxes=None)

    outputs = make_serving_function(model=Bare(), resizer=KEEP_ASPECT, input_type="image_tensor")(
        as_input([image(9, 9)], "image_tensor")
    )
    assert set(outputs) == set(OUTPUTS) - {"detection_multiclass_scores", "raw_detection_boxes"}


def test_features_of_detections_have_the_names_of_the_object_detection_api():
    boxes = tf.zeros([1, 2, 4])
    detections = records.Detections(
        boxes,
        tf.zeros([1, 2]),
        tf.zeros([1, 2], tf.int32),
        tf.constant([2]),
        box_features=tf.ones([1, 2, 1, 1, 5]),
        roi_features=tf.ones([1, 2, 7, 7, 3]),
    )
    outputs = to_api_outputs(detections)
    assert outputs["detection_features"].shape == (1, 2, 1, 1, 5)
    assert outputs["cropped_rpn_box_features"].shape == (1, 2, 7, 7, 3)


def test_bytes_that_are_no_image_are_refused(exported):
    loaded = tf.saved_model.load(str(exported["encoded_image_string_tensor"] / "saved_model"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        loaded(tf.constant([b"no image"]))


def test_unknown_input_type_is_refused(model):
    with pytest.raises(
        ValueError, match=r"input_type = 'tensor' is unknown\. Allowed: image_tensor, float_image_tensor, enc"
    ):
        make_serving_function(model=model, resizer=KEEP_ASPECT, input_type="tensor")


@pytest.mark.parametrize("input_type", ["encoded_image_string_tensor", "tf_example"])
def test_channels_that_no_image_file_has_are_refused(model, input_type):
    with pytest.raises(ValueError, match=r"no image file has num_channels = 5\. Allowed: 1, 3, 4"):
        make_serving_function(model=model, resizer=KEEP_ASPECT, input_type=input_type, num_channels=5)
