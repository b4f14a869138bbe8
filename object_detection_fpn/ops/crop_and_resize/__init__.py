"""Pools RoIs from the pyramid level that fits their size (FPN, section 4.2); tf.image knows one level and no XLA.

A crop of side S samples S x S points of a box bilinearly, corners aligned: the first point lies on the box's corner, the last
on the opposite one, and a normalized coordinate y is row y * (H - 1) of a level with H rows. RoIAlign samples the insides of
S x S bins instead and averages over each; pixel y is row y / stride there, or half a row less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from object_detection_fpn.ops.crop_and_resize.align import RoIAlign
from object_detection_fpn.ops.crop_and_resize.kernel import align as kernel_align
from object_detection_fpn.ops.crop_and_resize.kernel import crop as kernel_crop
from object_detection_fpn.ops.crop_and_resize.levels import assign_levels, assign_levels_in_pixels
from object_detection_fpn.ops.crop_and_resize.samples import as_coordinates
from object_detection_fpn.ops.crop_and_resize.sparse import align as sparse_align
from object_detection_fpn.ops.crop_and_resize.sparse import crop as sparse_crop
from object_detection_fpn.ops.crop_and_resize.static import align as static_align
from object_detection_fpn.ops.crop_and_resize.static import crop as static_crop
from object_detection_fpn.ops.dims import dim

__all__ = [
    "RoIAlign",
    "assign_levels",
    "assign_levels_in_pixels",
    "multilevel_crop_and_resize",
    "multilevel_roi_align",
]


class Crop(Protocol):
    """What `kernel.crop`, `sparse.crop` and `static.crop` are; `crop_by` gives the result its shape and type."""

    def __call__(
        self,
        pyramid: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        level_indices: tf.Tensor,
        crop_size: tuple[int, int],
        extrapolation_value: float,
    ) -> tf.Tensor:
        """Boxes [B, R, 4] normalized, finite -> float32, of the order of [B, R, height, width, F] and any such shape."""


class Align(Protocol):
    """What `kernel.align`, `sparse.align` and `static.align` are; `align_by` gives the result its shape and type."""

    def __call__(
        self,
        pyramid: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        level_indices: tf.Tensor,
        *,
        strides: Sequence[float],
        roi_align: RoIAlign,
    ) -> tf.Tensor:
        """Boxes [B, R, 4] pixels, finite -> float32, of the order of [B, R, height, width, F] and any such shape."""


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
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    strides: Sequence[float],
    roi_align: RoIAlign,
    static: bool = False,
) -> tf.Tensor:
    """Pools each RoI from its own pyramid level by RoIAlign (Mask R-CNN, section 3), in the coordinates of PyTorch's libraries.

    A RoI is divided into S x S bins, each bin is sampled bilinearly at the centres of n x n equal parts, and the samples of a
    bin are averaged. Beyond the border of a level, samples have the border's value within one cell, and 0 further away.

    Without `static`, `sparse` computes it, or, on a machine with a GPU and unless sampling is adaptive, `kernel`. All give the
    same, except that `static` bounds adaptive sampling.

    Args:
        pyramid: per level [B, H, W, F] of any float type, finest first.
        boxes: [B, R, 4] float32, pixels of the padded image; may reach beyond it. Boxes that are not finite are taken as the
            image's first corner. No gradient passes to them.
        level_indices: [B, R] int32 in [0, len(pyramid)).
        strides: pixels from cell to cell, of each level.
        roi_align: how RoIs are sampled.
        static: in static shapes, which XLA compiles.

    Returns:
        [B, R, S, S, F] of the pyramid's type, interpolated and averaged in float32.

    Raises:
        ValueError: if there are not as many strides as levels.
    """
    if len(strides) != len(pyramid):
        raise ValueError(f"strides = {list(strides)} for {len(pyramid)} levels. Allowed: one for each level.")
    with tf.name_scope("crop_and_resize"):
        align = static_align if static else _native_align(roi_align)
        return align_by(align, pyramid, boxes, level_indices, strides=strides, roi_align=roi_align)


def crop_by(
    crop: Crop,
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


def align_by(
    align: Align,
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    strides: Sequence[float],
    roi_align: RoIAlign,
) -> tf.Tensor:
    """`multilevel_roi_align` by the implementation `align`: that of `kernel`, `sparse` or `static`."""
    values = align(pyramid, as_coordinates(boxes), level_indices, strides=strides, roi_align=roi_align)
    batch, num_rois, num_filters = dim(level_indices, 0), dim(level_indices, 1), pyramid[0].shape[-1]
    return tf.reshape(tf.cast(values, pyramid[0].dtype), [batch, num_rois, *roi_align.size, num_filters])


def _native_crop() -> Crop:
    """The implementation that suits this machine."""
    return kernel_crop if tf.config.list_physical_devices("GPU") else sparse_crop


def _native_align(roi_align: RoIAlign) -> Align:
    """The same for RoIAlign; the kernel does not sample adaptively."""
    is_adaptive = roi_align.sampling_ratio == 0
    return sparse_align if is_adaptive or not tf.config.list_physical_devices("GPU") else kernel_align


def _as_size(crop_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if min(height, width) < 1:
        raise ValueError(f"crop_size = {crop_size}. Allowed: 1 or more.")
    return height, width
