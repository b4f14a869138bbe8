"""Where a model's weights may come from: finds out what a path holds, and gives the model what fits.

| path | holds |
|---|---|
| `ckpt-N`, or a folder with such | a checkpoint of a training run, of this package or of the Object Detection API |
| a folder with `saved_model.pb`, or the export's folder around it | an exported model of either |
| `.pth`, `.pt`, `.safetensors`, `.pkl` | a detector of torchvision or Detectron2, or a ResNet of theirs for the backbone |
| `.h5`, `.keras`, the word `imagenet`, some checkpoints | a ResNet that was trained to classify, for the backbone |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.config.tables import IMAGENET
from object_detection_fpn.interop import classification, label_maps, libraries, odapi, torch_files
from object_detection_fpn.interop.object_graph import ObjectGraph
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.modeling.detectors import kinds
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.detectors.retinanet import RetinaNet
from object_detection_fpn.modeling.single_level import SingleLevel
from object_detection_fpn.training import classes
from object_detection_fpn.training import weights as weights_lib
from object_detection_fpn.training.stored import CheckpointError, StoredCheckpoint, resolve_checkpoint

_ALLOWED = (
    "Allowed: the same detector of this package or of the Object Detection API (ckpt-N or SavedModel), weights of torchvision "
    "or Detectron2 (.pth, .pkl), or weights of a ResNet classifier"
)


class Source(NamedTuple):
    """What a path turned out to hold."""

    path: str
    """The checkpoint or file that was found."""
    origin: str
    """For people: the package or program that wrote it."""
    detector: StoredCheckpoint | None = None
    """A whole model, its `keys` by the paths of our variables."""
    backbone: dict[str, Any] | None = None
    """Or a backbone alone: {path of our variable: array}."""
    imported: dict[str, Any] | None = None
    """Or a whole model of another library: {path of our variable: array}."""

    @property
    def is_detector(self) -> bool:
        return self.detector is not None or self.imported is not None

    def weights(self) -> Mapping[str, Any]:
        """{path of our variable: array}, for fine-tuning."""
        if self.detector is not None:
            return self.detector.weights()
        return self.imported or self.backbone or {}


def find(path: str, model: Detector) -> Source:
    """Finds out what a path holds.

    Args:
        path: see the table at the head of this file.
        model: which the weights are for, built.

    Raises:
        CheckpointError: if it is missing, damaged, or nothing that fits the model; it says what it is.
    """
    if path == IMAGENET:
        network = classification.download(model.feature_extractor.backbone)
        weights = classification.weights_by_path(network, model, f'"{path}"')
        return Source(path, "tf_keras.applications", backbone=weights)
    if path.endswith(classification.FILE_SUFFIXES):
        weights = classification.weights_by_path(classification.read_file(path), model, path)
        return Source(path, "weights of a Keras model", backbone=weights)
    if path.endswith(torch_files.FILE_SUFFIXES):
        return _find_in_torch_file(path, model)
    stored = StoredCheckpoint(_resolve(path))
    graph = ObjectGraph(stored)
    if not graph:
        raise CheckpointError(
            f"{stored.path}: this checkpoint was written by TensorFlow 1, whose variables have other names. {_ALLOWED}."
        )
    if _is_ours(stored, model):
        kind = kinds.find_kind(stored.keys)
        return Source(stored.path, f"{kind} of this package" if kind else "of this package", detector=stored)
    root = _find_detector(graph, model)
    if root is not None and isinstance(model, FasterRCNN | RetinaNet):
        if isinstance(model, FasterRCNN):
            _check_same_kind(stored.path, model, has_pyramid=graph.follow(odapi.PYRAMID, root) is not None)
        classification.check_strides(model.feature_extractor.backbone, stored.path)
        stored.keys = odapi.stored_keys(model, graph, root)
        return Source(stored.path, "of the Object Detection API", detector=stored)
    classifier = _find_classifier(graph)
    if not _is_detector(graph) and classifier is not None:
        network = classification.read_checkpoint(stored, graph, classifier)
        weights = classification.weights_by_path(network, model, stored.path)
        return Source(stored.path, "a ResNet classifier", backbone=weights)
    raise CheckpointError(f"{stored.path}: {_name_other_model(graph, model)}. {_ALLOWED}.")


def restore_model(path: str, model: Detector, *, use_averages: bool = False) -> weights_lib.Restored:
    """Gives a model all its weights, to evaluate or export it.

    Args:
        path: a checkpoint or exported model, of this package or of the Object Detection API, or a detector of another library.
        model: the model, built.
        use_averages: whether the trained variables get their moving averages instead of their last values.

    Returns:
        Which checkpoint it was, and its step (0 where it has none).

    Raises:
        CheckpointError: as `find`, or if it is of another model or a backbone, or has no averages but they are wanted.
    """
    source = find(path, model)
    if source.imported is not None:
        if use_averages:
            raise CheckpointError(
                f"{source.path}: no moving averages in this file. Set eval_config.use_moving_averages: false."
            )
        weights_lib.assign_whole_model(model, source.imported, source=source.path)
        return weights_lib.Restored(source.path, 0)
    if source.detector is None:
        raise CheckpointError(
            f"{source.path}: a backbone alone ({source.origin}), with which nothing can be detected. Train with it as "
            "fine_tune_checkpoint first."
        )
    _check_same_detector(source.detector, model)
    return weights_lib.restore_model(source.detector, model, use_averages=use_averages)


def restore_for_fine_tuning(
    path: str,
    model: Detector,
    *,
    kind: str = "",
    label_map: LabelMap | None = None,
    from_label_map: LabelMap | None = None,
) -> tuple[weights_lib.WeightsReport, str]:
    """Gives a model those weights that fit it, before it is trained.

    Args:
        path: see the table at the head of this file.
        model: the model, built.
        kind: "classification" (the backbone), "detection" (the feature extractors of both stages), "full" (everything), or
            "" for everything that the source has.
        label_map: of the model, if the columns of its predictors are to be restored by the names of their classes (then also
            with "detection"); None restores predictors of the same shape as they are.
        from_label_map: of the source; None = the one that `label_maps.find_label_map` finds.

    Returns:
        What was restored and what was not, and a title for its table.

    Raises:
        CheckpointError: as `find`, or if nothing fits, or `kind` asks for a detector but the source is a backbone.
        ConfigError: if the label map of the source is found but is none.
    """
    source = find(path, model)
    if not source.is_detector and kind not in ("", "classification"):
        raise CheckpointError(
            f'{source.path}: a backbone alone ({source.origin}), but fine_tune_checkpoint_type is "{kind}". '
            'Allowed: "classification", or to leave it out.'
        )
    kind = kind or ("full" if source.is_detector else "classification")
    weights = source.weights()
    parts = model.restorable_parts(kind)
    title = f"Weights from {source.path} ({source.origin}), {kind}"
    columns = model.class_columns() if source.is_detector and label_map and kind != "classification" else {}
    there = (from_label_map or label_maps.find_label_map(source.path)) if columns else None
    if not label_map or not there:
        return weights_lib.assign_weights(model, weights, parts=parts, source=source.path), title
    moved = classes.move_classes(
        weights, model, columns, here=label_map.class_names(), there=there.class_names(), source=source.path
    )
    parts = None if parts is None else (*parts, *columns)
    report = weights_lib.assign_weights(model, moved.weights, parts=parts, source=source.path)
    return moved.described(report), title


def _find_in_torch_file(path: str, model: Detector) -> Source:
    file = torch_files.read_file(path)
    if not isinstance(model, FasterRCNN | RetinaNet):
        raise CheckpointError(f"{path}: these weights are for a Faster R-CNN or a RetinaNet.")
    found = libraries.find_weights(file, model, path)
    title = libraries.LIBRARIES[found.library].title
    origin = f"{'a detector' if found.is_detector else 'a ResNet'} of {title}"
    if found.unused_part:
        origin += f" without its {found.unused_part}"
    if file.part:
        origin += f', its part "{file.part}"'
    return Source(
        path,
        origin,
        backbone=None if found.is_detector else found.weights,
        imported=found.weights if found.is_detector else None,
    )


def _resolve(path: str) -> str:
    """The checkpoint in a folder, whatever folder of a run or an export it is, or the one that is named."""
    folder = os.path.dirname(path) if os.path.basename(path) == "saved_model.pb" else path
    if tf.io.gfile.isdir(folder):
        beside = os.path.join(folder, "checkpoint")  # in a run, a file of this name
        if tf.io.gfile.isdir(beside):
            return resolve_checkpoint(beside)
        for saved_model in (folder, os.path.join(folder, "saved_model")):
            if tf.io.gfile.exists(os.path.join(saved_model, "saved_model.pb")):
                return os.path.join(saved_model, "variables", "variables")
    return resolve_checkpoint(folder)


def _is_ours(stored: StoredCheckpoint, model: Detector) -> bool:
    """Whether any variable has one of our names; those of another model of ours have many of them."""
    return not stored.keys.keys().isdisjoint(weights_lib.variables_by_path(model))


def _check_same_detector(stored: StoredCheckpoint, model: Detector) -> None:
    """Refuses a checkpoint of another detector, of which weights would be missing or of no use."""
    there, here = kinds.find_kind(stored.keys), kinds.find_kind(weights_lib.variables_by_path(model))
    if there is not None and here is not None and not there.is_enough_for(here):
        raise CheckpointError(
            f"{stored.path}: this checkpoint is of {there}, but the model is {here}. Allowed: a checkpoint of such a model, "
            "the config of this one, or this one as train_config.fine_tune_checkpoint, of which a training takes what fits."
        )


def _check_same_kind(path: str, model: FasterRCNN, *, has_pyramid: bool) -> None:
    """Refuses a Faster R-CNN of the Object Detection API with a pyramid where the model has none, or the other way round."""
    if isinstance(model.feature_extractor.fpn, SingleLevel) != has_pyramid:
        return
    kinds = ("of one level (faster_rcnn_*_keras)", "with a feature pyramid (faster_rcnn_*_fpn_keras)")
    there, here = kinds[has_pyramid], kinds[not has_pyramid]
    raise CheckpointError(f"{path}: this is a Faster R-CNN {there}, but the model is one {here}. {_ALLOWED}.")


def _find_detector(graph: ObjectGraph, model: Detector) -> int | None:
    """The object that is the Object Detection API's model, if it is of the kind of ours."""
    if isinstance(model, RetinaNet):
        return graph.find(*odapi.SINGLE_STAGE)
    return graph.find(odapi.FEATURES) if isinstance(model, FasterRCNN) else None


def _is_detector(graph: ObjectGraph) -> bool:
    return graph.find(odapi.FEATURES) is not None or graph.find(*odapi.SINGLE_STAGE) is not None


def _find_classifier(graph: ObjectGraph) -> int | None:
    """The object whose layers a classification checkpoint holds: its root, or the one named as the API and Keras do."""
    for name in ("feature_extractor", "model", ""):
        node = graph.follow(name)
        if node is not None and "layer_with_weights-0" in graph.children(node):
            return node
    return None


def _name_other_model(graph: ObjectGraph, model: Detector) -> str:
    """What a checkpoint is that is none of those that can be used."""
    if graph.find(odapi.FEATURES) is not None:
        return f"this is a Faster R-CNN, but the model is {_name(model)}"
    if graph.find("_prediction_head_dict") is not None:
        return "this is a CenterNet"
    if graph.find(*odapi.SINGLE_STAGE) is not None:
        return f"this is an SSD or RetinaNet, but the model is {_name(model)}"
    return f"this checkpoint holds no detector (its objects are {', '.join(sorted(graph.children())[:5]) or 'none'})"


def _name(model: Detector) -> str:
    return {FasterRCNN: "a Faster R-CNN", RetinaNet: "a RetinaNet"}.get(type(model), "another detector")
