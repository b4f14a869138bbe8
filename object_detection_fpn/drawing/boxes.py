"""Draws boxes with their class names, scores and masks on images, and detections beside groundtruth.

Pillow alone: it loads in under 0.1 s, where the drawing module of tf-models-official brings matplotlib and takes 2 s.
Images are NumPy, uint8, [H, W, 3]; boxes are `(ymin, xmin, ymax, xmax)` normalized to the image that is drawn on.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import Image, ImageColor, ImageDraw

from object_detection_fpn.drawing.fonts import font_for, load_font
from object_detection_fpn.drawing.masks import draw_masks

_GOLDEN_RATIO = 0.618034  # steps of it round the colour circle keep any number of successive hues apart
MIN_FONT_SIZE = 11  # pixels; smaller letters cannot be read
FONT_SIZE_SHARE = 1 / 40  # of the image's shorter side
PAPER = (255, 255, 255)
INK = (0, 0, 0)
_warned_of_letters: list[str] = []  # the name of the one warning


class Boxes(NamedTuple):
    """What to draw on one image."""

    boxes_normalized: np.ndarray
    """[N, 4] float."""
    classes: np.ndarray
    """[N] int, 0-based."""
    scores: np.ndarray | None = None
    """[N] float; None for groundtruth, all of which is drawn."""
    is_crowd: np.ndarray | None = None
    """[N] bool; crowd regions are labelled as such."""
    masks: Sequence[tuple[np.ndarray, tuple[int, int]] | None] | None = None
    """[N] masks in the image that is drawn on, each a part of it, [h, w] bool, with row and column of its first pixel
    (`ops.pasting.PastedMask`); None for one without."""


def to_rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, channels] of any number type in [0, 255] -> [H, W, 3] uint8.

    One channel is shown as grey, of three and more the first three.

    Raises:
        ValueError: if the image does not have three dimensions, or has two channels.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] in (0, 2):
        raise ValueError(
            f"An image of shape {list(image.shape)} cannot be shown. Allowed: [H, W, 1] and [H, W, 3 or more]."
        )
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    if image.dtype != np.uint8:
        image = np.clip(np.rint(np.asarray(image, np.float64)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def class_color(class_index: int) -> tuple[int, int, int]:
    """The colour of a class, the same in every image; neighbouring indices differ in hue and lightness."""
    hue = (class_index * _GOLDEN_RATIO) % 1.0
    value = (1.0, 0.8)[class_index % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: np.ndarray,
    boxes: Boxes,
    *,
    names: Mapping[int, str],
    min_score: float = 0.5,
    max_num_boxes: int | None = 20,
    show_labels: bool = True,
    show_scores: bool = True,
    groundtruth_color: str | None = None,
    shorter_side: int | None = None,
) -> np.ndarray:
    """Draws boxes on a copy of an image, the best ones on top, above all masks, labels above all frames.

    Args:
        image: [H, W, channels] in [0, 255], see `to_rgb`.
        boxes: what to draw; rows that are not finite, or have no area, or lie outside the image, are left out.
        names: 0-based class -> name. A class without one, or whose letters no font here has, is shown by its 1-based id.
        min_score: detections below it are left out; groundtruth (no scores) is all drawn.
        max_num_boxes: most detections drawn, best first; None = all. Groundtruth is all drawn.
        show_labels: whether a box carries the name of its class.
        show_scores: whether it carries its score, in percent.
        groundtruth_color: HTML name of the colour of all groundtruth; None = each class's own, as detections have.
        shorter_side: letters and lines are as large as in an image of this shorter side, pixels; None = the image's own.

    Returns:
        [H, W, 3] uint8.

    Raises:
        ValueError: if there is no such colour.
    """
    pixels = to_rgb(image)
    rows = _rows_to_draw(boxes, min_score=min_score, max_num_boxes=max_num_boxes)
    of_groundtruth = None if boxes.scores is not None or groundtruth_color is None else _parse_color(groundtruth_color)
    colors = {row: of_groundtruth or class_color(int(boxes.classes[row])) for row in rows}
    if boxes.masks is not None:
        masks = {row: mask for row in reversed(rows) if (mask := boxes.masks[row]) is not None}
        pixels = draw_masks(pixels, list(masks.values()), [colors[row] for row in masks])
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    width, height = picture.size
    font_size = max(MIN_FONT_SIZE, round((shorter_side or min(width, height)) * FONT_SIZE_SHARE))
    line_width = max(1, round(font_size / 6))
    frames = []
    for row in reversed(rows):  # the best last, so that nothing hides it
        corners = np.clip(np.asarray(boxes.boxes_normalized[row], np.float64), 0.0, 1.0)
        ymin, xmin, ymax, xmax = np.rint(corners * [height, width, height, width]).astype(int).tolist()
        left, top = min(xmin, width - 1), min(ymin, height - 1)
        frame = (left, top, max(left, xmax - 1), max(top, ymax - 1))  # the last pixels inside, which Pillow draws
        frames.append((row, frame))
        canvas.rectangle(frame, outline=colors[row], width=line_width)
    for row, frame in frames:  # after every frame, so that no line runs through the letters
        label = _label(boxes, row, names, show_labels=show_labels, show_scores=show_scores)
        if label:
            _draw_label(canvas, label, frame, colors[row], picture.size, font_size)
    return np.asarray(picture)


def is_color(name: str) -> bool:
    """Whether boxes can be drawn in this colour."""
    return name.lower() in ImageColor.colormap


def _parse_color(name: str) -> tuple[int, int, int]:
    if not is_color(name):
        raise ValueError(f"There is no colour named {name!r}. Allowed: HTML names such as 'black' or 'DarkOrange'.")
    red, green, blue = ImageColor.getrgb(name)[:3]
    return red, green, blue


def _rows_to_draw(boxes: Boxes, *, min_score: float, max_num_boxes: int | None) -> list[int]:
    """Rows worth drawing: detections best first, groundtruth smallest first, so that large boxes hide no small ones."""
    corners = np.asarray(boxes.boxes_normalized, np.float64).reshape(-1, 4)
    inside = np.clip(corners, 0.0, 1.0)
    areas = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    is_drawn = np.isfinite(corners).all(axis=1) & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    if boxes.scores is None:
        return [int(row) for row in np.argsort(areas, kind="stable") if is_drawn[row]]
    scores = np.asarray(boxes.scores, np.float64)
    is_drawn &= scores >= min_score  # False for NaN
    return [int(row) for row in np.argsort(-scores, kind="stable") if is_drawn[row]][:max_num_boxes]


def _label(boxes: Boxes, row: int, names: Mapping[int, str], *, show_labels: bool, show_scores: bool) -> str:
    class_index = int(boxes.classes[row])
    parts = [_name(class_index, names)] if show_labels else []
    if show_labels and boxes.is_crowd is not None and boxes.is_crowd[row]:
        parts.append("(crowd)")
    if show_scores and boxes.scores is not None:
        parts.append(f"{round(100 * float(boxes.scores[row]))}%")
    return " ".join(parts)


def _name(class_index: int, names: Mapping[int, str]) -> str:
    """The name of a class in one line; its id if it has none, or one in letters that no font here has."""
    by_id = f"id {class_index + 1}"
    name = " ".join(names.get(class_index, by_id).split())
    if font_for(name, MIN_FONT_SIZE) is None:
        _warn_of_letters(name, by_id)
        return by_id
    return name


def _warn_of_letters(name: str, by_id: str) -> None:
    if not _warned_of_letters:
        _warned_of_letters.append(name)
        logging.warning(
            'No font of this machine has the letters of "%s", which is drawn as "%s"; other names may be too. A font that has '
            "them, put into ~/.local/share/fonts, is found (Noto Sans has most alphabets).",
            name, by_id,
        )  # fmt: skip


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    label: str,
    frame: tuple[int, int, int, int],
    color: tuple[int, int, int],
    size: tuple[int, int],
    font_size: int,
) -> None:
    """A filled tag on the frame's upper edge, or inside it where there is no room above, moved to stay in the image."""
    font = font_for(label, font_size) or load_font(font_size)
    tag_width, tag_height = round(font.getlength(label)) + 4, round(font_size * 1.3)
    width, height = size
    xmin, ymin = frame[:2]
    left = max(0, min(xmin, width - tag_width))
    top = ymin - tag_height if ymin >= tag_height else min(ymin, max(0, height - tag_height))
    canvas.rectangle((left, top, left + tag_width - 1, top + tag_height - 1), fill=color)
    red, green, blue = color
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma (ITU-R BT.601): dark letters on light tags
    canvas.text((left + 2, top + tag_height / 2), label, fill=INK if is_light else PAPER, font=font, anchor="lm")
