"""What pickles of weights are made of: tensors, arrays, and the few functions that make them, all without effects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

_KEY_TYPES = (str, bytes, int, float, type(None))  # of dicts; hashing tuples in tuples in tuples would end the process
_MAX_DIMENSIONS = 32  # of an array of NumPy 1
_MAX_SIZE = 1 << 40  # numbers of a tensor, far beyond any memory


class PickleError(ValueError):
    """A pickle is damaged, or asks for what weights do not need."""


class ForbiddenNameError(PickleError):
    """A pickle asks for a name that weights do not need.

    Attributes:
        name: with its module.
    """

    def __init__(self, name: str):
        super().__init__(f"it asks for {name}, which weights do not need")
        self.name = name


class Storage(NamedTuple):
    """Numbers that tensors share; they stand outside of the pickle."""

    key: str
    dtype: str
    """A value of `STORAGE_TYPES`."""
    size: int
    """Numbers in it."""
    view: tuple[int, int] | None = None
    """Offset and size within the storage `key`, if it is only a part of that; the oldest files have such."""


class Tensor(NamedTuple):
    """A tensor of PyTorch; offset and strides count numbers of the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Array:
    """An array of NumPy. The pickle states its content after the array itself."""

    def __init__(self) -> None:
        self._raw, self._dtype = b"", Dtype("u1")
        self._shape: tuple[int, ...] = (0,)
        self._order: Literal["C", "F"] = "C"

    @classmethod
    def of(cls, raw: Any, dtype: Any, shape: Any, *, is_fortran: bool = False) -> Array:
        """An array by its bytes, which are text in pickles of Python 2.

        Raises:
            PickleError: if bytes and shape do not agree, or it holds no numbers.
        """
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes) or not isinstance(dtype, Dtype):
            raise PickleError("an array holds objects instead of numbers")
        check_shape(shape)
        if math.prod(shape) * dtype.value().itemsize != len(raw):
            raise PickleError(f"an array of shape {list(shape)} has {len(raw)} bytes of {dtype.value()}")
        array = cls()
        # The type's byte order may be stated later.
        array._raw, array._dtype, array._shape, array._order = raw, dtype, tuple(shape), "F" if is_fortran else "C"
        return array

    def set_state(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state  # the first is the version
        vars(self).update(vars(Array.of(raw, dtype, shape, is_fortran=is_fortran is True)))

    def value(self) -> np.ndarray:
        """The array, in the byte order of this machine; read-only where it needs no copy."""
        array = np.frombuffer(self._raw, self._dtype.value())
        return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(self._shape, order=self._order)


class Inert:
    """Something of a training run that is no weight; nothing of it is kept."""


class Dtype:
    """The type of an array's numbers; its byte order is stated after it."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or code.lstrip("<>=|") not in _NUMPY_TYPES:
            raise PickleError(
                f"an array holds {code[:8] if isinstance(code, str) else 'objects'}, which are no numbers"
            )
        self._code, self._order = code.lstrip("<>=|"), code[0] if code[0] in "<>" else "<"

    def set_state(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self._order = state[1]

    def value(self) -> np.dtype:
        return np.dtype(self._order + self._code)


class Global(NamedTuple):
    """A name that the pickle takes from a module."""

    name: str


_NUMPY_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
STORAGE_TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
"""The types of torch's storages, and of their numbers: NumPy's codes, and "bf16"."""


def check_shape(shape: Any) -> None:
    """Refuses what is no shape, or one that NumPy cannot have."""
    if len(shape) > _MAX_DIMENSIONS or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise PickleError("it has a tensor whose shape is none")
    if math.prod(shape) > _MAX_SIZE:
        raise PickleError(f"it has a tensor of {math.prod(shape)} numbers")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise PickleError("a tensor is stated by something else than a storage and numbers")
    check_shape(shape)
    if len(shape) != len(strides):
        raise PickleError(f"a tensor of shape {list(shape)} has {len(strides)} strides")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _reconstruct(_: Any, __: Any, ___: Any) -> Array:
    return Array()


def _scalar(dtype: Any, raw: Any) -> Array:
    return Array.of(raw, dtype, ())


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array.of(raw, dtype, shape, is_fortran=order == "F")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise PickleError("it writes bytes in another encoding than latin1")
    return text.encode("latin1")


def make_dict(pairs: Any = ()) -> dict[Any, Any]:
    """A dict; keys are texts, numbers or None."""
    if not all(isinstance(key, _KEY_TYPES) for key, _ in pairs):
        raise PickleError("it has a dict whose keys are neither texts nor numbers")
    return dict(pairs)


def _inert(*_: Any) -> Inert:
    return Inert()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": make_dict,
    "collections.Counter": _inert,  # the milestones of a schedule
    "argparse.Namespace": _inert,  # the flags of a training script, torchvision's too
    "torch.device": _inert,
    "torch.Size": lambda sides=(): tuple(sides),
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "_codecs.encode": _encode,  # how protocol 2 writes bytes
    "__builtin__.bytes": lambda: b"",
    "numpy.dtype": Dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
"""What a pickle may call. NumPy's names changed with version 2."""
NAMES = {*FUNCTIONS, "numpy.ndarray", *(f"torch.{name}" for name in STORAGE_TYPES)}
"""What a pickle may ask for."""
