"""Builds memory banks from records and a detector, and writes records that hold them.

Two passes: the first runs the detector and keeps the features of every image, the second copies each record and adds what its
image gets of its bank. Features of a million images take 8 GB of memory (2057 entries, one detection each).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from object_detection_fpn.data.context import FEATURES_KEY, LENGTH_KEY
from object_detection_fpn.data.failures import DataError
from object_detection_fpn.data.source.files import RecordFile
from object_detection_fpn.serving.predictor import ImagePrediction, Predictor
from object_detection_fpn.tools.context_features import banks, embedding, frames
from object_detection_fpn.tools.context_features.frames import Oddity
from object_detection_fpn.tools.context_features.settings import Settings
from object_detection_fpn.tools.convert import records

IMAGE_IDS_KEY = "image/context_features_image_id_list"
_MEGABYTE = 1e6


class Building(NamedTuple):
    """What `add_context` wrote."""

    record_pattern: str
    """Glob of the record files."""
    num_images: int
    num_left_out: int
    """Images that cannot be read."""
    num_empty: int
    """Images in which nothing was detected that a bank keeps."""
    num_banks: int
    num_without_context: int
    """Images that got no features."""
    max_num_features: int
    """Of one image, the most."""
    mean_num_features: float
    """Of one image."""
    feature_length: int

    @property
    def exit_code(self) -> int:
        """What a command should end with: 0, or 1 if an image could not be read."""
        return 1 if self.num_left_out else 0

    def summary(self) -> str:
        """Sentences that say all of this."""
        megabytes = 4 * self.num_images * self.mean_num_features * self.feature_length / _MEGABYTE
        left_out = f"; {self.num_left_out} that cannot be read were left out" if self.num_left_out else ""
        lacking = f", {self.num_without_context} of them without context" if self.num_without_context else ""
        return (
            f"Wrote {self.num_images} images{lacking} to {self.record_pattern}{left_out}. {self.num_banks} memory banks; an "
            f"image has {self.mean_num_features:.1f} features of {self.feature_length} entries on average, at most "
            f"{self.max_num_features} ({megabytes:.1f} MB in all). {self.num_empty} images give none.\nSet context_config "
            f"{{ context_feature_length: {self.feature_length} max_num_context_features: "
            f"{max(self.max_num_features, 1)} }} (or more) and load_context_features: true of the input readers."
        )


def add_context(
    predictor: Predictor,
    files: Sequence[RecordFile],
    output_prefix: str,
    *,
    settings: Settings,
    num_shards: int | None = None,
    show_progress: bool = True,
) -> Building:
    """Writes `<output_prefix>-00000-of-0000N.tfrecord` etc.: the records with the memory banks of their images.

    Each record keeps its fields and gets `image/context_features` (float, the features one after the other),
    `image/context_feature_length` (int64, entries of each) and `image/context_features_image_id_list` (bytes, the image of
    each feature). An image without context has the length alone. Records stay in their order and are dealt out to the
    shards in turn; files appear under their names when all of them are complete. The same arguments give the same bytes.

    Args:
        predictor: a detector that gives `detection_features`.
        files: of records, see `data.source.files.list_record_files`.
        output_prefix: path and beginning of the names of the record files.
        settings: how banks are made.
        num_shards: number of record files; None = that of `files`.
        show_progress: show progress bars.

    Raises:
        DataError: if a file is broken, a record is no tf.Example, no record has the key (or, with a horizon, a date), or no
            image can be read.
        FeaturesError: if the detector gives no features, or some that are not finite.
    """
    output = records.RecordFiles(output_prefix, num_shards or len(files))
    with output.open():
        odd = frames.OddRecords(sequence_key=settings.sequence_key, needs_dates=settings.time_horizon is not None)
        seen = _embed_all(predictor, files, settings, odd, show_progress)
        kept = [frame for frame in seen if frame is not None]
        _check(seen, kept, files, odd, settings)
        min_score = settings.context_features_score_threshold if settings.keep_only_positives else -np.inf
        memory = banks.make_banks(seen, rate=settings.subsample_context_features_rate, min_score=min_score)
        length = kept[0].features.shape[1]
        counts = []
        make_context = _ContextMaker(memory, settings, length)
        progress = tqdm(frames.read_frames(files), "writing", len(seen), unit="image", disable=not show_progress)
        for number, (frame, raw) in enumerate(zip(seen, progress, strict=True)):
            if frame is None:
                continue
            context, num_features = make_context(number, frame.bank)
            for key in (FEATURES_KEY, LENGTH_KEY, IMAGE_IDS_KEY):
                raw.example.features.feature.pop(key, None)
            raw.example.MergeFrom(context)
            output.write(raw.example)
            counts.append(num_features)
    odd.report()
    return Building(
        output.pattern,
        num_images=len(kept),
        num_left_out=len(seen) - len(kept),
        num_empty=sum(not len(frame.scores) for frame in kept),
        num_banks=len(memory),
        num_without_context=counts.count(0),
        max_num_features=max(counts),
        mean_num_features=float(np.mean(counts)),
        feature_length=length,
    )


def _embed_all(
    predictor: Predictor,
    files: Sequence[RecordFile],
    settings: Settings,
    odd: frames.OddRecords,
    show_progress: bool,
) -> list[banks.Frame | None]:
    """The features of every image, None for one that cannot be read."""
    progress = tqdm(frames.read_frames(files), "detecting", unit="image", disable=not show_progress)
    return [_embed(predictor, raw, settings, odd) for raw in progress]


def _embed(
    predictor: Predictor, raw: frames.RawFrame, settings: Settings, odd: frames.OddRecords
) -> banks.Frame | None:
    prediction = _predict(predictor, raw, odd)
    if prediction is None:
        return None
    date = frames.read_date(raw.example)
    if not date:
        odd.add(Oddity.NO_DATE, raw.name)
    elif isinstance(date, str):
        odd.add(Oddity.BROKEN_DATE, raw.name, date)
    date = None if isinstance(date, str) else date
    key = frames.read_key(raw.example, settings.sequence_key)
    if key is None:
        odd.add(Oddity.NO_KEY, raw.name)
    found = embedding.embed_detections(
        prediction,
        date,
        top_k=settings.top_k_embedding_count,
        bottom_k=settings.bottom_k_embedding_count,
    )
    if settings.keep_only_positives_gt and not frames.values_of(raw.example, "image/object/bbox/xmin"):
        found = embedding.Embeddings(found.features[:0], found.scores[:0])
    return banks.Frame(
        raw.image_id,
        bank=None if key is None else banks.bank_of(key, date, settings.time_horizon),
        date=date,
        frame_num=frames.read_frame_num(raw.example),
        features=found.features,
        scores=found.scores,
    )


def _predict(predictor: Predictor, raw: frames.RawFrame, odd: frames.OddRecords) -> ImagePrediction | None:
    """The detections of an image, decoded as training decodes it; None for one that does not decode."""
    encoded = b"".join(frames.values_of(raw.example, "image/encoded")[:1])
    if not encoded:
        odd.add(Oddity.UNREADABLE, raw.name, "image/encoded is missing or empty")
        return None
    try:
        image = tf.io.decode_image(encoded, channels=predictor.num_channels, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        reason = f"image/encoded, {len(encoded):,} bytes beginning with {encoded[:4].hex(' ')}, does not decode"
        odd.add(Oddity.UNREADABLE, raw.name, reason)
        return None
    return predictor.predict(image)


def _check(
    seen: Sequence[banks.Frame | None],
    kept: Sequence[banks.Frame],
    files: Sequence[RecordFile],
    odd: frames.OddRecords,
    settings: Settings,
) -> None:
    """Refuses data of which no image would get any context."""
    if not kept:
        raise DataError(
            f"None of the {len(seen)} records holds a readable image. The first is {odd.first(Oddity.UNREADABLE)}."
        )
    if odd[Oddity.NO_KEY] == len(kept):
        example = next(frames.read_frames(files)).example
        others = [key for key in sorted(example.features.feature) if frames.read_key(example, key) is not None]
        short = [key for key in others if key not in ("image/encoded", "image/format", "image/key/sha256")]
        raise DataError(
            f"None of the {len(kept)} records has the field {settings.sequence_key} with one text or whole number, by which "
            f"images would be grouped (--sequence_key). The first has {', '.join(short) or 'none of that kind'}."
        )
    if settings.time_horizon is not None and all(frame.date is None for frame in kept):
        kind = Oddity.BROKEN_DATE if odd[Oddity.BROKEN_DATE] else Oddity.NO_DATE
        raise DataError(
            f"None of the {len(kept)} records has a date in {frames.DATE_KEY}, which --time_horizon "
            f"{settings.time_horizon} needs; the first is {odd.first(kind)}. Allowed: YYYY-MM-DD HH:MM:SS."
        )


class _ContextMaker:
    """Makes the fields of each image. Images of one bank mostly get the same, which is then made once."""

    def __init__(self, memory: dict[Hashable, banks.Bank], settings: Settings, feature_length: int):
        self._memory, self._settings, self._length = memory, settings, feature_length
        self._last: tuple[Hashable, bytes] | None = None
        self._fields = tf.train.Example()

    def __call__(self, number: int, key: Hashable | None) -> tuple[tf.train.Example, int]:
        """The fields, and how many features they hold, of an image.

        Args:
            number: of the image, among all images.
            key: of its bank; None if it has none.
        """
        rows = np.zeros([0], np.int64)
        if key is not None:
            rows = banks.choose_features(
                self._memory[key],
                number,
                most=self._settings.max_num_elements_in_context_features,
                method=self._settings.subsample_method,
                exclude_own=self._settings.exclude_own,
            )
        if self._last != (key, rows.tobytes()):
            self._last, self._fields = (key, rows.tobytes()), self._make(key, rows)
        return self._fields, len(rows)

    def _make(self, key: Hashable | None, rows: np.ndarray) -> tf.train.Example:
        fields = tf.train.Example()
        feature = fields.features.feature
        feature[LENGTH_KEY].int64_list.value.append(self._length)
        if len(rows):
            bank = self._memory[key]
            feature[FEATURES_KEY].float_list.value.extend(bank.features[rows].ravel().tolist())
            feature[IMAGE_IDS_KEY].bytes_list.value.extend(bank.image_ids[row] for row in rows)
        return fields
