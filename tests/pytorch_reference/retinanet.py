"""RetinaNets of torchvision and Detectron2 to compare with: what `agreement` and `training` are for detectors of two stages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import support
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.interop import libraries
from object_detection_fpn.modeling import layers, loss_normalization
from object_detection_fpn.modeling.heads import dense
from object_detection_fpn.ops import matching
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.records import Detections, Groundtruth, Inputs, Predictions
from object_detection_fpn.training.weights import assign_weights
from pytorch_reference.agreement import Agreement
from pytorch_reference.cases import YXYX, Case, load
from pytorch_reference.comparisons import assert_close, assert_paired, assert_relative, by_level, like_stored
from pytorch_reference.training import groundtruth_boxes, variables_by_name

LEVELS = (3, 4, 5, 6, 7)
_TRAINING_INPUTS = {"torchvision": "maskrcnn_resnet50_fpn", "detectron2": "mask_rcnn_R_50_FPN_3x"}
"""The model whose training case has the same images, resized alike."""
_BACKBONE_NORM = re.compile(r"^backbone\.body\..*(bn\d|downsample\.1)\.\w+$")
_LOSSES = {
    "classification": dense.CLASSIFICATION_LOSS,
    "bbox_regression": dense.LOCALIZATION_LOSS,
    "loss_cls": dense.CLASSIFICATION_LOSS,
    "loss_box_reg": dense.LOCALIZATION_LOSS,
}


class RetinaNetCase(Case):
    """A RetinaNet of the reference and the recipe that describes it."""

    def message(self) -> pipeline_pb2.TrainEvalPipelineConfig:
        """The recipe, with what the reference has otherwise: image size, classes, numbers of candidates and detections."""
        message = config.load_config(recipes.recipe_path(f"{self.recipe}_800x1333_coco17"))
        model = message.model.ssd
        resizer = model.image_resizer.keep_aspect_ratio_resizer
        resizer.min_dimension = self.settings["input"]["resize"]["min_size"]
        resizer.max_dimension = self.settings["input"]["resize"]["max_size"]
        model.num_classes = self.num_classes  # torchvision's first column is that of the background here
        detections = self.settings["detections"]
        model.max_candidates_per_level = detections["topk_per_level"]
        suppression = model.post_processing.batch_non_max_suppression
        suppression.max_detections_per_class = detections["detections_per_image"]
        suppression.max_total_detections = detections["detections_per_image"]
        return message


class RetinaNetAgreement(Agreement):
    """The comparisons of one RetinaNet with its reference, each an assertion."""

    def __init__(self, case: RetinaNetCase):
        self.case, self.images = case, (0, 1)
        self.library = libraries.LIBRARIES[case.name.partition("/")[0]]
        self.tensors = case.tensors()
        self.model = self.detector = case.model(self.library, self.tensors)
        self._predictions: dict[tuple[int, ...], Predictions] = {}

    def check_pyramid(self) -> None:
        for image in self.images:
            for level, features in zip(LEVELS, self.predict(image).pyramid, strict=True):
                ours, name = features.numpy().transpose(0, 3, 1, 2), f"image{image}/P{level}"
                moments = np.stack([ours[0].mean(axis=(1, 2)), ours[0].std(axis=(1, 2))])
                assert_close(moments, self.case.outputs[f"{name}_channel_mean_std"], 1e-3, name)
                stored = self.case.outputs[name]
                assert_close(like_stored(ours, stored), stored, 1e-3, name)

    def check_head(self) -> None:
        """Class logits and box offsets of all anchors, in the library's order of channels."""
        head = self.model.dense_head
        order = np.arange(4 * head.num_anchors).reshape(-1, 4)[:, YXYX].ravel()
        for image in self.images:
            predictions = self.predict(image)
            logits = by_level(predictions.dense.class_logits, predictions.pyramid, head.num_anchors)
            deltas = by_level(predictions.dense.box_deltas, predictions.pyramid, head.num_anchors)
            for level, level_logits, level_deltas in zip(LEVELS, logits, deltas, strict=True):
                step = {3: 3, 4: 2}.get(level, 1)  # the cells that the reference keeps
                for name, ours in (("cls_logits", level_logits), ("deltas", level_deltas[:, order])):
                    stored = self.case.outputs[f"image{image}/{name}_P{level}"]
                    assert_close(ours[:, :, ::step, ::step], stored, 1e-3, f"{name}_P{level}")

    def check_detections(self) -> None:
        for image in self.images:
            detections = self.model.postprocess(self.predict(image), self.case.network_inputs(image))
            # Those in the resized image are not clipped by Detectron2.
            kind = "input" if self.case.is_torchvision else "given"
            self._assert_same(detections, 0, f"image{image}/", kind=kind, image=image, within=0.05)

    def check_batch(self) -> None:
        """Both images in one batch, whose padding changes the features near it."""
        detections = self.model.postprocess(self.predict(0, 1), self.case.network_inputs(0, 1))
        for image in (0, 1):
            self._assert_same(detections, image, "batch/", kind="batch", image=image, within=0.05)

    def check_images(self) -> None:
        """From the images, resized by the recipe's resizer."""
        resizer = builder.build_resizer(self.case.message().model.ssd.image_resizer)
        for image in self.images:
            resized, true_shape = resizer(tf.constant(load("inputs.npz")[f"image{image}"]))
            assert list(true_shape[:2]) == self.case.settings["images"][image]["resized"]
            inputs = self.model.preprocess(Inputs(resized[tf.newaxis], true_shape[tf.newaxis]))
            detections = self.model.postprocess(self.model.predict(inputs, training=False), inputs)
            self._assert_same(
                detections, 0, f"image{image}/", kind="given", image=image, within=0.5, scores_within=None
            )

    def _assert_same(
        self,
        detections: Detections,
        row: int,
        prefix: str,
        *,
        kind: str,
        image: int,
        within: float,
        scores_within: float | None = 1e-4,
    ) -> None:
        outputs, settings = self.case.outputs, self.case.settings["images"][image]
        names = {"input": "boxes_input", "given": "boxes", "batch": f"boxes{image}"}
        labels, scores = {
            "batch": (f"labels{image}", f"scores{image}"),
            "given": ("labels", "scores") if self.case.is_torchvision else ("boxes_labels", "boxes_scores"),
            "input": ("labels", "scores"),
        }[kind]
        size = settings["resized"] if kind == "input" else [settings["height"], settings["width"]]
        # The first column of torchvision is the background's here.
        their_labels = outputs[prefix + labels] - self.case.is_torchvision
        is_object = their_labels >= 0
        their_scores = outputs[prefix + scores][is_object]
        our_scores = detections.scores.numpy()[row, : int(detections.num_detections[row])]
        # Detectron2 drops empty boxes after it has chosen the best; here the next best take their places.
        number = int(np.sum(our_scores > their_scores.min() - 1e-5))
        paired = assert_paired(
            detections.boxes.numpy()[row, :number][:, YXYX] * np.tile(size[::-1], 2),
            outputs[prefix + names[kind]][is_object],
            our_labels=detections.classes.numpy()[row, :number],
            their_labels=their_labels[is_object],
            within=within,
        )
        if scores_within is not None:
            assert_close(our_scores[paired[:, 0]], their_scores[paired[:, 1]], scores_within, "scores")


class RetinaNetTraining:
    """The comparisons of one training step with its reference: two images, all anchors.

    Attributes:
        case: the model.
        model: ours, with the reference's weights.
        groundtruth: of the two images.
        predictions: of the step.
        losses: of the step, in the library's order.
    """

    def __init__(self, agreement: RetinaNetAgreement):
        self.case, self.model, self._agreement = agreement.case, agreement.model, agreement
        self._reference = self.case.training
        self._settings = load("settings.json")[f"training/{self.case.name}"]
        self.groundtruth = self._groundtruth(*(groundtruth_boxes(self.case, image) for image in (0, 1)))
        self.predictions, losses, self._gradients = self._step()
        self.losses = self._in_their_order(losses)

    def check_anchors(self) -> None:
        """Which anchors are objects, background and neither, and what the objects should say."""
        of_anchors = self.model._matcher(self.predictions.dense.anchors, self.groundtruth)
        for image in (0, 1):
            matches = of_anchors.matches.numpy()[image]
            labels = self._reference[f"anchor_labels{image}"]
            np.testing.assert_array_equal(matches == matching.BACKGROUND, labels == -1)
            np.testing.assert_array_equal(matches == matching.IGNORED, labels == -2)
            positive = np.flatnonzero(matches >= 0)
            np.testing.assert_array_equal(positive, self._reference[f"positive_anchors{image}"])
            np.testing.assert_array_equal(matches[positive], self._reference[f"positive_gt{image}"])
            targets = of_anchors.box_deltas.numpy()[image][positive][:, YXYX]
            assert_relative(targets, self._reference[f"positive_targets{image}"], 1e-3, "anchor targets")

    def check_losses(self) -> None:
        assert_relative(self.losses, self._reference["losses"], 1e-3, "losses")

    def check_losses_without_objects(self) -> None:
        """With no groundtruth in the second image."""
        groundtruth = self._groundtruth(groundtruth_boxes(self.case, 0), [])
        self._forget()
        losses = self._in_their_order(self.model.loss(self.predictions, groundtruth))
        assert_relative(losses, self._reference["empty/losses"], 1e-3, "losses")

    def check_gradients(self) -> None:
        """The norm of the gradient of each trained parameter; others do not train.

        The normalizations of a backbone count as one. Rectified values near 0 fall on the other side where a sum is rounded
        otherwise, and single ones, of few channels, feel it: noise of 1e-6 in the pixels moves them by up to 0.108 %.
        """
        variables = variables_by_name(self._agreement.library, self.model)
        names = self._settings["gradient_names"]
        assert {name for name, variable in variables.items() if variable.ref() in self._gradients} == set(names)
        ours = np.array([tf.norm(self._gradients[variables[name].ref()]).numpy() for name in names])
        theirs = self._reference["grad_norm"]
        is_norm = np.array([bool(_BACKBONE_NORM.search(name)) for name in names])
        differences = np.where(is_norm, 0.0, np.abs(ours / theirs - 1))
        assert differences.max() <= 1e-3, f"{names[differences.argmax()]}: {differences.max()}"
        if is_norm.any():
            assert_relative(np.linalg.norm(ours[is_norm]), np.linalg.norm(theirs[is_norm]), 1e-3, "normalizations")

    def check_batch_statistics(self) -> None:
        """The losses of a step in which the normalizations use the batch.

        Not the gradients: behind the layer whose scale the reference made tiny, rounding moves those of torchvision itself by
        up to 2 % (float32 beside float64).
        """
        _, losses, _ = self._step(freeze=False)
        assert_relative(self._in_their_order(losses), self._reference["bn_train/losses"], 1e-3, "losses")
        weights = self._agreement.library.weights_by_path(self._agreement.tensors, self.model, "weights.pth")
        assign_weights(self.model, weights)  # the statistics have moved

    def check_average(self) -> None:
        """What the losses are divided by, after one step; outside of training it stays."""
        average = self.model.dense_head.loss_normalizer
        self._forget()
        self.model.loss(self.predictions, self.groundtruth)
        expected = 0.9 * 100 + 0.1 * sum(len(self._reference[f"positive_anchors{image}"]) for image in (0, 1))
        assert float(average) == np.float32(expected)
        self.model.loss(self.predictions._replace(seed=None), self.groundtruth)
        assert float(average) == np.float32(expected)

    def _step(self, *, freeze: bool = True) -> tuple[Predictions, dict[str, tf.Tensor], dict[Any, tf.Tensor]]:
        """Outputs, losses and gradients of a step; with `freeze` all normalizations keep their statistics."""
        norms = [layer for layer in self.model.submodules if isinstance(layer, layers.BatchNorm)]
        frozen = [norm.freeze_statistics for norm in norms]
        for norm in norms:
            norm.freeze_statistics = norm.freeze_statistics or freeze
        self._forget()
        with tf.GradientTape() as tape:
            predictions = self.model.predict(self._inputs(), training=True, groundtruth=self.groundtruth)
            losses = self.model.loss(predictions, self.groundtruth)
            total = tf.add_n([tf.reduce_mean(loss) for loss in losses.values()])
        variables = self.model.trainable_variables
        gradients = tape.gradient(total, variables)
        for norm, was_frozen in zip(norms, frozen, strict=True):
            norm.freeze_statistics = was_frozen
        return predictions, losses, {v.ref(): gradient for v, gradient in zip(variables, gradients, strict=True)}

    def _forget(self) -> None:
        """The average is what it is before the first step."""
        if self.model.dense_head.loss_normalizer is not None:
            self.model.dense_head.loss_normalizer.assign(loss_normalization.FIRST_AVERAGE)

    def _inputs(self) -> Inputs:
        library = self.case.name.partition("/")[0]
        stored = load(f"training_{library}_{_TRAINING_INPUTS[library]}.npz")
        sizes = [image["resized"] for image in self._settings["images"]]
        if self.case.is_torchvision:
            images = stored["input"].transpose(0, 2, 3, 1)
        else:
            mean = np.array(self.case.settings["input"]["pixel_mean"], np.float32)
            largest = 32 * -(-np.max(sizes, axis=0) // 32)
            images = np.zeros([2, *largest, 3], np.float32)
            for image, (height, width) in enumerate(sizes):
                images[image, :height, :width] = stored[f"resized{image}"] - mean
        return Inputs(tf.constant(images), tf.constant([[*size, 3] for size in sizes]))

    def _in_their_order(self, losses: dict[str, tf.Tensor]) -> list[float]:
        return [float(tf.reduce_mean(losses[_LOSSES[name]])) for name in self._settings["loss_names"]]

    def _groundtruth(self, *images: list[dict[str, Any]]) -> Groundtruth:
        return support.make_groundtruth(*images, num_rows=6)


CHECKS = (
    RetinaNetAgreement.check_names,
    RetinaNetAgreement.check_pyramid,
    RetinaNetAgreement.check_head,
    RetinaNetAgreement.check_detections,
    RetinaNetAgreement.check_batch,
    RetinaNetAgreement.check_images,
)
"""Each of them is a test of every RetinaNet."""

TRAINING_CHECKS = (
    RetinaNetTraining.check_anchors,
    RetinaNetTraining.check_losses,
    RetinaNetTraining.check_losses_without_objects,
    RetinaNetTraining.check_gradients,
)
