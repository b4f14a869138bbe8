"""The input pipeline: TFRecord files in, batches of resized images and padded groundtruth out.

Encoded records, not decoded images, are what is shuffled: a buffer of 2048 records takes 0.3 GB as JPEGs and 2.5 GB as
640 x 640 images. Whatever cannot be read or decoded ends the run with an error that names file, record and reason;
boxes that cannot train are dropped and counted in a `DataReport`.
"""

from __future__ import annotations

import dataclasses
import functools
import secrets
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from object_detection_fpn.data import batching, context, decoder
from object_detection_fpn.data.decoder import Decoding
from object_detection_fpn.data.preparing import Preparing, augmentation_seed, prepare
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.data.source import reader
from object_detection_fpn.data.source import service as data_service
from object_detection_fpn.data.source.coco_records import CocoSource, read_coco_records
from object_detection_fpn.data.source.files import RecordFile, list_record_files
from object_detection_fpn.data.usable import check_usable


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which records are read, and in which order; shuffling, repeating, weights and the cache are for training only."""

    file_patterns: Sequence[str]
    """Globs or names of TFRecord files, which may be compressed (gzip, zlib)."""
    shuffle: bool = True
    """Shuffle files and records."""
    shuffle_buffer_size: int = 2048
    """Records to choose the next one from."""
    filenames_shuffle_buffer_size: int = 100
    """File names to choose the next one from."""
    num_readers: int = 64
    """Files to read at the same time."""
    read_block_length: int = 32
    """Records to take from a file before turning to the next."""
    num_epochs: int = 0
    """How often training repeats the data, 0 for ever."""
    coco: CocoSource | None = None
    """A COCO file in place of record files; `file_patterns` are empty then."""
    sample_1_of_n: int = 1
    """Use every n-th record only."""
    sample_from_datasets_weights: Sequence[float] = ()
    """One weight for each pattern: the share of records drawn from its files."""
    cache: str | None = None
    """Keeps encoded records, see `reader.read_records`; a data service does not."""
    deterministic: bool = True
    """Let training follow its seed; otherwise only evaluation keeps an order."""


def make_dataset(
    reading: Reading,
    decoding: Decoding,
    preparing: Preparing,
    *,
    batch_size: int,
    is_training: bool,
    drop_remainder: bool = True,
    num_prefetch_batches: int = tf.data.AUTOTUNE,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    input_context: tf.distribute.InputContext | None = None,
    seed: int | None = None,
    report: DataReport | None = None,
    service: data_service.DataService | None = None,
) -> tf.data.Dataset:
    """Makes the pipeline from record files to `Batch`.

    Training repeats and shuffles the data and gives batches of static shape if the resizer's size is static; otherwise
    a batch is padded to its largest image. Evaluation goes through the data once in a fixed order and fills the last
    batch with rows marked `is_padding`, so that no shape changes and all replicas get the same number of batches.

    Args:
        reading: which records.
        decoding: what of a record.
        preparing: what is done with it.
        batch_size: images of a global batch; with `input_context` each element holds the share of one replica.
        is_training: augment, shuffle, repeat.
        drop_remainder: leave out the last training batch of finite data if it is not full.
        num_prefetch_batches: batches made ahead of the step that takes them; -1 lets tf.data decide.
        num_parallel_calls: images to process at the same time.
        input_context: which part of the data this pipeline reads, and for how many replicas.
        seed: makes order and augmentations reproducible, at some cost in speed; another value gives other ones. None
            for fresh ones each time.
        report: counts boxes that were dropped or clipped; None for one that only logs.
        service: makes the batches of training elsewhere. All its workers go through all the data, each in an order of its
            own, and every batch goes to one of the pipelines that share the job. These must have equal seeds.

    Raises:
        FileNotFoundError: if no file matches.
        failures.DataError: if a file cannot be opened, the files hold no records, or no object that training can use.
        ValueError: if a count is not positive, weights and patterns differ in number, a data service is to make batches of
            evaluation, or of `jpeg_min_side`, `crop` and additional channels two stand together.
        tf.errors.InvalidArgumentError: while iterating, if a file is truncated or corrupted or a record does not decode;
            `failures.error_message` takes the one-line reason out of it.
    """
    _check(reading, decoding, preparing, batch_size=batch_size, is_training=is_training, service=service)
    report = report or DataReport()
    report.label_names = list(decoding.label_to_id or ())
    is_deterministic = (seed is not None and reading.deterministic) or not is_training
    seed = secrets.randbits(31) if seed is None else seed
    if not is_training:
        decoding = dataclasses.replace(decoding, jpeg_min_side=0, crop=None)
        preparing = dataclasses.replace(preparing, augmentations=())
    has_weights = is_training and len(reading.sample_from_datasets_weights) > 0
    files = list_files(reading, by_pattern=has_weights)
    label_table = decoder.make_label_table(decoding.label_to_id) if decoding.label_to_id is not None else None
    if is_training:
        check_usable([file for group in files for file in group], decoding, label_table=label_table)
    decode = functools.partial(decoder.decode_example, decoding=decoding, label_table=label_table)

    end = _end_mark(decoding)

    def read_images(order_seed: int | tf.Tensor, base_seed: tf.Tensor) -> tf.data.Dataset:
        """All `PreparedImage`s, or this pipeline's share; `base_seed` [2] is that of augmentations."""
        records = _read(
            files,
            reading,
            is_training=is_training,
            is_deterministic=is_deterministic,
            seed=order_seed,
            input_context=input_context,
            is_served=service is not None,
        )

        def decode_and_crop(serialized: tf.Tensor, number: tf.Tensor) -> decoder.DecodedExample:
            assert decoding.crop is not None
            seed = augmentation_seed(tf.random.experimental.stateless_fold_in(base_seed, number), 0)
            return decode(serialized, crop=functools.partial(decoding.crop, seed=seed))

        decoded = reader.decode_records(
            records,
            decode,
            end=end,
            report=report if service is None else None,
            num_parallel_calls=num_parallel_calls,
            decode_one=decode_and_crop if decoding.crop is not None else None,
        )

        @reader.without_autograph
        def prepare_numbered(step, element):
            return prepare(
                *element,
                seed=tf.random.experimental.stateless_fold_in(base_seed, step),
                preparing=preparing,
                num_classes=decoding.num_classes,
                num_done=int(decoding.crop is not None),
                report=report,
            )

        return decoded.enumerate().map(
            prepare_numbered,
            num_parallel_calls=num_parallel_calls,
            deterministic=is_deterministic,
        )

    if service is None:
        images = read_images(seed, _base_seed(seed, input_context))
    else:
        images = _read_streams(read_images, first_seed=_base_seed(seed, None), num_streams=reading.num_epochs)
    num_rows = batch_size
    num_replicas = 1
    if input_context is not None:
        num_rows = input_context.get_per_replica_batch_size(batch_size)
        num_replicas = input_context.num_replicas_in_sync // input_context.num_input_pipelines
    if not is_training:
        images = batching.fill_up(images, group_size=num_rows * max(num_replicas, 1))
    batches = batching.batch(
        images, num_rows, resizer=preparing.resizer, drop_remainder=drop_remainder or not is_training
    )
    to_batch = functools.partial(batching.to_batch, keep_strings=not is_training)
    if service is None:
        batches = batches.map(reader.without_autograph(to_batch))
    else:
        batches = batches.map(reader.without_autograph(lambda rows: (to_batch(rows), rows.issues)))

        @reader.without_autograph
        def report_issues(batch, issues):
            reader.report_issues(issues, decode, report, batched=True)
            return batch

        # Its workers get the options that are set here, not those below.
        batches = batches.with_options(reader.untuned())
        batches = data_service.watch(data_service.distribute(batches, service), service).map(report_issues)

    if is_training and reading.num_epochs == 0:
        # Filters hide that there is no end, for which several workers would prepare; that cannot be done with fields of None.
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    options = reader.untuned()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )  # `input_context` did it
    options.deterministic = is_deterministic
    options.experimental_warm_start = is_training  # the shuffle buffer fills while the train step compiles
    return batches.prefetch(num_prefetch_batches).with_options(options)


def list_files(reading: Reading, *, by_pattern: bool = False) -> list[list[RecordFile]]:
    """The files of all patterns in one list, or in a list for each pattern.

    Raises:
        FileNotFoundError, failures.DataError: as `make_dataset`.
    """
    if reading.coco is not None:
        return [[read_coco_records(reading.coco)]]
    groups = [[pattern] for pattern in reading.file_patterns] if by_pattern else [reading.file_patterns]
    return [list_record_files(group) for group in groups]


def _check(
    reading: Reading,
    decoding: Decoding,
    preparing: Preparing,
    *,
    batch_size: int,
    is_training: bool,
    service: data_service.DataService | None,
) -> None:
    """Raises ValueError if settings are out of their range or do not go together."""
    counts = {  # by the names that configs have for them
        "batch_size": batch_size,
        "max_number_of_boxes": preparing.max_num_boxes,
        "shuffle_buffer_size": reading.shuffle_buffer_size,
        "filenames_shuffle_buffer_size": reading.filenames_shuffle_buffer_size,
        "num_readers": reading.num_readers,
        "read_block_length": reading.read_block_length,
        "sample_1_of_n_examples": reading.sample_1_of_n,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not allowed. Allowed: 1 and above.")
    num_weights, num_patterns = len(reading.sample_from_datasets_weights), len(reading.file_patterns)
    if is_training and num_weights and num_weights != num_patterns:
        raise ValueError(
            f"{num_weights} sample_from_datasets_weights for {num_patterns} file patterns; give one for each."
        )
    if service is not None and not is_training:
        raise ValueError("A data service makes batches for training only: evaluation keeps the order of the records.")
    jpeg_min_side, num_channels = decoding.jpeg_min_side, decoding.num_additional_channels
    if jpeg_min_side and num_channels:
        raise ValueError(
            f"jpeg_min_side = {jpeg_min_side} beside additional channels, which have the size of the image."
        )
    if decoding.crop is not None and (jpeg_min_side or num_channels):
        raise ValueError(
            f"A crop while images are decoded beside jpeg_min_side = {jpeg_min_side} or num_additional_channels = "
            f"{num_channels}. Allowed: 0."
        )


def _read(
    files: Sequence[Sequence[RecordFile]],
    reading: Reading,
    *,
    is_training: bool,
    is_deterministic: bool,
    seed: int | tf.Tensor,
    input_context: tf.distribute.InputContext | None,
    is_served: bool,
) -> tf.data.Dataset:
    """The `reader.Record`s in their order; a group of files for each weight. A data service repeats by itself."""
    num_epochs = min(reading.num_epochs, 1) if is_served else reading.num_epochs
    read = functools.partial(
        reader.read_records,
        is_shuffled=is_training and reading.shuffle,
        shuffle_buffer_size=reading.filenames_shuffle_buffer_size,
        num_epochs=num_epochs if is_training else 1,
        num_readers=reading.num_readers,
        block_length=reading.read_block_length,
        input_context=None if is_served else input_context,
        is_deterministic=is_deterministic,
        seed=seed,
        cache=reading.cache if is_training and not is_served else None,
    )
    records = read(files[0])
    if is_training and len(reading.sample_from_datasets_weights) > 0:
        records = tf.data.Dataset.sample_from_datasets(
            [records, *map(read, files[1:])],
            list(reading.sample_from_datasets_weights),
            seed=seed,
            stop_on_empty_dataset=False,
        )
    if reading.sample_1_of_n > 1:
        records = reader.every_nth(records, reading.sample_1_of_n)
    if is_training and reading.shuffle:
        records = records.shuffle(reading.shuffle_buffer_size, seed=seed)
    return records


def _read_streams(
    read_images: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset], *, first_seed: tf.Tensor, num_streams: int
) -> tf.data.Dataset:
    """What a data service makes: each stream goes through the data once (or for ever), with seeds of its own."""

    def read_stream(number: tf.Tensor) -> tf.data.Dataset:
        base_seed = tf.random.experimental.stateless_fold_in(first_seed, number)
        # Drawn from both numbers of the seed: one of them is the same in all streams.
        order_seed = tf.random.stateless_uniform([], base_seed, minval=None, maxval=None, dtype=tf.int64)
        return read_images(order_seed, base_seed)

    return data_service.in_streams(read_stream, num_streams=num_streams)


def _base_seed(seed: int, input_context: tf.distribute.InputContext | None) -> tf.Tensor:
    """[2] int32, another one for every pipeline, or all hosts would augment alike."""
    pipeline = 0 if input_context is None else input_context.input_pipeline_id
    state = np.random.SeedSequence([seed, pipeline]).generate_state(2)
    return tf.constant(state.astype(np.int32), tf.int32)


def _end_mark(decoding: Decoding) -> bytes:
    """A record of one black pixel without boxes and context, which the decoder accepts."""
    pixel = tf.io.encode_png(np.zeros([1, 1, 1], np.uint8)).numpy()
    example = tf.train.Example()
    feature = example.features.feature
    feature["image/encoded"].bytes_list.value.append(pixel)
    feature["image/additional_channels/encoded"].bytes_list.value.extend([pixel] * decoding.num_additional_channels)
    if decoding.context is not None:
        feature[context.LENGTH_KEY].int64_list.value.append(decoding.context.length)
    return example.SerializeToString()
