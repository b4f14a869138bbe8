"""The objects that a checkpoint records."""

from __future__ import annotations

import pytest
import tensorflow as tf

from object_detection_fpn.interop.object_graph import ObjectGraph
from object_detection_fpn.training.stored import StoredCheckpoint

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def graph(tmp_path):
    """root.model.{first, second}, both with the same variable."""
    shared, own = tf.Variable(1.0), tf.Variable(2.0)
    model = tf.Module()
    model.first, model.second = tf.Module(), tf.Module()
    model.first.inner = tf.Module()
    model.first.inner.kernel = model.second.kernel = shared
    model.first.bias = own
    return ObjectGraph(StoredCheckpoint(tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))))


def test_a_path_leads_to_the_key_whatever_path_the_key_was_made_from(graph):
    for path in ("model/first/inner/kernel", "model/second/kernel"):
        assert graph.key(graph.follow(path)) == f"model/second/kernel{VALUE}"
    assert graph.key(graph.follow("model")) is None


def test_a_path_that_is_not_there_leads_nowhere(graph):
    assert graph.follow("model/third/kernel") is None
    assert graph.follow("") == 0


def test_objects_are_found_by_their_attributes_from_the_top(graph):
    assert graph.find("first", "second") == graph.follow("model")
    assert graph.find("kernel") == graph.follow("model/second")
    assert graph.find("first", "third") is None


def test_a_walk_comes_to_every_object_once_by_the_shortest_path(graph):
    paths = [path for _, path in graph.walk(graph.follow("model"))]
    assert sorted(paths) == ["", "first", "first/bias", "first/inner", "second", "second/kernel"]


def test_a_checkpoint_of_tensorflow_1_records_nothing(tmp_path):
    path = str(tmp_path / "model.ckpt")
    tf.raw_ops.SaveV2(prefix=path, tensor_names=["conv1/weights"], shape_and_slices=[""], tensors=[tf.zeros([3])])
    graph = ObjectGraph(StoredCheckpoint(path))
    assert not graph
    assert graph.find("conv1") is None
