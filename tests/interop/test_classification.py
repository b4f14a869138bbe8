"""The backbone with the weights of a classifier computes what the classifier computed."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.interop import classification, sources
from object_detection_fpn.interop.object_graph import ObjectGraph
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.backbones.backbone import PixelNormalization
from object_detection_fpn.training.stored import CheckpointError, StoredCheckpoint
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

BLOCKS = ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")


class SamePooling:
    """tf_keras.layers, but the pooling of the stem pads like "same", which is the one thing our backbone does otherwise."""

    def __getattr__(self, name):
        return getattr(tf_keras.layers, name)

    @staticmethod
    def ZeroPadding2D(padding, *, name):
        return tf_keras.layers.Activation("linear") if name == "pool1_pad" else tf_keras.layers.ZeroPadding2D(padding)

    @staticmethod
    def MaxPooling2D(size, *, strides, name):
        return tf_keras.layers.MaxPooling2D(size, strides=strides, padding="same", name=name)


@pytest.fixture(scope="module")
def classifier():
    """ResNet50 of tf_keras.applications with biases and statistics as a trained one has, some variances next to nothing."""
    network = tf_keras.applications.resnet.ResNet50(weights=None, classes=4, layers=SamePooling())
    rng = np.random.default_rng(0)
    draw = {
        "bias": lambda shape: rng.normal(0, 0.5, shape),
        "gamma": lambda shape: rng.normal(0.5, 0.3, shape),
        "beta": lambda shape: rng.normal(0, 0.3, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.5, shape),
        "moving_variance": lambda shape: np.where(rng.random(shape) < 0.1, 1e-6, rng.uniform(0.1, 2, shape)),
    }
    for variable in network.variables:
        name = variable.name.split("/")[-1].split(":")[0]
        if name in draw:
            variable.assign(draw[name](variable.shape))
    for layer in network.layers:  # tiny variances make large features; keeps them near 1
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.gamma.assign(layer.gamma * tf.sqrt(tf.minimum(layer.moving_variance + 1e-5, 1.0)))
    return network


@pytest.fixture(scope="module")
def files(classifier, tmp_path_factory):
    """The classifier in every format, by the path's ending."""
    folder = tmp_path_factory.mktemp("files")
    notop = tf_keras.Model(classifier.inputs, classifier.get_layer(BLOCKS[-1]).output)
    paths = {
        name: str(folder / name) for name in ("full.h5", "notop.h5", "x.weights.h5", "x.keras", "whole.h5", "ckpt-1")
    }
    classifier.save_weights(paths["full.h5"])
    notop.save_weights(paths["notop.h5"])
    classifier.save_weights(paths["x.weights.h5"])
    classifier.save(paths["x.keras"])
    classifier.save(paths["whole.h5"])
    tf.train.Checkpoint(model=classifier).write(paths["ckpt-1"])
    return paths


@pytest.fixture
def build(build_small):
    """A model of one stage with ResNet-50 and an own specification of its normalization."""

    def make(depth=50, max_level=5, is_bgr=False, **norm):
        spec = layers.LayerSpec(
            norm=layers.BatchNormSpec(**{"epsilon": 1e-5, "scale": True, **norm}), execution=Execution(is_restored=True)
        )
        backbone = functools.partial(resnet_v1.resnet_v1, depth)
        return build_small(
            backbone=lambda max_level, num_channels, **_: backbone(
                max_level=max_level, num_channels=num_channels, spec=spec, pixels=PixelNormalization(is_bgr=is_bgr)
            ),
            num_stages=1,
            min_level=2,
            max_level=max_level,
        )

    return make


def assert_same_features(model, classifier):
    image = np.random.default_rng(1).normal(0, 50, (1, 64, 64, 3)).astype(np.float32)
    taps = tf_keras.Model(classifier.inputs, [classifier.get_layer(name).output for name in BLOCKS])
    image = tf.image.resize(image, classifier.input_shape[1:3])
    backbone = model.feature_extractor.backbone
    # The classifiers of tf_keras.applications see blue, green, red (their preprocess_input).
    expected = taps(image if backbone.pixels.is_bgr else image[..., ::-1], training=False)
    actual = backbone(image, training=False)
    for level, features in actual.items():
        reference = expected[level - 2].numpy()
        assert np.abs(reference).max() > 0.1
        np.testing.assert_allclose(features, reference, atol=1e-4 * np.abs(reference).max())


def read(path):
    """As `sources.find` reads it."""
    if path.endswith(classification.FILE_SUFFIXES):
        return classification.read_file(path)
    stored = StoredCheckpoint(path)
    graph = ObjectGraph(stored)
    return classification.read_checkpoint(stored, graph, graph.follow("model"))


@pytest.mark.parametrize("name", ["full.h5", "notop.h5", "x.weights.h5", "x.keras", "whole.h5", "ckpt-1"])
def test_every_format_holds_the_same_network(files, classifier, name):
    network = read(files[name])
    convolutions = [layer for layer in classifier.layers if isinstance(layer, tf_keras.layers.Conv2D)]
    norms = [layer for layer in classifier.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]
    for layers_, found in ((convolutions, network.convolutions), (norms, network.norms)):
        for layer, values in zip(layers_, found, strict=True):
            assert len(values) == len(layer.variables)
            for key, value in values.items():
                np.testing.assert_array_equal(np.asarray(value), getattr(layer, key))
    assert [set(values) for values in network.others] == ([] if name == "notop.h5" else [{"kernel", "bias"}])


@pytest.mark.parametrize(
    "norm",
    [{"epsilon": 1e-3}, {"epsilon": 0.0, "trainable": False}, {"epsilon": 1e-3, "scale": False, "is_bgr": True}],
    ids=["large", "none, frozen", "no gamma, blue first"],
)
def test_features_are_those_of_the_classifier_whatever_the_norm(build, files, classifier, norm):
    model = build(**norm)
    report, title = sources.restore_for_fine_tuning(files["full.h5"], model)
    backbone = {path for path in variables_by_path(model) if path.startswith("feature_extractor/backbone/")}
    assert set(report.restored) == backbone
    assert report.missing == report.other_shape == []
    assert report.unused == ["rest-0/kernel", "rest-0/bias"]  # the classifier's last layer
    assert title == f"Weights from {files['full.h5']} (weights of a Keras model), classification"
    assert_same_features(model, classifier)
    norms = [layer for layer in model.feature_extractor.backbone.network.layers if layer.name.endswith("_bn")]
    assert all(np.all(layer.moving_variance >= 0) for layer in norms)


def test_a_backbone_that_ends_early_takes_its_part(build, files, classifier):
    model = build(max_level=3)
    report, _ = sources.restore_for_fine_tuning(files["ckpt-1"], model, kind="classification")
    assert report.missing == report.other_shape == []
    assert len([name for name in report.unused if name.endswith("/moving_mean")]) == 53 - 24
    assert_same_features(model, classifier)


def test_a_model_on_one_level_takes_the_last_stage_into_its_box_head(files, classifier):
    message = support.single_level_message('feature_extractor { type: "faster_rcnn_resnet50_keras" }')
    model = builder.build_model(message, execution=Execution(is_restored=True))
    report, _ = sources.restore_for_fine_tuning(files["full.h5"], model)
    assert report.missing == report.other_shape == []
    assert len([name for name in report.restored if name.endswith("/moving_mean")]) == 53
    assert len([name for name in report.restored if name.startswith("box_head/feature_extractor/")]) == 10 * 5
    assert_same_features(model, classifier)
    taps = tf_keras.Model(classifier.inputs, [classifier.get_layer(name).output for name in BLOCKS[-2:]])
    image = np.random.default_rng(1).normal(0, 50, (1, *classifier.input_shape[1:])).astype(np.float32)
    before, expected = taps(image, training=False)
    actual = model.box_head.feature_extractor(before, training=False)
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def test_a_checkpoint_of_the_api_is_taken_as_it_is(build, as_objects, fill, tmp_path):
    """Its convolutions have no bias and its epsilon is not written anywhere."""
    model = build(epsilon=1e-3)
    fill(model)
    weighted = [layer for layer in model.feature_extractor.backbone.network.layers if layer.variables]
    objects = as_objects(
        {
            f"layer_with_weights-{i}/{variable.name.split('/')[-1].split(':')[0]}": variable
            for i, layer in enumerate(weighted)
            for variable in layer.variables
        }
    )
    path = tf.train.Checkpoint(feature_extractor=objects).write(str(tmp_path / "ckpt-1"))
    saved = [variable.numpy() for variable in model.feature_extractor.backbone.variables]
    fill(model, -1000.0)
    report, title = sources.restore_for_fine_tuning(path, model)
    assert title == f"Weights from {path} (a ResNet classifier), classification"
    assert (report.missing, report.unused) == ([], [])
    for variable, value in zip(model.feature_extractor.backbone.variables, saved, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_imagenet_weights_come_from_where_keras_downloads_them(build, files, monkeypatch):
    asked = []

    def get_file(name, url, **_):
        asked.append((name, url))
        return files["notop.h5"]

    monkeypatch.setattr("tf_keras.src.utils.data_utils.get_file", get_file)
    model = build(max_level=2)
    report, title = sources.restore_for_fine_tuning("imagenet", model)
    [(name, url)] = asked
    assert name == "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/resnet/")
    assert (report.missing, report.other_shape) == ([], [])
    assert title == "Weights from imagenet (tf_keras.applications), classification"
    kernel = model.feature_extractor.backbone.network.get_layer("conv1_conv").kernel
    np.testing.assert_array_equal(kernel, read(files["notop.h5"]).convolutions[0]["kernel"][:, :, ::-1])


def test_other_channels_keep_their_first_convolution(build_small, files):
    spec = layers.LayerSpec(norm=layers.BatchNormSpec(scale=True))
    model = build_small(
        backbone=lambda **_: resnet_v1.resnet_v1(50, max_level=2, num_channels=4, spec=spec),
        num_stages=1,
        min_level=2,
        max_level=2,
    )
    report, _ = sources.restore_for_fine_tuning(files["notop.h5"], model)
    [(name, here, there)] = report.other_shape
    assert name.endswith("/kernel")
    assert (here, there) == ((7, 7, 4, 64), (7, 7, 3, 64))


# Refusals -------------------------------------------------------------------------------------------------------------


def test_another_place_of_the_strides_is_refused(build_small, tmp_path):
    path = write_network(tmp_path / "x.weights.h5", 53, 53)
    model = build_small(
        backbone=lambda **_: resnet_v1.resnet_v1(50, max_level=2, stride_in_3x3=True),
        num_stages=1,
        min_level=2,
        max_level=2,
    )
    words = (
        r"x\.weights\.h5: these weights are of a ResNet V1, whose stages have their stride in the first 1 x 1 convolution, but "
        r"model\.faster_rcnn\.feature_extractor\.resnet\.stride_in_3x3 = true\. Allowed: false, or weights of a ResNet V1\.5\."
    )
    with pytest.raises(CheckpointError, match=words):
        sources.restore_for_fine_tuning(path, model)


def write_network(path, num_convolutions, num_norms):
    with h5py.File(path, "w") as file:
        for kind, number in (("conv2d", num_convolutions), ("batch_normalization", num_norms)):
            for i in range(number):
                shape = (1, 1, 1, 1) if kind == "conv2d" else (1,)
                file[f"layers/{kind}_{i}/vars/0"] = np.zeros(shape, np.float32)
                for j in range(1, 4 if kind != "conv2d" else 1):
                    file[f"layers/{kind}_{i}/vars/{j}"] = np.zeros(shape, np.float32)
    return str(path)


@pytest.mark.parametrize(
    "num_convolutions, num_norms, words",
    [
        (
            13,
            0,
            r"no ResNet V1 \(13 convolutions, 0 batch normalizations\)\. Allowed: ResNet50, ResNet101 and ResNet152 of",
        ),
        (53, 49, r"no ResNet V1 \(53 convolutions, 49 batch normalizations\)"),
        (
            104,
            104,
            "these are weights of a ResNet-101, but the model's backbone is tiny. Allowed: weights of that "
            'network, or a feature_extractor.type with "resnet101"',
        ),
    ],
)
def test_another_network_is_refused(build_small, tmp_path, num_convolutions, num_norms, words):
    path = write_network(tmp_path / "x.weights.h5", num_convolutions, num_norms)
    with pytest.raises(CheckpointError, match=words):
        sources.restore_for_fine_tuning(path, build_small())


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_unreadable_files_are_refused(build_small, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for content in (None, b"no weights"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"x{suffix}: these weights cannot be read \("):
            sources.restore_for_fine_tuning(str(path), build_small())


def test_a_backbone_is_no_detector(build, files):
    model = build(max_level=2)
    for kind in ("detection", "full"):
        with pytest.raises(CheckpointError, match=rf'a backbone alone .*is "{kind}"\. Allowed: "classification"'):
            sources.restore_for_fine_tuning(files["notop.h5"], model, kind=kind)
    with pytest.raises(CheckpointError, match=r"a backbone alone .* with which nothing can be detected"):
        sources.restore_model(files["notop.h5"], model)


def test_imagenet_is_refused_where_there_are_no_such_weights(build_small):
    with pytest.raises(CheckpointError, match='"imagenet": there are no such weights for tiny'):
        sources.restore_for_fine_tuning("imagenet", build_small())


def test_a_download_that_fails_says_so(monkeypatch):
    def get_file(*_, **__):
        raise Exception("URL fetch failure on https://...: None -- timed out")

    monkeypatch.setattr("tf_keras.src.utils.data_utils.get_file", get_file)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(URL fetch failure .* name the file\."):
        classification.download(SimpleNamespace(name="resnet50_v1"))
