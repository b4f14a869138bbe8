"""The input pipeline: TFRecord files in, batches of resized images and padded groundtruth out.

Encoded records, not decoded images, are what is shuffled: a buffer of 2048 records takes 0.3 GB as JPEGs and 2.5 GB as
640 x 640 images. Whatever cannot be read or decoded ends the run with an error that names file, record and reason;
boxes that cannot train are dropped and counted in a `DataReport`.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.data import decoder
from object_detection_fpn.data.merge import merge_equal_boxes
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.data.source import reader
from object_detection_fpn.data.source import service as data_service
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.records import Batch, Groundtruth, Inputs

Augmentation = Callable[..., decoder.Example]
"""Called as `augmentation(example, seed=[2] int32)`, usually a function of `data.augment` with its keywords bound."""

WindowCrop = Callable[..., tuple[tf.Tensor, decoder.Objects]]
"""Called as `crop(size, objects, seed=[2] int32)`, a `decoder.Crop` to which the seed is still to come."""


class _Image(NamedTuple):
    """One row of a `Batch`; G = max_num_boxes."""

    image: tf.Tensor  # [H, W, channels] float32
    true_shape: tf.Tensor  # [3] int32
    original_shape: tf.Tensor  # [2] int32
    objects: decoder.Objects  # G rows, boxes in pixels
    num_boxes: tf.Tensor  # scalar int32
    source_id: tf.Tensor  # scalar string
    is_padding: tf.Tensor  # scalar bool
    labeled_classes: tf.Tensor | None  # [C] bool
    remarks: reader.Remarks | None = None  # where a data service makes the image


def make_dataset(
    file_patterns: str | Sequence[str],
    *,
    resizer: Resizer,
    num_classes: int,
    batch_size: int,
    is_training: bool,
    augmentations: Sequence[Augmentation] = (),
    max_num_boxes: int = 100,
    label_to_id: Mapping[str, int] | None = None,
    num_additional_channels: int = 0,
    load_class_scores: bool = False,
    use_class_scores: bool = False,
    merge_multiple_label_boxes: bool = False,
    load_labeled_classes: bool = False,
    map_empty_labeled_classes_to_ones: bool = True,
    hierarchy: decoder.Hierarchy | None = None,
    jpeg_min_side: int = 0,
    crop: WindowCrop | None = None,
    shuffle: bool = True,
    shuffle_buffer_size: int = 2048,
    filenames_shuffle_buffer_size: int = 100,
    num_readers: int = 64,
    read_block_length: int = 32,
    num_epochs: int = 0,
    sample_1_of_n: int = 1,
    sample_from_datasets_weights: Sequence[float] = (),
    drop_remainder: bool = True,
    num_prefetch_batches: int = tf.data.AUTOTUNE,
    cache: str | None = None,
    deterministic: bool = True,
    input_context: tf.distribute.InputContext | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    seed: int | None = None,
    report: DataReport | None = None,
    service: data_service.DataService | None = None,
) -> tf.data.Dataset:
    """Makes the pipeline from record files to `Batch`.

    Training repeats and shuffles the data and gives batches of static shape if the resizer's size is static; otherwise
    a batch is padded to its largest image. Evaluation goes through the data once in a fixed order and fills the last
    batch with rows marked `is_padding`, so that no shape changes and all replicas get the same number of batches.

    Args:
        file_patterns: globs or names of TFRecord files.
        resizer: see `data.resize`.
        num_classes: class ids of the records must lie in 1 to this.
        batch_size: images of a global batch; with `input_context` each element holds the share of one replica.
        is_training: augment, shuffle, repeat.
        augmentations: applied in this order, in training only.
        max_num_boxes: rows of the groundtruth; further boxes of an image are dropped and counted.
        label_to_id: from class name to 1-based id; where given, names in the records go before ids.
        num_additional_channels: see `decoder.decode_example`.
        load_class_scores: see `decoder.decode_example`; augmentations get them.
        use_class_scores: hand them on as `Groundtruth.class_scores`.
        merge_multiple_label_boxes: merge objects of one box after augmentation, see `merge.merge_equal_boxes`; their
            classes, not the scores of the record, are then the `Groundtruth.class_scores`.
        load_labeled_classes: fill `Batch.labeled_classes`.
        map_empty_labeled_classes_to_ones: see `decoder.decode_example`.
        hierarchy: see `decoder.decode_example`.
        jpeg_min_side: see `decoder.decode_example`; in training only, whose `Batch.original_shapes` are then those of the
            decoded images.
        crop: done before the augmentations, in training only, while images are decoded: see `decoder.decode_example`. Its
            seeds are those of a first augmentation. `Batch.original_shapes` are then those of the windows.
        shuffle: shuffle files and records (training only).
        shuffle_buffer_size: records to choose the next one from.
        filenames_shuffle_buffer_size: file names to choose the next one from.
        num_readers: files to read at the same time.
        read_block_length: records to take from a file before turning to the next.
        num_epochs: how often training repeats the data, 0 for ever.
        sample_1_of_n: use every n-th record only.
        sample_from_datasets_weights: one weight per pattern: the share of records drawn from its files in training.
        drop_remainder: leave out the last training batch of finite data if it is not full.
        num_prefetch_batches: batches made ahead of the step that takes them; -1 lets tf.data decide.
        cache: keeps encoded records of training, see `reader.read_records`; a data service does not.
        deterministic: let training follow `seed`; otherwise only evaluation keeps an order.
        input_context: which part of the data this pipeline reads, and for how many replicas.
        num_parallel_calls: images to process at the same time.
        seed: makes order and augmentations reproducible, at some cost in speed; another value gives other ones. None
            for fresh ones each time.
        report: counts boxes that were dropped or clipped; None for one that only logs.
        service: makes the batches of training elsewhere. All its workers go through all the data, each in an order of its
            own, and every batch goes to one of the pipelines that share the job. These must have equal seeds.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if a count is not positive, weights and patterns differ in number, the files hold no records, a data
            service is to make batches of evaluation, or of `jpeg_min_side`, `crop` and additional channels two stand together.
        tf.errors.InvalidArgumentError: while iterating, if a file is truncated or corrupted or a record does not decode;
            `decoder.refusal_words` takes the one-line reason out of it.
    """
    patterns = [file_patterns] if isinstance(file_patterns, str) else list(file_patterns)
    weights = list(sample_from_datasets_weights) if is_training else []
    counts = {
        "batch_size": batch_size,
        "max_num_boxes": max_num_boxes,
        "shuffle_buffer_size": shuffle_buffer_size,
        "filenames_shuffle_buffer_size": filenames_shuffle_buffer_size,
        "num_readers": num_readers,
        "read_block_length": read_block_length,
        "sample_1_of_n": sample_1_of_n,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not allowed. Allowed: 1 and above.")
    if weights and len(weights) != len(patterns):
        raise ValueError(
            f"{len(weights)} sample_from_datasets_weights for {len(patterns)} file patterns; give one for each."
        )
    report = report or DataReport()
    is_deterministic = (seed is not None and deterministic) or not is_training
    seed = secrets.randbits(31) if seed is None else seed

    if service is not None and not is_training:
        raise ValueError("A data service makes batches for training only: evaluation keeps the order of the records.")
    if jpeg_min_side and num_additional_channels:
        raise ValueError(
            f"jpeg_min_side = {jpeg_min_side} beside additional channels, which have the size of the image."
        )
    if crop is not None and (jpeg_min_side or num_additional_channels):
        raise ValueError(
            f"A crop while images are decoded beside jpeg_min_side = {jpeg_min_side} or num_additional_channels = "
            f"{num_additional_channels}. Allowed: 0."
        )
    groups = [[pattern] for pattern in patterns] if weights else [patterns]
    files = [reader.list_record_files(group) for group in groups]
    decode = functools.partial(
        decoder.decode_example,
        num_classes=num_classes,
        label_table=decoder.make_label_table(label_to_id) if label_to_id is not None else None,
        num_additional_channels=num_additional_channels,
        load_class_scores=load_class_scores,
        load_labeled_classes=load_labeled_classes,
        map_empty_labeled_classes_to_ones=map_empty_labeled_classes_to_ones,
        hierarchy=hierarchy,
        jpeg_min_side=jpeg_min_side if is_training else 0,
    )
    end = _end_mark(num_additional_channels)
    prepare = functools.partial(
        _prepare,
        augmentations=augmentations if is_training else (),
        num_done=int(crop is not None),
        resizer=resizer,
        merge_classes=num_classes if merge_multiple_label_boxes else None,
        use_class_scores=use_class_scores,
        max_num_boxes=max_num_boxes,
        report=report,
    )

    def read_images(order_seed: int | tf.Tensor, base_seed: tf.Tensor) -> tf.data.Dataset:
        """All `_Image`s, or this pipeline's share; `base_seed` [2] is that of augmentations."""
        read = functools.partial(
            reader.read_records,
            is_shuffled=is_training and shuffle,
            shuffle_buffer_size=filenames_shuffle_buffer_size,
            num_epochs=(num_epochs if service is None else min(num_epochs, 1)) if is_training else 1,
            num_readers=num_readers,
            block_length=read_block_length,
            input_context=input_context if service is None else None,
            is_deterministic=is_deterministic,
            seed=order_seed,
            cache=cache if is_training and service is None else None,
        )
        records = read(files[0])
        if weights:
            records = tf.data.Dataset.sample_from_datasets(
                [records, *map(read, files[1:])], weights, seed=order_seed, stop_on_empty_dataset=False
            )
        if sample_1_of_n > 1:
            records = reader.every_nth(records, sample_1_of_n)
        if is_training and shuffle:
            records = records.shuffle(shuffle_buffer_size, seed=order_seed)

        def decode_and_crop(serialized: tf.Tensor, number: tf.Tensor) -> decoder.DecodedExample:
            assert crop is not None
            seed = _augmentation_seed(tf.random.experimental.stateless_fold_in(base_seed, number), 0)
            return decode(serialized, crop=functools.partial(crop, seed=seed))

        decoded = reader.decode_records(
            records,
            decode,
            end=end,
            report=report if service is None else None,
            num_parallel_calls=num_parallel_calls,
            decode_one=decode_and_crop if crop is not None and is_training else None,
        )

        @reader.without_autograph
        def prepare_numbered(step, element):
            return prepare(*element, seed=tf.random.experimental.stateless_fold_in(base_seed, step))

        return decoded.enumerate().map(
            prepare_numbered,
            num_parallel_calls=num_parallel_calls,
            deterministic=is_deterministic,
        )

    if service is None:
        images = read_images(seed, _base_seed(seed, input_context))
    else:
        first_seed = _base_seed(seed, None)

        def read_stream(number: tf.Tensor) -> tf.data.Dataset:
            base_seed = tf.random.experimental.stateless_fold_in(first_seed, number)
            # Drawn from both numbers of the seed: one of them is the same in all streams.
            order_seed = tf.random.stateless_uniform([], base_seed, minval=None, maxval=None, dtype=tf.int64)
            return read_images(order_seed, base_seed)

        images = data_service.in_streams(read_stream, num_streams=num_epochs)

    num_rows = batch_size
    num_replicas = 1
    if input_context is not None:
        num_rows = input_context.get_per_replica_batch_size(batch_size)
        num_replicas = input_context.num_replicas_in_sync // input_context.num_input_pipelines
    if not is_training:
        images = _fill_up(images, group_size=num_rows * max(num_replicas, 1))
    batches = _batch(images, num_rows, drop_remainder=drop_remainder or not is_training)
    to_batch = functools.partial(_to_batch, keep_strings=not is_training)
    if service is None:
        batches = batches.map(reader.without_autograph(to_batch))
    else:
        batches = batches.map(reader.without_autograph(lambda rows: (to_batch(rows), rows.remarks)))

        @reader.without_autograph
        def settle(batch, remarks):
            reader.settle(remarks, decode, report, batched=True)
            return batch

        # Its workers get the options that are set here, not those below.
        batches = batches.with_options(_untuned())
        batches = data_service.watch(data_service.distribute(batches, service), service).map(settle)

    if is_training and num_epochs == 0:
        # Filters hide that there is no end, for which several workers would prepare; that cannot be done with fields of None.
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    options = _untuned()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )  # `input_context` did it
    options.deterministic = is_deterministic
    options.experimental_warm_start = is_training  # the shuffle buffer fills while the train step compiles
    return batches.prefetch(num_prefetch_batches).with_options(options)


def _untuned() -> tf.data.Options:
    """Options by which parallel calls are as many as cores."""
    # TensorFlow 2.20's thread that tunes their number sometimes misses that its iterator is deleted, which waits for it: at
    # the end of training or evaluation, or of a worker of a data service, all stood still for up to a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _prepare(
    example: decoder.Example,
    source_id: tf.Tensor,
    remarks: reader.Remarks | None = None,
    *,
    seed: tf.Tensor,
    augmentations: Iterable[Augmentation],
    num_done: int,
    resizer: Resizer,
    merge_classes: int | None,
    use_class_scores: bool,
    max_num_boxes: int,
    report: DataReport,
) -> _Image:
    """Augments, merges, resizes, moves boxes to pixels of the resized image, pads them to `max_num_boxes` rows.

    `merge_classes` is the number of classes where objects of one box are to be merged; `num_done` of augmentations that were
    done before.
    """
    original_shape = tf.shape(example.image)[:2]
    for i, augmentation in enumerate(augmentations, start=num_done):
        example = augmentation(example, seed=_augmentation_seed(seed, i))
    image, true_shape = resizer(example.image)
    objects = example.objects
    if merge_classes is not None:
        objects = merge_equal_boxes(objects, num_classes=merge_classes)
    elif not use_class_scores:
        objects = objects._replace(class_scores=None)
    objects = objects._replace(boxes=box_ops.denormalize(objects.boxes, true_shape[:2]))

    found = tf.shape(objects.boxes)[0]
    num_boxes = tf.minimum(found, max_num_boxes)

    def add(num_too_many: np.int32, source_id: bytes) -> np.bool_:
        report.add(Notice.TOO_MANY, int(num_too_many), f"image with source_id {source_id.decode('utf-8', 'replace')}")
        return np.bool_(True)

    if remarks is not None:
        too_many = tf.one_hot(Notice.TOO_MANY, len(Notice), found - num_boxes, 0)
        remarks = remarks._replace(notices=remarks.notices + too_many)
    else:
        tf.cond(
            found > max_num_boxes,
            lambda: tf.numpy_function(add, [found - num_boxes, source_id], tf.bool),
            lambda: tf.constant(True),
        )

    def pad(field: tf.Tensor) -> tf.Tensor:
        paddings = [[0, max_num_boxes - num_boxes]] + [[0, 0]] * (field.shape.rank - 1)
        return tf.ensure_shape(tf.pad(field[:num_boxes], paddings), [max_num_boxes, *field.shape[1:]])

    padded = decoder.Objects(*(None if field is None else pad(field) for field in objects))
    return _Image(
        image,
        true_shape,
        original_shape,
        padded,
        num_boxes,
        source_id,
        tf.constant(False),
        example.labeled_classes,
        remarks,
    )


def _augmentation_seed(seed: tf.Tensor, number: int) -> tf.Tensor:
    """[2] int32 of an image's augmentation, counted from 0."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _fill_up(images: tf.data.Dataset, *, group_size: int) -> tf.data.Dataset:
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


def _batch(images: tf.data.Dataset, num_rows: int, *, drop_remainder: bool) -> tf.data.Dataset:
    spec = images.element_spec
    if spec.image.shape.is_fully_defined():
        return images.batch(num_rows, drop_remainder=drop_remainder, num_parallel_calls=tf.data.AUTOTUNE)

    @reader.without_autograph
    def unpack(image):  # padded_batch does not take the None of fields that are not loaded
        return tuple(decoder.without_none(image))

    @reader.without_autograph
    def pack(*tensors):
        return decoder.with_none(tensors, like=spec)

    return images.map(unpack).padded_batch(num_rows, drop_remainder=drop_remainder).map(pack)


def _to_batch(rows: _Image, *, keep_strings: bool) -> Batch:
    objects = rows.objects
    return Batch(
        inputs=Inputs(images=rows.image, true_shapes=rows.true_shape),
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
        ),
        source_id=rows.source_id if keep_strings else None,
        is_padding=rows.is_padding if keep_strings else None,
        labeled_classes=rows.labeled_classes,
    )


def _base_seed(seed: int, input_context: tf.distribute.InputContext | None) -> tf.Tensor:
    """[2] int32, another one for every pipeline, or all hosts would augment alike."""
    pipeline = 0 if input_context is None else input_context.input_pipeline_id
    state = np.random.SeedSequence([seed, pipeline]).generate_state(2)
    return tf.constant(state.astype(np.int32), tf.int32)


def _end_mark(num_additional_channels: int) -> bytes:
    """A record of one black pixel without boxes, which every setting of the decoder accepts."""
    pixel = tf.io.encode_png(np.zeros([1, 1, 1], np.uint8)).numpy()
    example = tf.train.Example()
    feature = example.features.feature
    feature["image/encoded"].bytes_list.value.append(pixel)
    feature["image/additional_channels/encoded"].bytes_list.value.extend([pixel] * num_additional_channels)
    return example.SerializeToString()
