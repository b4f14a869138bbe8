"""What a conversion found: counts, and the first rows of everything odd, as JSON and as text."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from object_detection_fpn.data.source.coco import CocoAnnotation
from object_detection_fpn.data.source.coco_examples import ImageObjects
from object_detection_fpn.data.source.image_files import Unusable

RARE = 20
"""A class with fewer boxes is named as rare."""
_MAX_SHOWN = 5  # rows of a kind in the text
_MAX_KEPT = 1000  # rows of a kind in the JSON

KINDS = {
    Unusable.MISSING.name.lower(): "missing images, left out",
    Unusable.UNREADABLE.name.lower(): "unreadable images, left out",
    Unusable.OTHER_SIZE.name.lower(): "images of another size than the annotations say, left out",
    "bad_boxes": "bad boxes (no area inside the image), left out",
    "clipped_boxes": "images with boxes that reach beyond the image, clipped",
    "bad_masks": "objects whose segmentation gives no mask, left out",
    "odd_masks": "objects whose mask is odd, kept",
    "rotated": "rotated photographs, turned upright",
    "duplicate_images": "images that are equal byte by byte to another",
    "duplicate_boxes": "boxes that occur twice in an image with one class",
    "empty": "images without objects",
    "crowds": "crowds",
}
"""Kinds of rows, and what the text calls them."""


@dataclasses.dataclass
class Rows:
    """How many there are of a kind, and the first of them."""

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)

    def add(self, row: str) -> None:
        self.count += 1
        if len(self.first) < _MAX_KEPT:
            self.first.append(row)


class Report:
    """Of one conversion."""

    def __init__(self, format: str, path: str, names: Mapping[int, str], label_of: Mapping[int | str, int]):
        """Args:
        format: of the source, for people.
        path: of the source.
        names: of the classes, by id.
        label_of: class id by category id.
        """
        self._format, self._path, self._names, self._label_of = format, path, names, label_of
        self._rows: dict[str, Rows] = {kind: Rows() for kind in KINDS}
        self._boxes: dict[str, collections.Counter[str]] = {}
        self._images: collections.Counter[str] = collections.Counter()
        self._masks = 0
        self._first_of_hash: dict[bytes, str] = {}
        self.notes: list[str] = []

    def add(self, split: str, objects: ImageObjects, sha256: bytes) -> None:
        """Adds an image that was written."""
        name = f"{split}: {objects.image.file_name}"
        self._images[split] += 1
        self._masks += objects.num_masks
        boxes = self._boxes.setdefault(split, collections.Counter())
        boxes.update(self._class_name(row) for row in objects.kept)
        other = self._first_of_hash.setdefault(sha256, name)
        if other != name:
            self._rows["duplicate_images"].add(f"{name} is {other}")
        if objects.is_turned:
            self._rows["rotated"].add(name)
        if not objects.kept:
            self._rows["empty"].add(name)
        if objects.num_clipped:
            self._rows["clipped_boxes"].add(f"{name} ({objects.num_clipped} boxes)")
        self._extend("bad_boxes", (f"{name}: {_place(row)}, {_corners(row)}" for row in objects.dropped))
        self._extend("crowds", (f"{name}: {_place(row)}" for row in objects.kept if row.is_crowd))
        self._extend("bad_masks", (f"{name}: {_place(row)}: {broken}" for row, broken in objects.broken_masks))
        self._extend("odd_masks", (f"{name}: {_place(row)}: objects {notice.value}" for row, notice in objects.notices))
        seen: set[tuple[Any, ...]] = set()
        for row in objects.kept:
            if (row.category_id, row.bbox) in seen:
                self._rows["duplicate_boxes"].add(f"{name}: {_place(row)}, {self._class_name(row)}, {_corners(row)}")
            seen.add((row.category_id, row.bbox))

    def add_unusable(self, kind: Unusable, text: str) -> None:
        """Adds an image that was left out."""
        self._rows[kind.name.lower()].add(text)

    def num_images(self, split: str) -> int:
        """Images of a split that were written."""
        return self._images[split]

    def num_unusable(self) -> int:
        """Images that were left out."""
        return sum(self._rows[kind.name.lower()].count for kind in Unusable)

    def first_unusable(self) -> str:
        """The first image that was left out, or nothing."""
        return next((row for kind in Unusable for row in self._rows[kind.name.lower()].first), "")

    def _extend(self, kind: str, rows: Iterable[str]) -> None:
        for row in rows:
            self._rows[kind].add(row)

    def _class_name(self, row: CocoAnnotation) -> str:
        return self._names[self._label_of[row.category_id]]

    def classes(self) -> dict[str, int]:
        """Boxes of each class, those without any too, in the order of their ids."""
        totals: collections.Counter[str] = sum(self._boxes.values(), collections.Counter())
        return {name: totals[name] for _, name in sorted(self._names.items())}

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs; of each kind at most 1000 rows."""
        counts = self.classes()
        return {
            "format": self._format,
            "source": self._path,
            "splits": {
                split: {
                    "images": self._images[split],
                    "boxes": boxes.total(),
                    "boxes_of_class": dict(sorted(boxes.items())),
                }
                for split, boxes in self._boxes.items()
            },
            "masks": self._masks,
            "boxes_of_class": counts,
            "rare_classes": {name: count for name, count in counts.items() if count < RARE},
            "notes": self.notes,
            **{kind: {"count": rows.count, "first": rows.first} for kind, rows in self._rows.items()},
        }

    def to_text(self) -> str:
        """For people: sums, then each kind that occurs with its first rows."""
        counts = self.classes()
        masks = f", {self._masks:,} masks" if self._masks else ""
        lines = [
            f"{split}: {number:,} images, {self._boxes[split].total():,} boxes"
            for split, number in self._images.items()
        ]
        lines.append(f"{len(counts)} classes{masks}: {_counted(counts)}")
        lines += self.notes
        for kind, title in KINDS.items():
            rows = self._rows[kind]
            if rows.count:
                lines.append(f"{rows.count:,} {title}:")
                lines += [f"    {row}" for row in rows.first[:_MAX_SHOWN]]
                lines += [f"    and {rows.count - _MAX_SHOWN:,} more"] * (rows.count > _MAX_SHOWN)
        rare = {name: count for name, count in counts.items() if count < RARE}
        if rare:
            lines.append(f"{len(rare)} classes with fewer than {RARE} boxes: {_counted(rare)}")
        return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])[: 4 * _MAX_SHOWN]
    text = ", ".join(f"{name} {count:,}" for name, count in most)
    return text + (", ..." if len(counts) > len(most) else "")


def _place(row: CocoAnnotation) -> str:
    return row.id if isinstance(row.id, str) else f"annotation {row.id}"


def _corners(row: CocoAnnotation) -> str:
    x, y, width, height = row.bbox
    return f"x = {x:g}, y = {y:g}, width = {width:g}, height = {height:g}"
