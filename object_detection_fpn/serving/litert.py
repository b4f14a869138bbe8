"""LiteRT, formerly TensorFlow Lite: conversion to its built-in operations, and use by its interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from object_detection_fpn.serving.portable import OUTPUTS, FormatError, PortableGraph, Run, import_package

Quantization = Literal["float32", "float16", "int8"]

_FLOAT_OPS = (
    *("ADD", "ADD_N", "SUB", "MUL", "DIV", "EXP", "LOG", "SQRT", "RSQRT", "MINIMUM", "MAXIMUM", "ABS", "NEG", "FLOOR"),
    *("RELU_N1_TO_1", "SOFTMAX", "LOGISTIC", "SUM", "REDUCE_MAX", "REDUCE_MIN", "MEAN", "SELECT", "SELECT_V2", "WHERE"),
    *(
        "GATHER",
        "GATHER_ND",
        "TOPK_V2",
        "CONCATENATION",
        "SPLIT",
        "SPLIT_V",
        "PACK",
        "UNPACK",
        "SLICE",
        "STRIDED_SLICE",
    ),
    *("GREATER", "LESS", "GREATER_EQUAL", "LESS_EQUAL", "EQUAL", "NOT_EQUAL", "SQUARED_DIFFERENCE", "BATCH_MATMUL", "PADV2"),
    *("MAX_POOL_2D",),  # of borders of minus infinity
)
"""What stays in float32 beside int8 convolutions: coordinates and scores are made of these, and 256 steps are too few."""


def convert(
    graph: PortableGraph, quantization: Quantization, representative: Sequence[Mapping[str, np.ndarray]] = ()
) -> bytes:
    """The model as a LiteRT file of built-in operations.

    Args:
        graph: with a fixed batch size.
        quantization: of what type weights are. "int8": and the convolutions and products of matrices compute in it; the
            inputs and outputs stay float32, and so does what makes boxes and scores of the heads' outputs.
        representative: inputs of the graph, a batch each, whose activations "int8" takes its ranges from.

    Raises:
        FormatError: if the graph has an operation that LiteRT lacks, or "int8" has no inputs.
    """
    if quantization == "int8" and not representative:
        raise FormatError("int8 needs representative images, of which its ranges are taken. There is none.")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.function.get_concrete_function()], graph.module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif quantization == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

        def examples() -> Iterator[dict[str, np.ndarray]]:
            yield from (dict(inputs) for inputs in representative)

        converter.representative_dataset = examples
    try:
        if quantization != "int8":
            return converter.convert()
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(_FLOAT_OPS))
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=examples, debug_options=options
        )
        return debugger.get_nondebug_quantized_model()
    except RuntimeError as error:
        raise FormatError(f"The model cannot be converted to LiteRT's built-in operations: {error}") from error


def load(path: str) -> tuple[Run, int | None]:
    """Loads a file; returns what runs it and the number of images it takes.

    Raises:
        FormatError: if the interpreter is missing, or it is no file that `convert` made.
        FileNotFoundError: if there is no file.
    """
    module = import_package("ai_edge_litert.interpreter", package="ai-edge-litert", extra="litert")
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(f"There is no file {path}.")
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        interpreter = module.Interpreter(model_content=content, num_threads=os.cpu_count())
        signatures = interpreter.get_signature_list()
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is no LiteRT model: {error}") from error
    names = next(iter(signatures.values()))["outputs"] if signatures else []
    if not set(OUTPUTS[:4]) <= set(names):
        raise FormatError(f"{path} is no exported detector: it gives {names}. Wanted: at least {list(OUTPUTS[:4])}.")
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    batch_size = int(next(iter(runner.get_input_details().values()))["shape"][0])

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return runner(**inputs)

    return run, batch_size
