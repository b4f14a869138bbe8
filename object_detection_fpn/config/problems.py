"""A mistake in a config: the field, the message, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import Message

from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.text import format_value, is_repeated, listed


class Problem(NamedTuple):
    """One reason to refuse a config: which field, what is wrong with it, what would be right."""

    field: str
    problem: str
    allowed: str = ""
    value: str | None = None


Rule: TypeAlias = Callable[[Any, str], Iterable[Problem]]
"""From a message and its path to what is wrong with it."""


def walk(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Every message that is present, with its path."""
    yield path, message
    for field, value in message.ListFields():
        if not field.message_type or field.is_extension or field.message_type.GetOptions().map_entry:
            continue
        place = join(path, field.name)
        for row, child in enumerate(value) if is_repeated(field) else [(None, value)]:
            yield from walk(child, place if row is None else f"{place}[{row}]")


def join(path: str, name: str) -> str:
    """The path of a field of the message at `path`."""
    return f"{path}.{name}" if path else name


def single(message: Message, path: str, name: str, problem: str, allowed: str = "") -> Problem:
    """A problem with a single value."""
    value = format_value(message.DESCRIPTOR.fields_by_name[name], getattr(message, name))
    return Problem(join(path, name), problem, allowed, value)


def unset(message: Message, path: str, name: str) -> Iterator[Problem]:
    """A problem if a field is not set, or a list empty."""
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if value if is_repeated(field) else message.HasField(name):
        return
    if name == "type":
        is_ssd = message.DESCRIPTOR.name == "SsdFeatureExtractor"
        allowed = listed(fields.SSD_EXTRACTOR_TYPES if is_ssd else fields.EXTRACTOR_TYPES)
    else:
        allowed = fields_of(value) if field.message_type else "at least one value"
    yield Problem(join(path, name), "is not set", allowed)


def fields_of(message: Message) -> str:
    """What may stand in a message."""
    return f"{{ ... }} with the fields {listed(message.DESCRIPTOR.fields_by_name)}"
