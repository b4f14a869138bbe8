"""Files of weights that PyTorch, safetensors and Detectron2 write, read without PyTorch.

| content, whatever the file's name | holds |
|---|---|
| a zip with `data.pkl`, and the numbers of each storage in `data/0`, `data/1`, ... | what torch.save writes |
| five pickles (magic number, version, machine, weights, keys of storages), then the storages | what it wrote before 1.6 |
| `safetensors.py` | tensors by name |
| a pickle of arrays | Detectron2's and Detectron's models |

Nothing that a file names is run: `pickles.py`.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.config import paths
from object_detection_fpn.interop import pickles, safetensors
from object_detection_fpn.interop.pickle_values import Array, ForbiddenNameError, PickleError, Tensor
from object_detection_fpn.training.stored import CheckpointError, some

FILE_SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older form
_ZIP = b"PK\x03\x04"
_STARTS_OF_PICKLES = (0x80, ord("("), ord("}"))  # the number of the protocol, or a dict
_SIZE = struct.Struct("<q")
_ALLOWED = "Allowed: weights that torch.save wrote (.pth, .pt), .safetensors, or a model of Detectron2 (.pkl)"
# Where the parts of a model stand in a checkpoint of training. Averaged weights go first: they are those that are evaluated.
_PARTS = ("model_ema", "model", "state_dict", "model_state_dict", "blobs")
_PARALLEL = "module."  # put before all names by nn.DataParallel
_COUNT_OF_AVERAGES = "n_averaged"  # what torch.optim.swa_utils keeps beside averaged weights
_MODEL_NAMES = ("torch.nn.", "torchvision.", "detectron2.", "__main__.", "__torch__.")


class StateDict(NamedTuple):
    """The weights of a file."""

    tensors: dict[str, np.ndarray]
    """By the names that their library gives them. float32, int or bool; read-only where no copy was needed."""
    part: str
    """The part of the file that they were taken from, such as "model"; "" = the file is nothing else."""
    author: str
    """Who made the file, where it says so, as Detectron2's do."""


def read_file(path: str) -> StateDict:
    """Reads the weights of a file, which may be a checkpoint of training with an optimizer and other things.

    Args:
        path: a local or remote file.

    Returns:
        Its weights; numbers that are not whole become float32.

    Raises:
        CheckpointError: if it is missing, damaged, of no known format, holds no weights, or asks for what weights do not need.
    """
    content = _read_bytes(path)
    try:
        value, as_array = _open(content)
        part, found = _select_model(value)
        tensors = {name: _as_float32(as_array(tensor)) for name, tensor in found.items()}
    except ForbiddenNameError as error:
        remedy = "Nothing of it was run."
        if error.name.startswith(_MODEL_NAMES):
            remedy = "It holds a program or whole model; save model.state_dict() with torch.save instead."
        raise CheckpointError(f"{path}: this file is refused: {error}. {remedy}") from error
    except (PickleError, safetensors.SafetensorsError, _FileError) as error:
        raise CheckpointError(f"{path}: these weights cannot be read: {error}. {_ALLOWED}.") from error
    author = value.get("__author__")
    return StateDict(tensors, part, author if isinstance(author, str) else "")


class _FileError(ValueError):
    """What is wrong with a file, as a sentence without its name."""


def _read_bytes(path: str) -> bytes:
    if reason := paths.unusable_input(path):
        raise CheckpointError(f"{path} {reason}.")
    if tf.io.gfile.isdir(path):
        raise CheckpointError(f"{path} is a folder, not a file of weights. {_ALLOWED}.")
    try:
        return tf.io.gfile.GFile(path, "rb").read()
    except (OSError, tf.errors.OpError) as error:
        raise CheckpointError(f"{path} {paths.explain(error, path) or f'cannot be read ({error})'}.") from error


AsArray = Callable[[Any], np.ndarray]
"""Gives the numbers of a tensor as it stands in the opened file."""


def _open(content: bytes) -> tuple[Any, AsArray]:
    """What a file holds, its tensors not read yet."""
    start = content[:1024].lstrip()
    if not content:
        raise _FileError("the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise _FileError("this is a pointer of Git LFS, not the file itself: fetch it with git lfs pull")
    if start.startswith(b"<"):
        raise _FileError("this is a web page (HTML or XML): download the file itself")
    if content.startswith(_ZIP):
        return _open_zip(content)
    if safetensors.is_safetensors(content):
        return safetensors.load(content), np.asarray
    if content[0] not in _STARTS_OF_PICKLES:
        raise _FileError("it has no format of weights")
    pickle = pickles.load(content)
    if pickle.value == _MAGIC:
        return _open_old_form(content, pickle.end)
    return pickle.value, lambda array: array.value()


def _open_zip(content: bytes) -> tuple[Any, AsArray]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, RuntimeError, ValueError, struct.error) as error:
        raise _FileError(f"the zip is damaged or not whole ({error}): download it again") from error
    all_names = archive.namelist()
    names = [name for name in all_names if name.split("/")[-1] == "data.pkl"]
    if len(names) != 1:
        raise _FileError(f"this is a zip of other things than weights: {some(all_names)}")
    folder = names[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in all_names):
        raise _FileError("this is a TorchScript program: save model.state_dict() with torch.save instead")

    def read(name: str) -> bytes:
        try:
            is_stored = archive.getinfo(name).compress_type == zipfile.ZIP_STORED
            content = archive.read(name) if is_stored else b""
        except (KeyError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
            raise _FileError(f"{name} in the zip is missing or damaged ({error}): download it again") from error
        if not is_stored:
            raise _FileError(f"{name} in the zip is compressed, which torch.save does not do")
        return content

    is_big = f"{folder}byteorder" in all_names and read(f"{folder}byteorder").strip() == b"big"

    @functools.cache
    def numbers_of(key: str, dtype: str, size: int) -> np.ndarray:
        raw = read(f"{folder}data/{key}")
        expected = size * _numpy_type(dtype).itemsize
        if len(raw) != expected:
            raise _FileError(f"{folder}data/{key} in the zip has {len(raw)} bytes instead of {expected}")
        return _decoded(raw, dtype, is_big=is_big)

    value = pickles.load(read(names[0]), has_storages=True).value
    return value, lambda tensor: _strided(tensor, numbers_of(*tensor.storage[:3]))


def _open_old_form(content: bytes, position: int) -> tuple[Any, AsArray]:
    """What follows the magic number. All numbers are little-endian, whatever machine wrote them."""
    position = pickles.load(content, position).end  # the version of the form
    position = pickles.load(content, position).end  # the machine
    pickle = pickles.load(content, position, has_storages=True)
    keys, position, _ = pickles.load(content, pickle.end)
    if not isinstance(keys, list) or set(keys) != pickle.storages.keys():
        raise _FileError("the list of its storages is not that of its tensors")
    raw: dict[str, memoryview] = {}
    for key in keys:
        start = position + _SIZE.size
        if start > len(content):
            raise _FileError("the file is not whole: download it again")
        (size,) = _SIZE.unpack_from(content, position)
        position = start + size * _numpy_type(pickle.storages[key].dtype).itemsize
        if not start <= position <= len(content):
            raise _FileError("the file is not whole: download it again")
        raw[key] = memoryview(content)[start:position]

    @functools.cache
    def numbers_of(key: str, dtype: str) -> np.ndarray:
        return _decoded(raw[key], dtype, is_big=False)

    def as_array(tensor: Tensor) -> np.ndarray:
        key, dtype, _, view = tensor.storage
        numbers = numbers_of(key, dtype)
        offset, size = view or (0, len(numbers))
        if not (isinstance(offset, int) and isinstance(size, int) and 0 <= offset <= offset + size <= len(numbers)):
            raise _FileError(f"a part of storage {key} reaches beyond it")
        return _strided(tensor, numbers[offset : offset + size])

    return pickle.value, as_array


def _numpy_type(dtype: str) -> np.dtype:
    return np.dtype("u2" if dtype == "bf16" else dtype)


def _decoded(raw: bytes | memoryview, dtype: str, *, is_big: bool) -> np.ndarray:
    """The numbers of a storage in the byte order of this machine, float32 if they are not whole."""
    stored = _numpy_type(dtype).newbyteorder(">" if is_big else "<")
    numbers = np.frombuffer(raw, stored).astype(stored.newbyteorder("="), copy=False)
    return safetensors.widen_bfloat16(numbers) if dtype == "bf16" else _as_float32(numbers)


def _strided(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """A tensor's numbers among those of its storage."""
    _, offset, shape, strides = tensor
    size = math.prod(shape)
    last = (
        offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if size else offset - 1
    )
    if last >= len(numbers):
        raise _FileError(f"a tensor of shape {list(shape)} reaches beyond its storage of {len(numbers)} numbers")
    return np.lib.stride_tricks.as_strided(
        numbers[offset:], shape, [stride * numbers.itemsize for stride in strides], writeable=False
    )


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | Array | np.ndarray)


def _select_model(value: Any) -> tuple[str, dict[str, Any]]:
    """The tensors of the model by name, and the part of the file they stand in."""
    if not isinstance(value, dict):
        raise _FileError("it holds no dict of tensors by name")
    part = next((name for name in _PARTS if isinstance(value.get(name), dict)), "")
    model = dict(value[part] if part else value)
    model.pop(_COUNT_OF_AVERAGES, None)
    if part == "blobs":  # Detectron's checkpoints of training
        model = {name: tensor for name, tensor in model.items() if not str(name).endswith("_momentum")}
    others = [str(name) for name, tensor in model.items() if not isinstance(name, str) or not _is_tensor(tensor)]
    place = f' in its part "{part}"' if part else ""
    if not model:
        raise _FileError(f"it holds no tensors{place}")
    if others:
        raise _FileError(f"it holds other things than tensors{place}: {some(others)}")
    if all(name.startswith(_PARALLEL) for name in model):
        model = {name.removeprefix(_PARALLEL): tensor for name, tensor in model.items()}
    return part, model
