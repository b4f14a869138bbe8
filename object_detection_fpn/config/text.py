"""Messages in protobuf text format: read, changed field by field, written; with errors that say where and what instead.

The only place that knows how the text format reports mistakes. Which values make sense is `config.checks`' matter.
"""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from object_detection_fpn.config import paths
from object_detection_fpn.config.tables import LEFT_OUT

_Message = TypeVar("_Message", bound=Message)
Field: TypeAlias = Any  # a FieldDescriptor; each of the runtimes of protobuf has a class of its own
_NUM_EXAMPLES = 5
_WINDOWS_PATH = re.compile(r"""(["'])([A-Za-z]:[^"'\n]*\\[^"'\n]*)""")  # a quoted string that begins with a drive
_ESCAPE = re.compile(r"\\([abfnrtvxuU0-7?])")  # what the text format would change; other backslashes stay
_PROTO_PACKAGE = "object_detection_fpn.protos."


class ConfigError(ValueError):
    """A mistake in a config or label map, said so that its author can mend it unaided.

    Attributes:
        source: the file (or override) it stands in.
        line: its line, where the text itself is wrong; otherwise None.
        field: path of the field, such as "model.faster_rcnn.num_classes"; empty where the text itself is wrong.
        value: the value of the field as the text format writes it; None where it has none.
        problem: what is wrong with it.
        allowed: what would be right; empty where `problem` says it.
        others: further mistakes in the same file.
    """

    def __init__(
        self,
        source: str,
        problem: str,
        *,
        line: int | None = None,
        field: str = "",
        value: str | None = None,
        allowed: str = "",
    ):
        self.source, self.line, self.field, self.value = source, line, field, value
        self.problem, self.allowed = problem, allowed
        self.others: tuple[ConfigError, ...] = ()
        super().__init__(problem)

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        subject = f"{self.field} = {self.value}" if self.value is not None else self.field
        text = f"{place}: {f'{subject} {self.problem}'.strip()}."
        if self.allowed:
            text += f" Allowed: {self.allowed}."
        return "\n".join([text, *map(str, self.others)])

    @staticmethod
    def joined(errors: Sequence[ConfigError]) -> ConfigError:
        """The first error, with the rest as its `others`."""
        first, *rest = errors
        first.others = tuple(rest)
        return first


def read_text(path: str) -> str:
    """The text of a file, local or remote.

    Raises:
        ConfigError: if there is no such file or it is not text.
    """
    if not path.strip():
        raise ConfigError(f'"{path}"', "is no path of a file")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    except (OSError, tf.errors.OpError) as error:
        reason = paths.explain(error, path) or f"cannot be read ({error})"
        raise ConfigError(path, "there is no such file" if reason == paths.MISSING else reason) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(path, "is text in UTF-16. Save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")  # editors on Windows put a byte order mark in front
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what = "is a binary file, not text" if b"\0" in content else "is not UTF-8: save it as UTF-8"
        raise ConfigError(path, what, line=None if b"\0" in content else line) from error
    if "\0" in text:
        raise ConfigError(path, "is a binary file, not text")
    return text


def parse_text(text: str, message_type: type[_Message], source: str) -> _Message:
    """Reads a message in text format.

    Raises:
        ConfigError: with file and line, if it is not one; for an unknown field with the nearest known name, for one
            that only the Object Detection API has with what to do instead, for an unknown enum value
            with all values.
    """
    _refuse_windows_path(text, source)
    message = message_type()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        problem, allowed = _explain(error, text, message_type.DESCRIPTOR)
        raise ConfigError(source, problem, line=error.GetLine(), allowed=allowed) from error
    return message


def apply_override(message: Message, override: str) -> None:
    """Changes one field in place, as `--config_override` says it.

    `path=value` replaces, `path+=value` appends to a repeated field or map. The path names fields from `message` on,
    with the row of a repeated field as `.0` or `[0]`; the row after the last one appends. The value is in text format:
    numbers, true, names of enums, strings with or without quotes, `[a, b]` for a repeated field, `{ name: value ... }`
    for a message. An override in text format as a whole, `model { faster_rcnn { ... } }`, is merged into the message, as
    the Object Detection API's exporter does.

    Raises:
        ConfigError: if there is no such field or the value does not fit it.
    """
    source = f"override {override}"
    match = re.fullmatch(r"\s*([\w.\[\]]+?)\s*(\+?=)(.*)", override, re.DOTALL)
    if not match and re.match(r"\s*\w+\s*[{:]", override):
        message.MergeFrom(parse_text(override, type(message), source))
        return
    if not match:
        raise ConfigError(source, "is not of the form path=value, such as train_config.batch_size=8")
    path, operator, value = match[1], match[2], match[3].strip()
    steps = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    *parents, last = _steps(message.DESCRIPTOR, steps, source)
    for name, row in parents:
        message = _descend(message, name, row, source)
    name, row = last
    field = message.DESCRIPTOR.fields_by_name[name]
    fresh = _parse_value(field, value, type(message), source, one=row is not None)
    if row is not None:
        rows = getattr(message, name)
        _check_row(name, row, len(rows), source)
        if operator == "+=":
            raise ConfigError(source, f"appends to one row: write {name}+=... to append to all rows")
        if row == len(rows):
            message.MergeFrom(fresh)
        elif field.message_type:
            rows[row].CopyFrom(getattr(fresh, name)[0])
        else:
            rows[row] = getattr(fresh, name)[0]
        return
    if operator == "+=" and not is_repeated(field):
        raise ConfigError(source, f"appends to {name}, which is not repeated: write = instead")
    if operator == "=":
        message.ClearField(name)
    message.MergeFrom(fresh)


def format_message(message: Message) -> str:
    """The message in text format, numbers as short as they can be."""
    return text_format.MessageToString(message)


def format_value(field: Field, value: Any) -> str:
    """One value as the text format writes it: "text", true, ENUM_NAME, 0.7."""
    if field.enum_type:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return f'"{value}"'
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return f"{value:.7g}"  # what float32 can tell apart
    return str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar known name in brackets, or nothing if none is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f' (nearest: "{matches[0]}")' if matches else ""


def some(names: Sequence[str]) -> str:
    """The first few of the names, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > _NUM_EXAMPLES else ""
    return ", ".join(names[:_NUM_EXAMPLES]) + more


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def split_names(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_repeated(field: Field) -> bool:
    # `is_repeated` replaces `label`, which warns, in newer runtimes.
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED


def _refuse_windows_path(text: str, source: str, *, has_lines: bool = True) -> None:
    r"""Refuses a quoted path such as "C:\new\train", of which the text format would make a new line and a tab."""
    for match in _WINDOWS_PATH.finditer(text):
        path = match[2]
        before = text[: match.start()]
        is_comment = "#" in re.sub(r"""(["']).*?\1""", "", before.rpartition("\n")[2])
        rest = text[match.end() :].partition("\n")[0]
        single = path.replace("\\\\", "")
        takes_quote = single.endswith("\\") and rest.count(match[1]) == 1  # the closing one, so that none is left
        if is_comment or not (takes_quote or _ESCAPE.search(single)):
            continue
        raise ConfigError(
            source,
            f'has the path "{path}", whose backslashes begin escapes in text format',
            line=before.count("\n") + 1 if has_lines else None,
            allowed='"{}" or "{}"'.format(re.sub(r"\\+", "/", path), re.sub(r"\\+", r"\\\\", path)),
        )


def _unknown_field(descriptor: Any, name: str) -> tuple[str, str]:
    """What is wrong with a field that `descriptor` does not have, and which it has."""
    instead = LEFT_OUT.get(f"{descriptor.name}.{name}")
    if instead:
        return f'"{name}" of {descriptor.name} is not supported: {instead}', ""
    known = list(descriptor.fields_by_name)
    return f'{descriptor.name} has no field "{name}"{nearest(name, known)}', listed(known)


def _explain(failure: text_format.ParseError, text: str, root: Any) -> tuple[str, str]:
    """Problem and allowed values of a text format error."""
    lines = [*text.split("\n"), ""]  # an error at the end is about no line
    line = lines[min(failure.GetLine() or 0, len(lines)) - 1]
    error = re.sub(r"^\d+:\d+ : ", "", str(failure)).removeprefix(f"'{line}': ")
    if match := re.fullmatch(r'Message type "([\w.]+)" has no field named "(\w+)"\.', error):
        return _unknown_field(root.file.pool.FindMessageTypeByName(match[1]), match[2])
    if match := re.fullmatch(r'Enum type "([\w.]+)" has no value named (\w+)\.', error):
        values = root.file.pool.FindEnumTypeByName(match[1]).values_by_name
        return f"{match[1].rsplit('.', 1)[-1]} has no value {match[2]}{nearest(match[2], values)}", listed(values)
    return error.replace(_PROTO_PACKAGE, "").rstrip("."), ""


def _steps(descriptor: Any, steps: list[str], source: str) -> list[tuple[str, int | None]]:
    """The path as (field, row or None), checked against the message."""
    found: list[tuple[str, int | None]] = []
    while steps:
        name, *steps = steps
        if descriptor is None:
            raise ConfigError(source, f'"{found[-1][0]}" is a single value and has no field "{name}"')
        field = descriptor.fields_by_name.get(name)
        if field is None:
            problem, allowed = _unknown_field(descriptor, name)
            raise ConfigError(source, problem, allowed=allowed)
        row = None
        if is_repeated(field):
            if steps and steps[0].isdecimal():
                row, steps = int(steps[0]), steps[1:]
            elif steps and field.message_type.GetOptions().map_entry:
                raise ConfigError(source, f"{name} is a map: write {name}+={{key: ... value: ...}}")
            elif steps:
                raise ConfigError(source, f"{name} is repeated: name the row, {name}.0.{steps[0]}")
        found.append((name, row))
        descriptor = field.message_type
    return found


def _descend(message: Message, name: str, row: int | None, source: str) -> Message:
    if row is None:
        return getattr(message, name)
    rows = getattr(message, name)
    _check_row(name, row, len(rows), source)
    return rows.add() if row == len(rows) else rows[row]


def _check_row(name: str, row: int, num_rows: int, source: str) -> None:
    if row > num_rows:
        raise ConfigError(source, f"{name} has {num_rows} rows", allowed=f"0 to {num_rows} (which appends)")


def _parse_value(field: Field, value: str, message_type: type[_Message], source: str, *, one: bool) -> _Message:
    """A message that holds nothing but the field; `one` refuses a list."""
    _refuse_windows_path(value, source, has_lines=False)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        value = _quoted_list(value) if value.startswith("[") and not one else _quoted(value)
    if field.message_type and not value.startswith(("{", "[", "<")):
        value = f"{{ {value} }}"
    if one and value.startswith("["):
        raise ConfigError(source, f"{field.name} takes one value here, not a list")
    fresh, text = message_type(), f"{field.name}: {value}"
    try:
        text_format.Parse(text, fresh)
    except text_format.ParseError as error:
        _refuse_value(field, error, text, message_type.DESCRIPTOR, source)
    return fresh


def _refuse_value(field: Field, error: text_format.ParseError, text: str, root: Any, source: str) -> NoReturn:
    problem, allowed = _explain(error, text, root)
    kinds = {
        FieldDescriptor.CPPTYPE_BOOL: "true or false",
        FieldDescriptor.CPPTYPE_FLOAT: "a number",
        FieldDescriptor.CPPTYPE_INT32: "a whole number",
        FieldDescriptor.CPPTYPE_UINT32: "a whole number, 0 or more",
        FieldDescriptor.CPPTYPE_MESSAGE: "{ field: value ... }",
    }
    raise ConfigError(
        source, f"does not fit {field.name}: {problem}", allowed=allowed or kinds.get(field.cpp_type, "")
    ) from error


def _quoted(text: str) -> str:
    """A string for the text format, whether or not it has quotes."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted_list(text: str) -> str:
    if '"' in text or "'" in text:
        return text
    return (
        "[" + ", ".join(_quoted(item.strip()) for item in text[1:].removesuffix("]").split(",") if item.strip()) + "]"
    )
