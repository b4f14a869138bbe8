"""Files as torch.save writes them, put together byte by byte: no PyTorch is needed to test what reads them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "bf16": "BFloat16Storage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Raw(bytes):
    """Part of a pickle that is written as it is."""


class Tensor(NamedTuple):
    """A tensor; several with one `numbers` object share a storage."""

    numbers: np.ndarray
    """The storage, [n]; uint16 for bfloat16."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    dtype: str = "f4"
    view: tuple[str, int, int] | None = None
    is_parameter: bool = False


def tensor(array: Any, **fields: Any) -> Tensor:
    """A contiguous tensor with a storage of its own."""
    array = np.asarray(array)
    dtype = fields.pop("dtype", f"{array.dtype.kind}{array.dtype.itemsize}")
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    return Tensor(array.reshape(-1), array.shape, tuple(strides), dtype=dtype, **fields)


def state_dict(**arrays: Any) -> dict[str, Tensor]:
    return {name: tensor(array) for name, array in arrays.items()}


def name_of(module: str, name: str) -> Raw:
    return Raw(f"c{module}\n{name}\n".encode())


def call(module: str, name: str, *arguments: Any) -> Raw:
    return Raw(name_of(module, name) + _Writer().write(tuple(arguments)) + b"R")


class _Writer:
    """Writes protocol 2, and collects the storages."""

    def __init__(self) -> None:
        self.storages: dict[str, Tensor] = {}
        self._keys: dict[int, str] = {}

    def write(self, value: Any) -> bytes:
        match value:
            case Raw():
                return value
            case Tensor():
                return self._tensor(value)
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case tuple():
                return b"(" + b"".join(map(self.write, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self.write, value)) + b"e"
            case dict():
                items = b"".join(self.write(key) + self.write(item) for key, item in value.items())
                return b"ccollections\nOrderedDict\n)R(" + items + b"u"
        raise TypeError(type(value))

    def _tensor(self, value: Tensor) -> bytes:
        key = self._keys.setdefault(id(value.numbers), str(len(self._keys)))
        self.storages[key] = value
        place = ["storage", name_of("torch", STORAGES[value.dtype]), key, "cpu", len(value.numbers)]
        if value.view is not None:
            place.append(value.view)
        storage = Raw(self.write(tuple(place)) + b"Q")
        arguments = (storage, value.offset, value.shape, value.strides, False, {})
        written = name_of("torch._utils", "_rebuild_tensor_v2") + self.write(arguments) + b"R"
        if value.is_parameter:
            written = name_of("torch._utils", "_rebuild_parameter") + self.write((Raw(written), True, {})) + b"R"
        return written


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + _Writer().write(value) + b"."


def zip_bytes(value: Any, *, name: str = "archive", order: str | None = "little", compression: int = 0) -> bytes:
    """What torch.save writes today."""
    writer = _Writer()
    pickle = b"\x80\x02" + writer.write(value) + b"."
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr(f"{name}/data.pkl", pickle)
        if order is not None:
            archive.writestr(f"{name}/byteorder", order)
        for key, stored in writer.storages.items():
            numbers = stored.numbers.astype(stored.numbers.dtype.newbyteorder(">" if order == "big" else "<"))
            archive.writestr(f"{name}/data/{key}", numbers.tobytes())
        archive.writestr(f"{name}/version", "3\n")
    return content.getvalue()


def old_bytes(value: Any) -> bytes:
    """What torch.save wrote before version 1.6."""
    writer = _Writer()
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    weights = b"\x80\x02" + writer.write(value) + b"."
    parts = [pickled(MAGIC), pickled(1001), pickled(machine), weights, pickled(list(writer.storages))]
    for stored in writer.storages.values():
        numbers = stored.numbers.astype(stored.numbers.dtype.newbyteorder("<"))
        parts += [struct.pack("<q", len(numbers)), numbers.tobytes()]
    return b"".join(parts)


def safetensors_bytes(entries: dict[str, tuple[str, list[int], bytes]], metadata: dict | None = None) -> bytes:
    """{name: (type, shape, bytes)} -> a file of safetensors."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    numbers = b""
    for name, (dtype, shape, raw) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(numbers), len(numbers) + len(raw)]}
        numbers += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers
