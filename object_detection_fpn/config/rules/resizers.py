"""Refuses combinations of fields of the image resizers that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config.problems import Problem, Rule, join, single
from object_detection_fpn.protos import image_resizer_pb2

_WITH_CENTERS = (image_resizer_pb2.BILINEAR, image_resizer_pb2.BICUBIC)


def _interpolation_exists(message: image_resizer_pb2.KeepAspectRatioResizer, path: str) -> Iterator[Problem]:
    if message.antialias and not message.half_pixel_centers:
        yield single(message, path, "antialias", "needs half_pixel_centers: true", "false, or true in both")
    if message.half_pixel_centers and message.resize_method not in _WITH_CENTERS:
        method = image_resizer_pb2.ResizeType.Name(message.resize_method)
        problem = f"does not go with resize_method = {method}"
        yield single(message, path, "half_pixel_centers", problem, "false, or resize_method: BILINEAR or BICUBIC")


def _padding_is_one_kind(message: image_resizer_pb2.KeepAspectRatioResizer, path: str) -> Iterator[Problem]:
    if message.pad_to_multiple and message.pad_to_max_dimension:
        problem = f"does not go with pad_to_max_dimension = true, which pads to {message.max_dimension} pixels"
        yield single(message, path, "pad_to_multiple", problem, "0, or pad_to_max_dimension: false")


def _drawn_sides_fit(message: image_resizer_pb2.KeepAspectRatioResizer, path: str) -> Iterator[Problem]:
    for row, side in enumerate(message.min_dimensions_in_training):
        if side > message.max_dimension:
            place = f"{join(path, 'min_dimensions_in_training')}[{row}]"
            problem = f"is above max_dimension = {message.max_dimension}"
            yield Problem(place, problem, f"1 to {message.max_dimension}", str(side))


RULES: dict[str, tuple[Rule, ...]] = {
    "KeepAspectRatioResizer": (_interpolation_exists, _padding_is_one_kind, _drawn_sides_fit),
}
