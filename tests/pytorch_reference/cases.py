"""The models of the reference: their settings, weights, inputs and outputs, and the recipes that describe them."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.execution import Execution
from object_detection_fpn.interop.library import Library
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.records import Inputs
from object_detection_fpn.training.weights import assign_weights

FOLDER = Path(__file__).parent.parent / "golden" / "pytorch" / "models"
MAPS = ("P2", "P3", "P4", "P5", "P6")
"""Of the detectors with a feature pyramid, in the names of arrays."""
YXYX = (1, 0, 3, 2)
"""Order of our coordinates in theirs, and the other way round."""

_PERIOD = 1009
# One normalization of each model has a variance of about 1e-4, so that a wrong epsilon shows.
_SMALL = re.compile(r"(layer1\.1\.bn2|res2\.1\.conv2\.norm)\.")
_NORM = re.compile(
    r"(^|\.)(bn\d|norm|downsample\.1|(inner|layer)_blocks\.\d\.1|(box|mask)_head\.\d\.1"
    r"|(classification|regression)_head\.conv\.\d\.1)\.\w+$"
)
# RetinaNet's scores lie on both sides of their threshold.
_CLASS_BIAS = re.compile(r"^head\.(classification_head\.cls_logits|cls_score)\.bias$")
# Factors of the weights of convolutions and linear layers, the first that fits: they spread the scores, keep proposals near
# their anchors, and let large boxes score as well as small ones.
_FACTORS = (
    # Of RetinaNets, whose P6 and P7 are then as large as their other levels.
    (re.compile(r"^head\.(classification_head\.cls_logits|cls_score)\.weight$"), 2.0),
    (re.compile(r"^head\.(regression_head\.bbox_reg|bbox_pred)\.weight$"), 0.4),
    (re.compile(r"(extra_blocks\.p[67]|top_block\.p7)\.weight$"), 1.5),
    (re.compile(r"top_block\.p6\.weight$"), 4.0),
    (re.compile(r"(rpn\.head\.cls_logits|rpn_head\.objectness_logits)\.weight$"), 2.0),
    (re.compile(r"box_predictor\.cls_score\.weight$"), 3.0),
    (re.compile(r"(rpn\.head\.bbox_pred|rpn_head\.anchor_deltas)\.weight$"), 0.4),
    (re.compile(r"box_head\.\d\.0\.weight$"), 2.5),
    (re.compile(r"(layer_blocks\.0\.0|fpn_output2)\.weight$"), 0.6),
    (re.compile(r"(layer_blocks\.[123]\.0|fpn_output[345])\.weight$"), 1.4),
    (re.compile(r"(bottom_up|backbone)\.stem\.conv1\.weight$"), 1.0 / 64.0),
)


@functools.cache
def _pattern() -> np.ndarray:
    values = np.random.RandomState(12345).randn(_PERIOD)  # the numbers of the reference
    return (values - values.mean()).astype(np.float32)


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the reference models have for an entry of their state dict."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    first = zlib.crc32(name.encode()) % _PERIOD
    size = int(np.prod(shape))
    values = np.resize(np.roll(_pattern(), -first), size).reshape(shape)
    kind = name.rpartition(".")[2]
    if _NORM.search(name):
        is_small = bool(_SMALL.search(name))
        if kind == "weight":
            values = (0.6 + 0.1 * values) * (0.01 if is_small else 1.0)
        elif kind == "running_var":
            values = (1.0 + 0.2 * np.abs(values)) * (0.0001 if is_small else 1.0)
        else:
            values = 0.1 * values
    elif kind == "weight":
        factor = next((factor for pattern, factor in _FACTORS if pattern.search(name)), 1.0)
        values = values * np.float32(np.sqrt(2.0 / np.prod(shape[1:])) * factor)
    else:
        values = 0.05 * values
        if _CLASS_BIAS.search(name):
            values = values + np.float32(-4.0)
    return values.astype(np.float32)


@functools.cache
def load(name: str) -> dict[str, Any]:
    """A file of the reference, arrays of an .npz or what a .json holds."""
    if name.endswith(".json"):
        return json.loads((FOLDER / name).read_text())
    with np.load(FOLDER / name) as arrays:
        return {key: arrays[key] for key in arrays.files}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of the reference and the recipe that describes it."""

    name: str
    """ "torchvision/maskrcnn_resnet50_fpn": a key of the reference's .json files."""
    recipe: str
    """What stands in the name of the recipe before "_800x1333_coco17"."""

    @property
    def is_torchvision(self) -> bool:
        return self.name.startswith("torchvision")

    @property
    def settings(self) -> dict[str, Any]:
        return load("settings.json")[self.name]

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        return load(f"{self.name.replace('/', '_')}.npz")

    @property
    def training(self) -> dict[str, np.ndarray]:
        return load(f"training_{self.name.replace('/', '_')}.npz")

    @property
    def is_single_level(self) -> bool:
        """Whether it has one map and no feature pyramid."""
        return "fpn" not in self.settings

    @property
    def maps(self) -> tuple[str, ...]:
        """What the library's names of the maps are, from fine to coarse."""
        return ("C4",) if self.is_single_level else MAPS

    @property
    def anchor_order(self) -> np.ndarray:
        """For each anchor of a cell there, size by size, our number: ours stand shape by shape."""
        num_sizes = len(self.settings["anchors"]["sizes"][0])
        num_shapes = len(self.settings["anchors"]["aspect_ratios"])
        return np.arange(num_shapes * num_sizes).reshape(num_shapes, num_sizes).T.ravel()

    @property
    def num_classes(self) -> int:
        """Without background, which torchvision counts."""
        return self.settings["num_classes"] - self.is_torchvision

    def message(self) -> pipeline_pb2.TrainEvalPipelineConfig:
        """The recipe, with what the reference has otherwise: image size, classes, and numbers of proposals and samples."""
        message = config.load_config(recipes.recipe_path(f"{self.recipe}_800x1333_coco17"))
        model, rpn = message.model.faster_rcnn, self.settings["rpn"]
        resizer = model.image_resizer.keep_aspect_ratio_resizer
        resizer.min_dimension = self.settings["input"]["resize"]["min_size"]
        resizer.max_dimension = self.settings["input"]["resize"]["max_size"]
        model.num_classes = self.num_classes
        model.rpn.max_candidates_per_level = rpn["pre_nms_top_n_per_level"]
        model.first_stage_max_proposals = rpn["post_nms_top_n"]
        # Of the training cases, in which all anchors and proposals are in the sample.
        model.rpn.max_candidates_per_level_in_training = 1000 if self.is_single_level else 250
        model.rpn.max_proposals_in_training = 400
        model.first_stage_minibatch_size = 30000
        model.first_stage_positive_balance_fraction = 1.0
        model.second_stage_batch_size = 400 + 6  # with the groundtruth
        model.second_stage_balance_fraction = 1.0
        return message

    def tensors(self) -> dict[str, np.ndarray]:
        """The state dict."""
        shapes = {name: tuple(shape) for name, (*shape, _) in load("names.json")[self.name].items()}
        return {name: fill(name, shape) for name, shape in shapes.items()}

    def model(self, library: Library, tensors: dict[str, np.ndarray]) -> FasterRCNN:
        """The model of `message` with these weights."""
        model = builder.build_model(self.message().model, execution=Execution(is_restored=True))
        assign_weights(model, library.weights_by_path(tensors, model, "weights.pth"))
        return model

    def network_inputs(self, *images: int) -> Inputs:
        """What the network sees of images 0, 1 or both, resized and normalized by the library, padded to the largest."""
        arrays = [self._network_input(image) for image in images]
        size = np.max([array.shape for array in arrays], axis=0)
        padded = [
            np.pad(array, [(0, most - each) for most, each in zip(size, array.shape, strict=True)]) for array in arrays
        ]
        true_shapes = [[*self.settings["images"][image]["resized"], 3] for image in images]
        return Inputs(tf.constant(np.stack(padded)), tf.constant(true_shapes))

    def _network_input(self, image: int) -> np.ndarray:
        inputs = load("inputs.npz")
        if self.is_torchvision:
            return inputs[f"torchvision/input{image}"][0].transpose(1, 2, 0)
        resized = inputs[f"detectron2/resized{image}"]
        mean = np.array(self.settings["input"]["pixel_mean"], np.float32)
        height, width = self.settings["images"][image]["padded"]
        padding = [(0, height - resized.shape[0]), (0, width - resized.shape[1]), (0, 0)]
        return np.pad(resized - mean, padding)
