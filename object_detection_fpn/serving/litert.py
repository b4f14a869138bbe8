"""LiteRT, formerly TensorFlow Lite: conversion to its built-in operations, and use by its interpreter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import numpy as np
import tensorflow as tf

from object_detection_fpn.serving.portable import (
    FormatError,
    PortableGraph,
    Run,
    check_outputs,
    import_package,
    read_model,
)

Quantization = Literal["float32", "float16", "int8"]


def convert(graph: PortableGraph, quantization: Quantization) -> bytes:
    """The model as a LiteRT file of built-in operations.

    Args:
        graph: with a fixed batch size; for "int8", made with `int8_inputs`.
        quantization: of what type weights are. "int8": those of backbone and pyramid, which compute in it; the rest, the
            inputs and the outputs stay float32.

    Raises:
        FormatError: if the graph has an operation that LiteRT lacks.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.function.get_concrete_function()], graph.module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        return converter.convert()
    except RuntimeError as error:
        raise FormatError(f"The model cannot be converted to LiteRT's built-in operations: {error}") from error


def load(path: str) -> tuple[Run, int | None]:
    """Loads a file; returns what runs it and the number of images it takes.

    Raises:
        FormatError: if the interpreter is missing, or it is no file that `convert` made.
        FileNotFoundError: if there is no file.
    """
    module = import_package("ai_edge_litert.interpreter", package="ai-edge-litert", extra="litert")
    content = read_model(path)
    try:
        interpreter = module.Interpreter(model_content=content, num_threads=os.cpu_count())
        signatures = interpreter.get_signature_list()
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is no LiteRT model: {error}") from error
    names = next(iter(signatures.values()))["outputs"] if signatures else []
    check_outputs(path, names)
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    batch_size = int(next(iter(runner.get_input_details().values()))["shape"][0])

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return runner(**inputs)

    return run, batch_size
