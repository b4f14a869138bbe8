"""The format safetensors: the length of a header, the header in JSON, and the numbers of all tensors behind it."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000  # bytes, the format's own limit
_DTYPES = {
    "BOOL": "b1",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": "bf16",
}


class SafetensorsError(ValueError):
    """The file is damaged, or has numbers of a type that NumPy lacks."""


def is_safetensors(content: bytes) -> bool:
    """Whether a file begins as one of this format."""
    return content[_LENGTH.size : _LENGTH.size + 1] == b"{" and _LENGTH.unpack_from(content)[0] <= _MAX_HEADER


def load(content: bytes) -> dict[str, np.ndarray]:
    """Reads all tensors; those of bfloat16 become float32.

    Args:
        content: the whole file.

    Returns:
        {name: array}, read-only views of `content` where no number has to be converted.

    Raises:
        SafetensorsError: if the header is none, or a tensor reaches beyond the file or has another size than its shape.
    """
    length = _LENGTH.unpack_from(content)[0]
    start = _LENGTH.size + length
    try:
        header = json.loads(content[_LENGTH.size : start].decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"its header of {length} bytes is damaged ({error})") from error
    numbers = memoryview(content)[start:]
    return {name: _read(name, entry, numbers) for name, entry in header.items() if name != "__metadata__"}


def widen_bfloat16(raw: np.ndarray) -> np.ndarray:
    """Numbers of bfloat16, given as uint16 -> float32, of which they are the upper half."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


def _read(name: str, entry: Any, numbers: memoryview) -> np.ndarray:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            isinstance(side, int) and side >= 0 for side in shape
        ):
            pass
        case _:
            raise SafetensorsError(f'"{name}" has no dtype, shape and data_offsets')
    if code not in _DTYPES:
        raise SafetensorsError(f'"{name}" has numbers of the type {code}. Allowed: {", ".join(_DTYPES)}')
    dtype = np.dtype("<u2" if code == "BF16" else _DTYPES[code])
    size = math.prod(shape)
    if not 0 <= begin <= end <= len(numbers):
        raise SafetensorsError(
            f'"{name}" lies at bytes {begin} to {end} of the {len(numbers)} that there are: the file is not whole'
        )
    if end - begin != size * dtype.itemsize:
        raise SafetensorsError(f'"{name}" has the shape {shape} of {code}, but {end - begin} bytes')
    values = np.frombuffer(numbers[begin:end], dtype).reshape(shape)
    if code == "BF16":
        return widen_bfloat16(values)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'"{next(name for name in names if names.count(name) > 1)}" stands twice')
    return found
