"""Turns COCO segmentations (polygons, run lengths) into the PNG files of `image/object/mask`, and names what is odd about them.

A mask is written as a PNG of one bit a pixel, of the size of the image. Beside one of eight bits it takes half of the bytes,
0.75 of the time to decode and a quarter of the time to encode; both are 0 outside and above 0 inside.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from object_detection_fpn.data.source.coco import CocoAnnotation, shown

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MIN_CORNERS = 3
_MAX_DISTANCE = 8  # longer sides of the image; pycocotools takes time and memory by the length of an outline
_MAX_DIGITS = 6  # of five bits each: of a run in COCO's compressed form, whose pixels are 32-bit numbers


class Fault(enum.Enum):
    """Why a segmentation, or a part of one, gives no mask; the text says it of several objects."""

    FORM = "have a segmentation that is neither polygons nor run lengths"
    FEW_CORNERS = "have a polygon of fewer than three corners"
    ODD_COORDINATES = "have a polygon with an odd number of coordinates"
    NO_NUMBER = "have a polygon with a coordinate that is no finite number"
    OUTSIDE = "have a polygon outside of the image"
    SIZE = "have run lengths of another size than the image"
    COUNTS = "have run lengths that do not add up to the image"
    EMPTY = "have a mask without a pixel"


class Notice(enum.Enum):
    """What is odd about a mask that is kept; the text says it of several objects."""

    ABSENT = "have no segmentation: they are kept without a mask"
    BROKEN_CROWD = "are crowds whose segmentation gives no mask: they are kept without one"
    BEYOND_BOX = "have a mask that reaches more than a pixel beyond the box"
    BEYOND_IMAGE = "have a mask that reaches more than a pixel beyond the image: it was clipped"
    PART_LEFT_OUT = "have a part that is no polygon: it was left out of the mask"


class BrokenMask(ValueError):
    """A segmentation that gives no mask; the text says which value is wrong."""

    def __init__(self, fault: Fault, text: str):
        super().__init__(text)
        self.fault = fault

    def __reduce__(self) -> tuple[type[BrokenMask], tuple[Fault, str]]:
        return type(self), (self.fault, str(self))  # as processes hand it on


class Mask(NamedTuple):
    """The mask of an object."""

    pixels: np.ndarray
    """[H, W] uint8, 1 inside, of the size of the image; at least one is."""
    notices: Sequence[Notice]


def make_mask(annotation: CocoAnnotation, width: int, height: int) -> Mask:
    """Turns the segmentation of an annotation into pixels, as pycocotools does.

    A pixel is inside if its middle is inside of one of the polygons. Parts that are no polygons are left out as long as there
    are others.

    Args:
        annotation: has a segmentation: a list of polygons [x, y, x, y, ...] in pixels, or {"size": [height, width], "counts":
            ...} with run lengths, column by column, outside first, as a list or in COCO's compressed form.
        width: pixels of the image that the annotation is of.
        height: of the same.

    Raises:
        BrokenMask: if it gives no mask of this image.
    """
    notices: list[Notice] = []
    if isinstance(annotation.segmentation, list) and annotation.segmentation:
        runs = _runs_of_polygons(annotation.segmentation, width, height, notices)
    else:
        runs = _checked_runs(annotation.segmentation, width, height)
    if not coco_mask.area(runs):
        raise BrokenMask(Fault.EMPTY, "its mask has no pixel")
    x, y, w, h = annotation.bbox
    left, top, mask_width, mask_height = coco_mask.toBbox(runs).tolist()
    if left < x - 1 or top < y - 1 or left + mask_width > x + w + 1 or top + mask_height > y + h + 1:
        notices.append(Notice.BEYOND_BOX)
    return Mask(coco_mask.decode(runs), notices)


def encode_png(pixels: np.ndarray) -> bytes:
    """[H, W] uint8 or bool, 0 outside -> a PNG file of one bit a pixel.

    Written here, as Pillow, which unpacks the bits and packs them again, takes three times as long.
    """
    height, width = pixels.shape
    columns = np.flatnonzero(pixels.any(axis=0))
    rows = np.zeros([height, 1 + (width + 7) // 8], np.uint8)  # in front of each row, 0: not filtered
    if len(columns):  # most masks are small: only their columns are packed
        begin, end = columns[0] // 8, columns[-1] // 8 + 1
        rows[:, 1 + begin : 1 + end] = np.packbits(pixels[:, 8 * begin : 8 * end], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit, gray; no interlacing
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _runs_of_polygons(polygons: list[Any], width: int, height: int, notices: list[Notice]) -> dict[str, Any]:
    sound: list[list[float]] = []
    broken: BrokenMask | None = None
    for polygon in polygons:
        try:
            sound.append(_checked_polygon(polygon, width, height))
        except BrokenMask as error:
            broken = broken or error
    if broken and not sound:
        raise broken
    if broken:
        notices.append(Notice.PART_LEFT_OUT)
    if any(min(polygon) < -1 or max(polygon[::2]) > width + 1 or max(polygon[1::2]) > height + 1 for polygon in sound):
        notices.append(Notice.BEYOND_IMAGE)
    return coco_mask.merge(coco_mask.frPyObjects(sound, height, width))


def _checked_polygon(polygon: Any, width: int, height: int) -> list[float]:
    if not isinstance(polygon, list):
        raise BrokenMask(
            Fault.FORM,
            f"its segmentation holds {shown(polygon)}. Allowed: polygons, each a list x, y, x, y, ... of numbers",
        )
    values: list[float] = []
    for value in polygon:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise BrokenMask(Fault.NO_NUMBER, f"polygon {shown(polygon)} holds {shown(value)}. Allowed: finite numbers")
        values.append(value)
    if len(values) % 2:
        raise BrokenMask(
            Fault.ODD_COORDINATES, f"polygon {shown(polygon)} has {len(values)} coordinates. Allowed: x, y, x, y, ..."
        )
    if len(values) < 2 * _MIN_CORNERS:
        raise BrokenMask(
            Fault.FEW_CORNERS, f"polygon {shown(polygon)} has {len(values) // 2} corners. Allowed: 3 and more"
        )
    xs, ys = values[::2], values[1::2]
    limit = _MAX_DISTANCE * max(width, height)
    is_far = max(map(abs, values)) > limit
    if is_far or max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width or min(ys) >= height:
        far = " has a corner far" if is_far else " lies"
        raise BrokenMask(
            Fault.OUTSIDE, f"polygon {shown(polygon)}{far} outside of the image, {width} x {height} pixels"
        )
    return [float(value) for value in values]


def _checked_runs(runs: Any, width: int, height: int) -> dict[str, Any]:
    """Run lengths in COCO's compressed form, known to be of this image; pycocotools reads beyond its memory for others."""
    if not isinstance(runs, dict) or not {"size", "counts"} <= runs.keys():
        raise BrokenMask(
            Fault.FORM,
            f"its segmentation is {shown(runs)}. Allowed: a list of polygons, or run lengths with size and counts",
        )
    size, counts = runs["size"], runs["counts"]
    if size != [height, width]:
        raise BrokenMask(
            Fault.SIZE, f"its run lengths are of size {shown(size)}. Allowed: [height, width] = [{height}, {width}]"
        )
    lengths = _decompress(counts) if isinstance(counts, str) else _as_lengths(counts)
    if lengths is None or (lengths < 0).any():
        raise BrokenMask(
            Fault.COUNTS,
            f"its counts are {shown(counts)}. Allowed: whole numbers, 0 and above, or their compressed form",
        )
    total = sum(lengths.tolist())
    if total != width * height:
        raise BrokenMask(
            Fault.COUNTS, f"its counts add up to {total}. Allowed: {height} x {width} = {width * height} pixels"
        )
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    return coco_mask.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)


def _as_lengths(counts: Any) -> np.ndarray | None:
    """[N] int64 of a list of whole numbers; None of anything else."""
    is_whole = isinstance(counts, list) and all(
        isinstance(count, int | float) and not isinstance(count, bool) and abs(count) < 2**32 and count == int(count)
        for count in counts
    )
    return np.array(counts, np.int64) if is_whole else None


def _decompress(text: str) -> np.ndarray | None:
    """[N] int64 run lengths of COCO's compressed form (cocoapi, common/maskApi.c, rleFrString); None if it is something else.

    Each number is written in digits of five bits, the lowest first, as the characters from "0" on; 32 says that another digit
    follows, and 16 in the last one that the number is negative. From the fourth on it is the difference to the run two before.
    """
    if not text.isascii():
        return None
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        return None
    begins = np.concatenate([[0], ends[:-1] + 1])
    num_digits = ends + 1 - begins
    if num_digits.max() > _MAX_DIGITS:
        return None
    places = 5 * (np.arange(len(codes)) - np.repeat(begins, num_digits))
    numbers = np.add.reduceat((codes & 31) << places, begins)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * num_digits, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
