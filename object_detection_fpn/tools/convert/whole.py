"""Converts a source of any format to the records of all its splits, a label map and a report, or to nothing."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from object_detection_fpn.data.source.coco import CocoDataset, CocoError
from object_detection_fpn.tools.convert import records
from object_detection_fpn.tools.convert.counts import Counts, ImageObjects
from object_detection_fpn.tools.convert.images import Unusable, UnusableImage
from object_detection_fpn.tools.convert.prepare import ExifBoxes, prepare
from object_detection_fpn.tools.convert.report import Report
from object_detection_fpn.tools.convert.sources import Source, SourceError, Split

REPORT_NAME = "report.json"
LABEL_MAP_NAME = "label_map.pbtxt"
_CHUNK_SIZE = 16  # images that a process gets at a time
_CHUNKS_AHEAD = 3  # of each process, so that none waits and memory stays bounded
_MIN_IMAGES_OF_PROCESS = 500  # below, importing TensorFlow in a process takes longer than it saves


_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # of the processes


class Written(NamedTuple):
    """What `convert_source` wrote."""

    patterns: dict[str, str]
    """Glob of the record files of each split."""
    label_map_path: str
    report_path: str
    report: Report


class _Prepared(NamedTuple):
    """An image as a process hands it back; either the record or the reason why there is none."""

    record: bytes
    objects: ImageObjects | None
    sha256: bytes
    unusable: tuple[Unusable, str] | None = None


def choose_processes(num_images: int) -> int:
    """As many processes as there are cores, but one for few images."""
    return max(1, min(os.cpu_count() or 1, num_images // _MIN_IMAGES_OF_PROCESS))


def convert_source(
    source: Source,
    output_dir: str,
    *,
    num_shards: int = 1,
    num_processes: int | None = None,
    exif_boxes: ExifBoxes | None = None,
    allow_no_boxes: bool = False,
    strict: bool = False,
    label_map_path: str | None = None,
    show_progress: bool = True,
) -> Written:
    """Writes `<split>-00000-of-0000N.tfrecord` of each split, the label map and `report.json` to a folder.

    The bytes of the records depend on the source alone, not on the number of processes. Files appear under their names when
    all of them are complete; after an error or an interruption what was there before is left as it was.

    Args:
        source: what a reader made.
        output_dir: is created if needed.
        num_shards: record files of each split; a split of fewer images gets one for each.
        num_processes: None = as many as there are cores, for many images.
        exif_boxes: as in `coco.coco_to_tfrecords`.
        allow_no_boxes: whether images without any object are converted.
        strict: refuse images that are missing, unreadable or of another size, instead of leaving them out.
        label_map_path: None = beside the records.
        show_progress: show a progress bar.

    Raises:
        SourceError: if no image can be used, with `strict` any cannot, `num_shards` is not allowed, or a process ended.
        CocoError: if no box can be used, it is not known which pixels the boxes of a rotated photograph are of, or the files
            cannot be written.
    """
    if num_shards < 1:
        raise SourceError(f"--num_shards {num_shards} is not allowed. Allowed: 1 and more.")
    if num_processes is not None and num_processes < 1:
        raise SourceError(f"--num_processes {num_processes} is not allowed. Allowed: 1 and more.")
    first = source.splits[0].dataset
    report = Report(source.format, source.path, first.names, first.label_of)
    report.notes += source.notes
    counts = Counts(source.path, logs_rows=False)
    label_map_path = label_map_path or os.path.join(output_dir, LABEL_MAP_NAME)
    report_path = os.path.join(output_dir, REPORT_NAME)
    num_images = sum(len(split.dataset.images) for split in source.splits)
    has_masks = any(
        row.segmentation is not None
        for split in source.splits
        for rows in split.dataset.annotations.values()
        for row in rows
    )
    prepare_chunk = functools.partial(_prepare_chunk, exif_boxes=exif_boxes or source.exif_boxes, has_masks=has_masks)
    patterns: dict[str, str] = {}
    try:
        with contextlib.ExitStack() as stack:
            files: dict[str, records.RecordFiles] = {}
            for split in source.splits:
                shards = min(num_shards, len(split.dataset.images))
                files[split.name] = records.RecordFiles(os.path.join(output_dir, split.name), shards)
                stack.enter_context(files[split.name].open())
                patterns[split.name] = files[split.name].pattern
            workers = num_processes or choose_processes(num_images)
            with tqdm(total=num_images, desc="images", unit="image", disable=not show_progress) as progress:
                for name, prepared in _in_processes(prepare_chunk, source.splits, workers):
                    progress.update()
                    if prepared.unusable is not None:
                        if strict:
                            raise SourceError(f"{prepared.unusable[1]} (--strict)")
                        report.add_unusable(*prepared.unusable)
                    if prepared.objects is not None:
                        files[name].write_serialized(prepared.record)
                        counts.add(prepared.objects)
                        report.add(name, prepared.objects, prepared.sha256)
            if report.num_unusable() == num_images:
                raise SourceError(
                    f"{source.path}: none of its {num_images} images can be used. The first: {report.first_unusable()} "
                    "--image_dir names the folder of the images."
                )
            for split in source.splits:
                shards = min(num_shards, len(split.dataset.images))
                if report.num_images(split.name) < shards:
                    raise SourceError(
                        f"{split.name}: {report.num_images(split.name)} of its {len(split.dataset.images)} images can be used, "
                        f"fewer than its {shards} record files. The first that cannot: {report.first_unusable()}"
                    )
            counts.check(allow_no_boxes=allow_no_boxes)
            records.write_label_map(label_map_path, first.names)
            text = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
            records.write_whole(report_path, text.encode("utf-8", "backslashreplace").decode() + "\n")
    except BrokenProcessPool as error:
        raise SourceError(
            "A process of the conversion ended too early; the memory may not suffice. --num_processes 1 needs least."
        ) from error
    except (tf.errors.OpError, OSError) as error:
        raise CocoError(f"{output_dir}: cannot be written ({getattr(error, 'message', error)}).") from error
    return Written(patterns, label_map_path, report_path, report)


def _in_processes(
    prepare_chunk: Callable[[CocoDataset, str], list[_Prepared]], splits: Sequence[Split], num_processes: int
) -> Iterator[tuple[str, _Prepared]]:
    """The images of all splits in their order, with the name of their split."""
    chunks = ((split, begin) for split in splits for begin in range(0, len(split.dataset.images), _CHUNK_SIZE))
    if num_processes == 1:
        pool: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)
        num_workers = os.cpu_count() or 1
    else:
        num_workers = min(num_processes, math.ceil(sum(len(s.dataset.images) for s in splits) / _CHUNK_SIZE))
        # Spawned: a copy of a process in which TensorFlow has threads may hang.
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_process)
    waiting: collections.deque[tuple[str, concurrent.futures.Future[list[_Prepared]]]] = collections.deque()

    def submit(number: int) -> None:
        for split, begin in itertools.islice(chunks, number):
            waiting.append((split.name, pool.submit(prepare_chunk, _part(split.dataset, begin), split.image_dir)))

    try:
        with _prepared_for_processes():  # `submit` starts them
            submit(num_workers * _CHUNKS_AHEAD)
        while waiting:
            name, future = waiting.popleft()
            yield from ((name, prepared) for prepared in future.result())
            submit(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    """One core for TensorFlow, and no GPU."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def _prepared_for_processes() -> Iterator[None]:
    """What processes that are started inside inherit: no GPU, silence about it, and no Ctrl-C.

    A terminal sends Ctrl-C to all processes. The first one ends the others; each of them would print a traceback.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    is_main = threading.current_thread() is threading.main_thread()  # which alone may set signals
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if is_main:
            signal.signal(signal.SIGINT, handler)


def _part(dataset: CocoDataset, begin: int) -> CocoDataset:
    """A few images with their annotations, so that little is sent to a process."""
    chosen = dataset.images[begin : begin + _CHUNK_SIZE]
    return dataset._replace(images=chosen, annotations={image.id: dataset.annotations[image.id] for image in chosen})


def _prepare_chunk(
    dataset: CocoDataset, image_dir: str, *, exif_boxes: ExifBoxes | None, has_masks: bool
) -> list[_Prepared]:
    found = []
    for image in dataset.images:
        try:
            example, objects = prepare(
                image, dataset=dataset, image_dir=image_dir, exif_boxes=exif_boxes, has_masks=has_masks
            )
        except UnusableImage as error:
            found.append(_Prepared(b"", None, b"", (error.kind, str(error))))
            continue
        objects.kept = [row._replace(segmentation=None) for row in objects.kept]  # the most of what would be sent back
        sha256 = example.features.feature["image/key/sha256"].bytes_list.value[0]
        found.append(_Prepared(example.SerializeToString(deterministic=True), objects, sha256))
    return found
