"""Which images of an evaluation are drawn, and what stands in the files."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.drawing.boxes import Boxes
from object_detection_fpn.evaluation.pictures import Pictures, PictureSettings

GREY = np.full((100, 200, 3), 128, np.uint8)
DETECTIONS = Boxes(np.array([[0.1, 0.1, 0.4, 0.4]]), np.array([0]), scores=np.array([0.9]))
GROUNDTRUTH = Boxes(np.array([[0.6, 0.6, 0.9, 0.9]]), np.array([1]))
RED = (255, 0, 0)


def draw(folder=None, *, num_images=1, source_ids=("a",), **options) -> Pictures:
    options = {"show_labels": False, "show_scores": False, "names": {}, **options}
    others = {name: options.pop(name) for name in ("names", "ignore_groundtruth") & options.keys()}
    export_dir = None if folder is None else str(folder)
    pictures = Pictures(PictureSettings(num_images=num_images, export_dir=export_dir, **options), **others)
    for source_id in source_ids:
        if pictures.wants_more:
            pictures.add(GREY, detections=DETECTIONS, groundtruth=GROUNDTRUTH, source_id=source_id)
    return pictures


def changed(picture):
    """(ymin, xmin, ymax, xmax) of what is not grey."""
    rows, columns = np.nonzero((picture != 128).any(axis=-1))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def read(path):
    return tf.io.decode_png(tf.io.read_file(str(path))).numpy()


def test_only_the_first_images_are_drawn(tmp_path):
    assert len(draw(tmp_path / "new", num_images=2, source_ids="abc").sheets) == 2
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["export-image-0.png", "export-image-1.png"]
    assert draw(num_images=0).sheets == []


def test_files_show_the_detections_on_the_image(tmp_path):
    draw(tmp_path)
    picture = read(tmp_path / "export-image-0.png")
    assert picture.shape == GREY.shape
    assert changed(picture) == (10, 20, 40, 80)


def test_groundtruth_stands_beneath_where_asked(tmp_path):
    draw(tmp_path, export_with_groundtruth=True, groundtruth_color="red")
    picture = read(tmp_path / "export-image-0.png")
    assert changed(picture) == (10, 20, 90, 180)
    assert tuple(picture[60, 150]) == RED and tuple(picture[10, 50]) != (128,) * 3
    draw(tmp_path, export_with_groundtruth=True, ignore_groundtruth=True)
    assert changed(read(tmp_path / "export-image-0.png")) == (10, 20, 40, 80)


def test_files_may_be_named_by_source_id(tmp_path):
    draw(tmp_path, num_images=3, source_ids=["dir/a b.jpg", "", "\u00fc7"], export_with_source_id=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["export-image-0-dir_a_b.jpg.png", "export-image-1.png", "export-image-2-\u00fc7.png"]


def test_without_groundtruth_sheets_are_the_image_alone():
    (sheet,) = draw(ignore_groundtruth=True).sheets
    assert sheet.shape == GREY.shape and changed(sheet) == (10, 20, 40, 80)


def test_an_unknown_colour_is_refused():
    with pytest.raises(ValueError, match="no colour named 'blau'"):
        draw(groundtruth_color="blau")
