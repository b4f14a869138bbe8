"""Draws the demo's data set: circles, squares and triangles of many sizes over textured backgrounds.

It is small and quick to learn, yet has what real data has: objects of all COCO size classes that partly cover each
other, texture and noise, images of different shape, images without objects, and crowds.
"""

from __future__ import annotations

import colorsys
import dataclasses
import json
import math
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw
from tqdm import tqdm

from object_detection_fpn.ops import rle
from object_detection_fpn.tools.convert import coco, records

CLASS_NAMES = ("circle", "square", "triangle")
"""In the order of their ids, from 1."""


class ShapesDataset(NamedTuple):
    """Paths of what `write_dataset` wrote."""

    label_map_path: str
    train_records: str
    """Glob of the training records."""
    eval_records: str
    """Glob of the held-out records."""
    train_annotations: str
    """COCO JSON."""
    train_images: str
    """Folder of JPEG files."""
    eval_annotations: str
    eval_images: str


class DrawnImage(NamedTuple):
    """An image and its objects, one row each."""

    pixels: np.ndarray
    """[H, W, 3] uint8."""
    boxes: np.ndarray
    """[N, 4] float32, pixels, tight around the whole shape even where another one covers it."""
    classes: np.ndarray
    """[N] int64, 1-based ids of `CLASS_NAMES`."""
    areas: np.ndarray
    """[N] float32, pixels of the shape itself."""
    is_crowd: np.ndarray
    """[N] bool."""
    masks: np.ndarray
    """[N, H, W] bool, the pixels that show the object: at least half of the pixel is of its shape, and of no shape that was
    drawn later. So the box, which is around the whole shape, is tight around the mask (to a pixel) where nothing covers it, and
    may be larger elsewhere. The mask of a crowd is that of all its shapes."""


class _Canvas(NamedTuple):
    """What is drawn on."""

    colours: np.ndarray
    """[H, W, 3] float64."""
    owners: np.ndarray
    """[H, W] int16, the row of the object that a pixel shows, -1 for the background."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
    """How many objects the images show, and how large they are drawn.

    Raises:
        ValueError: if a number is out of its range.
    """

    min_objects: int = 1
    """Of an image that has any."""
    max_objects: int = 5
    """Fewer are drawn where there is no room."""
    min_side: float = 14.0
    """Pixels; smaller shapes can hardly be told apart after JPEG compression."""
    max_side: float | None = None
    """Pixels; None = 0.85 of the shorter side of the image."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects:
            allowed = f"1 to max_objects = {self.max_objects}"
            raise ValueError(f"min_objects = {self.min_objects} is not allowed. Allowed: {allowed}.")
        if not 4 <= self.min_side <= (math.inf if self.max_side is None else self.max_side):
            allowed = "4 and above, up to max_side"
            raise ValueError(f"min_side = {self.min_side} is not allowed. Allowed: {allowed}.")


FEW = Scenes()
"""What `odfpn demo` draws."""

MANY_SMALL = Scenes(min_objects=10, max_objects=30, min_side=6.0, max_side=60.0)
"""Four fifths of the objects are small in COCO's sense; for images of about 256 pixels."""

_MAX_SIDE_SHARE = 0.85  # of the shorter side of the image
_EMPTY_SHARE = 0.03  # of the images
_CROWD_SHARE = 0.04
_MAX_COVERED = 0.35  # share of the smaller of two boxes that the other one may hide
_MAX_TILT = math.radians(20)
_MIN_CONTRAST = 90.0  # RGB distance between a shape and the background behind it; 442 is black on white
_LOW_CONTRAST_SHARE = 0.08  # of the shapes need only half of it
_OVERSAMPLING = 3  # shapes are drawn larger by this factor and averaged down, for smooth edges
_MIN_SHARE = 0.5  # of a pixel that a shape fills, from which on it is the shape's
_JPEG_QUALITY = 92


def write_dataset(
    output_dir: str,
    *,
    num_train: int = 600,
    num_eval: int = 100,
    image_size: int = 160,
    seed: int = 0,
    num_shards: int = 2,
    scenes: Scenes = FEW,
    with_masks: bool = False,
    show_progress: bool = True,
) -> ShapesDataset:
    """Writes training and held-out images as TFRecords with a label map, and as COCO JSON with JPEG files.

    The same arguments give the same bytes; image i does not depend on how many images there are.

    Args:
        output_dir: is created if needed.
        num_train: number of training images.
        num_eval: number of held-out images.
        image_size: longer side in pixels.
        seed: of everything random.
        num_shards: number of record files of each part.
        scenes: how many objects the images show, and how large.
        with_masks: write masks, as run lengths to the JSON and as PNG to the records. Images and boxes are the same without.
        show_progress: show progress bars.

    Raises:
        ValueError: if a number of images is below 1 or `image_size` below 64.
    """
    for name, value in (("num_train", num_train), ("num_eval", num_eval)):
        if value < 1:
            raise ValueError(f"{name} = {value} is not allowed. Allowed: 1 and above.")
    label_map_path = os.path.join(output_dir, "label_map.pbtxt")
    paths: dict[str, str] = {}
    for part, (split, num_images) in enumerate((("train", num_train), ("eval", num_eval))):
        image_dir = os.path.join(output_dir, "coco", split)
        annotations_path = os.path.join(output_dir, "coco", f"{split}.json")
        drawn = (
            draw_image(np.random.default_rng([seed, part, i]), image_size=image_size, scenes=scenes)
            for i in range(num_images)
        )
        progress = tqdm(drawn, desc=f"drawing {image_dir}", unit="image", total=num_images, disable=not show_progress)
        _write_coco(image_dir, annotations_path, progress, with_masks=with_masks)
        conversion = coco.coco_to_tfrecords(
            annotations_path,
            image_dir,
            os.path.join(output_dir, split),
            num_shards=min(num_shards, num_images),
            allow_no_boxes=True,  # a few images may all be without objects
            show_progress=False,  # drawing, which is what takes time, shows its own
        )
        paths |= {
            f"{split}_records": conversion.record_pattern,
            f"{split}_annotations": annotations_path,
            f"{split}_images": image_dir,
        }
    # Last, so that where there is a label map, the data set is complete.
    records.write_label_map(label_map_path, dict(enumerate(CLASS_NAMES, start=1)))
    return ShapesDataset(label_map_path=label_map_path, **paths)


def draw_image(rng: np.random.Generator, *, image_size: int, scenes: Scenes = FEW) -> DrawnImage:
    """Draws one image.

    Args:
        rng: source of everything random.
        image_size: longer side in pixels; the other one is as long or three quarters of it.
        scenes: how many objects it shows, and how large.

    Raises:
        ValueError: if `image_size` is below 64, where shapes no longer have room beside each other.
    """
    if image_size < 64:
        raise ValueError(f"image_size = {image_size} is too small. Allowed: 64 and above.")
    height, width = [(1, 1), (1, 1), (0.75, 1), (1, 0.75)][rng.integers(4)]
    colours = _draw_background(rng, round(height * image_size), round(width * image_size))
    canvas = _Canvas(colours, np.full(colours.shape[:2], -1, np.int16))
    kind = rng.random()
    if kind < _EMPTY_SHARE:
        objects = []
    else:
        objects = _draw_objects(rng, canvas, scenes)
        if kind > 1 - _CROWD_SHARE:
            objects += _draw_crowd(rng, canvas, [box for box, *_ in objects])
    colours += rng.normal(0.0, rng.uniform(2.0, 7.0), colours.shape)
    boxes, classes, areas, is_crowd = zip(*objects, strict=True) if objects else ((), (), (), ())
    return DrawnImage(
        pixels=np.clip(np.round(colours), 0, 255).astype(np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        areas=np.array(areas, np.float32),
        is_crowd=np.array(is_crowd, bool),
        masks=canvas.owners == np.arange(len(objects))[:, None, None],
    )


_Object = tuple[tuple[float, float, float, float], int, float, bool]  # box, class id, area, crowd flag


def _draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[height, width, 3] float: soft colour clouds with stripes, checks or grain on them."""
    colours = np.stack([_random_colour(rng, saturation=(0.05, 0.55), value=(0.2, 0.9)) for _ in range(2)])
    clouds = _cloud(rng, height, width, int(rng.integers(2, 6)))[..., None]
    canvas = colours[0] * clouds + colours[1] * (1 - clouds)
    rows, columns = np.mgrid[0:height, 0:width]
    angle, period = rng.uniform(0, math.pi), rng.uniform(6, 30)
    along = (rows * math.sin(angle) + columns * math.cos(angle)) * (2 * math.pi / period)
    texture = rng.integers(4)
    if texture == 0:
        pattern = np.sin(along)
    elif texture == 1:
        across = (rows * math.cos(angle) - columns * math.sin(angle)) * (2 * math.pi / period)
        pattern = np.sign(np.sin(along) * np.sin(across))
    elif texture == 2:
        pattern = 2 * _cloud(rng, height, width, int(rng.integers(15, 40))) - 1
    else:
        pattern = np.zeros([height, width])
    return canvas + rng.uniform(5, 22) * pattern[..., None]


def _cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """[height, width] smooth noise in [0, 1] with about `cells` bumps along the longer side."""
    grid = Image.fromarray(rng.integers(0, 256, [cells + 1, cells + 1], np.uint8))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255


def _draw_objects(rng: np.random.Generator, canvas: _Canvas, scenes: Scenes) -> list[_Object]:
    """Draws the shapes of a scene; one for which there is no room is left out."""
    height, width = canvas.owners.shape
    largest = _MAX_SIDE_SHARE * min(height, width)
    if scenes.max_side is not None:
        largest = min(largest, scenes.max_side)
    objects: list[_Object] = []
    for _ in range(int(rng.integers(scenes.min_objects, scenes.max_objects + 1))):
        label = int(rng.integers(1, len(CLASS_NAMES) + 1))
        for _ in range(20):  # tries to find room
            side = math.exp(rng.uniform(math.log(scenes.min_side), math.log(largest)))
            outline = _outline(rng, label, side)
            box = _place(rng, outline, height, width)
            if all(_covered(box, other) <= _MAX_COVERED for other, *_ in objects):
                area = _paint(rng, canvas, outline + _centre_for(outline, box), box, row=len(objects))
                objects.append((box, label, area, False))
                break
    return objects


def _draw_crowd(rng: np.random.Generator, canvas: _Canvas, taken: list[tuple[float, ...]]) -> list[_Object]:
    """Draws a heap of tiny shapes of one class under one crowd box, if there is a free corner for it."""
    height, width = canvas.owners.shape
    side = 0.35 * min(height, width)
    label = int(rng.integers(1, len(CLASS_NAMES) + 1))
    for _ in range(20):
        top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
        region = (top, left, top + side, left + side)
        if any(_covered(region, other) > 0 for other in taken):
            continue
        members = []
        for _ in range(12):
            outline = _outline(rng, label, rng.uniform(7.0, 11.0))
            box = _place(rng, outline, side, side, origin=(top, left))
            members.append((box, _paint(rng, canvas, outline + _centre_for(outline, box), box, row=len(taken))))
        boxes = np.array([box for box, _ in members])
        hull = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
        return [(hull, label, sum(area for _, area in members), True)]
    return []


def _outline(rng: np.random.Generator, label: int, side: float) -> np.ndarray:
    """[V, 2] (y, x) corners around the origin of a shape that is about `side` pixels wide."""
    tilt = rng.uniform(-_MAX_TILT, _MAX_TILT)
    if label == 1:
        angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        points = np.stack([np.sin(angles), np.cos(angles)], axis=-1) / 2
    elif label == 2:
        points = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) / 2
    else:
        points = np.array([[-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]) / 2 * [rng.uniform(0.8, 1.1), 1.0]
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    return side * points @ turn.T


def _place(
    rng, outline: np.ndarray, height: float, width: float, origin=(0.0, 0.0)
) -> tuple[float, float, float, float]:
    """A random place inside height x width for the box (ymin, xmin, ymax, xmax) of an outline."""
    size_y, size_x = np.ptp(outline, axis=0).tolist()
    ymin = origin[0] + rng.uniform(0, max(height - size_y, 0.0))
    xmin = origin[1] + rng.uniform(0, max(width - size_x, 0.0))
    return ymin, xmin, ymin + size_y, xmin + size_x


def _centre_for(outline: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Where the origin of `outline` goes so that it fills `box`."""
    return np.array(box[:2]) - outline.min(axis=0)


def _covered(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection as a share of the smaller box."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return max(height, 0.0) * max(width, 0.0) / min(areas)


def _paint(rng: np.random.Generator, canvas: _Canvas, points: np.ndarray, box: tuple[float, ...], *, row: int) -> float:
    """Fills the polygon `points` [V, 2] (y, x), of object `row`, in a colour unlike what is behind it; returns its area."""
    top, left = math.floor(box[0]), math.floor(box[1])
    height, width = canvas.owners.shape
    bottom, right = min(math.ceil(box[2]), height), min(math.ceil(box[3]), width)
    patch = canvas.colours[top:bottom, left:right]
    stencil = Image.new("L", ((right - left) * _OVERSAMPLING, (bottom - top) * _OVERSAMPLING))
    # Pillow's pixel (0, 0) has its centre at (0, 0), ours at (0.5, 0.5).
    corners = (points - [top, left]) * _OVERSAMPLING - 0.5
    ImageDraw.Draw(stencil).polygon([(x, y) for y, x in corners.tolist()], fill=255)
    coverage = (
        np.asarray(stencil.resize((right - left, bottom - top), Image.Resampling.BOX), np.float64)[..., None] / 255
    )

    behind = patch.mean(axis=(0, 1))
    needed = _MIN_CONTRAST * (0.5 if rng.random() < _LOW_CONTRAST_SHARE else 1.0)
    for _ in range(100):
        colour = _random_colour(rng, saturation=(0.35, 1.0), value=(0.25, 1.0))
        if np.linalg.norm(colour - behind) >= needed:
            break
    shade = 1.0 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, bottom - top)[:, None, None]
    canvas.colours[top:bottom, left:right] = patch * (1 - coverage) + colour * shade * coverage
    canvas.owners[top:bottom, left:right][coverage[..., 0] >= _MIN_SHARE] = row
    y, x = points.T
    return abs(float(y @ np.roll(x, 1) - x @ np.roll(y, 1))) / 2


def _random_colour(
    rng: np.random.Generator, *, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def _write_coco(image_dir: str, annotations_path: str, drawn_images: Iterable[DrawnImage], *, with_masks: bool) -> None:
    tf.io.gfile.makedirs(image_dir)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, drawn in enumerate(drawn_images):
        file_name = f"{i + 1:06d}.jpg"
        height, width = drawn.pixels.shape[:2]
        with tf.io.gfile.GFile(os.path.join(image_dir, file_name), "wb") as file:
            Image.fromarray(drawn.pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
        images.append({"id": i + 1, "file_name": file_name, "width": width, "height": height})
        rows = zip(
            drawn.boxes.tolist(), drawn.classes.tolist(), drawn.areas.tolist(), drawn.is_crowd.tolist(), strict=True
        )
        for row, ((ymin, xmin, ymax, xmax), label, area, is_crowd) in enumerate(rows):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": i + 1,
                "category_id": label,
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                "area": area,
                "iscrowd": int(is_crowd),
            }
            if with_masks:
                runs = rle.encode_mask(drawn.masks[row])
                annotation["segmentation"] = {"size": runs["size"], "counts": runs["counts"].decode()}
            annotations.append(annotation)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]
    with tf.io.gfile.GFile(annotations_path, "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
