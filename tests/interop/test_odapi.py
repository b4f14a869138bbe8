"""A checkpoint of the Object Detection API drives this package's model: same variables, same outputs, same losses."""

from __future__ import annotations

import functools
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.interop import odapi
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.protos import model_pb2, pipeline_pb2
from object_detection_fpn.records import Groundtruth

NAME = "faster_rcnn_resnet50_fpn_160"
SIDE = 160.0
NUM_PROPOSALS = 300


@pytest.fixture(scope="module")
def golden(golden_dir, tmp_path_factory):
    """The reference model's files."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(golden_dir / f"{NAME}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


@pytest.fixture(scope="module")
def expected(golden):
    return np.load(golden / "inference.npz")


@pytest.fixture(scope="module")
def checkpoint_keys(golden):
    """{key of a variable of the model: shape}."""
    keys = json.loads((golden / "checkpoint_keys.json").read_text())
    return {key: shape for key, shape in keys.items() if key.startswith("model/") and "OPTIMIZER_SLOT" not in key}


@pytest.fixture(scope="module")
def detector(golden):
    """The reference model here. It was computed without a learning phase: its batch norms used their moving statistics."""
    config = text_format.Parse((golden / "pipeline.config").read_text(), pipeline_pb2.TrainEvalPipelineConfig())
    config.model.faster_rcnn.feature_extractor.batch_norm_trainable = False
    return builder.build_model(config.model)


@pytest.fixture(scope="module")
def restored(golden, detector):
    checkpoint = tf.train.load_checkpoint(str(golden / "ckpt-1"))
    for key, variable in odapi.variables_by_key(detector).items():
        variable.assign(checkpoint.get_tensor(key))
    return detector


@pytest.fixture(scope="module")
def actual(restored, expected):
    true_shapes = tf.constant(expected["true_image_shapes"])
    images = restored.preprocess(expected["images"])
    predictions = restored.predict(images, true_shapes, training=False)
    return SimpleNamespace(
        images=images, predictions=predictions, detections=restored.postprocess(predictions, true_shapes)
    )


@pytest.fixture(scope="module")
def groundtruth(golden):
    train = np.load(golden / "train.npz")
    boxes, one_hot = train["groundtruth_boxes"] * SIDE, train["groundtruth_classes"]
    assert np.all(one_hot.sum(-1) == 1)  # no padding
    batch, num = one_hot.shape[:2]
    return Groundtruth(
        boxes=tf.constant(boxes, tf.float32),
        classes=tf.constant(one_hot.argmax(-1), tf.int32),
        num_boxes=tf.fill([batch], num),
        weights=tf.ones([batch, num]),
        is_crowd=tf.zeros([batch, num], tf.bool),
    )


def match_boxes(found, wanted, found_classes=None, wanted_classes=None):
    """Row of the nearest found box of the same class for each wanted one, and the largest distance of a coordinate."""
    distance = np.abs(found[:, None] - wanted).max(-1)
    if found_classes is not None:
        distance = np.where(found_classes[:, None] == wanted_classes, distance, np.inf)
    nearest = distance.argmin(0)
    assert len(set(nearest)) == len(nearest), "not one to one"
    return nearest, distance.min(0).max()


def test_every_variable_has_the_key_and_shape_of_the_checkpoint(detector, checkpoint_keys):
    ours = {key: list(variable.shape) for key, variable in odapi.variables_by_key(detector).items()}
    assert ours == checkpoint_keys


def test_every_variable_of_the_model_has_one_key(detector):
    variables = list(odapi.variables_by_key(detector).values())
    assert len({id(variable) for variable in variables}) == len(variables)
    assert {id(variable) for variable in variables} == {id(variable) for variable in detector.variables}


def test_preprocessing_reproduces_the_golden(actual, expected):
    np.testing.assert_allclose(np.sum(actual.images, dtype=np.float64), expected["preprocessed_sum"], rtol=1e-6)


@pytest.mark.parametrize("level", range(5))
def test_pyramid_reproduces_the_golden(actual, expected, level):
    np.testing.assert_allclose(actual.predictions.pyramid[level][..., ::16], expected[f"fpn_{level}"], atol=1e-4)


def test_rpn_reproduces_the_golden(actual, expected):
    rpn = actual.predictions.rpn
    np.testing.assert_allclose(rpn.anchors, expected["anchors"], atol=1e-4)
    np.testing.assert_allclose(rpn.box_deltas, expected["rpn_box_encodings"], atol=1e-3)
    np.testing.assert_allclose(rpn.objectness_logits, expected["rpn_objectness"], atol=1e-3)
    assert np.all(rpn.is_valid)


@pytest.mark.parametrize("image", range(2))
def test_second_stage_reproduces_the_golden(actual, expected, image):
    rois = actual.predictions.rois
    assert int(rois.num_proposals[image]) == expected["second_num_proposals"][image] == NUM_PROPOSALS
    rows, distance = match_boxes(rois.boxes[image].numpy() / SIDE, expected["second_proposal_boxes_normalized"][image])
    assert distance <= 1e-3
    ours = slice(image * NUM_PROPOSALS, (image + 1) * NUM_PROPOSALS)
    np.testing.assert_allclose(
        actual.predictions.class_logits[image].numpy()[rows],
        expected["second_class_predictions_with_background"][ours],
        atol=1e-3,
    )
    np.testing.assert_allclose(
        actual.predictions.box_deltas[image].numpy()[rows], expected["second_refined_box_encodings"][ours], atol=1e-3
    )


@pytest.mark.parametrize("image", range(2))
def test_detections_reproduce_the_golden(actual, expected, image):
    found = type(actual.detections)(*(v if v is None else v[image].numpy() for v in actual.detections))
    assert found.num_detections == expected["out_num_detections"][image]
    rows, distance = match_boxes(
        found.boxes, expected["out_detection_boxes"][image], found.classes, expected["out_detection_classes"][image]
    )
    assert distance <= 1e-3
    np.testing.assert_allclose(found.scores[rows], expected["out_detection_scores"][image], atol=1e-4)
    np.testing.assert_allclose(found.class_scores[rows], expected["out_detection_multiclass_scores"][image], atol=1e-4)

    rows, distance = match_boxes(found.raw_boxes, expected["out_raw_detection_boxes"][image])
    assert distance <= 1e-3
    np.testing.assert_allclose(found.raw_class_scores[rows], expected["out_raw_detection_scores"][image], atol=1e-4)
    np.testing.assert_allclose(found.raw_class_scores[found.roi_indices], found.class_scores, atol=1e-6)


def test_losses_reproduce_the_golden(restored, actual, expected, groundtruth, golden):
    """The samplers take everything in this config, so nothing is random."""
    predictions = restored.predict(
        actual.images, tf.constant(expected["true_image_shapes"]), training=True, groundtruth=groundtruth
    )
    losses = {name: float(value) for name, value in restored.loss(predictions, groundtruth).items()}
    wanted = json.loads((golden / "losses.json").read_text())
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses[name] == pytest.approx(value, rel=1e-4), name


def build_small(backbone, monkeypatch, text=""):
    monkeypatch.setitem(builder.BACKBONES, "faster_rcnn_resnet50_fpn_keras", backbone)
    message = text_format.Parse(
        f"""
        faster_rcnn {{
          number_of_stages: 1
          feature_extractor {{
            type: "faster_rcnn_resnet50_fpn_keras"
            conv_hyperparams {{ batch_norm {{ }} }}
            fpn {{ min_level: 3 max_level: 7 additional_layer_depth: 8 }}
          }}
          first_stage_anchor_generator {{
            multiscale_anchor_generator {{ min_level: 3 max_level: 7 aspect_ratios: 1 }}
          }}
          {text}
        }}
        """,
        model_pb2.DetectionModel(),
    )
    return builder.build_model(message)


def four_convolutions(**_):
    features = inputs = tf_keras.Input([None, None, 3])
    outputs = []
    for _level in range(2, 6):
        features = tf_keras.layers.Conv2D(4, 1, use_bias=False)(features)
        outputs.append(features)
    return resnet_v1.Backbone(tf_keras.Model(inputs, outputs), levels=(2, 3, 4, 5), name="four_convolutions")


def test_keys_of_another_pyramid_count_from_its_top(monkeypatch):
    """P3..P7: of the three residual blocks two are left, there are two coarse layers, and one stage has no box head."""
    keys = set(odapi.variables_by_key(build_small(four_convolutions, monkeypatch)))
    features = "model/_feature_extractor_for_proposal_features"
    pyramid = f"{features}/fpn_features_generator"
    heads = "model/_first_stage_box_predictor/_prediction_heads"
    expected = [
        *(f"{features}/classification_backbone/layer_with_weights-{i}" for i in range(4)),
        *(f"{pyramid}/{layer}" for layer in ("top_layers/0", "residual_blocks/0/0", "residual_blocks/1/0")),
        *(f"{pyramid}/conv_layers/{i}/0" for i in range(2)),
        *(f"{features}/coarse_feature_layers/{i}/0" for i in range(2)),
        "model/_first_stage_box_predictor_first_conv/layer_with_weights-0",
        *(f"{heads}/box_encodings/{i}/_box_encoder_layers/0" for i in range(5)),
        *(f"{heads}/class_predictions_with_background/{i}/_class_predictor_layers/0" for i in range(5)),
    ]
    kernel = "/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    assert {key for key in keys if "kernel" in key} == {layer + kernel for layer in expected}


def test_a_backbone_that_the_api_has_not_is_refused(monkeypatch):
    small_resnet = functools.partial(resnet_v1.resnet_v1_small, 18)
    with pytest.raises(ValueError, match=r"no resnet18_v1 for this model\. Allowed: ResNet-50, -101 and -152\."):
        odapi.variables_by_key(build_small(small_resnet, monkeypatch))
