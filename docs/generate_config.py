"""Writes docs/config.md from the comments in protos/ and the tables of `object_detection_fpn.config`.

`python docs/generate_config.py` writes it; with `--check`, the exit status is 1 if it is not what would be written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from object_detection_fpn.config import bounds, tables
from object_detection_fpn.config.text import format_value, is_repeated
from object_detection_fpn.protos import pipeline_pb2, string_int_label_map_pb2

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "config.md"

# The order in which a reader meets them: from the whole file down to its parts, then what is beside it.
_FILES = (
    "pipeline",
    "model",
    "faster_rcnn",
    "ssd",
    "backbone",
    "fpn",
    "image_resizer",
    "hyperparams",
    "anchor_generator",
    "multiscale_anchor_generator",
    "grid_anchor_generator",
    "rpn",
    "roi_pooling",
    "box_predictor",
    "box_coder",
    "matcher",
    "losses",
    "post_processing",
    "calibration",
    "train",
    "optimizer",
    "preprocessor",
    "input_reader",
    "eval",
    "graph_rewriter",
    "string_int_label_map",
)
_INTRODUCTION = """\
# The config language

Every field of a pipeline config and of a label map. Names, numbers and defaults are those of the Object Detection API, so its
configs are read as they are. What becomes of a field stands in the column "status":

- **works**: it does what is said here. A value that is not allowed is refused.
- **no effect**: it is accepted; one warning in the log says why nothing follows from it.
- **refused**: a config that sets it is refused before anything is built, with the words given here.

Any field can be changed on the command line: `--config_override train_config.batch_size=4`.

This page is written by `python docs/generate_config.py` from the comments in [protos](../protos) and the tables in
[config/tables.py](../object_detection_fpn/config/tables.py) and [config/bounds.py](../object_detection_fpn/config/bounds.py).
"""
_DECLARATION = re.compile(r"\s*(?:optional |repeated |required )?[\w.<>, ]+? (\w+) = \d+")


def comments(text: str) -> dict[str, str]:
    """The comments of a .proto file by what they stand above: "Message" or "Message.Nested.field"; "" = the file."""
    found: dict[str, str] = {}
    scope: list[str | None] = []  # None: a block whose name no path shows (oneof)
    pending: list[str] = []
    for line in text.splitlines():
        code = line.strip()
        if code.startswith("//"):
            pending.append(code.removeprefix("//").strip())
            continue
        if block := re.match(r"(message|enum|oneof) (\w+) \{\s*(\})?", code):
            name = None if block[1] == "oneof" else block[2]
            if name and pending:
                found[".".join([*filter(None, scope), name])] = " ".join(pending)
            if not block[3]:
                scope.append(name)
        elif code.startswith("}"):
            scope.pop()
        elif (declared := _DECLARATION.match(line)) and scope and pending:
            found[".".join([*filter(None, scope), declared[1]])] = " ".join(pending)
        elif pending and not scope and not found:
            found[""] = " ".join(pending)
        pending = []
    return found


def generate() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for name in _FILES:
        file = descriptor_pool.Default().FindFileByName(f"object_detection_fpn/protos/{name}.proto")
        notes = comments((ROOT / "protos" / f"{name}.proto").read_text())
        parts.append(f"## {name}.proto\n\n{notes.get('', '')}\n".replace("\n\n\n", "\n"))
        for message in file.message_types_by_name.values():
            for nested in _messages(message):
                parts.append(_section(nested, notes))
    left_out = [f"| `{field}` | refused: {reason} |" for field, reason in sorted(tables.LEFT_OUT.items())]
    parts.append(
        "## Left out\n\nFields of the Object Detection API that this config language does not have.\n\n"
        "| field | instead |\n|---|---|\n" + "\n".join(left_out) + "\n"
    )
    return "\n".join(parts)


def _messages(message: Descriptor) -> Iterator[Descriptor]:
    """A message and those declared inside it."""
    if message.GetOptions().map_entry:
        return
    yield message
    for nested in message.nested_types:
        yield from _messages(nested)


def _section(message: Descriptor, notes: dict[str, str]) -> str:
    path = message.full_name.removeprefix(f"{message.file.package}.")
    lines = [f"### {path}", "", notes.get(path, ""), ""]
    if not message.fields:
        return "\n".join([*lines, "No fields.", ""])
    lines += ["| field | type | default | status | what it does |", "|---|---|---|---|---|"]
    for field in message.fields:
        note = notes.get(f"{path}.{field.name}", "").replace("|", "\\|")
        status, words = _fate(message, field, note)
        if notes.get(path, "").startswith("No effect"):
            status = "no effect"
        lines.append(f"| `{field.name}` | {_type(field)} | {_default(field)} | {status} | {words} |")
    return "\n".join([*lines, ""])


def _fate(message: Descriptor, field: FieldDescriptor, note: str) -> tuple[str, str]:
    """What becomes of a field, and the words on it."""
    key = f"{message.name}.{field.name}"
    bare = re.split(r" ?(?:Refused|Not supported|No effect)\b", note)[0]
    if reason := tables.REFUSED.get(key):
        return "refused", f"{bare} Refused: {reason}.".strip()
    if reason := tables.NO_EFFECT.get(key):
        return "no effect", f"{bare} No effect: {reason}.".strip()
    if key in tables.DOCUMENTATION:
        return "no effect", f"{note} It only tells the reader."
    allowed = bounds.BOUNDS.get(key) or bounds.BOUNDS.get(f"*.{field.name}")
    if allowed and not field.message_type:
        note += f" Allowed: {allowed}."
    return "works", note


def _type(field: FieldDescriptor) -> str:
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map from {_type(key)} to {_type(value)}"
    if field.message_type:
        name = field.message_type.name
        name = f"[{name}](#{_anchor(field.message_type)})"
    elif field.enum_type:
        name = " / ".join(f"`{value.name}`" for value in field.enum_type.values)
    else:
        name = {
            FieldDescriptor.CPPTYPE_BOOL: "bool",
            FieldDescriptor.CPPTYPE_STRING: "string",
            FieldDescriptor.CPPTYPE_FLOAT: "float",
        }.get(field.cpp_type, "int")
    return f"list of {name}" if is_repeated(field) else name


def _anchor(message: Descriptor) -> str:
    return message.full_name.removeprefix(f"{message.file.package}.").replace(".", "").lower()


def _default(field: FieldDescriptor) -> str:
    if field.message_type or is_repeated(field):
        return ""
    value = format_value(field, field.default_value)
    return f"`{value}`" if value != '""' else ""


def main(arguments: list[str]) -> int:
    text = generate()
    if "--check" in arguments:
        if OUTPUT.exists() and OUTPUT.read_text() == text:
            return 0
        print(f"{OUTPUT.name} is not what the protos say. Remedy: python docs/generate_config.py", file=sys.stderr)
        return 1
    OUTPUT.write_text(text)
    return 0


# Importing these registers every file of the language.
assert pipeline_pb2 and string_int_label_map_pb2

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
