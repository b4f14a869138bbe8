"""Converts a source of any format to the records of all its splits, a label map and a report, or to nothing."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from object_detection_fpn.data.source import image_files
from object_detection_fpn.data.source.coco import CocoDataset, CocoError
from object_detection_fpn.data.source.coco_examples import ExifBoxes, ImageObjects, prepare
from object_detection_fpn.data.source.image_files import Unusable, UnusableImage
from object_detection_fpn.tools.convert import records
from object_detection_fpn.tools.convert.counts import Counts
from object_detection_fpn.tools.convert.report import Report
from object_detection_fpn.tools.convert.sources import Source, SourceError, Split
from object_detection_fpn.tools.convert.work import FOLDER_NAME, WorkFolder, fingerprint, image_version

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


class _Shard(NamedTuple):
    """A record file to be written."""

    split: Split
    name: str
    """Of the file."""
    dataset: CocoDataset
    """Its images, with the annotations of all."""


class _Row(NamedTuple):
    """What becomes of an image: objects, or the reason why there is no record."""

    objects: ImageObjects | None
    sha256: bytes
    unusable: tuple[Unusable, str] | None
    version: tuple[int, int] | None
    """See `work.image_version`."""


class _Prepared(NamedTuple):
    """An image as a process hands it back."""

    record: bytes | None
    row: _Row


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
    say: Callable[[str], None] = logging.info,
) -> Written:
    """Writes `<split>-00000-of-0000N.tfrecord` of each split, the label map and `report.json` to a folder.

    The bytes of the records depend on the source alone, not on the number of processes. Files appear under their names when
    all of them are complete; after an error or an interruption what was there before is left as it was. A run that was stopped,
    or that ran out of space, leaves its finished record files in a `work.WorkFolder`, and the next one of the same source and
    settings goes on with them; after other errors nothing is left.

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
        say: takes a line about what an earlier run left, or this one leaves.

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
    files = [
        records.RecordFiles(os.path.join(output_dir, split.name), min(num_shards, len(split.dataset.images)))
        for split in source.splits
    ]
    shards = [
        _Shard(split, each.names[i], split.dataset._replace(images=split.dataset.images[i :: len(each.names)]))
        for split, each in zip(source.splits, files, strict=True)
        for i in range(len(each.names))
    ]
    try:
        work = WorkFolder(output_dir, _fingerprint(source, num_shards, prepare_chunk.keywords))
        finished: set[str] = set()
        try:
            loaded = {shard.name: rows for shard in shards if (rows := _load(work, shard)) is not None}
            finished.update(loaded)
            if finished:
                say(f"Goes on with an earlier run: {len(finished)} of {len(shards)} record files are finished.")
            pending = [shard for shard in shards if shard.name not in finished]
            workers = num_processes or choose_processes(sum(len(shard.dataset.images) for shard in pending))
            with (
                contextlib.closing(_in_processes(prepare_chunk, pending, workers)) as prepared,
                tqdm(total=num_images, desc="images", unit="image", disable=not show_progress) as progress,
            ):
                for shard in shards:
                    found = loaded.pop(shard.name, None)
                    if found is None:
                        found = _write(work, shard, prepared, progress.update, strict=strict)
                        finished.add(shard.name)
                    else:
                        progress.update(len(found))
                    for row in found:
                        _add(row, shard.split.name, counts, report, strict=strict)
            _check(source, report, num_shards)
            counts.check(allow_no_boxes=allow_no_boxes)
        except (SourceError, CocoError):
            work.remove()  # to run once more mends nothing
            raise
        except BaseException:
            _keep(work, finished, len(shards), output_dir, say)
            raise
        work.move(shard.name for shard in shards)
        records.write_label_map(label_map_path, first.names)
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
        records.write_whole(report_path, text.encode("utf-8", "backslashreplace").decode() + "\n")
        for each in files:
            each.remove_older()
        work.remove()
    except BrokenProcessPool as error:
        raise SourceError(
            "A process of the conversion ended too early; the memory may not suffice. --num_processes 1 needs least."
        ) from error
    except (tf.errors.OpError, OSError) as error:
        raise CocoError(f"{output_dir}: cannot be written ({getattr(error, 'message', error)}).") from error
    patterns = {split.name: each.pattern for split, each in zip(source.splits, files, strict=True)}
    return Written(patterns, label_map_path, report_path, report)


def _fingerprint(source: Source, num_shards: int, settings: Mapping[str, Any]) -> str:
    """Of all that the bytes of the record files depend on but the image files."""
    splits = (
        part
        for split in source.splits
        for part in (
            (split.name, split.image_dir, split.dataset.label_of, split.dataset.names),
            *((image, split.dataset.annotations[image.id]) for image in split.dataset.images),
        )
    )
    version = importlib.metadata.version("object_detection_fpn")
    return fingerprint(itertools.chain([version, num_shards, sorted(settings.items())], splits))


def _load(work: WorkFolder, shard: _Shard) -> list[_Row] | None:
    """What is known of a record file that is finished and whose images are still the same."""
    found = work.load(shard.name)
    if found is None or len(found) != len(shard.dataset.images):
        return None
    rows = [_Row(*row) for row in found]
    paths = (image_files.find_image_file(shard.split.image_dir, each.file_name) for each in shard.dataset.images)
    return rows if all(row.version == image_version(path) for row, path in zip(rows, paths, strict=True)) else None


def _write(
    work: WorkFolder, shard: _Shard, prepared: Iterator[_Prepared], advance: Callable[[], Any], *, strict: bool
) -> list[_Row]:
    """Writes a record file."""
    rows = []
    try:
        with tf.io.TFRecordWriter(work.part_path(shard.name)) as writer:
            for image in itertools.islice(prepared, len(shard.dataset.images)):
                advance()
                _refuse_unusable(image.row, strict)
                if image.record is not None:
                    writer.write(image.record)
                rows.append(image.row)
        work.finish(shard.name, [tuple(row) for row in rows])
    finally:
        work.discard_part(shard.name)
    return rows


def _refuse_unusable(row: _Row, strict: bool) -> None:
    if strict and row.unusable is not None:
        raise SourceError(f"{row.unusable[1]} (--strict)")


def _add(row: _Row, split: str, counts: Counts, report: Report, *, strict: bool) -> None:
    _refuse_unusable(row, strict)
    if row.unusable is not None:
        report.add_unusable(*row.unusable)
    if row.objects is not None:
        counts.add(row.objects)
        report.add(split, row.objects, row.sha256)


def _check(source: Source, report: Report, num_shards: int) -> None:
    """Refuses a source of which too little can be used."""
    num_images = sum(len(split.dataset.images) for split in source.splits)
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


def _keep(
    work: WorkFolder, finished: Collection[str], num_shards: int, output_dir: str, say: Callable[[str], None]
) -> None:
    """Says what of an interrupted run is kept; nothing where no record file is finished."""
    if not finished:
        work.remove()
        return
    say(
        f"{len(finished)} of {num_shards} record files are finished, in {os.path.join(output_dir, FOLDER_NAME)}: the same "
        "command goes on from there."
    )


def _in_processes(
    prepare_chunk: Callable[[CocoDataset, str], list[_Prepared]], shards: Sequence[_Shard], num_processes: int
) -> Generator[_Prepared]:
    """The images of all shards in their order."""
    if not shards:
        return
    chunks = ((shard, begin) for shard in shards for begin in range(0, len(shard.dataset.images), _CHUNK_SIZE))
    if num_processes == 1:
        pool: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)
        num_workers = os.cpu_count() or 1
    else:
        num_workers = min(num_processes, math.ceil(sum(len(s.dataset.images) for s in shards) / _CHUNK_SIZE))
        # Spawned: a copy of a process in which TensorFlow has threads may hang.
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_process)
    waiting: collections.deque[concurrent.futures.Future[list[_Prepared]]] = collections.deque()

    def submit(number: int) -> None:
        for shard, begin in itertools.islice(chunks, number):
            waiting.append(pool.submit(prepare_chunk, _part(shard.dataset, begin), shard.split.image_dir))

    try:
        with _prepared_for_processes():  # `submit` starts them
            submit(num_workers * _CHUNKS_AHEAD)
        while waiting:
            yield from waiting.popleft().result()
            submit(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    """One core for TensorFlow, no GPU, and an end where the first process was killed, which nothing else would tell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # the thread that waits for work cannot be asked to end


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
        version = image_version(image_files.find_image_file(image_dir, image.file_name))
        try:
            example, objects = prepare(
                image, dataset=dataset, image_dir=image_dir, exif_boxes=exif_boxes, has_masks=has_masks
            )
        except UnusableImage as error:
            found.append(_Prepared(None, _Row(None, b"", (error.kind, str(error)), version)))
            continue
        objects.kept = [row._replace(segmentation=None) for row in objects.kept]  # the most of what would be sent back
        sha256 = example.features.feature["image/key/sha256"].bytes_list.value[0]
        record = example.SerializeToString(deterministic=True)
        found.append(_Prepared(record, _Row(objects, sha256, None, version)))
    return found
