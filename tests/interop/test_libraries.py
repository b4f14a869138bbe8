"""Files of other libraries: which one a file is of, and what of it a model gets."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras
from interop import fake_library
from interop import torch_writer as writer

from object_detection_fpn import builder
from object_detection_fpn.interop import cell_anchors, libraries, resnets, retinanets, sources
from object_detection_fpn.interop.state_dict import Entry, box_rows, mask_rows
from object_detection_fpn.interop.torch_files import StateDict
from object_detection_fpn.interop.torchvision import Torchvision
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import Restored, variables_by_path

BACKBONE = "feature_extractor/backbone/"


@pytest.fixture
def library(monkeypatch):
    fake_library.put(monkeypatch)
    monkeypatch.setattr(resnets, "check_depth", lambda *_: None)


@pytest.fixture
def save(tmp_path):
    """Writes tensors as torch.save does."""

    def write(tensors, name="x.pth"):
        path = tmp_path / name
        path.write_bytes(writer.zip_bytes({"model": writer.state_dict(**tensors)}))
        return str(path)

    return write


def backbone_of(tensors):
    return {name: array for name, array in tensors.items() if name.startswith("fake.feature_extractor.backbone.")}


@pytest.mark.parametrize(
    "kind, is_wanted",
    [
        ("classification", lambda path: path.startswith(BACKBONE)),
        ("detection", lambda path: path.startswith(("feature_extractor/", "box_head/feature_extractor/"))),
        ("full", lambda path: True),
        ("", lambda path: True),
    ],
)
def test_a_detector_gives_what_is_asked_for(library, build_small, save, kind, is_wanted):
    model = build_small()
    before = {path: variable.numpy() for path, variable in variables_by_path(model).items()}
    tensors = fake_library.filled(model)
    path = save(tensors)
    report, title = sources.restore_for_fine_tuning(path, model, kind=kind)
    wanted = {name for name in before if is_wanted(name)}
    assert set(report.restored) == wanted
    assert report.missing == report.other_shape == []
    assert title == f'Weights from {path} (a detector of torchvision, its part "model"), {kind or "full"}'
    expected = fake_library.weights_by_path(tensors, model, path)
    for name, variable in variables_by_path(model).items():
        np.testing.assert_array_equal(variable, expected[name] if name in wanted else before[name], err_msg=name)


def test_a_detector_of_other_classes_gives_all_but_its_predictors(library, build_small, save):
    path = save(fake_library.filled(build_small(num_classes=7)))
    model = build_small(num_classes=3)
    report, _ = sources.restore_for_fine_tuning(path, model, kind="full")
    assert {(name.rsplit("/", 2)[1], here, there) for name, here, there in report.other_shape} == {
        ("class_predictor", (1024, 4), (1024, 8)),
        ("class_predictor", (4,), (8,)),
        ("box_predictor", (1024, 12), (1024, 28)),
        ("box_predictor", (12,), (28,)),
    }
    assert (report.missing, report.unused) == ([], [])
    report, _ = sources.restore_for_fine_tuning(path, model, kind="detection")
    assert report.other_shape == []
    with pytest.raises(CheckpointError, match=r"of another model; it lacks 4 of the model's .* box_head/"):
        sources.restore_model(path, model)


def test_masks_that_a_model_lacks_are_named_as_left_out(library, build_small, save):
    model = build_small()
    tensors = fake_library.filled(model) | {"fake.mask_head.conv1.weight": np.zeros([1], np.float32)}
    report, title = sources.restore_for_fine_tuning(save(tensors), model)
    assert "(a detector of torchvision without its mask head, its part" in title
    assert set(report.restored) == set(variables_by_path(model))


def test_predictors_of_other_classes_have_our_order_of_columns():
    """By which fine-tuning finds the classes whose names agree."""
    layer = tf_keras.layers.Dense(1)

    def tables(num_classes):
        background_first = np.roll(np.arange(num_classes + 1), 1)
        yield Entry("roi_heads.box_predictor.cls_score", layer), num_classes + 1
        yield Entry("roi_heads.box_predictor.cls_score", layer, rows=background_first), num_classes + 1
        yield Entry("roi_heads.box_predictor.bbox_pred", layer, rows=box_rows(num_classes)), 4 * num_classes
        num_rows = 4 * num_classes + 4
        rows = box_rows(num_classes, first=1)
        yield Entry("roi_heads.box_predictor.bbox_pred", layer, rows=rows, num_rows=num_rows), num_rows
        name, num_rows = "roi_heads.mask_predictor.mask_fcn_logits", num_classes + 1
        yield Entry(name, layer, rows=mask_rows(num_classes), num_rows=num_rows), num_rows
        yield Entry("roi_heads.mask_head.predictor", layer), num_classes

    for (here, _), (there, num_rows) in zip(tables(3), tables(7), strict=True):
        found = libraries.with_rows(here, num_rows)
        np.testing.assert_array_equal(found.rows, there.rows)
        tensor = np.random.default_rng(0).normal(size=(num_rows, 5))
        np.testing.assert_array_equal(found.convert(tensor), there.convert(tensor))


def test_a_detector_is_evaluated_without_being_imported_first(library, build_small, save):
    model = build_small()
    tensors = fake_library.filled(model)
    path = save(tensors)
    assert sources.restore_model(path, model) == Restored(path, 0)
    for name, array in fake_library.weights_by_path(tensors, model, path).items():
        np.testing.assert_array_equal(variables_by_path(model)[name], array)
    with pytest.raises(CheckpointError, match=r"x\.pth: no moving averages in this file"):
        sources.restore_model(path, model, use_averages=True)


@pytest.mark.parametrize("change", ["missing", "left over", "another shape"])
def test_tensors_that_do_not_fit_are_refused(library, build_small, save, change):
    model = build_small()
    tensors = fake_library.filled(model)
    name = next(iter(backbone_of(tensors)))
    if change == "left over":
        name = "fake.more"
        tensors[name] = np.zeros(1, np.float32)
    elif change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:1]
    with pytest.raises(CheckpointError, match=rf"x\.pth: {re.escape(name)} .*{change}"):
        sources.restore_for_fine_tuning(save(tensors), model, kind="full")


def test_a_classifier_gives_its_backbone_alone(library, build_small, save):
    model = build_small()
    tensors = backbone_of(fake_library.filled(model))
    path = save(tensors)
    report, title = sources.restore_for_fine_tuning(path, model)
    assert set(report.restored) == {name for name in variables_by_path(model) if name.startswith(BACKBONE)}
    assert title == f'Weights from {path} (a ResNet of torchvision, its part "model"), classification'
    with pytest.raises(CheckpointError, match=r'a backbone alone .*, but fine_tune_checkpoint_type is "detection"'):
        sources.restore_for_fine_tuning(path, model, kind="detection")
    with pytest.raises(CheckpointError, match=r"a backbone alone \(a ResNet of torchvision.*Train with it"):
        sources.restore_model(path, model)


@pytest.mark.parametrize(
    "name, library, is_detector",
    [
        ("backbone.body.layer1.0.conv1.weight", "torchvision", True),
        ("layer1.0.conv1.weight", "torchvision", False),
        ("backbone.bottom_up.res2.0.conv1.weight", "detectron2", True),
        ("backbone.res2.0.conv1.weight", "detectron2", True),
        ("res2.0.conv1.weight", "detectron2", False),
        ("res2_0_branch2a_w", "detectron2", False),
    ],
)
def test_names_of_tensors_tell_the_library(name, library, is_detector):
    assert libraries.identify({"a": np.zeros(1), name: np.zeros(1)}, "x.pth") == (library, is_detector)


def test_other_models_are_refused():
    with pytest.raises(
        CheckpointError, match=r"x\.pth: these tensors are of no detector and no ResNet of torchvision or"
    ):
        libraries.identify({"encoder.layer.0.weight": np.zeros(1)}, "x.pth")


def names_of_resnet(blocks, num_convolutions=3):
    yield "conv1.weight"
    for stage, number in enumerate(blocks, start=1):
        for block in range(number):
            for convolution in range(1, num_convolutions + 1):
                yield f"layer{stage}.{block}.conv{convolution}.weight"


@pytest.mark.parametrize(
    "blocks, num_convolutions, words",
    [
        ((3, 4, 23, 3), 3, 'a ResNet-101, but the model\'s backbone is resnet50_v1.*"resnet101"'),
        ((3, 4, 6, 3), 2, "a ResNet-34, but the model's backbone is resnet50_v1"),
        ((2, 2, 2, 2), 2, "a ResNet-18"),
        ((3, 4, 6), 3, r"its stages have \(3, 4, 6\) blocks"),
    ],
)
def test_a_resnet_of_another_depth_is_refused(blocks, num_convolutions, words):
    tensors = {name: np.zeros(1) for name in names_of_resnet(blocks, num_convolutions)}
    model = SimpleNamespace(feature_extractor=SimpleNamespace(backbone=SimpleNamespace(name="resnet50_v1")))
    with pytest.raises(CheckpointError, match=rf"x\.pth: .*{words}"):
        libraries.find_weights(StateDict(tensors, "", ""), model, "x.pth")


def torchvision_resnet18(rng) -> dict[str, np.ndarray]:
    """Tensors of a ResNet-18, its norms far from the identity."""
    tensors = {}

    def add(conv, norm, size, num_in, num_out):
        tensors[f"{conv}.weight"] = rng.normal(0, (2 / size**2 / num_in) ** 0.5, (num_out, num_in, size, size))
        for name, low, high in (
            ("weight", 0.5, 1),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 2),
        ):
            tensors[f"{norm}.{name}"] = rng.uniform(low, high, num_out)
        tensors[f"{norm}.num_batches_tracked"] = np.int64(1)

    add("conv1", "bn1", 7, 3, 64)
    num_in = 64
    for stage, num_out in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            place = f"layer{stage}.{block}"
            if num_in != num_out:
                add(f"{place}.downsample.0", f"{place}.downsample.1", 1, num_in, num_out)
            add(f"{place}.conv1", f"{place}.bn1", 3, num_in, num_out)
            add(f"{place}.conv2", f"{place}.bn2", 3, num_out, num_out)
            num_in = num_out
    tensors["fc.weight"], tensors["fc.bias"] = np.zeros((10, 512)), np.zeros(10)
    return {name: np.asarray(t, np.int64 if name.endswith("tracked") else np.float32) for name, t in tensors.items()}


def features_of_resnet18(tensors, images):
    """What torchvision computes with them, but for the padding, which is that of tf-models-official."""

    def convolve(features, conv, norm, strides=1):
        kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
        features = tf.nn.conv2d(features, kernel, strides, "SAME")
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + 1e-5)
        return features * scale + (tensors[f"{norm}.bias"] - scale * tensors[f"{norm}.running_mean"])

    features = tf.nn.max_pool2d(tf.nn.relu(convolve(images, "conv1", "bn1", 2)), 3, 2, "SAME")
    for stage in range(1, 5):
        for block in range(2):
            place, strides = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = features
            if f"{place}.downsample.0.weight" in tensors:
                shortcut = convolve(features, f"{place}.downsample.0", f"{place}.downsample.1", strides)
            inner = tf.nn.relu(convolve(features, f"{place}.conv1", f"{place}.bn1", strides))
            features = tf.nn.relu(shortcut + convolve(inner, f"{place}.conv2", f"{place}.bn2"))
    return features


@pytest.mark.no_cover  # measuring it takes long
def test_a_resnet18_of_torchvision_computes_its_features(build_small, save):
    rng = np.random.default_rng(0)
    tensors = torchvision_resnet18(rng)
    spec = layers.LayerSpec(norm=layers.BatchNormSpec(epsilon=1e-5, scale=True))
    model = build_small(
        backbone=lambda **_: resnet_v1.resnet_v1_small(18, spec=spec, pixels=Torchvision.pixels),
        num_stages=1,
        min_level=2,
        max_level=5,
    )
    report, title = sources.restore_for_fine_tuning(save(tensors, "resnet18-f37072fd.pth"), model)
    assert "(a ResNet of torchvision" in title
    assert report.missing == report.other_shape == report.unused == []
    images = rng.uniform(-2, 2, (1, 64, 64, 3)).astype(np.float32)
    expected = features_of_resnet18(tensors, images).numpy()
    found = model.feature_extractor.backbone(images, training=False)[5]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_padding_like_same_is_refused():
    """Such a model would compute other features than the weights were trained for."""
    names = {"pool1_pool": tf_keras.layers.MaxPooling2D, "other": tf_keras.layers.ReLU}
    network = SimpleNamespace(layers=[make(name=name) for name, make in names.items()])
    backbone = SimpleNamespace(name="resnet50_v1", stride_in_3x3=True, pixels=Torchvision.pixels, network=network)
    with pytest.raises(CheckpointError, match=r"x\.pth: .*feature_extractor\.resnet \{ symmetric_padding: true \}"):
        Torchvision().backbone_weights_by_path(
            {}, SimpleNamespace(feature_extractor=SimpleNamespace(backbone=backbone)), "x.pth"
        )


def test_resnets_that_detectron2_took_from_torchvision_are_torchvision(monkeypatch):
    """They have its strides and pixels, under Detectron2's names."""
    taken = {}
    monkeypatch.setattr(
        libraries.LIBRARIES["torchvision"],
        "backbone_weights_by_path",
        lambda tensors, model, source: taken.update(tensors) or {},
    )
    names = {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "stem.fc.bias": "fc.bias",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res2.0.shortcut.norm.bias": "layer1.0.downsample.1.bias",
        "res5.2.conv3.norm.weight": "layer4.2.bn3.weight",
    }
    for name in names_of_resnet((3, 4, 6, 3)):
        if name.startswith("layer"):
            names[f"res{int(name[5]) + 1}{name[6:]}"] = name
    model = SimpleNamespace(feature_extractor=SimpleNamespace(backbone=SimpleNamespace(name="resnet50_v1")))
    libraries.find_weights(StateDict(dict.fromkeys(names, np.zeros(1)), "model", "torchvision"), model, "R-50.pkl")
    assert taken.keys() == set(names.values())


@pytest.fixture
def build_retinanet(monkeypatch):
    """Makes a RetinaNet on the tiny backbone, with a pyramid as the libraries have it."""
    support.put_backbone(monkeypatch, support.SSD_RESNET18)

    def build(*changes):
        return builder.build_model(support.retinanet_message("feature_extractor { fpn { style: PAPER } }", *changes))

    return build


def test_predictors_of_retinanets_have_our_order_of_anchors_and_columns(build_retinanet):
    """Of two sizes and three shapes: size by size in Detectron2, shape by shape in torchvision, from wide to high."""
    anchors = "anchor_generator { multiscale_anchor_generator { scales_per_octave: 2 aspect_ratios: [2.0, 0.5] } }"
    model = build_retinanet(anchors, "add_background_class: false")
    head = retinanets.dense_layers(model, "x.pth", may_have_background=False)
    # Ours are square, wide and high, each small, then large.
    np.testing.assert_array_equal(cell_anchors.by_shape(head.cell_anchors), [2, 3, 0, 1, 4, 5])
    by_size = cell_anchors.by_size(head.cell_anchors)
    np.testing.assert_array_equal(by_size, [1, 4, 0, 3, 2, 5])
    entry = retinanets.class_entry("cls", head, by_size)
    np.testing.assert_array_equal(entry.rows[:6], [3, 4, 5, 12, 13, 14])  # three classes
    first = retinanets.class_entry("cls", head, by_size, num_first=1)
    assert first.num_rows == 6 * 4
    np.testing.assert_array_equal(first.rows[:6], [5, 6, 7, 17, 18, 19])
    np.testing.assert_array_equal(retinanets.box_entry("box", head, by_size).rows[:8], [5, 4, 7, 6, 17, 16, 19, 18])
    of_two_classes = libraries.with_rows(first, 6 * 3)
    np.testing.assert_array_equal(of_two_classes.rows[:4], [4, 5, 13, 14])


@pytest.mark.parametrize(
    "changes, words",
    [
        (["feature_extractor { fpn { style: OBJECT_DETECTION_API } }"], "feature_extractor.fpn.style: PAPER"),
        (
            ["box_predictor { weight_shared_convolutional_box_predictor { share_prediction_tower: true } }"],
            "tower: false",
        ),
        (
            ["box_predictor { weight_shared_convolutional_box_predictor { conv_hyperparams { batch_norm { } } } }"],
            "share_norms: true",
        ),
        (["add_background_class: true"], "add_background_class: false"),
    ],
)
def test_retinanets_of_another_form_are_refused(build_retinanet, changes, words):
    model = build_retinanet("add_background_class: false", *changes)
    with pytest.raises(CheckpointError, match=rf"x\.pth: .* This one has .*{words}\. Use its recipe"):
        retinanets.dense_layers(model, "x.pth", may_have_background=False)
