"""Splits a data set by ratio: which part an image is in depends on its file name alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from object_detection_fpn.tools.convert.sources import Source, SourceError, Split

_NAMES = ("train", "val", "test")


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuses ratios that are no parts of a whole.

    Raises:
        SourceError: if there are not two or three, one is not above 0, or their sum is not 1.
    """
    total = math.fsum(ratios)
    if (
        len(ratios) not in (2, 3)
        or not all(0 < each < 1 for each in ratios)
        or not math.isclose(total, 1, abs_tol=1e-6)
    ):
        text = " ".join(f"{each:g}" for each in ratios)
        raise SourceError(
            f"--split {text} is not allowed. Allowed: two or three numbers above 0 that add up to 1, as 0.9 0.1."
        )


def split_source(source: Source, ratios: Sequence[float], seed: int) -> Source:
    """Splits the images of a source into train and val, or train, val and test.

    Images are sorted by a hash of the seed and their file name, so that the order in the source plays no part and nothing
    depends on the version of a random generator. Inside a part they keep the order of the source.

    Args:
        source: has one split.
        ratios: parts of the whole.
        seed: another one gives other parts.

    Raises:
        SourceError: if the ratios are not allowed, the source has splits, or a part would have no image.
    """
    check_ratios(ratios)
    if len(source.splits) != 1:
        names = ", ".join(split.name for split in source.splits)
        raise SourceError(
            f"{source.path}: is split already, into {names}. Allowed: sources of one split, with --split."
        )
    (whole,) = source.splits
    images = whole.dataset.images
    order = sorted(range(len(images)), key=lambda i: hashlib.sha256(f"{seed}/{images[i].file_name}".encode()).digest())
    ends = [round(math.fsum(ratios[: i + 1]) * len(images)) for i in range(len(ratios))]
    splits = []
    for name, begin, end in zip(_NAMES, [0, *ends], ends, strict=False):
        if begin == end:
            raise SourceError(
                f"{source.path}: {name} would have none of the {len(images)} images. Allowed: larger ratios."
            )
        chosen = [images[i] for i in sorted(order[begin:end])]
        annotations = {image.id: whole.dataset.annotations[image.id] for image in chosen}
        splits.append(Split(name, whole.dataset._replace(images=chosen, annotations=annotations), whole.image_dir))
    return source._replace(splits=splits)
