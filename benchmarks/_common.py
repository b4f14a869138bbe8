"""What the scripts here share: a recipe and a batch, commands that print JSON, run in turn with a peer's, and medians of it."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2
    from object_detection_fpn.records import Batch

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "recipe": (RECIPE, ()),
    "single_level": ("faster_rcnn_resnet50_v1_640x640_coco17_tpu-8", ()),
    "retinanet": ("ssd_resnet50_v1_fpn_640x640_coco17_tpu-8", ()),
    # Its backbone trains whole, as that of peers/torchvision_detector.py does.
    "torchvision": (
        "faster_rcnn_resnet50_v1_fpn_torchvision_800x1333_coco17",
        (
            "model.faster_rcnn.feature_extractor.resnet.frozen_stages=0",
            "model.faster_rcnn.feature_extractor.resnet.batch_norm=TRAINABLE",
            "model.faster_rcnn.feature_extractor.resnet.batch_norm_epsilon=1e-5",
        ),
    ),
}
MODELS["torchvision_masks"] = (
    "mask_rcnn_resnet50_v1_fpn_torchvision_800x1333_coco17",
    (
        *MODELS["torchvision"][1],
        # Noise, too, is then detected a hundred times, and every detection has a mask.
        "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.score_threshold=0",
    ),
)
MODELS["torchvision_retinanet"] = (
    "retinanet_resnet50_v1_fpn_torchvision_800x1333_coco17",
    (
        *(change.replace("faster_rcnn", "ssd") for change in MODELS["torchvision"][1]),
        # Untrained, no score reaches the threshold of the recipe, and there would be nothing to suppress.
        "model.ssd.post_processing.batch_non_max_suppression.score_threshold=0",
    ),
)
"""Recipes by the names that `--model` takes, and what is changed in them."""
_NUM_CLASSES, _NUM_BOXES, _NUM_ROWS = 90, 20, 100
_MASK_SIDE = 112  # cells, the default of `mask_side`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `compare` reads."""
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer_command", help="a command that prints a JSON line with the same keys")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)  # the process that is measured


def compare(arguments: argparse.Namespace, keys: Sequence[str], more: Sequence[str] = ()) -> dict[str, object]:
    """Runs this script anew, with `--once` and `more`, and the peer's command in turn: medians and ratios, own by peer.

    "{...}" in the peer's command is replaced by the argument of that name.
    """
    peer_command = None
    if arguments.peer_command:
        peer_command = [part.format(**vars(arguments)) for part in shlex.split(arguments.peer_command)]
    own: list[dict[str, float]] = []
    peer: list[dict[str, float]] = []
    for _ in range(arguments.runs):
        own.append(run_own([*sys.argv, "--once", *more]))
        if peer_command:
            peer.append(run(peer_command))
    result: dict[str, object] = {"own": medians(own, keys), "own_runs": own}
    if peer:
        shared = [key for key in keys if all(key in values for values in peer)]
        result |= {"peer": medians(peer, shared), "peer_runs": peer}
        result["ratio"] = {key: round(medians(own, keys)[key] / medians(peer, shared)[key], 3) for key in shared}
    return result


def run_own(arguments: Sequence[str]) -> dict[str, float]:
    """Runs a script of this package, in the environment in which the commands of `odfpn` import TensorFlow."""
    return run([sys.executable, *arguments], TF_CPP_MIN_LOG_LEVEL="2", TF_USE_LEGACY_KERAS="1")


def run(command: Sequence[str], **environment: str) -> dict[str, float]:
    """Runs a command and reads the first JSON object it prints."""
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ).stdout
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise SystemExit(f"{shlex.join(command)} printed no JSON object.")
    return json.loads(line)


def medians(runs: Sequence[dict[str, float]], keys: Sequence[str]) -> dict[str, float]:
    """The median of each key."""
    return {key: statistics.median(values[key] for values in runs) for key in keys}


def load_recipe(side: int, *overrides: str, model: str = "recipe") -> pipeline_pb2.TrainEvalPipelineConfig:
    """The config of one of `MODELS` for images of `side` x `side` pixels."""
    from object_detection_fpn.config import model as model_config
    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.config import recipes

    name, changes = MODELS[model]
    loaded = config.load_config(recipes.recipe_path(name), [*changes, *overrides])
    kind, resizer = model_config.chosen_resizer(loaded.model)
    sides = ("height", "width") if kind == "fixed_shape_resizer" else ("min_dimension", "max_dimension")
    for field in sides:
        setattr(resizer, field, side)
    return loaded


def make_batch(side: int, batch_size: int, *, with_masks: bool = False) -> Batch:
    """Noise, and in it boxes of all sizes; their masks are noise too."""
    import numpy as np
    import tensorflow as tf

    from object_detection_fpn.records import Batch, Groundtruth, Inputs

    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 0.6 * side, (batch_size, _NUM_ROWS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05 * side, 0.4 * side, corners.shape)], -1)
    is_real = np.arange(_NUM_ROWS) < _NUM_BOXES
    groundtruth = Groundtruth(
        boxes=tf.constant(boxes * is_real[:, None], tf.float32),
        classes=tf.constant(rng.integers(0, _NUM_CLASSES, (batch_size, _NUM_ROWS)) * is_real, tf.int32),
        num_boxes=tf.fill([batch_size], _NUM_BOXES),
        weights=tf.tile(tf.constant(is_real, tf.float32)[None], [batch_size, 1]),
        is_crowd=tf.zeros([batch_size, _NUM_ROWS], tf.bool),
    )
    if with_masks:
        cells = rng.integers(0, 256, (batch_size, _NUM_ROWS, _MASK_SIDE, _MASK_SIDE), np.uint8)
        groundtruth = groundtruth._replace(masks=tf.constant(cells), mask_frames=groundtruth.boxes)
    return Batch(
        inputs=Inputs(
            images=tf.constant(rng.uniform(0, 255, (batch_size, side, side, 3)), tf.float32),
            true_shapes=tf.tile([[side, side, 3]], [batch_size, 1]),
        ),
        groundtruth=groundtruth,
        original_shapes=tf.tile([[side, side]], [batch_size, 1]),
    )


def peak_memory_gb() -> float:
    """The most memory this process has had, its start included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
