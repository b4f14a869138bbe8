"""A training step of a detector of two stages beside its reference: samples, targets, losses and gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import support
import tensorflow as tf

from object_detection_fpn.interop import state_dict
from object_detection_fpn.interop.library import Library
from object_detection_fpn.interop.odapi import local_name
from object_detection_fpn.modeling import mask_targets
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.modeling.heads.mask import MASK_LOSS
from object_detection_fpn.records import Groundtruth, Inputs, MaskOutputs, Predictions, Proposals
from pytorch_reference.agreement import Agreement
from pytorch_reference.cases import YXYX, Case, load
from pytorch_reference.comparisons import assert_close, assert_paired, assert_relative


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
        self.groundtruth = self._groundtruth(*(groundtruth_boxes(self.case, image) for image in (0, 1)))
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
        groundtruth = self._groundtruth(groundtruth_boxes(self.case, 0), [])
        losses = self._compute_losses(groundtruth, self._predict(groundtruth))
        assert_relative(self._in_their_order(losses), self._reference["empty/losses"], 1e-3, "losses")

    def check_gradients(self) -> None:
        """The norm of the gradient of each trained parameter; others do not train."""
        variables = variables_by_name(self._library, self.model)
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


def groundtruth_boxes(case: Case, image: int) -> list[dict[str, Any]]:
    """Of an image of the training step, as `support.make_groundtruth` takes them."""
    boxes, labels = case.training[f"gt_boxes_input{image}"], case.training[f"gt_labels{image}"]
    return [
        {"box": box[list(YXYX)], "class": label - case.is_torchvision} for box, label in zip(boxes, labels, strict=True)
    ]


def variables_by_name(library: Library, model: Any) -> dict[str, tf.Variable]:
    """Ours by the library's names."""
    return {
        f"{entry.name}.{state_dict.THEIR_NAMES[local_name(variable)]}": variable
        for entry in library.entries(model, "weights.pth")
        for variable in entry.layer.variables
    }


def _unpack(bits: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(bits, axis=-1)[..., :width]


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
