"""Files of weights: those that are refused, those of a ResNet for ImageNet, and published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from object_detection_fpn.interop.library import Library
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import variables_by_path
from pytorch_reference.agreement import Agreement


def assert_refused(weights_by_path: Callable[..., Any], tensors: dict[str, np.ndarray], model: FasterRCNN) -> str:
    """The error with which a library's method refuses the tensors of "weights.pth": one line."""
    with pytest.raises(CheckpointError, match=r"^weights\.pth: ") as caught:
        weights_by_path(tensors, model, "weights.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def backbone_of(tensors: dict[str, np.ndarray], library: Library) -> dict[str, np.ndarray]:
    """The tensors that a ResNet for ImageNet of the library has in common with a detector, by the ResNet's names."""
    prefix = library.backbone_prefix
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_fills_backbone(agreement: Agreement, tensors: dict[str, np.ndarray]) -> None:
    """These tensors of a ResNet for ImageNet are filed as those of the detector are, and are all of the backbone."""
    ours = agreement.library.backbone_weights_by_path(tensors, agreement.model, "weights.pth")
    whole = agreement.library.weights_by_path(agreement.tensors, agreement.model, "weights.pth")
    assert ours.keys() == {path for path in variables_by_path(agreement.model) if "/backbone/" in path}
    assert all(np.array_equal(ours[path], whole[path]) for path in ours)


def num_parameters(library: Library, model: Any) -> int:
    """Those that a published file of this model has; frozen normalizations have none."""
    found = 0
    for entry in library.entries(model, "weights.pth"):
        is_norm = entry.layer.variables and not hasattr(entry.layer, "kernel")
        for variable in entry.layer.trainable_weights if is_norm else entry.layer.variables:
            found += np.prod(entry.shape_there(variable), dtype=int)
    return found


def assert_older_names_are_understood(
    library: Library, agreement: Agreement, older: dict[str, str], more: dict[str, np.ndarray] | None = None
) -> None:
    """A file with the names of older versions gives the same weights.

    Args:
        library: whose file it is.
        agreement: with the model and its tensors.
        older: {name of today: name of then}.
        more: tensors that only older files have.
    """
    tensors = {older.get(name, name): tensor for name, tensor in agreement.tensors.items()} | (more or {})
    assert not older.keys() & tensors.keys()
    ours, expected = (
        library.weights_by_path(each, agreement.model, "old.pth") for each in (tensors, agreement.tensors)
    )
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[path], expected[path]) for path in ours)
