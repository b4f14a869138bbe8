"""Weights of ResNets that were trained to classify, for the backbone: of tf_keras.applications and of the Object Detection API.

A file of tf_keras.applications has convolutions with a bias and batch normalizations with an epsilon of its own. Here, as
in the Object Detection API, convolutions have none and epsilon is what the config says; what the file computed at inference

    gamma * (conv(x) + bias - mean) / sqrt(variance + epsilon) + beta

is written with our variables to the same function. Its network sees blue, green, red; for one that sees red, green, blue the
channels of the first kernel are exchanged. A classification checkpoint of the Object Detection API is taken as it is.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.config.tables import IMAGENET
from object_detection_fpn.interop.object_graph import ObjectGraph
from object_detection_fpn.interop.odapi import local_name
from object_detection_fpn.interop.resnets import network_layers
from object_detection_fpn.modeling.backbones.backbone import Backbone
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.training.stored import CheckpointError, StoredCheckpoint
from object_detection_fpn.training.weights import variables_by_path

FILE_SUFFIXES = (".h5", ".hdf5", ".keras")

_FILE_EPSILON = 1.001e-5  # of every batch normalization in tf_keras.applications' ResNets
_NUM_CONVOLUTIONS = {53: 50, 104: 101, 155: 152}  # with those of the shortcuts -> depth of a ResNet V1
_V1_NAMES = tuple(f"resnet{depth}_v1" for depth in _NUM_CONVOLUTIONS.values())
_ALLOWED = "Allowed: ResNet50, ResNet101 and ResNet152 of tf_keras.applications"
_NEW_H5_NAMES = {
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}

Values = dict[str, Any]
"""What a file holds of one layer: {"kernel": array, ...}, arrays being anything with a shape that `numpy.asarray` takes."""


class Network(NamedTuple):
    """What a file holds, each kind of layer in the order of the network."""

    convolutions: list[Values]
    norms: list[Values]
    others: list[Values]
    """Such as the classifier."""


def read_file(path: str) -> Network:
    """Reads `.h5`, `.weights.h5` or `.keras` files, with or without the classifier, of tf_keras and of Keras 3.

    Raises:
        CheckpointError: if the file is missing or unreadable.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = io.BytesIO(file.read())
        if path.endswith(".keras"):
            with zipfile.ZipFile(content) as archive:
                content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content) as weights:
            whole_model = weights.get("model_weights")
            return _sorted_by_kind(_layers_of_h5(weights if whole_model is None else whole_model))
    except (tf.errors.OpError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: these weights cannot be read ({error}). {_ALLOWED}.") from error


def read_checkpoint(stored: StoredCheckpoint, graph: ObjectGraph, root: int) -> Network:
    """Reads an object-based checkpoint; the layers are the attributes `layer_with_weights-N` of the object `root`."""
    children = graph.children(root)
    numbers = sorted(int(name.rpartition("-")[2]) for name in children if name.startswith("layer_with_weights-"))
    layers = []
    for number in numbers:
        attributes = graph.children(children[f"layer_with_weights-{number}"])
        keys = {name: graph.key(node) for name, node in attributes.items()}
        layers.append({name: stored.array(key) for name, key in keys.items() if key})
    return _sorted_by_kind(layers)


def download(backbone: Backbone) -> Network:
    """Takes the weights that tf_keras.applications has for ImageNet; at the first time it downloads them to its cache.

    Raises:
        CheckpointError: if they cannot be downloaded, or there are none for the backbone.
    """
    makers: dict[str, Callable[..., tf_keras.Model]] = {
        "resnet50_v1": tf_keras.applications.resnet.ResNet50,
        "resnet101_v1": tf_keras.applications.resnet.ResNet101,
        "resnet152_v1": tf_keras.applications.resnet.ResNet152,
    }
    if backbone.name not in makers:
        raise CheckpointError(f'"{IMAGENET}": there are no such weights for {backbone.name}. {_ALLOWED}.')
    try:
        network = makers[backbone.name](include_top=False, weights=IMAGENET)
    except Exception as error:  # Keras raises that very class for whatever a server answers
        raise CheckpointError(
            f'"{IMAGENET}": the weights cannot be downloaded ({error}). Download them elsewhere and name the file.'
        ) from error
    return _sorted_by_kind(
        [{local_name(variable): variable.numpy() for variable in layer.variables} for layer in network.layers]
    )


def weights_by_path(network: Network, model: Detector, source: str) -> dict[str, Any]:
    """Files a network's values under the paths of our variables, biases and epsilon absorbed.

    Args:
        network: what a file holds.
        model: what it is for, built.
        source: name of the file in errors.

    Returns:
        {path of our variable: array}; what our backbone has no variable for goes by a name of its own.

    Raises:
        CheckpointError: if the file holds another network than our backbone.
    """
    backbone = model.feature_extractor.backbone
    _check_same_network(network, backbone, source)
    our_paths = {id(variable): path for path, variable in variables_by_path(model).items()}
    result: dict[str, Any] = {}

    def file_under(layer: tf_keras.layers.Layer, values: Values) -> None:
        ours = {local_name(variable): our_paths[id(variable)] for variable in layer.variables}
        result.update({ours.get(name, f"{layer.name}/{name}"): value for name, value in values.items()})

    all_layers = network_layers(model)
    convolutions = [layer for layer in all_layers if layer.name.endswith("_conv")]
    norms = {layer.name: layer for layer in all_layers if layer.name.endswith("_bn")}
    values_of_norm = dict(zip(norms, network.norms, strict=False))  # a backbone that ends early has fewer layers
    for layer, values in zip(convolutions, network.convolutions, strict=False):
        is_of_keras = "bias" in values
        if is_of_keras and layer is convolutions[0] and not backbone.pixels.is_bgr and values["kernel"].shape[2] == 3:
            values = values | {"kernel": np.asarray(values["kernel"])[:, :, ::-1]}
        norm = norms[re.sub("conv$", "bn", layer.name)]
        norm_values = values_of_norm[norm.name]
        if not isinstance(norm, tf_keras.layers.BatchNormalization):
            result.update({f"{norm.name}/{name}": value for name, value in norm_values.items()})
        else:
            if is_of_keras:
                values, norm_values = _absorbed(values, norm_values, epsilon=norm.epsilon, has_scale=norm.scale)
            file_under(norm, norm_values)
        file_under(layer, values)
    rest = [*network.convolutions[len(convolutions) :], *network.norms[len(norms) :], *network.others]
    result.update({f"rest-{i}/{name}": value for i, values in enumerate(rest) for name, value in values.items()})
    return result


def _absorbed(values: Values, norm_values: Values, *, epsilon: float, has_scale: bool) -> tuple[Values, Values]:
    """A convolution without bias and a normalization with `epsilon` that compute what the file's did at inference."""
    kernel, bias, gamma, beta, mean, variance = (
        np.asarray(array, np.float64)
        for array in (
            values["kernel"],
            values["bias"],
            *(norm_values[name] for name in _NEW_H5_NAMES["batch_normalization"]),
        )
    )
    mean = mean - bias
    wanted = variance + _FILE_EPSILON - epsilon
    # No variance is below 0: where our epsilon alone is more than the file's sum, gamma makes up for it.
    gamma = np.where(wanted >= 0, gamma, gamma * np.sqrt(epsilon / (variance + _FILE_EPSILON)))
    if not has_scale:
        kernel, mean, gamma = kernel * gamma, mean * gamma, np.ones_like(gamma)
    norm = {"beta": beta, "moving_mean": mean, "moving_variance": np.maximum(wanted, 0)}
    return {"kernel": kernel}, norm | ({"gamma": gamma} if has_scale else {})


def check_strides(backbone: Backbone, source: str) -> None:
    """Refuses weights of a ResNet V1 for a backbone whose strides are elsewhere, which would compute other features.

    Raises:
        CheckpointError: if the stride of a stage is in a 3 x 3 convolution, as in V1.5.
    """
    if backbone.stride_in_3x3 and backbone.name in _V1_NAMES:
        raise CheckpointError(
            f"{source}: these weights are of a ResNet V1, whose stages have their stride in the first 1 x 1 convolution, but "
            "model.faster_rcnn.feature_extractor.resnet.stride_in_3x3 = true. Allowed: false, or weights of a ResNet V1.5."
        )


def _check_same_network(network: Network, backbone: Backbone, source: str) -> None:
    num_convolutions, num_norms = len(network.convolutions), len(network.norms)
    depth = _NUM_CONVOLUTIONS.get(num_convolutions) if num_convolutions == num_norms else None
    if depth is None:
        raise CheckpointError(
            f"{source}: no ResNet V1 ({num_convolutions} convolutions, {num_norms} batch normalizations). {_ALLOWED}."
        )
    if backbone.name != f"resnet{depth}_v1":
        raise CheckpointError(
            f"{source}: these are weights of a ResNet-{depth}, but the model's backbone is {backbone.name}. Allowed: "
            f'weights of that network, or a feature_extractor.type with "resnet{depth}".'
        )
    check_strides(backbone, source)


def _sorted_by_kind(layers: Iterable[Values]) -> Network:
    network = Network([], [], [])
    for values in layers:
        if "moving_mean" in values:
            network.norms.append(values)
        elif "kernel" in values and len(values["kernel"].shape) == 4:
            network.convolutions.append(values)
        elif values:
            network.others.append(values)
    return network


def _layers_of_h5(weights: h5py.Group) -> Iterator[Values]:
    if "layer_names" in weights.attrs:  # Keras 2: groups by the layers' names, arrays by the variables'
        for layer_name in weights.attrs["layer_names"]:
            group = weights[layer_name]
            names = [name.decode() if isinstance(name, bytes) else name for name in group.attrs["weight_names"]]
            yield {re.sub(r":\d+$", "", name).rpartition("/")[2]: group[name][()] for name in names}
        return
    # Keras 3, and Keras 2 for names with .weights.h5: groups by the layers' classes, conv2d, conv2d_1, ..., arrays by number.
    found = {}
    for name, group in weights["layers"].items():
        if match := re.fullmatch(r"(conv2d|batch_normalization|dense)(?:_(\d+))?", name):
            arrays = group["vars"]
            values = [arrays[key][()] for key in sorted(arrays, key=int)]
            found[match[1], int(match[2] or 0)] = dict(zip(_NEW_H5_NAMES[match[1]], values, strict=False))
    yield from (found[key] for key in sorted(found))
