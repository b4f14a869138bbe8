"""Run lengths of masks in COCO's compressed form (`pycocotools.mask`), computed of a pasted mask without filling its image.

COCO counts pixels column by column: so many outside, so many inside, and so on.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pycocotools.mask as coco_mask

from object_detection_fpn.ops.pasting import PastedMask


class Rle(TypedDict):
    """A mask as COCO's result files have it."""

    size: list[int]
    """Height and width of the image."""
    counts: bytes
    """The compressed run lengths."""


def encode_pasted(pasted: PastedMask, image_size: tuple[int, int]) -> Rle:
    """The run lengths of a pasted mask in its whole image.

    Args:
        pasted: lies within the image.
        image_size: height and width of the image.
    """
    height, width = image_size
    columns = pasted.pixels.T  # [w, h]
    num_columns, num_rows = columns.shape
    if not columns.size:
        return _compress(np.array([height * width]), image_size)
    is_edge = np.empty((num_columns, num_rows + 1), bool)  # the mask begins or ends before this row of the part
    is_edge[:, 0], is_edge[:, -1] = columns[:, 0], columns[:, -1]
    np.not_equal(columns[:, 1:], columns[:, :-1], out=is_edge[:, 1:-1])
    column, row = np.divmod(np.flatnonzero(is_edge), num_rows + 1)
    edges = (pasted.begin[1] + column) * height + pasted.begin[0] + row
    # A run that ends at the last row of the image goes on where one begins at the first row of the next column.
    is_joint = edges[1:] == edges[:-1]
    is_kept = np.ones(len(edges), bool)
    is_kept[1:][is_joint] = is_kept[:-1][is_joint] = False
    edges = edges[is_kept]
    end = [height * width] if not len(edges) or edges[-1] < height * width else []
    return _compress(np.diff(np.concatenate([[0], edges, end])), image_size)


def encode_mask(mask: np.ndarray) -> Rle:
    """The run lengths of a mask.

    Args:
        mask: [H, W] bool.
    """
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def encode_box(box: np.ndarray, image_size: tuple[int, int]) -> Rle:
    """The run lengths of all pixels that a box touches.

    Args:
        box: [4] float, pixels.
        image_size: height and width of the image.
    """
    low = np.clip(np.floor(box[:2]), 0, image_size).astype(int)
    high = np.clip(np.ceil(box[2:]), low, image_size).astype(int)
    return encode_pasted(PastedMask(np.ones(high - low, bool), (int(low[0]), int(low[1]))), image_size)


def decode(rle: Rle) -> np.ndarray:
    """The mask of run lengths, [H, W] bool."""
    return coco_mask.decode(rle).astype(bool)


def _compress(counts: np.ndarray, image_size: tuple[int, int]) -> Rle:
    height, width = image_size
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
