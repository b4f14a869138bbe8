"""Puts drawn images beside each other, with captions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from object_detection_fpn.drawing.boxes import (
    FONT_SIZE_SHARE,
    INK,
    MIN_FONT_SIZE,
    PAPER,
    Boxes,
    draw_boxes,
    to_rgb,
)
from object_detection_fpn.drawing.fonts import load_font
from object_detection_fpn.drawing.masks import enlarge

_MIN_PANEL_SIDE = 320  # pixels; smaller images are enlarged before labels are put on them
_MARGIN = 8  # pixels between the panels


def side_by_side(
    image: np.ndarray,
    *,
    detections: Boxes,
    groundtruth: Boxes,
    names: Mapping[int, str],
    min_score: float = 0.5,
    max_num_boxes: int | None = 20,
    show_labels: bool = True,
    show_scores: bool = True,
    groundtruth_color: str | None = None,
) -> np.ndarray:
    """The image twice, detections on the left and groundtruth on the right, as the Object Detection API shows them.

    Images whose shorter side is below 320 pixels are first enlarged by a whole factor, so that labels stay readable.
    Arguments as in `draw_boxes`.

    Returns:
        [caption + f H, f W + 8 + f W, 3] uint8, f being the factor.
    """
    picture = Image.fromarray(to_rgb(image))
    factor = -(-_MIN_PANEL_SIDE // min(picture.size))
    # Drawings of a thousand pixels a side are as large as they need be, however thin the image.
    factor = max(1, min(factor, 1024 // max(picture.size)))
    width, height = picture.width * factor, picture.height * factor
    enlarged = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    font = load_font(max(MIN_FONT_SIZE, round(min(width, height) * FONT_SIZE_SHARE)) + 2)
    caption = round(font.size * 1.6)
    sheet = Image.new("RGB", (2 * width + _MARGIN, height + caption), PAPER)
    canvas = ImageDraw.Draw(sheet)
    for left, title, boxes in ((0, "detections", detections), (width + _MARGIN, "groundtruth", groundtruth)):
        if boxes.masks is not None and factor > 1:
            boxes = boxes._replace(masks=[None if mask is None else enlarge(mask, factor) for mask in boxes.masks])
        drawn = draw_boxes(
            enlarged, boxes, names=names, min_score=min_score, max_num_boxes=max_num_boxes,
            show_labels=show_labels, show_scores=show_scores, groundtruth_color=groundtruth_color,
        )  # fmt: skip
        sheet.paste(Image.fromarray(drawn), (left, caption))
        canvas.text((left + width / 2, caption / 2), title, fill=INK, font=font, anchor="mm")
    return np.asarray(sheet)
