"""The arithmetic of a traced function: multiplications and additions of its convolutions and matrix products.

All the rest of a detector is less than a hundredth of these. Convolutions count as direct sums, padding included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

Shape = Sequence[int]

_LOOPS = ("While", "StatelessWhile")
_WINOGRAD = "_winograd_"  # in the names of the functions of `ops.winograd`
_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def count_flops(graph: tf.Graph, *, rows: int = 1, loop_turns: int = 1) -> int:
    """Counts the floating-point operations of one run of a graph.

    Args:
        graph: of a concrete function. A function that it calls counts as often as it is called.
        rows: how many rows a first dimension has that the graph does not know.
        loop_turns: how often the body of a loop within a loop runs. (The outermost loop of a train step is that over steps,
            and runs once.)
    """
    definition = graph.as_graph_def(add_shapes=True)
    functions = {function.signature.name: function for function in definition.library.function}
    return _Counter(functions, rows=rows, loop_turns=loop_turns).count(definition.node, {}, depth=0)


class _Counter:
    def __init__(self, functions: Mapping[str, Any], *, rows: int, loop_turns: int):
        self._functions = functions
        self._rows = rows
        self._loop_turns = loop_turns
        self._known: dict[tuple[str, int], int] = {}

    def count(self, nodes: Sequence[Any], arguments: Mapping[str, Shape], *, depth: int) -> int:
        """Of the nodes (NodeDef) of a graph or function, in `depth` loops; `arguments` are the shapes of the function's."""
        shapes: dict[str, list[Shape]] = {name: [shape] for name, shape in arguments.items()}
        for node in nodes:
            shapes[node.name] = [self._shape(shape) for shape in node.attr["_output_shapes"].list.shape]
        return sum(self._of_node(node, shapes, depth) for node in nodes)

    def _of_node(self, node: Any, shapes: Mapping[str, list[Shape]], depth: int) -> int:
        def given(row: int) -> Shape:
            name, *place = node.input[row].lstrip("^").split(":")
            of_node = shapes.get(name, [()])
            number = int(place[-1]) if place else 0
            return of_node[number] if number < len(of_node) else ()

        if node.op in ("Conv2D", "DepthwiseConv2dNative"):
            weights = given(1)
            sums = weights[:2] if node.op != "Conv2D" else weights[:-1]
            return 2 * math.prod(shapes[node.name][0]) * math.prod(sums)
        if node.op == "Conv2DBackpropInput":  # filter, gradient
            return 2 * math.prod(given(2)) * math.prod(given(1)[:-1])
        if node.op == "Conv2DBackpropFilter":
            return 2 * math.prod(given(2)) * math.prod(shapes[node.name][0][:-1])
        if node.op in _PRODUCTS:
            is_transposed = node.attr["transpose_a"].b or node.attr["adj_x"].b
            return 2 * math.prod(shapes[node.name][0]) * given(0)[-2 if is_transposed else -1]
        if node.op in _LOOPS:
            turns = self._loop_turns if depth else 1
            return turns * self._of_function(node.attr["body"].func.name, depth + 1)
        if node.op in ("If", "StatelessIf"):
            return max(
                self._of_function(node.attr[branch].func.name, depth) for branch in ("then_branch", "else_branch")
            )
        called = node.attr["f"].func.name if "f" in node.attr else ""
        if _WINOGRAD in called:  # a convolution, or one of its gradients, in place of a direct sum
            images, other = given(0), given(1)
            is_of_kernel = "gradient_of_kernel" in called  # which takes the gradient of the results, not the kernel
            num_weights = 9 * images[-1] * other[-1] if is_of_kernel else math.prod(other)
            return 2 * math.prod(images[:-1]) * num_weights
        return self._of_function(called, depth) if called else 0

    def _of_function(self, name: str, depth: int) -> int:
        key = (name, depth)
        if key not in self._known:
            function = self._functions[name]
            given = function.attr["_input_shapes"].list.shape
            arguments = {
                argument.name: self._shape(shape)
                for argument, shape in zip(function.signature.input_arg, given, strict=False)
            }
            self._known[key] = self.count(function.node_def, arguments, depth=depth)
        return self._known[key]

    def _shape(self, shape: Any) -> Shape:
        return [self._rows if dim.size < 0 else dim.size for dim in shape.dim]
