"""Seconds of `odfpn convert` on drawn photographs of 640 x 480, JPEG with five boxes each; JSON.

    python benchmarks/convert.py [--images 5000] [--format coco] [--num_processes 2] [--polygons]

The command runs as a process of its own, so that the time of importing TensorFlow is in it. A hundred pictures are drawn; the
files differ by a comment, and all are decoded. "load" is the average load of the machine in the last minute before and after.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 640, 480
_NUM_PICTURES, _NUM_BOXES, _NUM_CLASSES = 100, 5, 20


def draw_pictures() -> list[bytes]:
    """JPEG files of about the size that photographs have: coarse shapes with fine noise."""
    rng = np.random.default_rng(1)
    pictures = []
    for _ in range(_NUM_PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (_WIDTH, _HEIGHT), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, np.int16) + rng.normal(0, 8, (_HEIGHT, _WIDTH, 1)).astype(np.int16)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    return pictures


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in another file: a comment segment stands after the first marker."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text.encode() + jpeg[2:]


def write_source(folder: Path, num_images: int, format: str, has_polygons: bool) -> None:
    rng = np.random.default_rng(2)
    pictures = draw_pictures()
    images = folder / "images"
    images.mkdir()
    names = [f"class {i}" for i in range(1, _NUM_CLASSES + 1)]
    rows: list[dict[str, object]] = []
    for i in range(num_images):
        (images / f"{i:06d}.jpg").write_bytes(with_comment(pictures[i % _NUM_PICTURES], str(i)))
        corners = rng.integers(0, [400, 300], (_NUM_BOXES, 2))
        sizes = rng.integers(10, 180, (_NUM_BOXES, 2))
        for (x, y), (w, h), label in zip(
            corners.tolist(), sizes.tolist(), rng.integers(1, 21, _NUM_BOXES).tolist(), strict=True
        ):
            row = {"id": len(rows) + 1, "image_id": i + 1, "category_id": label, "bbox": [x, y, w, h]}
            rows.append(row | ({"segmentation": [[x, y, x + w, y, x + w / 2, y + h]]} if has_polygons else {}))
    if format == "coco":
        table = [
            {"id": i + 1, "file_name": f"{i:06d}.jpg", "width": _WIDTH, "height": _HEIGHT} for i in range(num_images)
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        contents = {"images": table, "annotations": rows, "categories": categories}
        (folder / "annotations.json").write_text(json.dumps(contents))
        return
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(f"train: images\nnames: {json.dumps(names)}\n")
    lines: dict[object, list[str]] = {}
    for row in rows:
        x, y, w, h = row["bbox"]  # type: ignore[misc]
        box = ((x + w / 2) / _WIDTH, (y + h / 2) / _HEIGHT, w / _WIDTH, h / _HEIGHT)
        lines.setdefault(row["image_id"], []).append(
            f"{int(str(row['category_id'])) - 1} " + " ".join(f"{v:.6f}" for v in box)
        )
    for image_id, text in lines.items():
        (folder / "labels" / f"{int(str(image_id)) - 1:06d}.txt").write_text("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--format", choices=("coco", "yolo"), default="coco")
    parser.add_argument("--num_processes", type=int, help="of the command; its default without")
    parser.add_argument("--num_shards", type=int, default=8)
    parser.add_argument("--polygons", action="store_true", help="with masks, of coco")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "source", Path(folder) / "output"
        source.mkdir()
        write_source(source, arguments.images, arguments.format, arguments.polygons)
        command = [sys.executable, "-m", "object_detection_fpn.cli", "convert", str(source), str(output)]
        command += ["--num_shards", str(arguments.num_shards)]
        if arguments.num_processes:
            command += ["--num_processes", str(arguments.num_processes)]
        load = os.getloadavg()[0]
        start = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.PIPE)
        seconds = time.perf_counter() - start
        report = json.loads((output / "report.json").read_text())
        result = {
            "seconds": round(seconds, 1),
            "images": arguments.images,
            "images_per_second": round(arguments.images / seconds),
            "boxes": sum(report["boxes_of_class"].values()),
            "masks": report["masks"],
            "megabytes": round(sum(path.stat().st_size for path in output.glob("*.tfrecord")) / 1e6),
            "num_processes": arguments.num_processes,
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
