"""From prepared images to batches: fills up the last one, pads images of different sizes."""

from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.data.example import with_none, without_none
from object_detection_fpn.data.preparing import PreparedImage
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.data.source import reader
from object_detection_fpn.records import Batch, Groundtruth, Inputs


def fill_up(images: tf.data.Dataset, *, group_size: int) -> tf.data.Dataset:
    """Appends rows marked `is_padding` until the number of rows is a multiple of `group_size`."""
    if group_size == 1:
        return images

    def zeros(spec: tf.TypeSpec) -> tf.Tensor | None:
        # One pixel where sizes vary, so that padding never enlarges a batch. Fields that are not loaded have no shape.
        return tf.zeros([d or 1 for d in spec.shape], spec.dtype) if isinstance(spec, tf.TensorSpec) else None

    blank = tf.nest.map_structure(zeros, images.element_spec)
    blank = blank._replace(
        is_padding=tf.constant(True), true_shape=tf.shape(blank.image), original_shape=tf.ones([2], tf.int32)
    )
    blanks = tf.data.Dataset.from_tensors(blank).repeat(group_size - 1)

    @reader.without_autograph
    def number(count, image):
        is_needed = ~image.is_padding | (count % group_size != 0)
        return count + tf.cast(is_needed, tf.int64), (image, is_needed)

    return reader.keep_flagged(images.concatenate(blanks).scan(tf.constant(0, tf.int64), number))


def batch(images: tf.data.Dataset, num_rows: int, *, resizer: Resizer, drop_remainder: bool) -> tf.data.Dataset:
    """Puts `num_rows` images at a time into one `PreparedImage` of their tensors, padded to the largest image.

    The padding is that of `resizer`, from which the images come.
    """
    spec = images.element_spec
    if spec.image.shape.is_fully_defined():
        return images.batch(num_rows, drop_remainder=drop_remainder, num_parallel_calls=tf.data.AUTOTUNE)

    @reader.without_autograph
    def unpack(image):  # padded_batch does not take the None of fields that are not loaded
        return tuple(without_none(image))

    @reader.without_autograph
    def pack(*tensors):
        rows = with_none(tensors, like=spec)
        return rows._replace(image=resizer.fill_padding(rows.image, rows.true_shape))

    return images.map(unpack).padded_batch(num_rows, drop_remainder=drop_remainder).map(pack)


def to_batch(rows: PreparedImage, *, keep_strings: bool) -> Batch:
    """The `Batch` of these rows; `keep_strings` keeps what only evaluation needs: source ids, marks of padding, PNG files."""
    objects = rows.objects
    return Batch(
        inputs=Inputs(images=rows.image, true_shapes=rows.true_shape, context=rows.context),
        original_shapes=rows.original_shape,
        groundtruth=Groundtruth(
            boxes=objects.boxes,
            classes=objects.classes,
            num_boxes=rows.num_boxes,
            weights=objects.weights,
            is_crowd=objects.is_crowd,
            is_difficult=objects.is_difficult,
            is_group_of=objects.is_group_of,
            areas=objects.areas,
            class_scores=objects.class_scores,
            masks=objects.masks,
            mask_frames=objects.mask_frames,
        ),
        source_id=rows.source_id if keep_strings else None,
        is_padding=rows.is_padding if keep_strings else None,
        record_keys=None if keep_strings else rows.record_key,
        labeled_classes=rows.labeled_classes,
        not_exhaustive_classes=rows.not_exhaustive_classes,
        encoded_masks=objects.encoded_masks if keep_strings else None,
    )
