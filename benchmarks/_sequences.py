"""Drawn sequences of fixed cameras, in which one frame seldom tells what an object is.

A camera sees one object, a disc with a rim, wander over its background. In a few frames the mark on the disc shows its colour,
which is the class; in the others the mark is gray. Everything else is the same for all classes.
"""

from __future__ import annotations

import colorsys
import datetime
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASS_NAMES = ("red", "green", "blue")
"""Colours of the marks, in the order of their ids, from 1."""

_HUES = (0.0, 1 / 3, 2 / 3)
_HUE_SPREAD = 0.04
_SIDES = (0.22, 0.42)  # diameter of a disc, by the side of the image
_STEP = 0.12  # of the wandering, by the side of the image
_RIM, _MARK = 0.86, 0.55  # radii where the rim begins and the mark ends, by that of the disc
_GRAY = 110.0  # of a mark that does not show its colour, and the mean of one that does
_JPEG_QUALITY = 92
_SECONDS = 20  # between frames
_FIRST_DAY = datetime.datetime(2014, 3, 1, 6, 0, 0)


class Frame(NamedTuple):
    """One image of a sequence."""

    pixels: np.ndarray
    """[S, S, 3] uint8."""
    box: tuple[float, float, float, float]
    """(ymin, xmin, ymax, xmax) of the disc, normalized."""
    shows_class: bool


class Sequence(NamedTuple):
    """What a fixed camera sees."""

    label: int
    """1-based id of `CLASS_NAMES`."""
    frames: tuple[Frame, ...]


def draw_sequence(rng: np.random.Generator, *, image_size: int, num_frames: int, num_shown: int) -> Sequence:
    """Draws a sequence.

    Args:
        rng: source of everything random.
        image_size: side of the square images, pixels.
        num_frames: images of the sequence.
        num_shown: those in which the mark shows its colour; which ones is random.

    Raises:
        ValueError: if `num_shown` is not 0 to `num_frames`.
    """
    if not 0 <= num_shown <= num_frames:
        raise ValueError(f"num_shown = {num_shown} is not allowed. Allowed: 0 to num_frames = {num_frames}.")
    label = int(rng.integers(1, len(CLASS_NAMES) + 1))
    background = _draw_background(rng, image_size)
    radius = image_size * rng.uniform(*_SIDES) / 2
    body = rng.uniform(150.0, 220.0)
    hue = (_HUES[label - 1] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 1
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0)))
    shown = set(rng.permutation(num_frames)[:num_shown].tolist())
    centre = rng.uniform(radius, image_size - radius, 2)
    frames = []
    for number in range(num_frames):
        canvas = background.copy()
        mark = colour if number in shown else np.full(3, _GRAY)
        _draw_disc(canvas, centre, radius, body, mark)
        light = rng.uniform(0.85, 1.1)  # by the time of day
        pixels = np.clip(np.round(canvas * light + rng.normal(0.0, 4.0, canvas.shape)), 0, 255).astype(np.uint8)
        box = ((centre - radius) / image_size).tolist() + ((centre + radius) / image_size).tolist()
        frames.append(Frame(pixels, tuple(box), number in shown))
        step = rng.normal(0.0, _STEP * image_size, 2)
        centre = np.clip(centre + step, radius, image_size - radius)
    return Sequence(label, tuple(frames))


def _draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """[size, size, 3] float64: two colours that run into each other, and stripes."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, 2 * math.pi)
    along = 0.5 + 0.5 * ((rows - 0.5) * math.sin(angle) + (columns - 0.5) * math.cos(angle))
    colours = [
        255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.2, 0.8)))
        for _ in range(2)
    ]
    canvas = colours[0] * along[..., None] + colours[1] * (1 - along[..., None])
    stripes = np.sin((rows * math.cos(angle) - columns * math.sin(angle)) * rng.uniform(20, 90))
    return canvas + rng.uniform(3, 14) * stripes[..., None]


def _draw_disc(canvas: np.ndarray, centre: np.ndarray, radius: float, body: float, mark: np.ndarray) -> None:
    """Draws a disc with a dark rim and a mark; edges are smooth over about a pixel."""
    size = len(canvas)
    distances = np.hypot(*(np.mgrid[0:size, 0:size] + 0.5 - centre[:, None, None]))[..., None]
    for share, colour in ((1.0, np.full(3, 35.0)), (_RIM, np.full(3, body)), (_MARK, mark)):
        coverage = np.clip(share * radius - distances + 0.5, 0.0, 1.0)
        canvas[:] = canvas * (1 - coverage) + colour * coverage


def write_records(
    prefix: Path, *, num_sequences: int, seed: tuple[int, ...], image_size: int, num_frames: int, num_shown: int
) -> str:
    """Writes sequences as records with `image/seq_id`, `image/seq_frame_num`, `image/location`, `image/date_captured`.

    The same arguments give the same bytes.

    Args:
        prefix: folder and beginning of the names of the record files.
        num_sequences: how many.
        seed: of everything random.
        image_size: as in `draw_sequence`, like the next two.
        num_frames: see there.
        num_shown: see there.

    Returns:
        A glob of the files.
    """
    from object_detection_fpn.data.source import examples
    from object_detection_fpn.data.source.capture import Capture
    from object_detection_fpn.data.source.image_files import StoredImage
    from object_detection_fpn.tools.convert import records

    files = records.RecordFiles(str(prefix), 1)
    with files.open():
        for number in range(num_sequences):
            rng = np.random.default_rng([*seed, number])
            drawn = draw_sequence(rng, image_size=image_size, num_frames=num_frames, num_shown=num_shown)
            for frame_num, frame in enumerate(drawn.frames):
                ymin, xmin, ymax, xmax = frame.box
                thing = examples.RecordObject(
                    box=frame.box,
                    label=drawn.label,
                    name=CLASS_NAMES[drawn.label - 1],
                    area=(ymax - ymin) * (xmax - xmin) * image_size**2 * math.pi / 4,
                    is_crowd=False,
                )
                name = f"{prefix.name}_{number:04d}"
                example = examples.make_example(
                    StoredImage(_encode(frame.pixels), "jpeg"),
                    width=image_size,
                    height=image_size,
                    file_name=f"{name}_{frame_num}.jpg",
                    source_id=str(number * num_frames + frame_num + 1),
                    objects=[thing],
                    more=Capture(
                        date_captured=str(_FIRST_DAY + datetime.timedelta(days=number, seconds=frame_num * _SECONDS)),
                        location=f"camera_{number:04d}",
                        seq_id=name,
                        seq_num_frames=num_frames,
                        frame_num=frame_num,
                    ).fields(),
                )
                files.write(example)
    return files.pattern


def _encode(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
