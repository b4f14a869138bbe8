"""The first images of an evaluation, drawn for TensorBoard and, where asked, as PNG files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from object_detection_fpn.drawing.boxes import Boxes, draw_boxes, to_rgb
from object_detection_fpn.drawing.sheets import side_by_side


class Pictures:
    """Draws images as they come until there are enough.

    Args:
        num_images: how many to draw.
        names: 0-based class -> name.
        min_score: detections below it are not drawn.
        max_num_boxes: most detections drawn on an image.
        show_labels: whether boxes carry the names of their classes.
        show_scores: whether detections carry their scores.
        groundtruth_color: name of the colour of all groundtruth boxes; None = each class's own.
        ignore_groundtruth: draw detections alone.
        export_dir: folder for PNG files of the detections, replaced by the next evaluation; None = no files.
        export_with_groundtruth: draw groundtruth beneath the detections in these files.
        export_with_source_id: name them `export-image-<number>-<source id>.png` instead of `export-image-<number>.png`.
    """

    def __init__(
        self,
        *,
        num_images: int,
        names: Mapping[int, str],
        min_score: float = 0.5,
        max_num_boxes: int = 20,
        show_labels: bool = True,
        show_scores: bool = True,
        groundtruth_color: str | None = None,
        ignore_groundtruth: bool = False,
        export_dir: str | None = None,
        export_with_groundtruth: bool = False,
        export_with_source_id: bool = False,
    ):
        self.sheets: list[np.ndarray] = []
        """What was drawn so far, [H, W, 3] uint8 each: detections left, groundtruth right."""
        self._num_images = num_images
        self._style: dict[str, Any] = {
            "names": names,
            "min_score": min_score,
            "max_num_boxes": max_num_boxes,
            "show_labels": show_labels,
            "show_scores": show_scores,
            "groundtruth_color": groundtruth_color,
        }
        self._ignore_groundtruth = ignore_groundtruth
        self._export_dir = export_dir
        self._export_with_groundtruth = export_with_groundtruth
        self._export_with_source_id = export_with_source_id
        if export_dir is not None:
            tf.io.gfile.makedirs(export_dir)

    @property
    def wants_more(self) -> bool:
        """Whether the next image is to be drawn."""
        return len(self.sheets) < self._num_images

    def add(self, image: np.ndarray, *, detections: Boxes, groundtruth: Boxes, source_id: str) -> None:
        """Draws an image, [H, W, channels] in [0, 255]."""
        if self._export_dir is not None:
            drawn = to_rgb(image)
            if self._export_with_groundtruth and not self._ignore_groundtruth:
                drawn = draw_boxes(drawn, groundtruth, **self._style)
            drawn = draw_boxes(drawn, detections, **self._style)
            self._export(self._export_dir, drawn, source_id)
        if self._ignore_groundtruth:
            self.sheets.append(draw_boxes(image, detections, **self._style))
        else:
            self.sheets.append(side_by_side(image, detections=detections, groundtruth=groundtruth, **self._style))

    def _export(self, folder: str, drawn: np.ndarray, source_id: str) -> None:
        name = f"export-image-{len(self.sheets)}"
        if self._export_with_source_id and source_id:
            name += "-" + re.sub(r"[^\w.-]", "_", source_id)  # source ids are often paths
        with tf.io.gfile.GFile(os.path.join(folder, f"{name}.png"), "wb") as file:
            file.write(tf.io.encode_png(drawn).numpy())
