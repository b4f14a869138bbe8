"""Pastes masks from their boxes into images as operations of a graph, for SavedModels; on the host `ops.pasting` does it.

Every number is computed in the order of `ops.pasting`, which says where each of the three ways comes from, so that a mask
pasted by a server is the one pasted by its client.

Shape letters: B images, D detections, M mask side (rows and columns may differ in number), H W size of the largest image.
"""

from __future__ import annotations

import typing

import tensorflow as tf

from object_detection_fpn.ops.pasting import MaskPasting

_THRESHOLD = 0.5  # of all three libraries
_MIN_SIDE = 1e-4  # of a normalized box, in the Object Detection API's `reframe_box_masks_to_image_masks`


def paste_masks(
    masks: tf.Tensor, boxes_normalized: tf.Tensor, image_sizes: tf.Tensor, *, pasting: MaskPasting
) -> tf.Tensor:
    """Stretches masks over their boxes and decides which pixels of the images are inside.

    One mask after the other is stretched, in float32; the rest is kept as uint8. 100 of them in an image of 12 megapixels are
    1.2 GB all the same: the host pastes what it needs, and only where its box is.

    Args:
        masks: [B, D, M, M] float32 in [0, 1]; B is at least 1.
        boxes_normalized: [B, D, 4] float32, normalized to the image. A box that is not finite, or has no area, gives an empty
            mask.
        image_sizes: [B, 2] int32, height and width of each image.
        pasting: as `ops.pasting.paste_masks` lists them.

    Returns:
        [B, D, H, W] uint8, 1 inside; zeros beyond an image that is smaller than the largest.

    Raises:
        ValueError: if there is no such pasting.
    """
    if pasting not in typing.get_args(MaskPasting):
        raise ValueError(f"pasting = {pasting!r} is unknown. Allowed: {', '.join(typing.get_args(MaskPasting))}.")
    batch_size, num_detections, num_rows, num_columns = tf.unstack(tf.shape(masks))
    height, width = tf.unstack(tf.reduce_max(image_sizes, axis=0))
    sizes = tf.cast(image_sizes, tf.float32)
    boxes = boxes_normalized * tf.concat([sizes, sizes], axis=1)[:, None]  # [B, D, 4], pixels
    corners = tf.transpose(boxes, [2, 0, 1])  # (ymin, xmin, ymax, xmax), each [B, D]
    is_finite = tf.reduce_all(tf.math.is_finite(boxes), axis=-1)
    is_box = is_finite & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    rows = _weights(corners[0], corners[2], sizes[:, 0], is_box, (height, num_rows), pasting)
    columns = _weights(corners[1], corners[3], sizes[:, 1], is_box, (width, num_columns), pasting)

    def paste(mask: tf.Tensor, row_weights: tf.Tensor, column_weights: tf.Tensor) -> tf.Tensor:
        values = tf.matmul(tf.matmul(row_weights, mask), column_weights, transpose_b=True)  # [H, W]
        return tf.cast(values >= _THRESHOLD if pasting == "PIXEL_CENTERS" else values > _THRESHOLD, tf.uint8)

    num_masks = batch_size * num_detections
    pasted = tf.map_fn(
        lambda of_one: paste(*of_one),
        (
            tf.reshape(masks, [num_masks, num_rows, num_columns]),
            tf.reshape(rows, [num_masks, height, num_rows]),
            tf.reshape(columns, [num_masks, width, num_columns]),
        ),
        fn_output_signature=tf.TensorSpec([None, None], tf.uint8),
    )
    pasted = tf.reshape(pasted, [batch_size, num_detections, height, width])
    pasted.set_shape([masks.shape[0], masks.shape[1], None, None])
    return pasted


def _weights(
    low: tf.Tensor,
    high: tf.Tensor,
    sizes: tf.Tensor,
    is_box: tf.Tensor,
    shape: tuple[tf.Tensor, tf.Tensor],
    pasting: MaskPasting,
) -> tf.Tensor:
    """The share of each cell of the masks in each pixel of one axis: linear between cells, zero outside.

    Args:
        low: [B, D] float32, where the boxes begin, in pixels.
        high: [B, D] float32, where they end.
        sizes: [B] float32, pixels of each image.
        is_box: [B, D] bool, False for masks that stay empty.
        shape: H, pixels of the largest image, and M, cells of a mask.
        pasting: how.

    Returns:
        [B, D, H, M] float32.
    """
    size, num_cells = shape
    pixels = tf.range(tf.cast(size, tf.float32))  # [H]
    cells = tf.range(tf.cast(num_cells, tf.float32))  # [M]
    # An axis for pixels.
    low, high, sizes = low[..., None], high[..., None], sizes[:, None, None]
    positions = _POSITIONS[pasting](low, high, sizes, pixels, tf.cast(num_cells, tf.float32))  # [B, D, H], in cells
    is_sampled = is_box[..., None] & (pixels < sizes)
    if pasting == "CORNERS_ALIGNED":
        is_sampled &= (positions >= 0) & (positions <= cells[-1])
    weights = tf.maximum(1 - tf.abs(positions[..., None] - cells), 0.0)
    return tf.where(is_sampled[..., None], weights, 0.0)


def _corners_aligned(
    low: tf.Tensor, high: tf.Tensor, sizes: tf.Tensor, pixels: tf.Tensor, num_cells: tf.Tensor
) -> tf.Tensor:
    low, high = low / sizes, high / sizes
    side = tf.maximum(high - low, _MIN_SIDE)
    begin, end = (0 - low) / side, (1 - low) / side  # of the image, relative to the box
    last = num_cells - 1
    step = (end - begin) * last / tf.maximum(sizes - 1, 1.0)
    return tf.where(sizes == 1, 0.5 * (begin + end) * last, begin * last + pixels * step)


def _pixel_centers(low: tf.Tensor, high: tf.Tensor, _: tf.Tensor, pixels: tf.Tensor, num_cells: tf.Tensor) -> tf.Tensor:
    share = (pixels + 0.5 - low) / (high - low) * 2 - 1  # -1 to 1 in the box
    return ((share + 1) * num_cells - 1) / 2


def _zero_border(low: tf.Tensor, high: tf.Tensor, _: tf.Tensor, pixels: tf.Tensor, num_cells: tf.Tensor) -> tf.Tensor:
    half, center = (high - low) * 0.5, (high + low) * 0.5
    # The ratio in float64, rounded once.
    half *= tf.cast((tf.cast(num_cells, tf.float64) + 2) / tf.cast(num_cells, tf.float64), tf.float32)
    first, last = _truncate(center - half), _truncate(center + half)
    num_pixels = tf.maximum(last - first + 1, 1.0)
    return (pixels - first + 0.5) * ((num_cells + 2) / num_pixels) - 1.5


def _truncate(values: tf.Tensor) -> tf.Tensor:
    """Towards zero."""
    return tf.sign(values) * tf.floor(tf.abs(values))


_POSITIONS = {"CORNERS_ALIGNED": _corners_aligned, "PIXEL_CENTERS": _pixel_centers, "ZERO_BORDER": _zero_border}
