"""What the tests of `interop.torchvision` and `interop.detectron2` share: their reference numbers, and models to compare with.

The numbers were computed by torchvision 0.27.1 and Detectron2 0.6 on a CPU in float32, from weights that `fill` makes of names
and shapes. Boxes there are (xmin, ymin, xmax, ymax), maps [B, channels, H, W].
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.execution import Execution
from object_detection_fpn.interop import libraries, state_dict
from object_detection_fpn.interop.library import Library
from object_detection_fpn.interop.odapi import local_name
from object_detection_fpn.modeling import mask_targets
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.modeling.heads.mask import MASK_LOSS, MaskHead
from object_detection_fpn.ops import pasting
from object_detection_fpn.protos import faster_rcnn_pb2, pipeline_pb2
from object_detection_fpn.records import Groundtruth, Inputs, MaskOutputs, Predictions, Proposals
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import assign_weights, variables_by_path

FOLDER = Path(__file__).parent / "golden" / "pytorch" / "models"
MAPS = ("P2", "P3", "P4", "P5", "P6")
"""Of the detectors with a feature pyramid, in the names of arrays."""
YXYX = (1, 0, 3, 2)
"""Order of our coordinates in theirs, and the other way round."""

_MASK_STEP = 3  # of the rows and columns of a mask one in three is kept, which are odd and even ones
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


class Agreement:
    """The comparisons of one model with its reference, each an assertion.

    Attributes:
        case: the model.
        library: whose model it is.
        tensors: the reference's weights, by the library's names.
        model: ours, with these weights.
        detector: the same without masks, which are the same few of each model.
    """

    def __init__(self, case: Case, *, images: tuple[int, ...] = (0, 1)):
        self.case = case
        self.library = libraries.LIBRARIES[case.name.partition("/")[0]]
        self.tensors = case.tensors()
        self.model = case.model(self.library, self.tensors)
        self.detector = with_mask_head(self.model, None)
        self._predictions: dict[tuple[int, ...], Predictions] = {}
        self.images = images

    def predict(self, *images: int) -> Predictions:
        """Of the images in one batch, from the network's input."""
        if images not in self._predictions:
            self._predictions[images] = self.detector.predict(self.case.network_inputs(*images), training=False)
        return self._predictions[images]

    def check_names(self) -> None:
        """Every variable has a tensor; no value is lost or made up."""
        for name, (*shape, crc) in load("names.json")[self.case.name].items():
            assert list(self.tensors[name].shape) == shape
            assert zlib.crc32(self.tensors[name].tobytes()) == crc, name
        weights = self.library.weights_by_path(self.tensors, self.model, "weights.pth")
        assert weights.keys() == variables_by_path(self.model).keys()

    def check_pyramid(self) -> None:
        for image in self.images:
            for map_name, features in zip(self.case.maps, self.predict(image).pyramid, strict=True):
                ours, name = features.numpy().transpose(0, 3, 1, 2), f"image{image}/{map_name}"
                moments = np.stack([ours[0].mean(axis=(1, 2)), ours[0].std(axis=(1, 2))])
                assert_close(moments, self.case.outputs[f"{name}_channel_mean_std"], 1e-3, name)
                if name in self.case.outputs:
                    stored = self.case.outputs[name]
                    every = -(-ours.shape[1] // stored.shape[1])
                    assert_close(like_stored(ours[:, ::every], stored), stored, 1e-3, name)

    def check_rpn(self) -> None:
        for image in self.images:
            predictions = self.predict(image)
            num_anchors = self.model.rpn.head.num_anchors
            logits = by_level(predictions.rpn.objectness_logits, predictions.pyramid, num_anchors)
            deltas = by_level(predictions.rpn.box_deltas, predictions.pyramid, num_anchors)
            anchors = self.case.anchor_order
            order = (4 * anchors[:, np.newaxis] + np.array(YXYX)).ravel()
            for name, level_logits, level_deltas in zip(self.case.maps, logits, deltas, strict=True):
                stored = self.case.outputs[f"image{image}/objectness_{name}"]
                assert_close(like_stored(level_logits[:, anchors], stored), stored, 1e-3, f"objectness_{name}")
                stored = self.case.outputs[f"image{image}/deltas_{name}"]
                assert_close(like_stored(level_deltas[:, order], stored), stored, 1e-3, f"deltas_{name}")

    def check_proposals(self) -> None:
        for image in self.images:
            rois, outputs = self.predict(image).rois, self.case.outputs
            ours = rois.boxes.numpy()[0, : int(rois.num_proposals[0]), YXYX].T
            paired = assert_paired(ours, outputs[f"image{image}/proposals"], within=0.05)
            scores = rois.scores.numpy()[0][paired[:, 0]]
            theirs = outputs[f"image{image}/proposal_scores"][paired[:, 1]]
            assert_close(scores, theirs if self.case.is_torchvision else 1 / (1 + np.exp(-theirs)), 1e-4, "scores")

    def check_box_head(self) -> None:
        """RoI features, class logits and box offsets of the proposals that both have."""
        for image in self.images:
            predictions, outputs = self.predict(image), self.case.outputs
            ours = predictions.rois.boxes.numpy()[0][:, YXYX]
            paired = pairs(ours, outputs[f"image{image}/proposals"], within=0.01)
            features = outputs.get(f"image{image}/roi_features")
            if features is not None:
                first = paired[paired[:, 1] < len(features)]
                pooled = predictions.box.roi_features.numpy()[0][first[:, 0]].transpose(0, 3, 1, 2)
                every = pooled.shape[1] // features.shape[1]
                assert_close(pooled[:, ::every], features[first[:, 1]], 1e-3, "roi_features")
            logits = outputs[f"image{image}/class_logits"][paired[:, 1]]
            if not self.case.is_torchvision:
                logits = np.roll(logits, 1, axis=1)  # the background comes last there
            # Of one level they hardly vary from RoI to RoI.
            tolerance = 1e-4 if self.case.is_single_level else 1e-3
            assert_close(predictions.box.class_logits.numpy()[0][paired[:, 0]], logits, tolerance, "class_logits")
            deltas = outputs[f"image{image}/box_deltas"][paired[:, 1]].reshape(len(paired), -1, 4)
            if self.case.is_torchvision:
                deltas = deltas[:, 1:]  # of the background
            ours = predictions.box.box_deltas.numpy()[0][paired[:, 0]][..., YXYX]
            assert_close(ours, deltas, 1e-3, "box_deltas")

    def check_last_stage(self) -> None:
        """What the predictors of a detector of one level see of the proposals that both have, some of the channels."""
        for image in self.images:
            predictions = self.predict(image)
            stored = self.case.outputs[f"image{image}/res5_mean"]
            ours = predictions.rois.boxes.numpy()[0][:, YXYX]
            paired = pairs(ours, self.case.outputs[f"image{image}/proposals"], within=0.01)
            assert len(paired) >= 0.9 * len(stored)
            cells = self.model.box_head.extract(predictions.box.roi_features, training=False).numpy()[0]
            means = cells.mean(axis=(1, 2))[:, :: cells.shape[-1] // stored.shape[1]]
            assert_close(means[paired[:, 0]], stored[paired[:, 1]], 1e-3, "res5_mean")

    def check_detections(self) -> None:
        for image in self.images:
            detections = self.detector.postprocess(self.predict(image), self.case.network_inputs(image))
            size = self.case.settings["images"][image]["resized"]
            self._assert_detections(detections, 0, size, f"image{image}/", "boxes_input", tolerance=0.05)

    def check_batch(self) -> None:
        """Both images in one batch, whose padding changes the features near it."""
        predictions = self.predict(0, 1)
        detections = self.detector.postprocess(predictions, self.case.network_inputs(0, 1))
        for image in (0, 1):
            size = [self.case.settings["images"][image][key] for key in ("height", "width")]
            self._assert_detections(
                detections, image, size, "batch/", f"boxes{image}", tolerance=0.05, suffix=str(image)
            )

    def check_images(self) -> None:
        """From the images, resized by the recipe's resizer."""
        resizer = builder.build_resizer(self.case.message().model.faster_rcnn.image_resizer)
        for image in self.images:
            settings = self.case.settings["images"][image]
            resized, true_shape = resizer(tf.constant(load("inputs.npz")[f"image{image}"]))
            assert list(true_shape[:2]) == settings["resized"]
            inputs = self.detector.preprocess(Inputs(resized[tf.newaxis], true_shape[tf.newaxis]))
            detections = self.detector.postprocess(self.detector.predict(inputs, training=False), inputs)
            size = [settings[key] for key in ("height", "width")]
            self._assert_detections(detections, 0, size, f"image{image}/", "boxes", tolerance=0.5, score_tolerance=None)

    def check_masks(self) -> None:
        """At the library's boxes: mask logits of their classes, for some boxes of all classes, and masks in the given image."""
        for image in self.images:
            outputs, prefix = self.case.outputs, f"image{image}/"
            stored = outputs[f"{prefix}mask_logits"]
            boxes = outputs[f"{prefix}boxes_input"][: len(stored), YXYX]
            classes = outputs[f"{prefix}labels"][: len(stored)] - self.case.is_torchvision
            logits = self._mask_logits(image, boxes, classes)
            # Logits of made-up weights may be small.
            tolerance = 1e-3 * min(1.0, np.abs(stored).max())
            assert_close(logits[:, ::_MASK_STEP, ::_MASK_STEP], stored, tolerance, "mask_logits")
            if f"{prefix}masks_pasted" in outputs:
                self._assert_pasted(image, logits)
            all_classes = outputs.get(f"{prefix}mask_logits_all_classes")
            if all_classes is not None:
                all_classes = all_classes[:, int(self.case.is_torchvision) :]  # the first is of the background there
                num_boxes, num_classes = all_classes.shape[:2]
                rows = np.repeat(np.arange(num_boxes), num_classes)
                logits = self._mask_logits(image, boxes[rows], np.tile(np.arange(num_classes), num_boxes))
                assert_close(logits.reshape(all_classes.shape), all_classes, tolerance, "mask_logits_all_classes")

    def check_detected_masks(self) -> None:
        """The masks of our detections, in the given image, are those of the library's detections."""
        inputs = self.case.network_inputs(0)
        predictions = self.model.predict(inputs, training=False)
        detections = self.model.postprocess(predictions, inputs)
        outputs, size = self.case.outputs, self._image_size(0)
        masks = np.unpackbits(outputs["image0/masks_pasted"], axis=-1)[..., : size[1]].astype(bool)
        boxes = detections.boxes.numpy()[0] * np.tile(size, 2)
        paired = pairs(
            boxes[:, YXYX],
            outputs["image0/boxes"][: len(masks)],
            our_labels=detections.classes.numpy()[0],
            their_labels=outputs["image0/labels"][: len(masks)] - self.case.is_torchvision,
        )
        assert len(paired) == len(masks)
        ours = self._paste(detections.masks.numpy()[0][paired[:, 0]], boxes[paired[:, 0]], size)
        assert_same_pixels(ours, masks[paired[:, 1]])

    def _mask_logits(self, image: int, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
        boxes, classes = tf.constant(boxes[np.newaxis]), tf.constant(classes[np.newaxis], tf.int32)
        features = self.model._pool_for_masks(self.predict(image), boxes)
        return self.model._predict_masks(features, classes, training=False).numpy()[0]

    def _assert_pasted(self, image: int, logits: np.ndarray) -> None:
        outputs, prefix, size = self.case.outputs, f"image{image}/", self._image_size(image)
        stored = np.unpackbits(outputs[f"{prefix}masks_pasted"], axis=-1)[..., : size[1]].astype(bool)
        boxes = outputs[f"{prefix}boxes"][: len(stored), YXYX]
        pasted = self._paste(1 / (1 + np.exp(-logits[: len(stored)])), boxes, size)
        assert_same_pixels(pasted, stored)

    def _paste(self, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        way = self.case.message().model.faster_rcnn.mask_pasting
        name = faster_rcnn_pb2.FasterRcnn.MaskPasting.Name(way)
        return pasting.fill_image(pasting.paste_masks(masks, boxes, size, pasting=name), size)

    def _image_size(self, image: int) -> tuple[int, int]:
        settings = self.case.settings["images"][image]
        return settings["height"], settings["width"]

    def _assert_detections(
        self, detections, row, size, prefix, boxes_name, *, tolerance, score_tolerance=1e-4, suffix=""
    ) -> None:
        outputs, number = self.case.outputs, int(detections.num_detections[row])
        ours = detections.boxes.numpy()[row, :number][:, YXYX] * np.tile(size[::-1], 2)
        our_labels = detections.classes.numpy()[row, :number]
        their_labels = outputs[f"{prefix}labels{suffix}"] - self.case.is_torchvision  # which counts the background
        paired = assert_paired(
            ours, outputs[prefix + boxes_name], our_labels=our_labels, their_labels=their_labels, within=tolerance
        )
        if score_tolerance is not None:
            scores = detections.scores.numpy()[row][paired[:, 0]]
            assert_close(scores, outputs[f"{prefix}scores{suffix}"][paired[:, 1]], score_tolerance, "scores")


class TrainingAgreement:
    """The comparisons of one training step with its reference: two images, all anchors and proposals in the samples.

    Attributes:
        case: the model.
        model: ours, with the reference's weights.
        groundtruth: of the two images.
        predictions: of the step.
    """

    def __init__(self, agreement: Agreement):
        self.case, self.model, self._library = agreement.case, agreement.model, agreement.library
        self._reference = agreement.case.training
        self._settings = load("settings.json")[f"training/{agreement.case.name}"]
        self._masks = self._with_stored_masks = self.model._masks
        if self._masks is not None:
            stored = _StoredMasks(self._masks.sampler, self._reference)
            self._with_stored_masks = dataclasses.replace(self._masks, sampler=stored)
        self.groundtruth = self._groundtruth(self._boxes(0), self._boxes(1))
        with tf.GradientTape() as tape:
            self.predictions = self._predict(self.groundtruth)
            self._losses = self._compute_losses(self.groundtruth, self.predictions)
            total = tf.add_n(list(self._losses.values()))
        variables = self.model.trainable_variables
        self._gradients = {
            variable.ref(): gradient
            for variable, gradient in zip(variables, tape.gradient(total, variables), strict=True)
        }

    def check_anchors(self) -> None:
        """Which anchors are objects and background, and what the objects should say."""
        sample, of_sample = self.model.rpn._sampler(self.predictions.rpn, self.groundtruth, self.predictions.seed)
        for image in (0, 1):
            labels = self._reference[f"anchor_labels{image}"]
            is_sampled = sample.is_sampled.numpy()[image]
            indices = self._their_anchors(sample.indices.numpy()[image])
            classes = of_sample.classes.numpy()[image]
            positive = np.flatnonzero(is_sampled & (classes == 1))
            positive = positive[np.argsort(indices[positive])]
            np.testing.assert_array_equal(indices[positive], self._reference[f"positive_anchors{image}"])
            background = np.sort(indices[is_sampled & (classes == 0)])
            np.testing.assert_array_equal(background, np.flatnonzero(labels == 0))
            targets = of_sample.box_deltas.numpy()[image][positive][:, YXYX]
            assert_relative(targets, self._reference[f"positive_targets{image}"], 1e-3, "anchor targets")

    def _their_anchors(self, indices: np.ndarray) -> np.ndarray:
        """Numbers of our anchors, among all of an image, in their order."""
        order = self.case.anchor_order
        return indices // len(order) * len(order) + np.argsort(order)[indices % len(order)]

    def check_rois(self) -> None:
        """The proposals that are sampled, groundtruth among them, and which are objects of which class."""
        rois = self.predictions.rois
        for image in (0, 1):
            number = int(rois.num_proposals[image])
            ours = rois.boxes.numpy()[image, :number][:, YXYX]
            matches = rois.matches.numpy()[image, :number]
            classes = np.where(matches >= 0, self.groundtruth.classes.numpy()[image][np.maximum(matches, 0)], -1)
            labels = self._reference[f"roi_labels{image}"].astype(int)
            # The background is class 0 there, or the last.
            labels = labels - 1 if self.case.is_torchvision else np.where(labels == self.case.num_classes, -1, labels)
            theirs = self._reference[f"roi_boxes{image}"]
            assert len(theirs) == number
            assert_paired(ours, theirs, our_labels=classes, their_labels=labels, within=0.05)
            assert np.sum(classes >= 0) == np.sum(labels >= 0)

    def check_mask_targets(self) -> None:
        """The masks of whole images, cropped at the library's RoIs."""
        for image in (0, 1):
            boxes = self._reference[f"mask_boxes{image}"][:, YXYX]
            rois = Proposals(tf.constant(boxes[None]), tf.zeros([1, len(boxes)]), tf.constant([len(boxes)]))
            groundtruth = Groundtruth(*(None if each is None else each[image : image + 1] for each in self.groundtruth))
            matches = self.model._roi_sampler.match(rois.boxes, groundtruth)
            outputs = MaskOutputs(tf.zeros([]), rois.boxes, matches)
            shares, weights = self._masks.sampler.targets(outputs, groundtruth, self.predictions.image_size)
            assert np.all(weights == 1.0)
            if self.case.is_torchvision:
                assert_close(shares[0], self._reference[f"mask_targets{image}"], 1e-3, "mask targets")
            else:  # from bitmasks, which its polygons give where they are asked for
                stored = _unpack(self._reference[f"bitmask/mask_targets{image}"], 28)
                np.testing.assert_array_equal(shares[0], stored)

    def check_mask_loss_of_bitmasks(self) -> None:
        """That of our own targets, where the library's are made of bitmasks too."""
        if not self.case.is_torchvision:
            stored = self._reference["bitmask/loss_mask"][0]
            self.model._masks = self._masks
            losses = self._compute_losses(self.groundtruth, self.predictions)
            assert_relative([float(losses[MASK_LOSS])], [stored], 1e-3, "loss_mask")

    def check_losses(self) -> None:
        assert_relative(self._in_their_order(self._losses), self._reference["losses"], 1e-3, "losses")

    def check_losses_without_objects(self) -> None:
        """With no groundtruth in the second image."""
        groundtruth = self._groundtruth(self._boxes(0), [])
        losses = self._compute_losses(groundtruth, self._predict(groundtruth))
        assert_relative(self._in_their_order(losses), self._reference["empty/losses"], 1e-3, "losses")

    def check_gradients(self) -> None:
        """The norm of the gradient of each trained parameter; others do not train."""
        variables = {
            f"{entry.name}.{state_dict.THEIR_NAMES[local_name(variable)]}": variable
            for entry in self._library.entries(self.model, "weights.pth")
            for variable in entry.layer.variables
        }
        names = self._settings["gradient_names"]
        assert {name for name, variable in variables.items() if variable.ref() in self._gradients} == set(names)
        norms = [tf.norm(self._gradients[variables[name].ref()]).numpy() for name in names]
        differences = np.abs(np.array(norms) / self._reference["grad_norm"] - 1)
        assert differences.max() <= 1e-3, f"{names[differences.argmax()]}: {differences.max()}"

    def _predict(self, groundtruth: Groundtruth) -> Predictions:
        # Detectron2 draws polygons within RoIs, and what was drawn is stored.
        self.model._masks = self._masks if self.case.is_torchvision else self._with_stored_masks
        images = self._reference.get("input")
        sizes = [image["resized"] for image in self._settings["images"]]
        if images is None:
            mean = np.array(self.case.settings["input"]["pixel_mean"], np.float32)
            resized = [self._reference[f"resized{image}"] - mean for image in (0, 1)]
            largest = self._padded_size()
            padded = [
                np.pad(each, [*((0, most - side) for most, side in zip(largest, each.shape, strict=False)), (0, 0)])
                for each in resized
            ]
            images = np.stack(padded).transpose(0, 3, 1, 2)
        inputs = Inputs(tf.constant(images.transpose(0, 2, 3, 1)), tf.constant([[*size, 3] for size in sizes]))
        return self.model.predict(inputs, training=True, groundtruth=groundtruth, seed=tf.constant([0, 0]))

    def _compute_losses(self, groundtruth: Groundtruth, predictions: Predictions) -> dict[str, tf.Tensor]:
        losses = self.model.loss(predictions, groundtruth)
        return {name: tf.reduce_mean(losses[name]) for name in self.model.loss_names}

    def _in_their_order(self, losses: dict[str, tf.Tensor]) -> list[float]:
        ours = {
            "loss_classifier": box.CLASSIFICATION_LOSS,
            "loss_cls": box.CLASSIFICATION_LOSS,
            "loss_box_reg": box.LOCALIZATION_LOSS,
            "loss_objectness": rpn.OBJECTNESS_LOSS,
            "loss_rpn_cls": rpn.OBJECTNESS_LOSS,
            "loss_rpn_box_reg": rpn.LOCALIZATION_LOSS,
            "loss_rpn_loc": rpn.LOCALIZATION_LOSS,
            "loss_mask": MASK_LOSS,
        }
        return [float(losses[ours[name]]) for name in self._settings["loss_names"]]

    def _padded_size(self) -> np.ndarray:
        """(height, width) of the batch."""
        multiple = max(self.case.settings["input"]["pad"]["size_divisibility"], 1)
        sizes = [image["resized"] for image in self._settings["images"]]
        return multiple * -(-np.max(sizes, axis=0) // multiple)

    def _boxes(self, image: int) -> list[dict[str, Any]]:
        boxes, labels = self._reference[f"gt_boxes_input{image}"], self._reference[f"gt_labels{image}"]
        return [
            {"box": box[list(YXYX)], "class": label - self.case.is_torchvision}
            for box, label in zip(boxes, labels, strict=True)
        ]

    def _groundtruth(self, *images: list[dict[str, Any]]) -> Groundtruth:
        groundtruth = support.make_groundtruth(*images, num_rows=6)
        if self._masks is None:
            return groundtruth
        sizes = [image["resized"] for image in self._settings["images"]]
        height, width = self._padded_size()
        masks = np.zeros([2, 6, height, width], np.uint8)
        for image, boxes in enumerate(images):
            if boxes:
                rows, columns = sizes[image]
                masks[image, :, :rows, :columns] = 255 * _unpack(self._reference[f"gt_masks_input{image}"], columns)
        frames = tf.tile(tf.constant([[[0.0, 0.0, height, width]]], tf.float32), [2, 6, 1])
        return groundtruth._replace(masks=tf.constant(masks), mask_frames=frames)


class _StoredMasks:
    """A `MaskSampler` whose targets are stored ones, found by the RoIs that they are of."""

    def __init__(self, sampler: mask_targets.MaskSampler, reference: dict[str, np.ndarray]):
        self.choose, self.classes = sampler.choose, sampler.classes
        self._reference = reference

    def targets(self, outputs: MaskOutputs, groundtruth: Groundtruth, image_size: tf.Tensor) -> tuple[Any, Any]:
        shares = np.zeros(outputs.logits.shape, np.float32)
        is_real = outputs.matches.numpy() >= 0
        for image in (0, 1):
            rows = np.flatnonzero(is_real[image])
            if len(rows):
                stored = _unpack(self._reference[f"mask_targets{image}"], 28)
                paired = assert_paired(
                    outputs.boxes.numpy()[image][rows][:, YXYX], self._reference[f"mask_boxes{image}"], within=0.05
                )
                shares[image, rows[paired[:, 0]]] = stored[paired[:, 1]]
        return shares, is_real.astype(np.float32)


def _unpack(bits: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(bits, axis=-1)[..., :width]


def with_mask_head(model: FasterRCNN, head: MaskHead | None) -> FasterRCNN:
    """A model of the same layers with another mask head, or with none. Its masks are not for use."""
    other = FasterRCNN(
        feature_extractor=model.feature_extractor,
        rpn=model.rpn,
        roi_sampler=model._roi_sampler,
        roi_pooler=model.roi_pooler,
        box_head=model.box_head,
    )
    other.mask_head = head
    return other


CHECKS = (
    Agreement.check_names,
    Agreement.check_pyramid,
    Agreement.check_rpn,
    Agreement.check_proposals,
    Agreement.check_box_head,
    Agreement.check_detections,
    Agreement.check_batch,
    Agreement.check_images,
    Agreement.check_masks,
)
"""Each of them is a test of every model that is compared in full."""

SINGLE_LEVEL_CHECKS = (
    Agreement.check_names,
    Agreement.check_pyramid,
    Agreement.check_rpn,
    Agreement.check_proposals,
    Agreement.check_box_head,
    Agreement.check_last_stage,
    Agreement.check_detections,
    Agreement.check_images,
)
"""The same of a detector of one level, whose reference has no batch."""

TRAINING_CHECKS = (
    TrainingAgreement.check_anchors,
    TrainingAgreement.check_rois,
    TrainingAgreement.check_mask_targets,
    TrainingAgreement.check_mask_loss_of_bitmasks,
    TrainingAgreement.check_losses,
    TrainingAgreement.check_losses_without_objects,
    TrainingAgreement.check_gradients,
)

SINGLE_LEVEL_TRAINING_CHECKS = tuple(check for check in TRAINING_CHECKS if "mask" not in check.__name__)


def name_of(check: Callable[..., None]) -> str:
    """Of a check, in the name of a test."""
    return check.__name__.removeprefix("check_")


def assert_refused(weights_by_path: Callable[..., Any], tensors: dict[str, np.ndarray], model: FasterRCNN) -> str:
    """The error with which a library's method refuses the tensors of "weights.pth": one line."""
    with pytest.raises(CheckpointError, match=r"^weights\.pth: ") as caught:
        weights_by_path(tensors, model, "weights.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def backbone_of(tensors: dict[str, np.ndarray], library: Library) -> dict[str, np.ndarray]:
    """The tensors that a ResNet for ImageNet of the library has in common with a detector, by the ResNet's names."""
    prefix = library.backbone_prefix
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_fills_backbone(agreement: Agreement, tensors: dict[str, np.ndarray]) -> None:
    """These tensors of a ResNet for ImageNet are filed as those of the detector are, and are all of the backbone."""
    ours = agreement.library.backbone_weights_by_path(tensors, agreement.model, "weights.pth")
    whole = agreement.library.weights_by_path(agreement.tensors, agreement.model, "weights.pth")
    assert ours.keys() == {path for path in variables_by_path(agreement.model) if "/backbone/" in path}
    assert all(np.array_equal(ours[path], whole[path]) for path in ours)


def assert_relative(ours, theirs, tolerance: float, name: str) -> None:
    """Each number to within a share of itself, and what is near 0 to within that share of 1."""
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * 1e-3, err_msg=name)


def assert_same_pixels(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Masks are equal but for one in a thousand of the pixels inside, which is stricter than of all pixels."""
    different, inside = np.sum(ours != theirs), np.sum(theirs)
    assert different <= 0.001 * inside, f"{different} pixels of {inside} inside"


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, name: str) -> None:
    difference = np.abs(ours - theirs).max()
    assert difference <= tolerance, f"{name}: {difference}"


def assert_paired(
    ours: np.ndarray, theirs: np.ndarray, *, within: float, our_labels=None, their_labels=None
) -> np.ndarray:
    """The pairs, if at most 1 % of either side have no partner."""
    paired = pairs(ours, theirs, our_labels=our_labels, their_labels=their_labels, within=within)
    assert len(paired) >= 0.99 * max(len(ours), len(theirs)), f"{len(paired)} pairs of {len(ours)} and {len(theirs)}"
    return paired


def by_level(values: tf.Tensor, pyramid: tuple[tf.Tensor, ...], num_anchors: int) -> list[np.ndarray]:
    """What an RPN says of all anchors of an image, [1, K, n], as maps [1, num_anchors * n, H, W] of each level."""
    values, maps, first = values.numpy()[0], [], 0
    for features in pyramid:
        height, width = features.shape[1:3]
        rows = values[first : first + height * width * num_anchors]
        maps.append(rows.reshape(1, height, width, -1).transpose(0, 3, 1, 2))
        first += len(rows)
    assert first == len(values)
    return maps


def like_stored(ours: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Those channels and cells of a map that the reference keeps: every n-th, n being a power of two."""
    steps = []
    for axis in range(1, 4):
        step = 1
        while -(-ours.shape[axis] // step) > stored.shape[axis]:
            step *= 2
        steps.append(slice(None, None, step))
    return ours[(slice(None), *steps)]


def pairs(
    ours: np.ndarray, theirs: np.ndarray, *, our_labels=None, their_labels=None, within: float = 1.0
) -> np.ndarray:
    """Rows (ours, theirs) of boxes [n, 4] of equal label that are nearest to each other, with no coordinate `within` apart."""
    distance = np.abs(ours[:, np.newaxis] - theirs).max(axis=-1)
    if our_labels is not None:
        distance[np.asarray(our_labels)[:, np.newaxis] != np.asarray(their_labels)] = np.inf
    nearest, back = distance.argmin(axis=1), distance.argmin(axis=0)
    rows = np.arange(len(ours))
    is_pair = (back[nearest] == rows) & (distance[rows, nearest] < within)
    return np.stack([rows[is_pair], nearest[is_pair]], axis=1)
