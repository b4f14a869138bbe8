"""The first images of an evaluation, drawn for TensorBoard and, where asked, as PNG files."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from object_detection_fpn.drawing.boxes import Boxes, draw_boxes, to_rgb
from object_detection_fpn.drawing.sheets import side_by_side


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Which images of an evaluation are drawn, and how."""

    num_images: int = 10
    """How many images to draw, the first ones of the dataset: detections left, groundtruth right."""
    min_score: float = 0.5
    """Detections below it are not drawn (they all count in the metrics)."""
    max_num_boxes: int = 20
    """Most detections drawn on an image."""
    show_labels: bool = True
    """Whether boxes carry the names of their classes."""
    show_scores: bool = True
    """Whether detections carry their scores."""
    groundtruth_color: str | None = None
    """HTML name of the colour of all groundtruth boxes; None = each class's own."""
    export_dir: str | None = None
    """Folder for PNG files of the detections, replaced by the next evaluation; None = no files."""
    export_with_groundtruth: bool = False
    """Draw groundtruth beneath the detections in these files."""
    export_with_source_id: bool = False
    """Name these files `export-image-<number>-<source id>.png` instead of `export-image-<number>.png`."""


class Pictures:
    """Draws images as they come until there are enough.

    Args:
        settings: how many, and how they are drawn and exported.
        names: 0-based class -> name.
        ignore_groundtruth: draw detections alone.
    """

    def __init__(self, settings: PictureSettings, *, names: Mapping[int, str], ignore_groundtruth: bool = False):
        self.sheets: list[np.ndarray] = []
        """What was drawn so far, [H, W, 3] uint8 each: detections left, groundtruth right."""
        self._settings = settings
        self._style: dict[str, Any] = {
            "names": names,
            "min_score": settings.min_score,
            "max_num_boxes": settings.max_num_boxes,
            "show_labels": settings.show_labels,
            "show_scores": settings.show_scores,
            "groundtruth_color": settings.groundtruth_color,
        }
        self._ignore_groundtruth = ignore_groundtruth
        if settings.export_dir is not None:
            tf.io.gfile.makedirs(settings.export_dir)

    @property
    def wants_more(self) -> bool:
        """Whether the next image is to be drawn."""
        return len(self.sheets) < self._settings.num_images

    def add(self, image: np.ndarray, *, detections: Boxes, groundtruth: Boxes, source_id: str) -> None:
        """Draws an image, [H, W, channels] in [0, 255]."""
        if self._settings.export_dir is not None:
            drawn = to_rgb(image)
            if self._settings.export_with_groundtruth and not self._ignore_groundtruth:
                drawn = draw_boxes(drawn, groundtruth, **self._style)
            drawn = draw_boxes(drawn, detections, **self._style)
            self._export(self._settings.export_dir, drawn, source_id)
        if self._ignore_groundtruth:
            self.sheets.append(draw_boxes(image, detections, **self._style))
        else:
            self.sheets.append(side_by_side(image, detections=detections, groundtruth=groundtruth, **self._style))

    def _export(self, folder: str, drawn: np.ndarray, source_id: str) -> None:
        name = f"export-image-{len(self.sheets)}"
        if self._settings.export_with_source_id and source_id:
            name += "-" + re.sub(r"[^\w.-]", "_", source_id)  # source ids are often paths
        with tf.io.gfile.GFile(os.path.join(folder, f"{name}.png"), "wb") as file:
            file.write(tf.io.encode_png(drawn).numpy())
