"""Pools RoIs from the pyramid level that fits their size (FPN, section 4.2); tf.image knows one level and no XLA.

A crop of side S samples S x S points of a box bilinearly, corners aligned: the first point lies on the box's corner, the last
on the opposite one, and a normalized coordinate y is row y * (H - 1) of a level with H rows. RoIAlign samples the insides of
S x S cells instead and averages over each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from object_detection_fpn.ops.crop_and_resize.kernel import crop as kernel_crop
from object_detection_fpn.ops.crop_and_resize.levels import assign_levels
from object_detection_fpn.ops.crop_and_resize.samples import as_coordinates
from object_detection_fpn.ops.crop_and_resize.sparse import crop as sparse_crop
from object_detection_fpn.ops.crop_and_resize.static import crop as static_crop
from object_detection_fpn.ops.dims import dim

__all__ = ["assign_levels", "multilevel_crop_and_resize", "multilevel_roi_align"]


def multilevel_crop_and_resize(
    pyramid: Sequence[tf.Tensor],
    boxes_normalized: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    crop_size: int | tuple[int, int],
    static: bool = False,
    extrapolation_value: float = 0.0,
) -> tf.Tensor:
    """Crops each RoI from its own pyramid level; no other level is touched for it.

    Without `static`, crops come from `kernel` on a machine with a GPU and from `sparse` elsewhere: they give the same and take
    any shapes. `static` compiles under XLA and is made for TPUs. It differs only beyond the border of a level: there the
    others return `extrapolation_value`, and `static` fades to it over one cell, as the Object Detection API's two
    implementations do.

    Args:
        pyramid: per level [B, H, W, F] of any float type, finest first.
        boxes_normalized: [B, R, 4] float32, shares of the padded image; may reach beyond it. Boxes that are not finite are
            taken as the image's first corner. No gradient passes to them.
        level_indices: [B, R] int32 in [0, len(pyramid)).
        crop_size: S, or (height, width) of crops that are not square.
        static: in static shapes, which XLA compiles, instead of by the kernels of CPU and GPU.
        extrapolation_value: what lies around each level.

    Returns:
        [B, R, S, S, F] of the pyramid's type, interpolated in float32.

    Raises:
        ValueError: if `crop_size` is below 1.
    """
    crop = static_crop if static else _native_crop()
    with tf.name_scope("crop_and_resize"):
        return crop_by(crop, pyramid, boxes_normalized, level_indices, crop_size, extrapolation_value)


def multilevel_roi_align(
    pyramid: Sequence[tf.Tensor],
    boxes_normalized: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    crop_size: int | tuple[int, int],
    samples_per_cell: int,
    static: bool = False,
    extrapolation_value: float = 0.0,
) -> tf.Tensor:
    """Pools each RoI from its own pyramid level by RoIAlign (Mask R-CNN, section 3).

    A RoI is divided into S x S cells, each cell is sampled bilinearly at the centres of n x n equal parts, and the samples
    of a cell are averaged. A normalized coordinate y is row y * (H - 1), as for `multilevel_crop_and_resize`.

    Args:
        pyramid: as for `multilevel_crop_and_resize`, like all arguments that are not here.
        boxes_normalized: [B, R, 4] float32, shares of the padded image.
        level_indices: [B, R] int32 in [0, len(pyramid)).
        crop_size: S, or (height, width) in cells.
        samples_per_cell: n.
        static: as for `multilevel_crop_and_resize`.
        extrapolation_value: what lies around each level.

    Returns:
        [B, R, S, S, F] of the pyramid's type, interpolated and averaged in float32.

    Raises:
        ValueError: if `crop_size` or `samples_per_cell` is below 1.
    """
    if samples_per_cell < 1:
        raise ValueError(f"samples_per_cell = {samples_per_cell}. Allowed: 1 or more.")
    height, width = _as_size(crop_size)
    num_rows, num_columns = height * samples_per_cell, width * samples_per_cell
    boxes = tf.cast(boxes_normalized, tf.float32)
    # The first and last sample lie half a part inside the box: as the corners of a smaller box, all come to their places.
    size = boxes[..., 2:] - boxes[..., :2]
    inset = size * tf.constant([0.5 / num_rows, 0.5 / num_columns])
    samples = multilevel_crop_and_resize(
        [tf.cast(features, tf.float32) for features in pyramid],
        tf.concat([boxes[..., :2] + inset, boxes[..., 2:] - inset], axis=-1),
        level_indices,
        crop_size=(num_rows, num_columns),
        static=static,
        extrapolation_value=extrapolation_value,
    )
    batch, num_rois, num_filters = dim(level_indices, 0), dim(level_indices, 1), pyramid[0].shape[-1]
    cells = [batch, num_rois, height, samples_per_cell, width, samples_per_cell, num_filters]
    return tf.cast(tf.reduce_mean(tf.reshape(samples, cells), axis=[3, 5]), pyramid[0].dtype)


def crop_by(
    crop: Callable[..., tf.Tensor],
    pyramid: Sequence[tf.Tensor],
    boxes_normalized: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: int | tuple[int, int],
    extrapolation_value: float = 0.0,
) -> tf.Tensor:
    """`multilevel_crop_and_resize` by the implementation `crop`: that of `kernel`, `sparse` or `static`."""
    size = _as_size(crop_size)
    crops = crop(pyramid, as_coordinates(boxes_normalized), level_indices, size, extrapolation_value)
    batch, num_rois, num_filters = dim(level_indices, 0), dim(level_indices, 1), pyramid[0].shape[-1]
    return tf.reshape(tf.cast(crops, pyramid[0].dtype), [batch, num_rois, *size, num_filters])


def _native_crop() -> Callable[..., tf.Tensor]:
    """The implementation that suits this machine."""
    return kernel_crop if tf.config.list_physical_devices("GPU") else sparse_crop


def _as_size(crop_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if min(height, width) < 1:
        raise ValueError(f"crop_size = {crop_size}. Allowed: 1 or more.")
    return height, width
