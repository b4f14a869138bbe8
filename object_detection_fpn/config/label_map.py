"""Label maps: the names of the classes, read from `StringIntLabelMap` text files.

Ids start at 1 (0 is the background) and may have gaps: COCO names 80 classes with ids up to 90. Class c of a model is
id c + 1, so a model for a label map needs `num_classes` equal to its largest id; ids without a name never occur in
records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from object_detection_fpn.config.coco_source import coco_source
from object_detection_fpn.config.recipes import find_label_map
from object_detection_fpn.config.text import ConfigError, parse_text, read_text
from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.data.source.coco_records import coco_class_names, in_fields
from object_detection_fpn.protos import input_reader_pb2, string_int_label_map_pb2

_FREQUENCIES = {
    string_int_label_map_pb2.FREQUENT: "f",
    string_int_label_map_pb2.COMMON: "c",
    string_int_label_map_pb2.RARE: "r",
}
_BACKGROUND_NAMES = ("background", "none_of_the_above")  # the second is what the Object Detection API writes


@dataclass(frozen=True)
class LabelMapItem:
    """One class: its id (from 1 up), its name, the name to show, and the ids of classes it is a kind of, or a kind of it."""

    id: int
    name: str
    display_name: str
    ancestor_ids: tuple[int, ...] = ()
    descendant_ids: tuple[int, ...] = ()
    frequency: str = ""
    """"r"are, "c"ommon or "f"requent, as LVIS has it; empty where the label map does not say."""


@dataclass(frozen=True)
class LabelMap:
    """The classes of a label map in ascending order of id, background left out."""

    items: tuple[LabelMapItem, ...]
    """One a class: of several items of one id the first, whose names are shown."""
    use_display_name: bool = False
    aliases: tuple[LabelMapItem, ...] = ()
    """The other items: further names under which records may speak of a class."""

    @property
    def max_id(self) -> int:
        """The `num_classes` of a model for this label map."""
        return self.items[-1].id

    @property
    def categories(self) -> list[dict[str, Any]]:
        """`{"id": id, "name": name to show}` for each class, as COCO's metrics and drawings take it.

        Where the label map says it, `frequency` too, as LVIS's metrics take it.
        """
        return [
            {"id": item.id, "name": item.display_name} | ({"frequency": item.frequency} if item.frequency else {})
            for item in self.items
        ]

    @property
    def name_to_id(self) -> dict[str, int]:
        """Ids by the text labels of records: `name`s, or with `use_display_name` display names."""
        return {label: id for label, id, _ in self._labels()}

    @property
    def label_to_id(self) -> dict[str, int]:
        """Ids by every text that can only mean one class: what `name_to_id` has, then the other of the two names.

        The Object Detection API understands both kinds of names in records; a text that is one class's name and another
        one's display name means here what `use_display_name` says.
        """
        ids_of_others: dict[str, set[int]] = {}
        for _, id, other in self._labels():
            ids_of_others.setdefault(other, set()).add(id)
        of_others = {other: id for other, (id, *more) in ids_of_others.items() if not more}
        return of_others | self.name_to_id

    def _labels(self) -> list[tuple[str, int, str]]:
        """Text label of records, id, and the other name of each class."""
        items = (*self.items, *self.aliases)
        if self.use_display_name:
            return [(item.display_name, item.id, item.name) for item in items]
        return [(item.name, item.id, item.display_name) for item in items]

    def class_names(self, num_classes: int | None = None) -> list[tuple[str, ...]]:
        """All names of each class of a model, best first: what records call it, the other name, then those of further items.

        Args:
            num_classes: of the model; None = `max_id`.

        Returns:
            A tuple for each class, empty where its id has no name.
        """
        names: list[dict[str, None]] = [{} for _ in range(num_classes or self.max_id)]
        for label, id, other in self._labels():
            if id <= len(names):
                names[id - 1] |= {label: None, other: None}
        return [tuple(texts) for texts in names]

    def hierarchy(self, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The relations of the classes, [C, C] bool each.

        Args:
            num_classes: C, of the model; None = `max_id`.

        Returns:
            ancestors: [i - 1, j - 1] says that class j is class i or one of its `ancestor_ids`.
            descendants: the same of its `descendant_ids`. Ids that are no class of a model for this map are passed over.
        """
        num_classes = num_classes or self.max_id
        ancestors, descendants = np.eye(num_classes, dtype=bool), np.eye(num_classes, dtype=bool)
        for item in (*self.items, *self.aliases):
            if item.id > num_classes:
                continue
            for relation, ids in ((ancestors, item.ancestor_ids), (descendants, item.descendant_ids)):
                relation[item.id - 1, [id - 1 for id in ids if 1 <= id <= num_classes]] = True
        return ancestors, descendants


def load_label_map(path: str, *, use_display_name: bool = False) -> LabelMap:
    """Reads a label map.

    Several items of one id are several names of one class, as in the Object Detection API: the first is shown.

    Args:
        path: a `.pbtxt` file, local or remote, or the name of one that comes with the package.
        use_display_name: text labels of records are `display_name`s instead of `name`s.

    Raises:
        ConfigError: if the file is missing or is no label map, an item lacks a name, two classes share a text label, an
            id is negative, id 0 is not the background, or there is no class at all.
    """
    path = find_label_map(path)
    message = parse_text(read_text(path), string_int_label_map_pb2.StringIntLabelMap, path)
    rows = [(f"item[{row}]", _read_item(item, f"item[{row}]", path)) for row, item in enumerate(message.item)]
    _refuse_repeated(rows, "display_name" if use_display_name else "name", path)
    classes: dict[int, list[LabelMapItem]] = {}
    for _, item in rows:
        if item.id:
            classes.setdefault(item.id, []).append(item)
    if not classes:
        raise ConfigError(path, "names no class", allowed='at least one item { id: 1 name: "..." }')
    items = tuple(classes[id][0] for id in sorted(classes))
    aliases = tuple(item for id in sorted(classes) for item in classes[id][1:])
    return LabelMap(items, use_display_name, aliases)


def reader_label_map(reader: input_reader_pb2.InputReader) -> LabelMap:
    """The label map of an input reader: the file it names or, of COCO JSON without one, the categories of that file.

    Raises:
        ConfigError: as `load_label_map`, or if the COCO file cannot be used.
    """
    if reader.label_map_path or not reader.HasField("coco_input_reader"):
        return load_label_map(reader.label_map_path, use_display_name=reader.use_display_name)
    source = coco_source(reader.coco_input_reader)
    try:
        names = coco_class_names(source)
    except CocoError as error:
        text = in_fields(str(error)).removeprefix(f"{source.annotations_path}: ")
        raise ConfigError(source.annotations_path, text) from error
    return LabelMap(tuple(LabelMapItem(id, name, name) for id, name in sorted(names.items())))


def _read_item(item: string_int_label_map_pb2.StringIntLabelMapItem, field: str, path: str) -> LabelMapItem:
    name = item.name or item.display_name  # some label maps write only the name to show
    if not name:
        raise ConfigError(path, f"(id {item.id}) has no name", field=field, allowed="a unique text")
    if item.id < 0:
        raise ConfigError(path, "is negative", field=f"{field}.id", value=str(item.id), allowed="1 or more")
    if item.id == 0 and not {name, item.display_name} & set(_BACKGROUND_NAMES):
        is_set = item.HasField("id")
        raise ConfigError(
            path,
            f'("{name}") is the id of the background' if is_set else f'of "{name}" is not set',
            field=f"{field}.id",
            value="0" if is_set else None,
            allowed=f"1 or more, or the name {' or '.join(_BACKGROUND_NAMES)}",
        )
    return LabelMapItem(
        item.id,
        name,
        item.display_name or name,
        tuple(item.ancestor_ids),
        tuple(item.descendant_ids),
        _FREQUENCIES.get(item.frequency, ""),
    )


def _refuse_repeated(rows: list[tuple[str, LabelMapItem]], attribute: str, path: str) -> None:
    """Refuses a text that names two classes."""
    seen: dict[str, tuple[str, int]] = {}
    for place, item in rows:
        value = getattr(item, attribute)
        first, id = seen.setdefault(value, (place, item.id))
        if id != item.id:
            problem = f'{attribute} "{value}" stands twice, in {first} and {place}'
            raise ConfigError(path, problem, allowed=f"a unique {attribute}")
