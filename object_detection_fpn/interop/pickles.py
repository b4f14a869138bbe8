"""Pickles of weights, read by a machine that runs nothing that a file names.

Python's own reader imports what a pickle names and calls it. This one knows the few functions that weights need, by name, and
has its own harmless versions of them; every other name and every other operation is refused, with its name. Containers become
dicts, lists and tuples; tensors and arrays become the records of `pickle_values.py`, whose numbers the caller reads.
"""

from __future__ import annotations

import ast
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from object_detection_fpn.interop.pickle_values import (
    FUNCTIONS,
    NAMES,
    STORAGE_TYPES,
    Array,
    Dtype,
    ForbiddenNameError,
    Global,
    Inert,
    PickleError,
    Storage,
    make_dict,
)

_MAX_LINE = 1 << 30  # of the texts of the oldest protocol, which hold arrays in Python's notation for strings
_MAX_NAME = 100  # characters of a name in an error
_LITERAL = re.compile(rb"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def _unquoted(line: bytes) -> str:
    if not _LITERAL.fullmatch(line):
        raise PickleError("it has a text without quotes")
    return ast.literal_eval("b" + line.decode("ascii")).decode("latin1")


# Operations by their code. Those that push a constant; a fixed number; and bytes or text after their length.
_CONSTANTS: dict[bytes, Callable[[], Any]] = {
    b"N": lambda: None,
    b"\x88": lambda: True,
    b"\x89": lambda: False,
    b"}": dict,
    b"]": list,
    b")": tuple,
}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_SIZED: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    b"U": ("<B", lambda raw: raw.decode("latin1")),  # texts of Python 2, which also hold the numbers of arrays
    b"T": ("<i", lambda raw: raw.decode("latin1")),
    b"\x8c": ("<B", lambda raw: raw.decode("utf-8", "surrogatepass")),
    b"X": ("<I", lambda raw: raw.decode("utf-8", "surrogatepass")),
    b"\x8d": ("<Q", lambda raw: raw.decode("utf-8", "surrogatepass")),
    b"C": ("<B", bytes),
    b"B": ("<I", bytes),
    b"\x8e": ("<Q", bytes),
    b"\x96": ("<Q", bytes),
    b"\x8a": ("<B", lambda raw: int.from_bytes(raw, "little", signed=True)),
}
_LINES: dict[bytes, Callable[[bytes], Any]] = {  # of protocol 0: text up to the end of the line
    b"I": lambda line: line == b"01" if line in (b"00", b"01") else int(line),
    b"L": lambda line: int(line.rstrip(b"L")),
    b"F": float,
    b"S": _unquoted,
    b"V": lambda line: line.decode("raw-unicode-escape"),
}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_GET, _PUT = {b"h": "<B", b"j": "<I"}, {b"q": "<B", b"r": "<I"}


class Loaded(NamedTuple):
    """One pickle."""

    value: Any
    """What it holds."""
    end: int
    """Where it ends in the data."""
    storages: dict[str, Storage]
    """Those that it speaks of, by key."""


def load(data: bytes, start: int = 0, *, has_storages: bool = False) -> Loaded:
    """Reads one pickle.

    Args:
        data: what holds it.
        start: where it begins.
        has_storages: whether it may speak of storages, as those of PyTorch do.

    Raises:
        ForbiddenNameError: if it asks for a function or class that weights do not need.
        PickleError: if it is damaged or asks for anything that weights do not need.
    """
    machine = _Machine(data, start, has_storages)
    try:
        return Loaded(machine.run(), machine.position, machine.storages)
    except PickleError:
        raise
    except (ArithmeticError, LookupError, SyntaxError, TypeError, ValueError, struct.error) as error:
        raise PickleError(f"it is damaged at byte {machine.position} ({error})") from error


class _Machine:
    """A stack, marks on it, and a memory of values by number: what Python's pickles are programs for."""

    def __init__(self, data: bytes, start: int, has_storages: bool):
        self.position = start
        self.storages: dict[str, Storage] = {}
        self._data, self._has_storages = data, has_storages
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lies under each mark
        self._memory: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self._take(1)) != b".":
            self._do(code)
        if len(self._stack) != 1 or self._below:
            raise PickleError("it leaves more or less than one value")
        return self._stack[0]

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self._data):
            raise PickleError("it ends too early")
        taken, self.position = self._data[self.position : end], end
        return taken

    def _take_number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take_line(self) -> bytes:
        end = self._data.find(b"\n", self.position, self.position + _MAX_LINE)
        line = self._take(max(end, self.position) + 1 - self.position)
        if end < 0:
            raise PickleError("it ends too early")
        return line[:-1]

    def _pop_marked(self) -> list[Any]:
        marked, self._stack = self._stack, self._below.pop()
        return marked

    def _do(self, code: bytes) -> None:
        stack = self._stack
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code]())
        elif code in _NUMBERS:
            stack.append(self._take_number(_NUMBERS[code]))
        elif code in _SIZED:
            form, decode = _SIZED[code]
            stack.append(decode(self._take(self._take_number(form))))
        elif code in _LINES:
            stack.append(_LINES[code](self._take_line()))
        elif code in _TUPLES:
            size = _TUPLES[code]
            if len(stack) < size:
                raise PickleError("it takes more values than it has")
            stack[-size:] = [tuple(stack[-size:])]
        elif code in _GET or code == b"g":
            stack.append(self._memory[int(self._take_line()) if code == b"g" else self._take_number(_GET[code])])
        elif code in _PUT or code == b"p":
            self._memory[int(self._take_line()) if code == b"p" else self._take_number(_PUT[code])] = stack[-1]
        elif code in _ACTIONS:
            _ACTIONS[code](self)
        else:
            known = {opcode.code.encode("latin1"): opcode.name for opcode in pickletools.opcodes}
            place = f"at byte {self.position - 1}"
            if code not in known:
                raise PickleError(f"it is damaged {place} (no operation has the code {code[0]})")
            raise PickleError(f"it asks for the operation {known[code]} ({place}), which weights do not need")

    def _collect(self, kind: Callable[[list[Any]], Any]) -> None:
        marked = self._pop_marked()
        self._stack.append(kind(marked))

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise PickleError("it appends to something else than a list")
        self._stack[-1].extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise PickleError("it sets an entry of something else than a dict")
        target.update(make_dict(list(zip(values[::2], values[1::2], strict=True))))

    def _find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it asks for something without a name")
        full = f"{module}.{name}"
        if full not in NAMES:
            raise ForbiddenNameError(full[:_MAX_NAME])
        self._stack.append(Global(full))

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple) or function.name not in FUNCTIONS:
            raise PickleError("it calls something that is no function")
        self._stack.append(FUNCTIONS[function.name](*arguments))

    def _set_state(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Array | Dtype):
            target.set_state(state)
        elif not isinstance(target, dict | Inert):  # of a state dict, these are notes for PyTorch
            raise PickleError("it gives a state to something that has none")

    def _find_storage(self) -> None:
        match self._stack.pop():
            case ("storage", Global(name), str(key), _, int(size), *rest) if self._has_storages and size >= 0:
                dtype = STORAGE_TYPES.get(name.removeprefix("torch."))
                if dtype is None:
                    raise PickleError(f"it has a storage of the type {name}")
                view = (rest[0][1], rest[0][2]) if rest and rest[0] else None
                storage = Storage(key, dtype, size, view)
                if self.storages.setdefault(key, storage).dtype != dtype:
                    raise PickleError(f"storage {key} has two types of numbers")
                self._stack.append(storage)
            case _:
                raise PickleError("it refers to something outside that is no storage of numbers")


def _mark(machine: _Machine) -> None:
    machine._below.append(machine._stack)
    machine._stack = []


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda machine: machine._take(1),  # the protocol's number
    b"\x95": lambda machine: machine._take(8),  # the size of a frame
    b"(": _mark,
    b"t": lambda machine: machine._collect(tuple),
    b"l": lambda machine: machine._collect(list),
    b"d": lambda machine: machine._collect(lambda values: make_dict(list(zip(values[::2], values[1::2], strict=True)))),
    b"a": lambda machine: machine._append([machine._stack.pop()]),
    b"e": lambda machine: machine._append(machine._pop_marked()),
    b"s": lambda machine: machine._set([machine._stack.pop(-2), machine._stack.pop()]),
    b"u": lambda machine: machine._set(machine._pop_marked()),
    b"\x94": lambda machine: machine._memory.__setitem__(len(machine._memory), machine._stack[-1]),
    b"c": lambda machine: machine._find(machine._take_line().decode(), machine._take_line().decode()),
    b"\x93": lambda machine: machine._find(machine._stack.pop(-2), machine._stack.pop()),
    b"R": lambda machine: machine._call(),
    b"\x81": lambda machine: machine._call(),  # cls.__new__(cls, *arguments)
    b"b": lambda machine: machine._set_state(),
    b"Q": lambda machine: machine._find_storage(),
}
