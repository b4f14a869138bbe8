"""Names that the Object Detection API gives this model's variables in its checkpoints.

Its training loop saves an object-based checkpoint; each variable's key is the path of Python attributes that leads to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import faster_rcnn

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_FEATURES = "model/_feature_extractor_for_proposal_features"
_BOX_FEATURES = "model/_feature_extractor_for_box_classifier_features"
_RPN_CONV = "model/_first_stage_box_predictor_first_conv"
_RPN_HEADS = "model/_first_stage_box_predictor/_prediction_heads"
_BOX_HEADS = "model/_mask_rcnn_box_predictor"


def variables_by_key(model: faster_rcnn.FasterRCNN) -> dict[str, tf.Variable]:
    """Maps each checkpoint key of the Object Detection API to the variable of ours that it holds.

    Raises:
        ValueError: if the backbone is one that the Object Detection API has not.
    """
    result: dict[str, tf.Variable] = {}
    for path, layer in _layers_by_path(model):
        for variable in layer.variables:
            key = f"{path}/{_local_name(variable)}{_SUFFIX}"
            if key in result:
                raise ValueError(
                    f"{variable.name} has no name in a checkpoint of the Object Detection API, which has no "
                    f"{model.feature_extractor.backbone.name} for this model. Allowed: ResNet-50, -101 and -152."
                )
            result[key] = variable
    return result


def _layers_by_path(model: faster_rcnn.FasterRCNN) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    """Pairs (path in their checkpoint, layer of ours)."""
    extractor, head = model.feature_extractor, model.rpn.head
    weighted = [layer for layer in extractor.backbone.network.layers if layer.variables]
    for i, layer in enumerate(weighted):
        yield f"{_FEATURES}/classification_backbone/layer_with_weights-{i}", layer

    pyramid = extractor.fpn
    *lower, top = sorted(pyramid.laterals)
    yield f"{_FEATURES}/fpn_features_generator/top_layers/0", pyramid.laterals[top]
    for i, level in enumerate(reversed(lower)):  # theirs count downwards from the level below the top
        yield f"{_FEATURES}/fpn_features_generator/residual_blocks/{i}/0", pyramid.laterals[level]
        yield f"{_FEATURES}/fpn_features_generator/conv_layers/{i}/0", pyramid.smoothings[level].conv
        yield f"{_FEATURES}/fpn_features_generator/conv_layers/{i}/1", pyramid.smoothings[level].norm
    for i, level in enumerate(sorted(pyramid.extras)):
        yield f"{_FEATURES}/coarse_feature_layers/{i}/0", pyramid.extras[level].conv
        yield f"{_FEATURES}/coarse_feature_layers/{i}/1", pyramid.extras[level].norm

    yield f"{_RPN_CONV}/layer_with_weights-0", head.conv
    yield f"{_RPN_CONV}/layer_with_weights-1", head.norm
    for i, (objectness, deltas) in enumerate(zip(head.objectness, head.deltas, strict=True)):
        yield f"{_RPN_HEADS}/class_predictions_with_background/{i}/_class_predictor_layers/0", objectness
        yield f"{_RPN_HEADS}/box_encodings/{i}/_box_encoder_layers/0", deltas

    if model.box_head is not None:
        features = model.box_head.feature_extractor
        with_weights = [layer for layer in (features.fc1, features.norm, features.fc2) if layer.variables]
        for i, layer in enumerate(with_weights):
            yield f"{_BOX_FEATURES}/layer_with_weights-{i}", layer
        # Layer 0 of each predictor is its flattening or dropout.
        yield f"{_BOX_HEADS}/_box_prediction_head/_box_encoder_layers/1", model.box_head.box_predictor
        yield f"{_BOX_HEADS}/_box_prediction_head/_box_encoder_layers/2", model.box_head.box_norm
        yield f"{_BOX_HEADS}/_class_prediction_head/_class_predictor_layers/1", model.box_head.class_predictor
        yield f"{_BOX_HEADS}/_class_prediction_head/_class_predictor_layers/2", model.box_head.class_norm


def _local_name(variable: tf.Variable) -> str:
    """The attribute of its layer: "kernel", "bias", "gamma", "beta", "moving_mean" or "moving_variance"."""
    return variable.name.split("/")[-1].split(":")[0]
