"""The label map of a checkpoint: what its classes are called."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import tensorflow as tf

from object_detection_fpn.config.label_map import LabelMap, load_label_map, reader_label_map
from object_detection_fpn.config.text import ConfigError, parse_text, read_text
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2

_LOGGER = logging.getLogger(__name__)

_CONFIG = "pipeline.config"


def find_label_map(checkpoint: str) -> LabelMap | None:
    """Finds the label map of a checkpoint or exported model.

    The pipeline.config beside the checkpoint, or in the folder above, names it: its path is tried as it is, then from the
    config's folder on, then its file's name alone in that folder. A COCO file in place of one is taken as it is.
    Where there is none, the only .pbtxt file in these folders is taken.

    Args:
        checkpoint: its path without suffix, `dir/ckpt-0`, or that of the variables of a SavedModel.

    Returns:
        The label map, or None, with a warning that says what was looked for.

    Raises:
        ConfigError: if it is found but is no label map.
    """
    folders = _folders(checkpoint)
    missing = []
    for folder in folders:
        for reader in _readers_of(os.path.join(folder, _CONFIG)):
            path, use_display_name = reader.label_map_path, reader.use_display_name
            if not path:  # the categories of a COCO file
                path = reader.coco_input_reader.annotations_path
                if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
                    return reader_label_map(reader)
                missing.append(path)
                continue
            for place in (path, os.path.join(folder, path), os.path.join(folder, os.path.basename(path))):
                if tf.io.gfile.exists(place) and not tf.io.gfile.isdir(place):
                    return load_label_map(place, use_display_name=use_display_name)
            missing.append(path)
    for folder in folders:
        files = tf.io.gfile.glob(os.path.join(folder, "*.pbtxt"))
        if len(files) == 1:
            return load_label_map(files[0])
    reason = (
        f"{missing[0]}, which its {_CONFIG} names, is not there" if missing else f"no {_CONFIG} beside it names one"
    )
    _LOGGER.warning(
        "%s: the label map of this checkpoint is not known (%s), so predictors are restored as without "
        "restore_classes_by_name: pass it with --from_label_map.",
        checkpoint,
        reason,
    )
    return None


def _folders(checkpoint: str) -> list[str]:
    """Where the config of a checkpoint may lie: a run's or an export's folder, from the nearest on."""
    folder = os.path.dirname(os.path.abspath(checkpoint) if "://" not in checkpoint else checkpoint)
    if os.path.basename(folder) == "variables":  # of a SavedModel
        folder = os.path.dirname(folder)
    return [folder, os.path.dirname(folder)]


def _readers_of(path: str) -> Iterator[input_reader_pb2.InputReader]:
    """The readers of a config that name a label map or a COCO file."""
    if not tf.io.gfile.exists(path):
        return
    try:
        config = parse_text(read_text(path), pipeline_pb2.TrainEvalPipelineConfig, path)
    except ConfigError as error:  # of another detector: the checkpoint may fit all the same
        _LOGGER.warning("The label map of a checkpoint is not read from its config. %s", error)
        return
    for reader in (config.train_input_reader, *config.eval_input_reader):
        if reader.label_map_path or reader.coco_input_reader.annotations_path:
            yield reader
