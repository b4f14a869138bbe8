"""Converts COCO annotations and image files to TFRecords; ids, areas and crowd flags are kept."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from object_detection_fpn.data.source import coco as source
from object_detection_fpn.tools.convert import records


class Conversion(NamedTuple):
    """What `coco_to_tfrecords` wrote."""

    record_pattern: str
    """Glob of the record files."""
    label_map_path: str | None
    num_images: int
    num_boxes: int
    num_dropped: int
    """Boxes left out because they have no area inside their image."""


_MAX_DROP_LINES = 10


def coco_to_tfrecords(
    annotations_path: str,
    image_dir: str,
    output_prefix: str,
    *,
    label_map_path: str | None = None,
    num_shards: int = 1,
    contiguous_ids: bool = False,
    show_progress: bool = True,
) -> Conversion:
    """Writes `<output_prefix>-00000-of-0000N.tfrecord` etc. and a label map.

    Images become records in the order of the file, dealt out to the shards in turn. `image/source_id` is the image id,
    by which evaluation results can be compared with those of other tools. Shards appear under their names when all of
    them are complete.

    Args:
        annotations_path: a COCO "instances" JSON file.
        image_dir: folder to which the `file_name`s are relative.
        output_prefix: path and beginning of the names of the record files, such as "records/train".
        label_map_path: where to write the label map; None for none.
        num_shards: number of record files.
        contiguous_ids: number the classes 1, 2, ... in the order of their category ids instead of keeping the ids.
        show_progress: show a progress bar.

    Raises:
        CocoError: if the file is no COCO file, names an image that is missing, of another size or not readable, an
            unknown category or image id, or a bounding box that is not four finite numbers.
        ValueError: if `num_shards` is below 1.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards = {num_shards} is not allowed. Allowed: 1 and above.")
    coco = source.read_coco(annotations_path)
    names, label_of = source.read_categories(coco["categories"], annotations_path, contiguous_ids)
    annotations = source.group_annotations(coco, annotations_path)

    num_boxes = num_dropped = 0
    paths = [f"{output_prefix}-{i:05d}-of-{num_shards:05d}.tfrecord" for i in range(num_shards)]
    tf.io.gfile.makedirs(os.path.dirname(output_prefix) or ".")
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(path + ".part")) for path in paths]
        for i, image in enumerate(tqdm(coco["images"], desc="images", unit="image", disable=not show_progress)):
            example, dropped = records.make_example(
                image, annotations[image["id"]], image_dir, label_of, names, annotations_path
            )
            writers[i % num_shards].write(example.SerializeToString())
            num_boxes += len(example.features.feature["image/object/class/label"].int64_list.value)
            for annotation in dropped:
                num_dropped += 1
                if num_dropped <= _MAX_DROP_LINES:
                    where = f"{annotations_path}: annotation {annotation.get('id')} of image {image['id']}"
                    logging.warning("%s dropped: bbox %s has no area inside the image.", where, annotation["bbox"])
    for path in paths:
        tf.io.gfile.rename(path + ".part", path, overwrite=True)
    if num_dropped > _MAX_DROP_LINES:
        logging.warning("%s: %d boxes dropped in all.", annotations_path, num_dropped)
    if label_map_path is not None:
        records.write_label_map(label_map_path, names)
    return Conversion(
        f"{output_prefix}-*-of-{num_shards:05d}.tfrecord", label_map_path, len(coco["images"]), num_boxes, num_dropped
    )
