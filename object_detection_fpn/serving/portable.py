"""The graph that models take to other runtimes, LiteRT and ONNX's, and what these have in common.

The graph begins after the resizer, which is the client's, and has images of one size:

| input | type and shape |
|---|---|
| input_tensor | float32 [B, H, W, channels], in [0, 255], resized and, where the resizer pads, padded below and to the right |
| image_sizes | int32 [B, 2], height and width of each image without its padding; only where the resizer pads |

It gives what a SavedModel gives for the same images, all float32: `detection_boxes` [B, D, 4], `detection_scores` [B, D],
`detection_classes` [B, D], `num_detections` [B] and, of a model with masks, `detection_masks` [B, D, M, M]; see
`saved_model.make_serving_function`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn import records
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.ops.pasting import MaskPasting
from object_detection_fpn.serving.folding import Folding
from object_detection_fpn.serving.int8 import Int8Simulation
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.saved_model import to_api_outputs

IMAGES, SIZES = "input_tensor", "image_sizes"
"""The names of the inputs."""

OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections", "detection_masks")
"""The names of the outputs, of which the last is not always there."""

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Inputs by name -> outputs by name."""


class FormatError(ValueError):
    """A model cannot be written in a format, or a file of one cannot be used. The message says why."""


class PortableGraph(NamedTuple):
    """A model ready to be converted."""

    function: tf.types.experimental.PolymorphicFunction
    """Takes and gives what the head of this file says; it has an input signature."""
    module: tf.Module
    """Keeps the function and its weights."""


def make_portable_graph(
    *,
    model: Any,
    resizer: Resizer,
    num_channels: int = 3,
    batch_size: int | None = 1,
    int8_inputs: Sequence[Mapping[str, np.ndarray]] = (),
) -> PortableGraph:
    """Makes the graph of a model whose batch normalizations are folded with the weights it has now.

    Args:
        model: the detector, built with `Execution(portable=True)`.
        resizer: what the model's images go through; it has a static size.
        num_channels: of the images that go into the resizer.
        batch_size: B; None for any, which is for ONNX alone.
        int8_inputs: inputs, a batch each, of which the ranges of int8 are taken; backbone and pyramid are then rounded as in
            int8. Empty: nothing is.

    Raises:
        FormatError: if the resizer leaves images of different sizes.
    """
    if None in resizer.static_size:
        raise FormatError("These formats need a resizer after which all images have one size.")
    folding = Folding(model)
    simulation: contextlib.AbstractContextManager = contextlib.nullcontext()
    if int8_inputs:
        simulation = _simulate_int8(model, folding, int8_inputs)
    channels = resizer.num_channels or num_channels
    signature = {IMAGES: tf.TensorSpec([batch_size, *resizer.static_size, channels], tf.float32, IMAGES)}
    if resizer.pads:
        signature[SIZES] = tf.TensorSpec([batch_size, 2], tf.int32, SIZES)

    def detect(images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        true_shapes = tf.pad(sizes, [[0, 0], [0, 1]], constant_values=channels)
        with folding, simulation:
            inputs = model.preprocess(records.Inputs(images, true_shapes, None))
            outputs = to_api_outputs(model.postprocess(model.predict(inputs, training=False), inputs))
        return {name: outputs[name] for name in OUTPUTS if name in outputs}

    def detect_whole(input_tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(input_tensor)[0] if batch_size is None else batch_size
        return detect(input_tensor, tf.tile(tf.constant([resizer.static_size], tf.int32), [batch, 1]))

    def detect_padded(input_tensor: tf.Tensor, image_sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        return detect(input_tensor, image_sizes)

    module = tf.Module(name="detector")
    module.function = tf.function(
        detect_padded if resizer.pads else detect_whole, input_signature=list(signature.values()), autograph=False
    )
    module.function.get_concrete_function()
    module.model_variables = list(model.variables)
    module.folded_variables = folding.variables
    return PortableGraph(module.function, module)


def _simulate_int8(model: Any, folding: Folding, inputs: Sequence[Mapping[str, np.ndarray]]) -> Int8Simulation:
    simulation = Int8Simulation(model.feature_extractor)
    with folding, simulation.recording():
        for batch in inputs:
            images = tf.constant(batch[IMAGES])
            true_shapes = tf.tile([images.shape[1:]], [len(images), 1])
            of_model = model.preprocess(records.Inputs(images, true_shapes, None))
            model.feature_extractor(of_model.images, training=False)
    return simulation


def make_inputs(image: np.ndarray, resizer: Resizer) -> dict[str, np.ndarray]:
    """What the graph takes of one image [h, w, channels] uint8, without an axis for the batch."""
    resized, true_shape = resizer(tf.constant(image))
    inputs = {IMAGES: resized.numpy()}
    if resizer.pads:
        inputs[SIZES] = true_shape[:2].numpy()
    return inputs


def make_predictor(
    run: Run,
    *,
    resizer: Resizer,
    batch_size: int | None = 1,
    categories: Sequence[Mapping[str, Any]] = (),
    num_channels: int = 3,
    mask_pasting: MaskPasting = "CORNERS_ALIGNED",
) -> Predictor:
    """A predictor of a file that was made of the graph.

    Args:
        run: the file's runtime.
        resizer: what the model's images go through.
        batch_size: that of the file, whose other images stay black; None = any.
        categories: as of `Predictor`.
        num_channels: likewise.
        mask_pasting: likewise.
    """

    def serve(image: np.ndarray) -> Mapping[str, Any]:
        inputs = make_inputs(image[0], resizer)
        batch = {
            name: np.concatenate([value[np.newaxis], *[_blank(name, value)] * ((batch_size or 1) - 1)])
            for name, value in inputs.items()
        }
        return run(batch)

    return Predictor(serve, categories=categories, num_channels=num_channels, mask_pasting=mask_pasting)


def _blank(name: str, value: np.ndarray) -> np.ndarray:
    """An image of the batch that nobody asked for; a size is at least 1."""
    return np.ones_like(value)[np.newaxis] if name == SIZES else np.zeros_like(value)[np.newaxis]


def import_package(name: str, *, package: str, extra: str) -> Any:
    """Imports what a format needs and the package itself does not.

    Args:
        name: of the module.
        package: which has it.
        extra: of this package, which asks for it.

    Raises:
        FormatError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise FormatError(
            f"{package} is needed and not installed. Allowed: pip install {package}, or this package with [{extra}]."
        ) from error


def read_model(path: str) -> bytes:
    """The content of a model's file.

    Raises:
        FileNotFoundError: if there is none.
    """
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(f"There is no file {path}.")
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def check_outputs(path: str, names: Collection[str]) -> None:
    """Makes sure that a file gives detections.

    Raises:
        FormatError: if outputs are missing among `names`.
    """
    if not set(OUTPUTS[:4]) <= set(names):
        raise FormatError(
            f"{path} is no exported detector: it gives {list(names)}. Wanted: at least {list(OUTPUTS[:4])}."
        )
