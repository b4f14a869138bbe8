"""Writes images with what was found drawn on them, each under a name of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from PIL import Image

from object_detection_fpn.drawing.boxes import Boxes, draw_boxes
from object_detection_fpn.serving.merging import Found
from object_detection_fpn.serving.predictor import Predictor


class DrawingNames:
    """Names of drawings below a folder: the image's name, numbered where several images share it, or one would be lost."""

    def __init__(self, paths: Iterable[str], names: Iterable[str], output_dir: str):
        """Args:
        paths: images that are read, of which those in the folder stay.
        names: that `take` will be asked for, those that are known: a drawing must not have the name of another's folder.
        output_dir: the folder.
        """
        folder = os.path.abspath(output_dir)
        beside = (os.path.relpath(os.path.abspath(path), folder) for path in paths)
        taken = {name for name in beside if not name.startswith("..")}
        taken |= {os.path.dirname(name) for name in names}
        # lower: there are file systems that do not tell a.png from A.png
        self._taken = {name.lower() for name in taken}

    def take(self, name: str) -> str:
        """The name of the drawing of an image, which no other will have."""
        stem = os.path.splitext(name)[0]
        taken, n = f"{stem}.png", 1
        while taken.lower() in self._taken:
            n += 1
            taken = f"{stem}_{n}.png"
        self._taken.add(taken.lower())
        return taken


def draw_found(
    predictor: Predictor,
    image: np.ndarray,
    found: Found,
    path: str,
    *,
    max_num_boxes: int | None,
    shorter_side: int | None = None,
) -> None:
    """Writes an image with its detections as PNG.

    Args:
        predictor: has the names of classes.
        image: [h, w, channels] uint8.
        found: in the image.
        path: file to write; its folder is made.
        max_num_boxes: most detections drawn, best first; None = all.
        shorter_side: see `draw_boxes`.
    """
    drawn = draw_boxes(
        image,
        Boxes(found.boxes / np.tile(image.shape[:2], 2), found.class_ids - 1, scores=found.scores, masks=found.masks),
        names={class_id - 1: name for class_id, name in predictor.names.items()},
        min_score=0.0,
        max_num_boxes=max_num_boxes,
        shorter_side=shorter_side,
    )
    png = io.BytesIO()
    Image.fromarray(drawn).save(png, format="PNG")
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(png.getvalue())
