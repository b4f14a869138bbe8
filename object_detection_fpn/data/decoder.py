"""Decodes one tf.Example with the feature keys of the TensorFlow Object Detection API into an `Example`.

Shape letters: N objects of the image, H W size, F image channels, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from object_detection_fpn.data import features, images, masks
from object_detection_fpn.data.augment import warp
from object_detection_fpn.data.context import ContextDecoding, decode_context
from object_detection_fpn.data.example import Example, Objects
from object_detection_fpn.data.features import Hierarchy
from object_detection_fpn.data.masks import MaskDecoding
from object_detection_fpn.data.report import Notice
from object_detection_fpn.data.source.examples import PATH_KEY


class Issues(NamedTuple):
    """What is wrong with a record that is used nevertheless."""

    notices: tf.Tensor
    """[len(Notice)] int32, how many boxes were dropped or clipped, by reason; 1 for an image with a notice."""
    num_boxes: tf.Tensor
    """Scalar int32, boxes of the record, good and bad."""
    values: tf.Tensor
    """[len(Notice)] string, the first box (coordinates with commas between them) or class name of each reason, or empty."""


class DecodedExample(NamedTuple):
    """An `Example` and the rest of its record."""

    example: Example
    source_id: tf.Tensor
    """Scalar string, empty when the record has none."""
    issues: Issues


Crop = Callable[[tf.Tensor, Objects], warp.Warp]
"""From the size of an image, [2] int32, and its objects to a warp that has a window, inside the image, and nothing else."""


_ROUNDING = 1e-3  # share of the image side by which a box may stick out before its clipping is worth a notice

_FEATURES: dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature] = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string, ""),
    "image/source_id": tf.io.FixedLenFeature([], tf.string, ""),
    "image/object/bbox/ymin": tf.io.RaggedFeature(tf.float32),
    "image/object/bbox/xmin": tf.io.RaggedFeature(tf.float32),
    "image/object/bbox/ymax": tf.io.RaggedFeature(tf.float32),
    "image/object/bbox/xmax": tf.io.RaggedFeature(tf.float32),
    "image/object/class/label": tf.io.RaggedFeature(tf.int64),
    "image/object/class/text": tf.io.RaggedFeature(tf.string),
    "image/object/area": tf.io.RaggedFeature(tf.float32),
    "image/object/is_crowd": tf.io.RaggedFeature(tf.int64),
    "image/object/difficult": tf.io.RaggedFeature(tf.int64),
    "image/object/group_of": tf.io.RaggedFeature(tf.int64),
    "image/object/weight": tf.io.RaggedFeature(tf.float32),
}
_IMAGE_LABEL_FEATURES = {
    "image/class/label": tf.io.RaggedFeature(tf.int64),
    "image/class/text": tf.io.RaggedFeature(tf.string),
    "image/class/confidence": tf.io.RaggedFeature(tf.float32),
    "image/neg_category_ids": tf.io.RaggedFeature(tf.int64),
    "image/not_exhaustive_category_ids": tf.io.RaggedFeature(tf.int64),
}
_CHANNELS_KEY = "image/additional_channels/encoded"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What is read of a record."""

    num_classes: int
    """Class ids of the records must lie in 1 to this."""
    label_to_id: Mapping[str, int] | None = None
    """From class name to 1-based id; where given, names in the records go before ids."""
    num_additional_channels: int = 0
    """How many images of one channel `image/additional_channels/encoded` holds; they are stacked behind the three channels
    of the image and must have its size."""
    load_class_scores: bool = False
    """Read `image/object/class/multiclass_scores`: for each box C values, or C+1 with the background first, which is 0 where
    it is not given. A record without them has 1 for the class of each box. Augmentations get them."""
    load_labeled_classes: bool = False
    """Read the labels of the image, `image/class/text` or `image/class/label`, and `image/neg_category_ids`: they fill
    `Batch.labeled_classes`. `image/not_exhaustive_category_ids` fill `Batch.not_exhaustive_classes`."""
    map_empty_labeled_classes_to_ones: bool = True
    """An image without labels was looked through for all classes, instead of none."""
    hierarchy: Hierarchy | None = None
    """Give every box to the ancestors of its class as well, a row each, and likewise labels of the image: what is there
    (`image/class/confidence` 1, or not given) to ancestors, what is not (0) to descendants."""
    jpeg_min_side: int = 0
    """In training, decode a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size that leaves its shorter side this long,
    in pixels; 0 for the whole size. `Batch.original_shapes` are then those of the decoded images. Not beside additional
    channels."""
    crop: Callable[..., warp.Warp] | None = None
    """In training, called as `crop(size, objects, seed=[2] int32)`, a `Crop` to which the seed is still to come: cut this out
    before the augmentations, and do not decode more of a JPEG than that takes. Its seeds are those of a first augmentation;
    `Batch.original_shapes` are those of the windows. Not beside `jpeg_min_side` and additional channels."""
    masks: MaskDecoding | None = None
    """How masks of objects are read; None to leave them out."""
    context: ContextDecoding | None = None
    """How context features are read; None to leave them out."""
    reads_paths: bool = False
    """Read the image of a record that has none from the file that it names (`source.examples.PATH_KEY`)."""


def make_label_table(label_to_id: Mapping[str, int]) -> tf.lookup.StaticHashTable:
    """Makes the table from class name to 1-based id that `decode_example` takes; unknown names give -1.

    Raises:
        ValueError: if `label_to_id` is empty.
    """
    if not label_to_id:
        raise ValueError("label_to_id is empty; it must hold at least one class name.")
    names = tf.constant(list(label_to_id.keys()), tf.string)
    ids = tf.constant(list(label_to_id.values()), tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(names, ids), default_value=-1)


def decode_example(
    serialized: tf.Tensor,
    decoding: Decoding,
    *,
    label_table: tf.lookup.StaticHashTable | None = None,
    crop: Crop | None = None,
) -> DecodedExample:
    """Decodes a record; boxes that cannot train are dropped and counted, a record that contradicts itself is refused.

    As in the Object Detection API, class names (`image/object/class/text`) go before class ids
    (`image/object/class/label`) when there is a table for them. The image may be a JPEG, PNG, GIF (first frame) or BMP.

    Args:
        serialized: scalar string, a serialized tf.Example.
        decoding: what to read.
        label_table: of `decoding.label_to_id`, see `make_label_table`; None to read ids only.
        crop: `decoding.crop` with its seed; None for the whole image. The pixels are those of the whole image.

    Returns:
        A `DecodedExample`; its image is uint8 [H, W, 3 + num_additional_channels].

    Raises:
        tf.errors.InvalidArgumentError: if the record is no tf.Example, its image does not decode, its lists differ in
            length, a class id lies outside 1 to `num_classes`, or its masks or context are not as `masks.decode_masks` and
            `context.decode_context` need them. The message gives the reason; `failures.explain_failure` adds the name of the
            record.
    """
    parsed = _parse(serialized, decoding)
    objects, rows, issues = _decode_objects(parsed, decoding, label_table)

    def with_masks(size: tf.Tensor) -> Objects:
        if decoding.masks is None:
            return objects
        return masks.decode_masks(
            parsed, objects, rows=rows, num_boxes=issues.num_boxes, image_size=size, decoding=decoding.masks
        )

    if crop is None:
        image = _decode_image(parsed, decoding.num_additional_channels, decoding.jpeg_min_side)
        size = images.stored_size(parsed["image/encoded"], image) if decoding.jpeg_min_side else tf.shape(image)[:2]
        objects = with_masks(size)
    else:
        image, objects = _decode_window(_encoded_image(parsed), with_masks, crop)
    labeled_classes = not_exhaustive_classes = None
    if decoding.load_labeled_classes:
        labeled_classes = features.decode_labeled_classes(parsed, decoding.num_classes, label_table, decoding.hierarchy)
        if decoding.map_empty_labeled_classes_to_ones:
            labeled_classes |= ~tf.reduce_any(labeled_classes)
        not_exhaustive_classes = features.decode_ids(parsed["image/not_exhaustive_category_ids"], decoding.num_classes)
    context = None
    if decoding.context is not None:
        context, is_cut = decode_context(parsed, decoding.context)
        was_cut = tf.one_hot(Notice.CONTEXT_CUT, len(Notice), tf.cast(is_cut, tf.int32), 0)
        issues = issues._replace(notices=issues.notices + was_cut)
    example = Example(image, objects, labeled_classes, not_exhaustive_classes, context)
    return DecodedExample(example, parsed["image/source_id"], issues)


def decode_objects(
    serialized: tf.Tensor, decoding: Decoding, label_table: tf.lookup.StaticHashTable | None = None
) -> tuple[Objects, Issues]:
    """The objects of a record alone, and what is wrong with it; arguments and errors are those of `decode_example`.

    Masks, which need the image, are left out.
    """
    objects, _, issues = _decode_objects(_parse(serialized, decoding), decoding, label_table)
    return objects, issues


def _parse(serialized: tf.Tensor, decoding: Decoding) -> dict[str, tf.Tensor]:
    keys = dict(_FEATURES)
    if decoding.num_additional_channels:
        keys[_CHANNELS_KEY] = tf.io.RaggedFeature(tf.string)
    if decoding.load_class_scores:
        keys[features.SCORES_KEY] = tf.io.RaggedFeature(tf.float32)
    if decoding.load_labeled_classes:
        keys |= _IMAGE_LABEL_FEATURES
    if decoding.masks is not None:
        keys[masks.KEY] = decoding.masks.feature()
    if decoding.context is not None:
        keys |= decoding.context.features()
    if decoding.reads_paths:
        keys[PATH_KEY] = tf.io.FixedLenFeature([], tf.string, "")
    parsed = tf.io.parse_single_example(serialized, keys)
    if decoding.reads_paths:
        encoded, path = parsed["image/encoded"], parsed[PATH_KEY]
        parsed["image/encoded"] = tf.cond(
            (tf.strings.length(encoded) == 0) & (tf.strings.length(path) > 0),
            lambda: tf.io.read_file(path),
            lambda: encoded,
        )
    return parsed


def _decode_window(
    encoded: tf.Tensor, objects_of: Callable[[tf.Tensor], Objects], crop: Crop
) -> tuple[tf.Tensor, Objects]:
    """The pixels of a window, [h, w, 3] uint8, and the objects in its frame; `objects_of` gives those of an image's size."""

    def choose(size: tf.Tensor) -> tuple[tf.Tensor, Objects]:
        objects = objects_of(size)
        cropped = crop(size, objects)
        assert cropped.window is not None
        window = tf.concat([cropped.window.begin, cropped.window.size], axis=0)
        return window, warp.move_objects(cropped, objects, size)

    return images.decode_window(encoded, choose)


def _decode_image(parsed: Mapping[str, tf.Tensor], num_additional_channels: int, jpeg_min_side: int) -> tf.Tensor:
    """[H, W, 3 + num_additional_channels] uint8."""
    encoded = _encoded_image(parsed)
    image = images.decode_smaller(encoded, jpeg_min_side) if jpeg_min_side else images.decode_whole(encoded)
    if not num_additional_channels:
        return image
    encoded_channels = parsed[_CHANNELS_KEY]
    found = tf.shape(encoded_channels)[0]
    features.require(
        found == num_additional_channels,
        _CHANNELS_KEY,
        " holds ",
        found,
        f" images, {num_additional_channels} expected.",
    )
    channels = [image]
    for i in range(num_additional_channels):
        channel = tf.io.decode_image(encoded_channels[i], channels=1, expand_animations=False)
        channel = tf.ensure_shape(channel, [None, None, 1])
        features.require(
            tf.reduce_all(tf.shape(channel)[:2] == tf.shape(image)[:2]),
            f"{_CHANNELS_KEY}: image {i} has height and width ", tf.shape(channel)[:2],
            ", image/encoded has ", tf.shape(image)[:2], ".",
        )  # fmt: skip
        channels.append(channel)
    return tf.concat(channels, axis=-1)


def _encoded_image(parsed: Mapping[str, tf.Tensor]) -> tf.Tensor:
    encoded = parsed["image/encoded"]
    features.require(tf.strings.length(encoded) > 0, "image/encoded is missing or empty.")
    return encoded


def _decode_objects(
    parsed: Mapping[str, tf.Tensor], decoding: Decoding, label_table: tf.lookup.StaticHashTable | None
) -> tuple[Objects, tf.Tensor, Issues]:
    """Returns the objects that can train, the box of the record that each is, and the number of those that cannot."""
    sides = [parsed[f"image/object/bbox/{side}"] for side in ("ymin", "xmin", "ymax", "xmax")]
    num_boxes = tf.shape(sides[0])[0]
    for side, values in zip(("xmin", "ymax", "xmax"), sides[1:], strict=True):
        found = tf.shape(values)[0]
        features.require(
            found == num_boxes, f"image/object/bbox/{side} has ", found, " values, ymin has ", num_boxes, "."
        )
    boxes = tf.stack(sides, axis=-1)

    objects = Objects(
        boxes=tf.clip_by_value(boxes, 0.0, 1.0),
        classes=features.decode_classes(parsed, num_boxes, decoding.num_classes, label_table),
        weights=features.decode_weights(parsed, num_boxes),
        is_crowd=tf.cast(features.per_box(parsed, "image/object/is_crowd", num_boxes), tf.bool),
        is_difficult=tf.cast(features.per_box(parsed, "image/object/difficult", num_boxes), tf.bool),
        is_group_of=tf.cast(features.per_box(parsed, "image/object/group_of", num_boxes), tf.bool),
        areas=features.per_box(parsed, "image/object/area", num_boxes),
        class_scores=features.decode_class_scores(parsed, num_boxes, decoding.num_classes)
        if decoding.load_class_scores
        else None,
    )

    size, clipped_size = boxes[:, 2:] - boxes[:, :2], objects.boxes[:, 2:] - objects.boxes[:, :2]
    sticks_out = tf.reduce_any(tf.abs(objects.boxes - boxes) > _ROUNDING, axis=-1)
    faults = {  # in this order a box is counted once, under its first fault
        Notice.NOT_FINITE: ~tf.reduce_all(tf.math.is_finite(boxes), axis=-1),
        Notice.INVERTED: tf.reduce_any(size < 0, axis=-1),
        Notice.EMPTY: tf.reduce_any(size == 0, axis=-1),
        Notice.OUTSIDE: tf.reduce_any(clipped_size <= 0, axis=-1),
        Notice.UNKNOWN_CLASS: objects.classes < 0,
    }
    is_good = tf.ones([num_boxes], tf.bool)
    counts = {}
    for notice, has_fault in faults.items():
        counts[notice] = is_good & has_fault
        is_good &= ~has_fault
    counts[Notice.CLIPPED] = is_good & sticks_out
    nothing = tf.zeros([num_boxes], tf.bool)
    flags = tf.stack([counts.get(n, nothing) for n in Notice])  # [len(Notice), N]
    is_rotated = tf.cast(images.is_rotated(parsed["image/encoded"]), tf.int32)
    notices = tf.math.count_nonzero(flags, axis=1, dtype=tf.int32)
    notices += tf.one_hot(Notice.ROTATED, len(Notice), is_rotated, 0)
    values = tf.cond(
        tf.reduce_any(flags),
        lambda: _first_values(flags, boxes, features.names_of(parsed, "image/object/class/", num_boxes)),
        lambda: tf.fill([len(Notice)], ""),
    )
    issues = Issues(notices, num_boxes, tf.ensure_shape(values, [len(Notice)]))
    rows = tf.where(is_good)[:, 0]
    objects = objects.select_rows(rows)
    if decoding.hierarchy is not None:
        pairs = tf.where(tf.gather(tf.constant(decoding.hierarchy.ancestors), objects.classes))  # [N', 2] box, class
        objects, rows = objects.select_rows(pairs[:, 0]), tf.gather(rows, pairs[:, 0])
        objects = objects._replace(classes=tf.cast(pairs[:, 1], tf.int32))
    if decoding.load_class_scores:
        has_none = tf.shape(parsed[features.SCORES_KEY])[0] == 0
        of_classes = tf.one_hot(objects.classes + 1, decoding.num_classes + 1)
        objects = objects._replace(class_scores=tf.where(has_none, of_classes, objects.class_scores))
    return objects, rows, issues


def _first_values(flags: tf.Tensor, boxes: tf.Tensor, names: tf.Tensor) -> tf.Tensor:
    """[len(Notice)] string of flags [len(Notice), N], boxes [N, 4] and names [N]: see `Issues.values`."""
    first = tf.argmax(flags, axis=1)
    of_boxes = tf.strings.reduce_join(
        tf.strings.as_string(tf.gather(boxes, first), shortest=True), axis=1, separator=", "
    )
    is_of_class = tf.range(len(Notice)) == Notice.UNKNOWN_CLASS
    values = tf.where(is_of_class, tf.gather(names, first), of_boxes)
    return tf.where(tf.reduce_any(flags, axis=1), values, "")
