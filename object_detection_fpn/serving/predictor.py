"""Runs a detector on images: a SavedModel that this package or the Object Detection API exported, or a model."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.data.context import FEATURES_KEY, LENGTH_KEY, ContextDecoding
from object_detection_fpn.data.pillow import PILLOW_MODES
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.ops import pasting
from object_detection_fpn.ops.pasting import MaskPasting, PastedMask
from object_detection_fpn.serving.saved_model import (
    CONTEXT_LENGTH,
    MASK_PASTING,
    SIDE_INPUTS,
    make_serving_function,
)

_PARSERS = frozenset(
    {"ParseExample", "ParseExampleV2", "ParseSingleExample"}
)  # ops of a graph that takes tf.train.Examples


class ImagePrediction(NamedTuple):
    """The detections of one image, best first."""

    boxes_normalized: np.ndarray
    """[N, 4] float32 (ymin, xmin, ymax, xmax), normalized to the image."""
    scores: np.ndarray
    """[N] float32."""
    class_ids: np.ndarray
    """[N] int, 1-based, the ids of the label map."""
    masks: np.ndarray | None = None
    """[N, M, M] float32 in [0, 1], within the boxes; or, of a SavedModel that pastes them, [N, h, w] uint8, 1 in the object's
    pixels of the image. None = the model has none. `Predictor.paste_masks` makes pixels of both."""
    box_features: np.ndarray | None = None
    """[N, S, S, U] float32, what the box head makes of each detection (`detection_features`), S = 1 on a pyramid; None = the
    model does not give them."""

    def select(self, keep: np.ndarray) -> ImagePrediction:
        """Returns the rows where `keep` [N] bool is True."""
        masks, features = (None if rows is None else rows[keep] for rows in (self.masks, self.box_features))
        return ImagePrediction(self.boxes_normalized[keep], self.scores[keep], self.class_ids[keep], masks, features)


class Predictor:
    """Detects objects in images of any size: in one image, or in a batch of images of one size.

    It takes pixels as they are; `serving.images.read_image` has turned them upright.
    """

    def __init__(
        self,
        serve: Callable[..., Mapping[str, tf.Tensor]],
        *,
        categories: Sequence[Mapping[str, Any]] = (),
        num_channels: int = 3,
        mask_pasting: MaskPasting = "CORNERS_ALIGNED",
        context_length: int | None = None,
        takes_batches: bool = False,
    ):
        """Args:
            serve: one image [1, h, w, num_channels] uint8 -> the outputs of `saved_model.make_serving_function`. With
                `context_length` it also takes context features, [N, context_length] float32.
            categories: `{"id": 1-based, "name": ...}`; a class without a name is shown by its id.
            num_channels: how images are decoded: 1, 3 or 4.
            mask_pasting: how masks become pixels of an image.
            context_length: numbers of a context feature; None for a model that looks at single images.
            takes_batches: whether `serve` takes several images at once.

        Raises:
            ValueError: if `num_channels` is none of these.
        """
        if num_channels not in PILLOW_MODES:
            raise ValueError(
                f"The model takes images of {num_channels} channels, which no image file has. Allowed: 1, 3, 4."
            )
        self._serve = serve
        self.names = {int(category["id"]): str(category["name"]) for category in categories}
        self.categories = [{"id": class_id, "name": name} for class_id, name in sorted(self.names.items())]
        self.num_channels = num_channels
        self.mask_pasting = mask_pasting
        self.context_length = context_length
        self.takes_batches = takes_batches and context_length is None
        """Whether `predict_batch` runs the model once for all images."""

    @classmethod
    def from_saved_model(cls, path: str, *, categories: Sequence[Mapping[str, Any]] = ()) -> Predictor:
        """Loads a SavedModel of any of the four input types.

        Args:
            path: the folder of the SavedModel, or the export's folder around it.
            categories: as in the constructor; a SavedModel carries no names.

        Raises:
            FileNotFoundError: if there is no SavedModel.
            ValueError: if it is no detector exported by this package or the Object Detection API, or pastes masks in a way that
                is not known here.
        """
        folder = _find_saved_model(path)
        loaded = tf.saved_model.load(folder)
        signature = loaded.signatures.get("serving_default")
        inputs = signature.structured_input_signature[1] if signature is not None else {}
        outputs = signature.structured_outputs if signature is not None else {}
        needed = {"detection_boxes", "detection_scores", "detection_classes", "num_detections"}
        if set(inputs) not in ({"input_tensor"}, {"input_tensor", *SIDE_INPUTS}) or not needed <= set(outputs):
            raise ValueError(
                f"{folder} is no exported detector: its signature serving_default takes {sorted(inputs)} and gives "
                f"{sorted(outputs)}. Wanted: input_tensor, with {' and '.join(SIDE_INPUTS)} or without, and at least "
                f"{sorted(needed)}."
            )
        spec, side_input = inputs["input_tensor"], inputs.get(SIDE_INPUTS[0])
        num_channels = 3 if spec.dtype == tf.string else spec.shape[-1]

        def serve(images: np.ndarray, context: np.ndarray | None = None) -> Mapping[str, tf.Tensor]:
            side_inputs = {} if side_input is None else _as_side_inputs(context, num_rows=side_input.shape[1])
            of_record = context if side_input is None else None
            # `loaded` is named here to keep its variables alive as long as the function.
            return loaded.signatures["serving_default"](
                input_tensor=_as_input(images, spec, takes_examples, of_record), **side_inputs
            )

        takes_examples = spec.dtype == tf.string and _parses_examples(signature)
        context_length = side_input.shape[-1] if side_input is not None else None
        if context_length is None and hasattr(loaded, CONTEXT_LENGTH):
            context_length = int(getattr(loaded, CONTEXT_LENGTH)())
        return cls(
            serve,
            categories=categories,
            num_channels=num_channels,
            mask_pasting=_read_mask_pasting(loaded, folder),
            context_length=context_length,
            takes_batches=spec.shape.rank is not None and spec.shape[0] is None,
        )

    @classmethod
    def from_model(
        cls,
        *,
        model: Any,
        resizer: Resizer,
        categories: Sequence[Mapping[str, Any]] = (),
        num_channels: int = 3,
        mask_pasting: MaskPasting = "CORNERS_ALIGNED",
        context: ContextDecoding | None = None,
    ) -> Predictor:
        """Takes a model with its weights.

        Args:
            model: has `preprocess`, `predict` and `postprocess`.
            resizer: what the model's images went through in training.
            categories: as in the constructor.
            num_channels: of the images that go into the resizer.
            mask_pasting: how masks become pixels of an image.
            context: what the model looks at besides; None for a model that looks at single images.
        """
        serve = make_serving_function(
            model=model, resizer=resizer, input_type="image_tensor", num_channels=num_channels, context=context
        )

        def serve_images(images: np.ndarray, features: np.ndarray | None = None) -> Mapping[str, tf.Tensor]:
            side_inputs = {} if context is None else _as_side_inputs(features, num_rows=context.max_num)
            return serve(tf.constant(images), *side_inputs.values())

        return cls(
            serve_images,
            categories=categories,
            num_channels=num_channels,
            mask_pasting=mask_pasting,
            context_length=None if context is None else context.length,
            takes_batches=True,
        )

    def predict(self, image: np.ndarray, context: np.ndarray | None = None) -> ImagePrediction:
        """Detects objects in one image.

        Args:
            image: [h, w, channels] uint8.
            context: [N, `context_length`] float32, context features, of which there may be none; not used by a model that
                looks at single images.

        Raises:
            ValueError: if the model looks at context, and there is none or of another length.
        """
        if self.context_length is None:
            outputs = self._serve(image[np.newaxis])
        elif context is None or context.ndim != 2 or context.shape[1] != self.context_length:
            found = "none" if context is None else f"an array of shape {context.shape}"
            raise ValueError(
                f"The model looks at context features, which are given with the image; there is {found}. Allowed: float32 "
                f"[N, {self.context_length}]."
            )
        else:
            outputs = self._serve(image[np.newaxis], context)
        return _to_predictions(outputs)[0]

    def predict_batch(self, images: np.ndarray) -> list[ImagePrediction]:
        """Detects objects in images of one size: at once if the model `takes_batches`, else one after the other.

        Args:
            images: [B, h, w, channels] uint8.

        Raises:
            ValueError: if the model looks at context.
        """
        if not self.takes_batches:
            return [self.predict(image) for image in images]
        return _to_predictions(self._serve(images))

    def paste_masks(self, prediction: ImagePrediction, image_size: tuple[int, int]) -> list[PastedMask]:
        """The pixels of each detection in the image it was found in.

        Args:
            prediction: with masks.
            image_size: height and width of the image.

        Raises:
            ValueError: if there are no masks.
        """
        masks = prediction.masks
        if masks is None:
            raise ValueError("The model predicts no masks.")
        if masks.dtype == np.uint8:  # pasted already
            return [PastedMask(mask.astype(bool), (0, 0)) for mask in masks]
        boxes = prediction.boxes_normalized * np.tile(np.array(image_size, np.float32), 2)
        return pasting.paste_masks(masks, boxes, image_size, pasting=self.mask_pasting)


def _to_predictions(outputs: Mapping[str, tf.Tensor]) -> list[ImagePrediction]:
    """One for each image of a batch."""
    names = ("detection_boxes", "detection_scores", "detection_classes", "detection_masks", "detection_features")
    boxes, scores, classes, masks, features = (
        None if outputs.get(name) is None else np.asarray(outputs[name]) for name in names
    )
    assert boxes is not None and scores is not None and classes is not None
    return [
        ImagePrediction(
            boxes_normalized=boxes[row, :n],
            scores=scores[row, :n],
            class_ids=classes[row, :n].astype(np.int64),
            masks=None if masks is None else masks[row, :n],
            box_features=None if features is None else features[row, :n],
        )
        for row, n in enumerate(np.asarray(outputs["num_detections"]).astype(int))
    ]


def _find_saved_model(path: str) -> str:
    for folder in (path, os.path.join(path, "saved_model")):
        if tf.io.gfile.exists(os.path.join(folder, "saved_model.pb")):
            return folder
    raise FileNotFoundError(f"There is no SavedModel in {path}: neither saved_model.pb nor saved_model/saved_model.pb.")


def _read_mask_pasting(loaded: Any, folder: str) -> MaskPasting:
    """How the masks of a SavedModel are pasted; where it does not say, as the Object Detection API does, whose it then is."""
    if not hasattr(loaded, MASK_PASTING):
        return "CORNERS_ALIGNED"
    name = getattr(loaded, MASK_PASTING)().numpy().decode()
    if name not in typing.get_args(MaskPasting):
        allowed = ", ".join(typing.get_args(MaskPasting))
        raise ValueError(f"{folder}: {MASK_PASTING} = {name!r} is unknown. Allowed: {allowed}.")
    return name


def _parses_examples(signature: Any) -> bool:
    """Whether a signature that takes strings wants tf.train.Examples rather than image files."""
    graph_def = signature.graph.as_graph_def()
    nodes = [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
    return any(node.op in _PARSERS for node in nodes)


def _as_side_inputs(context: np.ndarray | None, *, num_rows: int | None) -> dict[str, tf.Tensor]:
    """Context features [N, F] as what a signature takes: padded or cut to `num_rows`, if it has a number."""
    assert context is not None
    num_kept = len(context) if num_rows is None else min(len(context), num_rows)
    padded = np.zeros([num_kept if num_rows is None else num_rows, context.shape[1]], np.float32)
    padded[:num_kept] = context[:num_kept]
    return dict(zip(SIDE_INPUTS, (tf.constant(padded[np.newaxis]), tf.constant([num_kept], tf.int32)), strict=True))


def _as_input(
    images: np.ndarray, spec: tf.TensorSpec, takes_examples: bool, context: np.ndarray | None = None
) -> tf.Tensor:
    """Images [B, h, w, channels] uint8 as what a signature takes; context features [N, F] go into the example of one image."""
    if spec.dtype != tf.string:
        return tf.cast(images, spec.dtype)
    encoded = [tf.io.encode_png(image).numpy() for image in images]  # without loss: all input types see the same pixels
    if takes_examples:
        encoded = [_as_example(each, context) for each in encoded]
    return tf.constant(encoded)


def _as_example(encoded: bytes, context: np.ndarray | None) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    if context is not None:
        example.features.feature[FEATURES_KEY].float_list.value.extend(context.ravel().tolist())
        example.features.feature[LENGTH_KEY].int64_list.value.append(context.shape[1])
    return example.SerializeToString()
