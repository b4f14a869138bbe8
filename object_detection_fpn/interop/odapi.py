"""Names that the Object Detection API gives this model's variables in its checkpoints.

Its training loop saves an object-based checkpoint; each variable's name is the path of Python attributes that leads to it.

| there, below `model/` | here |
|---|---|
| _feature_extractor_for_proposal_features/ | feature_extractor/ |
| - classification_backbone/layer_with_weights-i | - backbone/network/layer_with_weights-i |
| - fpn_features_generator/top_layers/0 | - fpn/laterals/t, t being the coarsest level of the backbone |
| - fpn_features_generator/residual_blocks/i/0 | - fpn/laterals/(t - 1 - i) |
| - fpn_features_generator/conv_layers/i/0 and /1 | - fpn/smoothings/(t - 1 - i)/conv and /norm |
| - coarse_feature_layers/i/0 and /1 | - fpn/extras/(t + 1 + i)/conv and /norm |
| _first_stage_box_predictor_first_conv/layer_with_weights-0 and -1 | rpn/head/conv and norm |
| _first_stage_box_predictor/_prediction_heads/ | rpn/head/ |
| - class_predictions_with_background/i/_class_predictor_layers/0 | - objectness/i, i counting levels from the finest |
| - box_encodings/i/_box_encoder_layers/0 | - deltas/i |
| _feature_extractor_for_box_classifier_features/layer_with_weights-i | box_head/feature_extractor/fc1, norm, fc2 |
| _mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/1 and /2 | box_head/class_predictor, class_norm |
| _mask_rcnn_box_predictor/_box_prediction_head/_box_encoder_layers/1 and /2 | box_head/box_predictor, box_norm |
| _mask_rcnn_box_predictor/_third_stage_heads/mask_predictions/_mask_predictor_layers/ | mask_head/ |
| - 3i and 3i + 1 | - conv(i + 1)/conv and /norm |
| - the last | - predictor |
| _context_feature_extract_fn/ | context_attention/ |
| - _query_proj/, _key_proj/, _val_proj/ | - query/, key/, value/ |
| - _feature_proj/ | - output_projection/ |
| - - projection, batch_norm | - - dense, norm |

With `use_dropout` those of class and box begin with 2 instead of 1. With `convolve_then_upsample_masks` the last two
convolutions of masks come one later. Without a pyramid, `_feature_extractor_for_proposal_features/layer_with_weights-i` is
`feature_extractor/backbone/network/layer_with_weights-i`, and the box head's features have the same names in
`box_head/feature_extractor/network/`.

RetinaNet:

| there, below `model/` | here |
|---|---|
| _feature_extractor/ | feature_extractor/ |
| - classification_backbone, _fpn_features_generator, _coarse_feature_layers | as above |
| _box_predictor/_base_tower_layers_for_heads/ | dense_head/ |
| - box_encodings/0/3i, class_predictions_with_background/0/3i | - box_tower/convs/i, class_tower/convs/i |
| - .../l/(3i + 1), l counting levels from the finest | - .../norms/l/i |
| _box_predictor/_box_prediction_head/_box_encoder_layers/0 | dense_head/box_predictor |
| _box_predictor/_prediction_heads/class_predictions_with_background/_class_predictor_layers/0 | dense_head/class_predictor |

Without normalization 2i stands in place of 3i, and with `use_dropout` the class predictor is 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf
import tf_keras

from object_detection_fpn.interop.object_graph import ObjectGraph
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.detectors.retinanet import RetinaNet
from object_detection_fpn.modeling.fpn import FPN
from object_detection_fpn.modeling.heads.context import ContextAttention
from object_detection_fpn.modeling.heads.dense import DenseHead, Tower
from object_detection_fpn.modeling.heads.mask import MaskHead
from object_detection_fpn.modeling.single_level import SingleLevel
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import variables_by_path

FEATURES = "_feature_extractor_for_proposal_features"
PYRAMID = f"{FEATURES}/fpn_features_generator"
_BOX_FEATURES = "_feature_extractor_for_box_classifier_features"
_RPN_CONV = "_first_stage_box_predictor_first_conv"
_RPN_HEADS = "_first_stage_box_predictor/_prediction_heads"
_BOX_HEADS = "_mask_rcnn_box_predictor"
_SSD_FEATURES = "_feature_extractor"
_SSD_PREDICTOR = "_box_predictor"
_SSD_TOWERS = f"{_SSD_PREDICTOR}/_base_tower_layers_for_heads"
SINGLE_STAGE = (_SSD_FEATURES, _SSD_PREDICTOR)
"""Attributes of a single-stage detector."""
_ATTENTION = "_context_feature_extract_fn"
_MASK_LAYERS = f"{_BOX_HEADS}/_third_stage_heads/mask_predictions/_mask_predictor_layers"


def stored_keys(model: FasterRCNN | RetinaNet, graph: ObjectGraph, root: int) -> dict[str, str]:
    """Says where a checkpoint of the Object Detection API keeps each variable of ours.

    Args:
        model: ours, built.
        graph: the objects of the checkpoint.
        root: the object that is the API's model.

    Returns:
        {path of our variable: key of the tensor}; what the checkpoint has beyond our model goes by its path there.

    Raises:
        CheckpointError: if the backbone is one that the Object Detection API has not.
    """
    our_paths = {id(variable): path for path, variable in variables_by_path(model).items()}
    ours = {path: our_paths[id(variable)] for path, variable in variables_by_api_path(model).items()}
    keys: dict[str, str] = {}
    for path, our_path in ours.items():
        node = graph.follow(path, root)
        if node is not None and (key := graph.key(node)):
            keys[our_path] = key
    known = set(keys.values())
    for node, path in graph.walk(root):
        key = graph.key(node)
        if key and key not in known:
            keys[path] = key
    return keys


def variables_by_api_path(model: FasterRCNN | RetinaNet) -> dict[str, tf.Variable]:
    """Maps each path of the Object Detection API, from its model on, to the variable of ours that belongs there.

    Raises:
        CheckpointError: if the backbone is one that the Object Detection API has not.
    """
    result: dict[str, tf.Variable] = {}
    layers = _single_stage_by_path(model) if isinstance(model, RetinaNet) else _layers_by_path(model)
    for path, layer in layers:
        for variable in layer.variables:
            full_path = f"{path}/{local_name(variable)}"
            if full_path in result:
                raise CheckpointError(
                    f"{variable.name} has no name in a checkpoint of the Object Detection API, which has no "
                    f"{model.feature_extractor.backbone.name} for this model. Allowed: ResNet-50, -101 and -152."
                )
            result[full_path] = variable
    return result


def local_name(variable: tf.Variable) -> str:
    """The attribute of its layer: "kernel", "bias", "gamma", "beta", "moving_mean" or "moving_variance"."""
    return variable.name.split("/")[-1].split(":")[0]


def _layers_by_path(model: FasterRCNN) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    """Pairs (path there, layer of ours): the table above."""
    extractor, head = model.feature_extractor, model.rpn.head
    weighted = [layer for layer in extractor.backbone.network.layers if layer.variables]
    backbone = FEATURES if isinstance(extractor.fpn, SingleLevel) else f"{FEATURES}/classification_backbone"
    for i, layer in enumerate(weighted):
        yield f"{backbone}/layer_with_weights-{i}", layer

    if isinstance(extractor.fpn, FPN):  # the API has no other
        yield from _pyramid_by_path(extractor.fpn, PYRAMID, f"{FEATURES}/coarse_feature_layers")

    yield f"{_RPN_CONV}/layer_with_weights-0", head.conv
    yield f"{_RPN_CONV}/layer_with_weights-1", head.norm
    # A predictor that all levels share has none there that is its own.
    has_own_predictors = len(head.objectness) == head.num_levels
    for i, (objectness, deltas) in enumerate(
        zip(head.objectness, head.deltas, strict=True) if has_own_predictors else ()
    ):
        yield f"{_RPN_HEADS}/class_predictions_with_background/{i}/_class_predictor_layers/0", objectness
        yield f"{_RPN_HEADS}/box_encodings/{i}/_box_encoder_layers/0", deltas

    if model.box_head is not None:
        features = model.box_head.feature_extractor
        with_weights = [layer for layer in features.parts if layer.variables]
        for i, layer in enumerate(with_weights):
            yield f"{_BOX_FEATURES}/layer_with_weights-{i}", layer
        box_layers = f"{_BOX_HEADS}/_box_prediction_head/_box_encoder_layers"
        class_layers = f"{_BOX_HEADS}/_class_prediction_head/_class_predictor_layers"
        first = 1 if model.box_head.dropout_rate is None else 2  # flattening, and dropout if there is any, come before
        yield f"{box_layers}/{first}", model.box_head.box_predictor
        yield f"{box_layers}/{first + 1}", model.box_head.box_norm
        yield f"{class_layers}/{first}", model.box_head.class_predictor
        yield f"{class_layers}/{first + 1}", model.box_head.class_norm
    if model.mask_head is not None:
        yield from _mask_head_by_path(model.mask_head)
    if model.context_attention is not None:
        yield from _attention_by_path(model.context_attention)


def _attention_by_path(attention: ContextAttention) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    projections = {
        "_query_proj": attention.query,
        "_key_proj": attention.key,
        "_val_proj": attention.value,
        "_feature_proj": attention.output_projection,
    }
    for name, projection in projections.items():
        yield f"{_ATTENTION}/{name}/projection", projection.dense
        yield f"{_ATTENTION}/{name}/batch_norm", projection.norm


def _mask_head_by_path(head: MaskHead) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    first = 0
    for i, conv in enumerate(head.convolutions):
        if head.repeats_cells and i == len(head.convolutions) - 1:
            first += 1  # the layer that repeats cells
        yield f"{_MASK_LAYERS}/{first}", conv.conv
        yield f"{_MASK_LAYERS}/{first + 1}", conv.norm
        first += 3  # and an activation
    if head.predictor is not None and head.upsample is None:  # the API has no transposed convolution
        yield f"{_MASK_LAYERS}/{first}", head.predictor


def _single_stage_by_path(model: RetinaNet) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    extractor = model.feature_extractor
    weighted = [layer for layer in extractor.backbone.network.layers if layer.variables]
    for i, layer in enumerate(weighted):
        yield f"{_SSD_FEATURES}/classification_backbone/layer_with_weights-{i}", layer
    if isinstance(extractor.fpn, FPN):  # the API has no other
        fpn, coarse = f"{_SSD_FEATURES}/_fpn_features_generator", f"{_SSD_FEATURES}/_coarse_feature_layers"
        yield from _pyramid_by_path(extractor.fpn, fpn, coarse)
    yield from _dense_head_by_path(model.dense_head)


def _dense_head_by_path(head: DenseHead) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    yield from _tower_by_path(head.box_tower, f"{_SSD_TOWERS}/box_encodings", head.num_levels)
    yield f"{_SSD_PREDICTOR}/_box_prediction_head/_box_encoder_layers/0", head.box_predictor
    classes = "class_predictions_with_background"
    if head.class_tower is not None:
        yield from _tower_by_path(head.class_tower, f"{_SSD_TOWERS}/{classes}", head.num_levels)
    place = 0 if head.class_dropout is None else 1
    yield f"{_SSD_PREDICTOR}/_prediction_heads/{classes}/_class_predictor_layers/{place}", head.class_predictor


def _tower_by_path(tower: Tower, path: str, num_levels: int) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    step = 3 if tower.norms else 2  # a convolution, its normalization, an activation
    for i, conv in enumerate(tower.convs):
        yield f"{path}/0/{step * i}", conv
    # A normalization that all levels share has none there that is its own.
    for level, norms in enumerate(tower.norms if len(tower.norms) == num_levels else ()):
        for i, norm in enumerate(norms):
            yield f"{path}/{level}/{step * i + 1}", norm


def _pyramid_by_path(pyramid: FPN, path: str, coarse: str) -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    *lower, top = sorted(pyramid.laterals)
    yield f"{path}/top_layers/0", pyramid.laterals[top]
    for i, level in enumerate(reversed(lower)):  # theirs count downwards from the level below the top
        yield f"{path}/residual_blocks/{i}/0", pyramid.laterals[level]
        yield f"{path}/conv_layers/{i}/0", pyramid.smoothings[level].conv
        yield f"{path}/conv_layers/{i}/1", pyramid.smoothings[level].norm
    for i, level in enumerate(sorted(pyramid.extras)):
        yield f"{coarse}/{i}/0", pyramid.extras[level].conv
        yield f"{coarse}/{i}/1", pyramid.extras[level].norm
