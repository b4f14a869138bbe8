"""Inference of a detector of two stages beside its reference, from the pyramid to the masks."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.interop import libraries
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.heads.mask import MaskHead
from object_detection_fpn.ops import pasting
from object_detection_fpn.protos import faster_rcnn_pb2
from object_detection_fpn.records import Inputs, Predictions
from object_detection_fpn.training.weights import variables_by_path
from pytorch_reference.cases import YXYX, Case, load
from pytorch_reference.comparisons import (
    assert_close,
    assert_paired,
    assert_same_pixels,
    by_level,
    like_stored,
    pairs,
)

_MASK_STEP = 3  # of the rows and columns of a mask one in three is kept, which are odd and even ones


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


def name_of(check: Callable[..., None]) -> str:
    """Of a check, in the name of a test."""
    return check.__name__.removeprefix("check_")
