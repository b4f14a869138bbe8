"""Converts COCO annotations and image files to TFRecords; ids, areas, crowd flags and masks are kept."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from object_detection_fpn.data.source.coco import CocoError, CocoImage, read_coco
from object_detection_fpn.data.source.coco_examples import ExifBoxes, ImageObjects, prepare
from object_detection_fpn.tools.convert import records
from object_detection_fpn.tools.convert.counts import Counts


class Conversion(NamedTuple):
    """What `coco_to_tfrecords` wrote."""

    record_pattern: str
    """Glob of the record files."""
    label_map_path: str | None
    num_images: int
    num_boxes: int
    num_dropped: int
    """Boxes left out because they have no area inside their image."""
    num_turned: int
    """Photographs that were turned upright."""
    num_masks: int
    num_dropped_masks: int
    """Objects left out because their segmentation gives no mask."""

    def summary(self) -> str:
        """One sentence that says all of this."""
        label_map = f", and {self.label_map_path}" if self.label_map_path else ""
        turned = f"; {self.num_turned} photographs were turned upright (EXIF orientation)" if self.num_turned else ""
        masks = f" and {self.num_masks} masks" if self.num_masks else ""
        broken = (
            f"; {self.num_dropped_masks} objects without a usable mask were left out" if self.num_dropped_masks else ""
        )
        return (
            f"Wrote {self.num_images} images with {self.num_boxes} boxes{masks} to {self.record_pattern}{label_map}; "
            f"{self.num_dropped} boxes without area inside their image were left out{broken}{turned}."
        )


_NUM_WORKERS = min(8, os.cpu_count() or 1)
_CHUNK_SIZE = 4 * _NUM_WORKERS  # images that are in memory at a time


def coco_to_tfrecords(
    annotations_path: str,
    image_dir: str,
    output_prefix: str,
    *,
    label_map_path: str | None = None,
    num_shards: int = 1,
    renumber_classes: bool = False,
    exif_boxes: ExifBoxes | None = None,
    allow_no_boxes: bool = False,
    with_masks: bool = True,
    show_progress: bool = True,
) -> Conversion:
    """Writes `<output_prefix>-00000-of-0000N.tfrecord` etc. and a label map.

    Images become records in the order of the file, dealt out to the shards in turn. `image/source_id` is the image id,
    by which evaluation results can be compared with those of other tools. Shards appear under their names when all of
    them are complete; an older set of the same prefix is then removed.

    Every image is decoded once, as training does it. Photographs with an EXIF orientation are turned upright, and the boxes on
    them too if they are of the stored pixels, which the annotated width and height tell.

    Where annotations have segmentations, every object gets a mask. An object whose segmentation gives none is left out, as a
    detector with masks could not learn it; a crowd of that kind, and objects without a segmentation, are kept and their mask is
    an empty string. All of this is counted and logged, with what else is odd (`data.source.segmentations.Notice`).

    Args:
        annotations_path: a COCO "instances" JSON file.
        image_dir: folder to which the `file_name`s are relative.
        output_prefix: path and beginning of the names of the record files, such as "records/train".
        label_map_path: where to write the label map; None for none.
        num_shards: number of record files, at most that of the images.
        renumber_classes: number the classes 1, 2, ... in the order of their category ids instead of keeping the ids.
        exif_boxes: whether boxes are of the stored or of the upright pixels, of photographs whose annotated width and height do
            not tell: they are upside down, mirrored or square. None = such photographs are refused.
        allow_no_boxes: whether a data set without any box is converted, as images that show none of the classes.
        with_masks: whether masks are written, where the file has segmentations.
        show_progress: show a progress bar.

    Raises:
        CocoError: if the file is no COCO file (see `data.source.coco`); names an image that is missing, of another size, or not
            decodable; has no box that can be used; the files cannot be written; or `num_shards` is not allowed.
    """
    dataset = read_coco(annotations_path, renumber_classes=renumber_classes, with_segmentations=with_masks)
    if not 1 <= num_shards <= len(dataset.images):
        raise CocoError(
            f"num_shards = {num_shards} is not allowed. Allowed: 1 to {len(dataset.images)}, the number of images in "
            f"{annotations_path}."
        )
    if not tf.io.gfile.isdir(image_dir):
        raise CocoError(f"{image_dir}: there is no such folder (image_dir).")
    if not os.path.basename(output_prefix):
        raise CocoError(f"{output_prefix}: names a folder. Allowed: folder and beginning of file names, as data/train.")
    files = records.RecordFiles(output_prefix, num_shards)
    counts = Counts(dataset.path)
    has_masks = any(row.segmentation is not None for rows in dataset.annotations.values() for row in rows)
    prepare_image = functools.partial(
        prepare, dataset=dataset, image_dir=image_dir, exif_boxes=exif_boxes, has_masks=has_masks
    )
    try:
        with files.open():
            for example, objects in _in_threads(prepare_image, dataset.images, show_progress):
                files.write(example)
                counts.add(objects)
            counts.check(allow_no_boxes=allow_no_boxes)
        if label_map_path is not None:
            records.write_label_map(label_map_path, dataset.names)
    except (tf.errors.OpError, OSError) as error:
        raise CocoError(f"{output_prefix}: cannot be written ({getattr(error, 'message', error)}).") from error
    return Conversion(
        files.pattern,
        label_map_path,
        num_images=len(dataset.images),
        num_boxes=counts.num_kept,
        num_dropped=counts.num_dropped,
        num_turned=counts.num_turned,
        num_masks=counts.masks.num_masks,
        num_dropped_masks=counts.masks.num_dropped,
    )


def _in_threads(
    prepare, rows: Sequence[CocoImage], show_progress: bool
) -> Iterator[tuple[tf.train.Example, ImageObjects]]:
    """`prepare` of each image, in order; several images are decoded at a time."""
    with (
        concurrent.futures.ThreadPoolExecutor(_NUM_WORKERS) as pool,
        tqdm(total=len(rows), desc="images", unit="image", disable=not show_progress) as progress,
    ):
        for begin in range(0, len(rows), _CHUNK_SIZE):
            for prepared in pool.map(prepare, rows[begin : begin + _CHUNK_SIZE]):
                yield prepared
                progress.update()
