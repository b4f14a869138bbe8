"""A library whose detectors are small models of ours: layouts as PyTorch's, names like our paths."""

from __future__ import annotations

import numpy as np

from object_detection_fpn.interop import libraries, state_dict
from object_detection_fpn.interop.torchvision import Torchvision
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import variables_by_path


def name_there(path: str) -> str:
    *layer, variable = path.split("/")
    return f"fake.{'.'.join(layer)}.{state_dict.THEIR_NAMES.get(variable, variable)}"


def tensors_of(model) -> dict[str, np.ndarray]:
    """The variables of a model as a file of the library has them."""
    return {
        name_there(path): variable.numpy().transpose([3, 2, 0, 1] if variable.shape.rank == 4 else None)
        for path, variable in variables_by_path(model).items()
    }


def filled(model, seed: int = 0) -> dict[str, np.ndarray]:
    """Values of its own for every tensor of a model; the model stays as it is."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.1, 1.0, array.shape).astype(np.float32) for name, array in tensors_of(model).items()}


def weights_by_path(tensors, model, source, part=""):
    expected = {
        path: tensor
        for path, tensor in zip(variables_by_path(model), tensors_of(model).values(), strict=True)
        if path.startswith(part)
    }
    names = {name_there(path): path for path in expected}
    for name in sorted(names.keys() ^ tensors.keys()):
        raise CheckpointError(f"{source}: {name} is {'missing' if name in names else 'left over'}.")
    result = {}
    for name, path in names.items():
        if tensors[name].shape != expected[path].shape:
            raise CheckpointError(f"{source}: {name} has another shape.")
        result[path] = tensors[name].transpose([2, 3, 1, 0] if tensors[name].ndim == 4 else None)
    return result


class FakeLibrary(Torchvision):
    """Has the place and the title of torchvision."""

    of_detectors = ("fake.box_head",)
    of_classifiers = ("fake.feature_extractor",)
    of_masks = ("fake.mask_head.",)

    def weights_by_path(self, tensors, model, source, *, needs_masks=True):
        if getattr(model, "mask_head", None) is None:  # a RetinaNet has no place for one
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(self.of_masks)}
        return weights_by_path(tensors, model, source)

    def backbone_weights_by_path(self, tensors, model, source):
        return weights_by_path(tensors, model, source, part="feature_extractor/backbone/")

    def entries(self, model, source, *, with_masks=True):
        head = model.box_head
        return [
            state_dict.Entry("fake.box_head.class_predictor", head.class_predictor),
            state_dict.Entry("fake.box_head.box_predictor", head.box_predictor),
        ]


def put(patch) -> None:
    """Puts it in the place of torchvision."""
    patch.setitem(libraries.LIBRARIES, "torchvision", FakeLibrary())
