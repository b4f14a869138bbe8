"""Writes a trained model as a SavedModel with the Object Detection API's signatures, ready for serving.

    output_dir/
      saved_model/      `tf.saved_model.load(...)(input_tensor)`, or its signature `serving_default`
      checkpoint/       ckpt-0, the weights for further training
      pipeline.config   the configuration the model was built from

Source of names, types and shapes: exporter_lib_v2.py of the Object Detection API. What differs is the input: any batch and,
for encoded images, any mixture of sizes in it, where the API takes one image.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from object_detection_fpn import records
from object_detection_fpn.data.context import ContextDecoding, decode_context
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.ops.pasting import MaskPasting
from object_detection_fpn.serving import pasting
from object_detection_fpn.serving.folding import Folding
from object_detection_fpn.serving.input_types import INPUT_TYPES

MASK_PASTING = "mask_pasting"
"""What a SavedModel of a model with masks says besides its signature: `tf.saved_model.load(...).mask_pasting()` is the name of
a `MaskPasting`, by which a client pastes its masks as the model is evaluated."""

CONTEXT_LENGTH = "context_feature_length"
"""Likewise, of a model that looks at context: `tf.saved_model.load(...).context_feature_length()`, numbers of a feature."""

SIDE_INPUTS = ("context_features", "valid_context_size")
"""What a SavedModel of a model that looks at context takes beside `input_tensor`, unless that is a record, which has both."""

_ENCODED_CHANNELS = (1, 3, 4)  # what an image file can be decoded to


def make_serving_function(
    *,
    model: Any,
    resizer: Resizer,
    input_type: str,
    num_channels: int = 3,
    decode_record: Callable[[tf.Tensor], tf.Tensor] | None = None,
    context: ContextDecoding | None = None,
    folding: Folding | None = None,
    paste_masks: MaskPasting | None = None,
    jit_compile: bool = False,
) -> tf.types.experimental.PolymorphicFunction:
    """Makes the function that a SavedModel serves: images in, the Object Detection API's dictionary out.

    It takes `input_tensor`:

    | input_type | type and shape |
    |---|---|
    | image_tensor | uint8 [B, h, w, num_channels] |
    | float_image_tensor | float32 [B, h, w, num_channels], in [0, 255] |
    | encoded_image_string_tensor | string [B]: JPEG, PNG, GIF (first frame) or BMP files, each of its own size |
    | tf_example | string [B]: serialized `tf.train.Example`s, of which `image/encoded` is read |

    and for models that look at context two more: `context_features` float32 [B, M, F], and `valid_context_size` int32 [B], how
    many of the M rows of an image are real. M is any number; with `jit_compile` it is that of `context`. `tf_example` has both
    in its records instead, `image/context_features` and `image/context_feature_length`.

    The function gives, all float32, with D detections an image (padding rows last, zero but for class 1), R regions and C
    classes:

    | output | shape |
    |---|---|
    | detection_boxes | [B, D, 4] (ymin, xmin, ymax, xmax), normalized to the image |
    | detection_scores | [B, D] |
    | detection_classes | [B, D], 1-based |
    | num_detections | [B] |
    | detection_multiclass_scores | [B, D, C+1], background first |
    | detection_anchor_indices | [B, D], row of the region in the raw detections |
    | raw_detection_boxes | [B, R, 4], before suppression |
    | raw_detection_scores | [B, R, C+1], background first |
    | detection_features | [B, D, 1, 1, U], or without a pyramid [B, D, S', S', U], the box head's features of each detection |
    | cropped_rpn_box_features | [B, D, S, S, F], the pyramid's features of each detection |
    | detection_masks | [B, D, M, M], how sure it is that each cell of the box belongs to the object |

    The last seven are there if the model's `Detections` carry them. With `paste_masks`, `detection_masks` are instead uint8
    [B, D, h, w], 1 in the pixels of the object, in the image as it came in; where encoded images of a batch differ in size, of
    the largest height and width among them, with zeros beyond an image.

    Args:
        model: the detector.
        resizer: what the model's images went through in training.
        input_type: one of `INPUT_TYPES`.
        num_channels: of the images that come in; the resizer may make one channel of them.
        decode_record: serialized example (scalar string) -> image [h, w, num_channels]; None reads `image/encoded`.
            Needed by `tf_example` for images that no file format holds.
        context: rows and length of context features; None for a model that looks at single images.
        folding: of the model, whose batch normalizations are then folded with the weights it has when the function is
            first traced; None = the function follows the model's weights.
        paste_masks: how masks are pasted into the image; None = they stay within their boxes.
        jit_compile: whether XLA compiles the model, when it first sees a batch of some number; decoding, resizing and pasting
            stay outside. The model must have been built for static shapes.

    Raises:
        ValueError: if `input_type` is unknown, images of `num_channels` cannot be decoded, or `jit_compile` is asked for with
            a resizer after which images differ in size; when traced, if `paste_masks` is asked of a model without masks.
    """
    if input_type not in INPUT_TYPES:
        raise ValueError(f"input_type = {input_type!r} is unknown. Allowed: {', '.join(INPUT_TYPES)}.")
    if jit_compile and None in resizer.static_size:
        raise ValueError(
            "jit_compile needs a resizer with a static_size: XLA would compile the model for each size anew."
        )
    decode = _decoder(input_type, num_channels, decode_record)

    def detect(
        images: tf.Tensor, true_shapes: tf.Tensor, image_context: records.Context | None
    ) -> dict[str, tf.Tensor]:
        with folding or contextlib.nullcontext():
            inputs = model.preprocess(records.Inputs(images, true_shapes, image_context))
            return to_api_outputs(model.postprocess(model.predict(inputs, training=False), inputs))

    if jit_compile:
        detect = tf.function(detect, jit_compile=True, autograph=False)

    def serve(input_tensor: tf.Tensor, image_context: records.Context | None = None) -> dict[str, tf.Tensor]:
        if decode is None:
            images, true_shapes, sizes = _resize_tensor(input_tensor, resizer, num_channels)
        else:
            images, true_shapes, sizes = _resize_encoded(input_tensor, decode, resizer, num_channels)
        if context is not None and input_type == "tf_example":
            image_context = _decode_contexts(input_tensor, context)
        outputs = detect(images, true_shapes, image_context)
        if paste_masks is None:
            return outputs
        if "detection_masks" not in outputs:
            raise ValueError("paste_masks was asked of a model that gives no masks.")
        pasted = pasting.paste_masks(outputs["detection_masks"], outputs["detection_boxes"], sizes, pasting=paste_masks)
        return outputs | {"detection_masks": pasted}

    signature = {
        "image_tensor": tf.TensorSpec([None, None, None, num_channels], tf.uint8, name="input_tensor"),
        "float_image_tensor": tf.TensorSpec([None, None, None, num_channels], tf.float32, name="input_tensor"),
        "encoded_image_string_tensor": tf.TensorSpec([None], tf.string, name="input_tensor"),
        "tf_example": tf.TensorSpec([None], tf.string, name="input_tensor"),
    }[input_type]

    # Of the names by which clients call them.
    def serve_alone(input_tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        return serve(input_tensor)

    def serve_with_context(
        input_tensor: tf.Tensor, context_features: tf.Tensor, valid_context_size: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return serve(input_tensor, records.Context(context_features, valid_context_size))

    # The model decides nothing by Python's `if` on a tensor, and without autograph it is traced several times as fast.
    if context is None or input_type == "tf_example":
        return tf.function(serve_alone, input_signature=[signature], autograph=False)
    num_rows = context.max_num if jit_compile else None
    side_inputs = (
        tf.TensorSpec([None, num_rows, context.length], tf.float32, name=SIDE_INPUTS[0]),
        tf.TensorSpec([None], tf.int32, name=SIDE_INPUTS[1]),
    )
    return tf.function(serve_with_context, input_signature=[signature, *side_inputs], autograph=False)


def _decode_contexts(serialized: tf.Tensor, context: ContextDecoding) -> records.Context:
    """Of records [B]."""

    def decode(element: tf.Tensor) -> records.Context:
        return decode_context(tf.io.parse_single_example(element, context.features()), context)[0]

    specs = records.Context(
        features=tf.TensorSpec([context.max_num, context.length], tf.float32), num_features=tf.TensorSpec([], tf.int32)
    )
    with tf.device("CPU:0"):
        return tf.map_fn(decode, serialized, fn_output_signature=specs)


def to_api_outputs(detections: records.Detections) -> dict[str, tf.Tensor]:
    """Renames detections as the Object Detection API does: everything float32, classes 1-based."""
    outputs = {
        "detection_boxes": detections.boxes,
        "detection_scores": detections.scores,
        "detection_classes": detections.classes + 1,
        "num_detections": detections.num_detections,
        "detection_multiclass_scores": detections.class_scores,
        "detection_anchor_indices": detections.roi_indices,
        "raw_detection_boxes": detections.raw_boxes,
        "raw_detection_scores": detections.raw_class_scores,
        "detection_features": detections.box_features,
        "cropped_rpn_box_features": detections.roi_features,
        "detection_masks": detections.masks,
    }
    return {name: tf.cast(value, tf.float32) for name, value in outputs.items() if value is not None}


def export_saved_model(
    *,
    model: Any,
    resizer: Resizer,
    input_type: str,
    output_dir: str,
    pipeline_config_text: str,
    variables: Mapping[str, tf.Variable] | None = None,
    num_channels: int = 3,
    decode_record: Callable[[tf.Tensor], tf.Tensor] | None = None,
    context: ContextDecoding | None = None,
    mask_pasting: MaskPasting | None = None,
    paste_masks: bool = False,
    jit_compile: bool = False,
) -> str:
    """Writes a model in the layout at the head of this file, over what an earlier export left there.

    The graph is traced before the first file is written, so a model that cannot be exported changes nothing on disk.

    Args:
        model: with its trained weights; besides the verbs it has `variables`, all of them.
        resizer: what the model's images went through in training.
        input_type: one of `INPUT_TYPES`.
        output_dir: folder to write, made if missing.
        pipeline_config_text: content of `pipeline.config`.
        variables: {path: variable}, all of the model's as its checkpoint files them; the SavedModel then holds them under
            the same names, and its weights can be restored like a checkpoint's. None = they stay nameless.
        num_channels: as in `make_serving_function`.
        decode_record: as in `make_serving_function`.
        context: likewise; the SavedModel says the length, see `CONTEXT_LENGTH`.
        mask_pasting: how the masks of the model become pixels of an image, which the SavedModel says, see `MASK_PASTING`; None
            for a model without masks.
        paste_masks: whether the SavedModel pastes them itself.
        jit_compile: as in `make_serving_function`.

    Returns:
        The folder of the SavedModel.

    Raises:
        ValueError: as `make_serving_function`; or if masks are to be pasted without a `mask_pasting`.
    """
    if paste_masks and mask_pasting is None:
        raise ValueError("paste_masks needs a mask_pasting, which a model without masks lacks.")
    folding = Folding(model)
    serve = make_serving_function(
        model=model,
        resizer=resizer,
        input_type=input_type,
        num_channels=num_channels,
        decode_record=decode_record,
        context=context,
        folding=folding,
        paste_masks=mask_pasting if paste_masks else None,
        jit_compile=jit_compile,
    )
    # The variables alone, not the layers: Keras would trace every layer's call once more and write it beside ours.
    module = tf.Module(name="detector")
    if variables is None:
        module.model_variables = list(model.variables)
    else:
        module.model = _as_modules(variables)
    traced = serve.get_concrete_function()
    # Around what is traced already: saving traces anew each function that it finds.
    options = {"input_signature": serve.input_signature, "autograph": False}
    if len(serve.input_signature) == 1:
        call = tf.function(lambda input_tensor: traced(input_tensor), **options)
    else:
        call = tf.function(
            lambda input_tensor, context_features, valid_context_size: traced(
                input_tensor, context_features, valid_context_size
            ),
            **options,
        )
    module.__call__ = call  # an attribute of the object is what makes the loaded one callable
    # Beside the weights they were made of, by which the SavedModel can still be trained further.
    module.folded_variables = folding.variables
    if mask_pasting is not None:
        # A function: a variable would stand among the weights, and a file beside the SavedModel is easily left behind.
        say = tf.function(lambda: tf.constant(mask_pasting), input_signature=[], autograph=False)
        setattr(module, MASK_PASTING, say)
    if context is not None:
        say_length = tf.function(lambda: tf.constant(context.length), input_signature=[], autograph=False)
        setattr(module, CONTEXT_LENGTH, say_length)

    tf.io.gfile.makedirs(output_dir)
    checkpoint = tf.train.Checkpoint(model=model)
    manager = tf.train.CheckpointManager(checkpoint, os.path.join(output_dir, "checkpoint"), max_to_keep=1)
    manager.save(checkpoint_number=0)
    saved_model_dir = os.path.join(output_dir, "saved_model")
    # Nobody asks a served model for gradients, but loading one whose gradients were left out warns of it.
    save_options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, saved_model_dir, signatures=call.get_concrete_function(), options=save_options)
    with tf.io.gfile.GFile(os.path.join(output_dir, "pipeline.config"), "w") as file:
        file.write(pipeline_config_text)
    return saved_model_dir


def _as_modules(variables: Mapping[str, tf.Variable]) -> tf.Module:
    """Plain objects with the variables at their paths."""
    root = tf.Module(name="model")
    for path, variable in variables.items():
        module = root
        # A dot stands in checkpoints for what names must not contain: "..", a dot; ".S", a slash.
        *folders, last = [re.sub(r"\.([.S])", lambda m: {".": ".", "S": "/"}[m[1]], name) for name in path.split("/")]
        for folder in folders:
            if folder not in vars(module):
                setattr(module, folder, tf.Module())
            module = getattr(module, folder)
        setattr(module, last, variable)
    return root


def _decoder(
    input_type: str, num_channels: int, decode_record: Callable[[tf.Tensor], tf.Tensor] | None
) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """What turns one element of a string input into an image; None for inputs that are images already."""
    if input_type in ("image_tensor", "float_image_tensor"):
        return None
    if input_type == "tf_example" and decode_record is not None:
        return decode_record
    if num_channels not in _ENCODED_CHANNELS:
        raise ValueError(
            f"input_type = {input_type!r}: no image file has num_channels = {num_channels}. Allowed: 1, 3, 4; "
            "or the input types image_tensor and float_image_tensor; or tf_example with a decode_record."
        )

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=num_channels, expand_animations=False)

    def decode_example(serialized: tf.Tensor) -> tf.Tensor:
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return decode(tf.io.parse_single_example(serialized, features)["image/encoded"])

    return decode if input_type == "encoded_image_string_tensor" else decode_example


def _resize_tensor(images: tf.Tensor, resizer: Resizer, num_channels: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Images of one size -> float32 [B, H, W, channels], true shapes [B, 3], sizes as they came in [B, 2]."""
    shape = _resized_shape(resizer, num_channels)
    specs = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec([3], tf.int32))
    resized, true_shapes = tf.map_fn(resizer, images, fn_output_signature=specs)
    sizes = tf.tile(tf.shape(images)[tf.newaxis, 1:3], [tf.shape(images)[0], 1])
    return tf.ensure_shape(resized, [None, *shape]), true_shapes, sizes


def _resize_encoded(
    encoded: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor], resizer: Resizer, num_channels: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Strings [B] -> float32 [B, H, W, channels], padded up to the batch's largest image, true shapes [B, 3], sizes [B, 2].

    The sizes are those of the files.
    """
    shape = _resized_shape(resizer, num_channels)

    def decode_and_resize(element: tf.Tensor) -> tuple[tf.RaggedTensor, tf.Tensor, tf.Tensor]:
        decoded = tf.ensure_shape(decode(element), [None, None, num_channels])
        resized, true_shape = resizer(decoded)
        return tf.RaggedTensor.from_tensor(resized, ragged_rank=1), true_shape, tf.shape(decoded)[:2]

    specs = (
        tf.RaggedTensorSpec([None, None, shape[-1]], tf.float32, ragged_rank=1),
        tf.TensorSpec([3], tf.int32),
        tf.TensorSpec([2], tf.int32),
    )
    with tf.device("CPU:0"):  # nothing decodes images elsewhere, and ragged batches stay off the accelerator
        ragged, true_shapes, sizes = tf.map_fn(decode_and_resize, encoded, fn_output_signature=specs)
        images = tf.ensure_shape(ragged.to_tensor(), [None, *shape])
        return resizer.fill_padding(images, true_shapes), true_shapes, sizes


def _resized_shape(resizer: Resizer, num_channels: int) -> list[int | None]:
    """[H, W, channels] of what comes out of the resizer, None where images differ."""
    return [*resizer.static_size, resizer.num_channels or num_channels]
