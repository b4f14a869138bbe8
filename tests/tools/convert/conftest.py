"""A small drawn scene, and a check that a source of any format gives the records of the same scene as COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from object_detection_fpn.tools.convert import coco, detect, whole
from object_detection_fpn.tools.convert.sources import Options

SIZES = {"a.jpg": (40, 20), "b.png": (30, 30), "c.jpg": (10, 50)}
BOXES = {"a.jpg": [("cat", (10, 5, 30, 15)), ("dog", (0, 0, 40, 20))], "b.png": [], "c.jpg": [("dog", (1, 2, 4, 6))]}


class Scene:
    """Three images with a cat and two dogs; the second image is empty."""

    sizes = SIZES
    boxes = BOXES

    def __init__(self, folder: Path):
        self.folder = folder

    def draw(self, folder: Path, names=tuple(SIZES)) -> Path:
        """Draws images into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            Image.new("RGB", SIZES[name], (40 * i, 100, 200)).save(folder / name)
        return folder

    def coco(self, prefix: str = "", names=tuple(SIZES), objects=None, categories=("cat", "dog")) -> dict:
        """COCO JSON of the scene.

        Args:
            prefix: of file names.
            names: images.
            objects: fields of the annotations by image, instead of boxes.
            categories: in the order of their ids, from 1.
        """
        rows = []
        for i, name in enumerate(names, start=1):
            for box_name, (xmin, ymin, xmax, ymax) in BOXES[name] if objects is None else ():
                category = categories.index(box_name) + 1
                rows.append({"image_id": i, "category_id": category, "bbox": [xmin, ymin, xmax - xmin, ymax - ymin]})
            for fields in (objects or {}).get(name, ()):
                rows.append({"image_id": i, **fields})
        images = [
            {"id": i, "file_name": prefix + name, "width": SIZES[name][0], "height": SIZES[name][1]}
            for i, name in enumerate(names, start=1)
        ]
        annotations = [{"id": i, **row} for i, row in enumerate(rows, start=1)]
        named = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
        return {"images": images, "annotations": annotations, "categories": named}

    def convert(self, source, options=Options(), *, format=None, **settings):
        """Converts a source into a folder `out`."""
        read = detect.read_source(str(source), options, format)
        return whole.convert_source(read, str(self.folder / "out"), show_progress=False, **settings)

    def records(self, source, options=Options(), **settings):
        """Values by key of each record of a source, all splits one after the other."""
        patterns = self.convert(source, options, **settings).patterns.values()
        return [record for pattern in patterns for record in read_features(pattern)]

    def check(self, source, image_dir, contents, options=Options(), **settings):
        """Converts a source of one split, and compares its records and label map with those of COCO JSON."""
        written = self.convert(source, options, **settings)
        (pattern,) = written.patterns.values()
        path = self.folder / "expected.json"
        path.write_text(json.dumps(contents))
        labels = self.folder / "expected.pbtxt"
        expected = coco.coco_to_tfrecords(
            str(path), str(image_dir), str(self.folder / "expected"), label_map_path=str(labels), show_progress=False
        )
        own, other = read_features(pattern), read_features(expected.record_pattern)
        assert len(own) == len(other)
        for i, (one, two) in enumerate(zip(own, other, strict=True)):
            assert one.keys() == two.keys(), i
            for key in one:
                if "bbox" in key or "area" in key:
                    np.testing.assert_allclose(one[key], two[key], rtol=1e-6, atol=1e-6, err_msg=key)
                else:
                    assert one[key] == two[key], (i, key)
        assert Path(written.label_map_path).read_text() == labels.read_text()
        if Path(source).is_dir() and options == Options():
            self.check_remote(Path(source), pattern, **settings)
        return written

    def check_remote(self, source, pattern, **settings):
        """Converts a copy of a folder from and to a remote file system, and compares the record files with the local ones."""
        remote = f"ram://{self.folder.name}"
        for path in filter(Path.is_file, source.rglob("*")):
            with tf.io.gfile.GFile(f"{remote}/source/{path.relative_to(source)}", "wb") as file:
                file.write(path.read_bytes())
        read = detect.read_source(f"{remote}/source", Options())
        written = whole.convert_source(read, f"{remote}/out", show_progress=False, num_processes=1, **settings)
        (other,) = written.patterns.values()
        for one, two in zip(sorted(tf.io.gfile.glob(pattern)), sorted(tf.io.gfile.glob(other)), strict=True):
            assert Path(one).name == two.rpartition("/")[2]
            with tf.io.gfile.GFile(two, "rb") as file:
                assert file.read() == Path(one).read_bytes()
        assert sorted(tf.io.gfile.listdir(f"{remote}/out")) == sorted(
            path.name for path in Path(pattern).parent.iterdir()
        )


def read_features(pattern: str) -> list[dict[str, list]]:
    """Values by key of each record of the files that match, in the order of the names."""
    found = []
    for path in sorted(tf.io.gfile.glob(pattern)):
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            found.append({key: list(getattr(value, value.WhichOneof("kind")).value) for key, value in features.items()})
    return found


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)
