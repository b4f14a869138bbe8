"""Reads image files and the images of TFRecord files, one after the other; a broken one is handed on with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from object_detection_fpn.serving.images import LoadedImage, UnreadableImageError, decode_image, read_image
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.record_images import RecordImage, is_record_file, read_record_images


class GivenImage(NamedTuple):
    """An image, or why there is none."""

    image_id: int | str
    name: str
    """Its path, or the file name that its record has."""
    record: str | None
    """File and number of the record; None for an image file."""
    loaded: LoadedImage | UnreadableImageError
    context: np.ndarray | None

    @property
    def place(self) -> str:
        """What a message names."""
        return self.record or self.name


def read_all(
    predictor: Predictor, paths: Sequence[str], *, take_id: Callable[[str, str], int | str | None]
) -> Iterator[GivenImage]:
    """Reads images in the order of `paths`.

    Args:
        predictor: of these images.
        paths: image files and TFRecord files.
        take_id: name and source id ("" for an image file) -> image id; an image for which it is None is left out.

    Raises:
        DataError: if a TFRecord file cannot be read.
    """
    for path in paths:
        if is_record_file(path):
            for record in read_record_images(path):
                image_id = take_id(record.file_name, record.source_id)
                if image_id is not None:
                    loaded = _decode(record, predictor)
                    yield GivenImage(image_id, record.file_name, record.name, loaded, record.context)
        elif (image_id := take_id(path, "")) is not None:
            yield GivenImage(image_id, path, None, _or_error(read_image, path, predictor), None)


def _decode(record: RecordImage, predictor: Predictor) -> LoadedImage | UnreadableImageError:
    wanted, context = predictor.context_length, record.context
    if wanted is not None and (context is None or context.shape[1] != wanted):
        has = "no image/context_features" if context is None else f"context features of length {context.shape[1]}"
        return UnreadableImageError(f"the record has {has}; the model needs those of length {wanted}")
    return _or_error(decode_image, record.encoded, predictor)


def _or_error(
    read: Callable[..., LoadedImage], source: str | bytes, predictor: Predictor
) -> LoadedImage | UnreadableImageError:
    try:
        return read(source, num_channels=predictor.num_channels)
    except UnreadableImageError as error:
        return error
