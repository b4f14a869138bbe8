"""ONNX: conversion by tf2onnx, and use by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from object_detection_fpn.serving.portable import (
    FormatError,
    PortableGraph,
    Run,
    check_outputs,
    import_package,
    read_model,
)

OPSET = 17
"""Of the operators; onnxruntime has it since 1.13."""


def convert(graph: PortableGraph) -> bytes:
    """The model as an ONNX file.

    Raises:
        FormatError: if tf2onnx or onnx is missing, or the graph has an operation that ONNX lacks.
    """
    tf2onnx = import_package("tf2onnx", package="tf2onnx", extra="onnx")
    import_package("onnx", package="onnx", extra="onnx")
    signature = graph.function.input_signature
    model, _ = tf2onnx.convert.from_function(
        graph.function, input_signature=signature, opset=OPSET, custom_op_handlers={"SelectV2": (_select, [])}
    )
    unknown = sorted({node.op_type for node in _nodes(model.graph) if node.domain not in ("", "ai.onnx")})
    if unknown:
        raise FormatError(f"The model has operations that ONNX lacks: {', '.join(unknown)}.")
    return model.SerializeToString()


def _select(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Converts `tf.where` of three operands, which tf2onnx itself makes a sum of products: minus infinity times 0 is NaN."""
    node.type = "Where"


def _nodes(graph: Any) -> Any:
    """All nodes, with those inside of loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def load(path: str) -> tuple[Run, int | None]:
    """Loads a file; returns what runs it and the number of images it takes, None for any.

    Raises:
        FormatError: if onnxruntime is missing, or it is no file that `convert` made.
        FileNotFoundError: if there is no file.
    """
    runtime = import_package("onnxruntime", package="onnxruntime", extra="onnx")
    content = read_model(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: the optimizer warns of constants that it leaves
    try:
        session = runtime.InferenceSession(content, options, providers=runtime.get_available_providers())
    except Exception as error:  # the classes of its errors are not public
        raise FormatError(f"{path} is no ONNX model that onnxruntime can use: {error}") from error
    names = [output.name for output in session.get_outputs()]
    check_outputs(path, names)
    batch_size = session.get_inputs()[0].shape[0]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run, batch_size if isinstance(batch_size, int) else None
