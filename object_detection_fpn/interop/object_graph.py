"""The objects that a checkpoint was saved from, and where its tensors belong among them.

A checkpoint files a variable under the shortest path that led to it. In a SavedModel of Keras layers that is an entry of a
list, `_model/variables/17`; the names one knows are paths among the recorded objects.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator

from tensorflow.core.protobuf import trackable_object_graph_pb2

from object_detection_fpn.training.stored import StoredCheckpoint

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
_ROOT = 0
# What Keras adds to the objects of a SavedModel: lists of what has a better name elsewhere.
_KERAS_LISTS = frozenset(
    {"keras_api", "variables", "trainable_variables", "non_trainable_variables", "regularization_losses", "layers"}
)


class ObjectGraph:
    """Objects are numbers, 0 the one that was saved. Empty for a checkpoint of TensorFlow 1, which records none."""

    def __init__(self, stored: StoredCheckpoint):
        message = trackable_object_graph_pb2.TrackableObjectGraph()
        if _GRAPH_KEY in stored.shapes:
            message.ParseFromString(stored.read(_GRAPH_KEY))
        self._children = [{child.local_name: child.node_id for child in node.children} for node in message.nodes]
        self._keys = [
            next((attribute.checkpoint_key for attribute in node.attributes if attribute.name == _VALUE), None)
            for node in message.nodes
        ]

    def __bool__(self) -> bool:
        return bool(self._children)

    def children(self, node: int = _ROOT) -> dict[str, int]:
        """{name of an attribute: object}."""
        return self._children[node]

    def key(self, node: int) -> str | None:
        """The key of the tensor, if the object is a variable."""
        return self._keys[node]

    def follow(self, path: str, start: int = _ROOT) -> int | None:
        """The object at a path of attributes, "a/b/c"; None if there is none."""
        node: int | None = start
        for name in path.split("/") if path else ():
            node = self._children[node].get(name) if node is not None else None
        return node

    def find(self, *names: str) -> int | None:
        """The first object, from the top, that has attributes of all these names."""
        return next((node for node, _ in self.walk() if self._children[node].keys() >= set(names)), None)

    def walk(self, start: int = _ROOT) -> Iterator[tuple[int, str]]:
        """Every object below, once, with the shortest path that leads to it, breadth-first."""
        seen, to_visit = {start}, collections.deque([(start, "")])
        while to_visit and self:
            node, path = to_visit.popleft()
            yield node, path
            for name, child in self._children[node].items():
                if child not in seen and name not in _KERAS_LISTS:
                    seen.add(child)
                    to_visit.append((child, f"{path}/{name}" if path else name))
