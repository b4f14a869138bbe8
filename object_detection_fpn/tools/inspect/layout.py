"""The anchors of a config: where they stand in an image of any size, and what shapes they have.

Letters: N images, L levels, S shapes of a level's anchors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.data import resize
from object_detection_fpn.protos import anchor_generator_pb2, image_resizer_pb2, model_pb2, pipeline_pb2, rpn_pb2
from object_detection_fpn.tools.inspect.anchors import Borders, Grid

_NUM_COLOURS = 3


@dataclasses.dataclass(frozen=True)
class AnchorLayout:
    """The anchors of a detector."""

    model: model_pb2.DetectionModel
    min_level: int
    max_level: int
    pad_to_multiple: int
    """Of the image, in pixels, before the levels are made."""
    borders: Borders

    @property
    def generator(self) -> anchor_generator_pb2.AnchorGenerator:
        """The message of the anchors, which may be changed."""
        detector = model_config.detector(self.model)
        return detector.anchor_generator if self._is_dense else detector.first_stage_anchor_generator

    @property
    def field(self) -> str:
        """Path of the message of the anchors."""
        return model_config.field_path(
            self.model, "anchor_generator" if self._is_dense else "first_stage_anchor_generator"
        )

    @property
    def is_grid(self) -> bool:
        """Whether the anchors are those of one feature map."""
        return self.generator.WhichOneof("anchor_generator_oneof") == "grid_anchor_generator"

    @property
    def _is_dense(self) -> bool:
        return model_config.detector_name(self.model) == "ssd"

    def feature_sizes(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """(height, width) of each level, finest first, for an image of that size in pixels."""
        height, width = (-(-int(side) // self.pad_to_multiple) * self.pad_to_multiple for side in image_size)
        return [(-(-height // 2**level), -(-width // 2**level)) for level in range(self.min_level, self.max_level + 1)]

    def shapes(self) -> list[np.ndarray]:
        """(height, width) in pixels of the anchors of a cell, of each level [S, 2]."""
        num_levels = self.max_level - self.min_level + 1
        anchors, num_anchors = self._generate([(1, 1)] * num_levels)
        return list((anchors[:, 2:] - anchors[:, :2]).reshape(num_levels, num_anchors, 2))

    def grids(self, image_sizes: np.ndarray) -> list[Grid]:
        """Where the anchors of each level stand in images of sizes [N, 2] (padded, pixels)."""
        distinct, places = np.unique(np.asarray(image_sizes, np.int64).reshape(-1, 2), axis=0, return_inverse=True)
        num_levels = self.max_level - self.min_level + 1
        first, stride, count = (np.ones([num_levels, len(distinct), 2]) for _ in range(3))
        for row, size in enumerate(distinct):
            sizes = self.feature_sizes(size)
            anchors, num_anchors = self._generate(sizes)
            begin = 0
            for level, (height, width) in enumerate(sizes):
                end = begin + height * width * num_anchors
                centres = (anchors[begin:end:num_anchors, :2] + anchors[begin:end:num_anchors, 2:]) / 2
                begin = end
                first[level, row], count[level, row] = centres[0], (height, width)
                gaps = (centres[-1] - centres[0]) / np.maximum(np.array([height, width]) - 1, 1)
                stride[level, row] = np.where(gaps > 0, gaps, 1.0)  # of a single row or column, any
        places = places.reshape(-1)
        return [
            Grid(*(values[places] for values in level)) for level in zip(first, stride, count, strict=True)
        ]  # of each level

    def _generate(self, feature_sizes: list[tuple[int, int]]) -> tuple[np.ndarray, int]:
        """All anchors [K, 4] in pixels, and how many a cell has."""
        detector = model_config.detector(self.model)
        if self._is_dense:
            generate, num_anchors = builder.build_dense_anchors(detector)
        else:
            generate, num_anchors = builder.build_anchor_generator(self.generator)
        return generate(feature_sizes, origin=0.0).numpy().astype(np.float64), num_anchors


def anchor_layout(config: pipeline_pb2.TrainEvalPipelineConfig) -> AnchorLayout:
    """The anchors of a checked config in training."""
    model = model_pb2.DetectionModel()
    model.CopyFrom(config.model)
    message = model_config.feature_extractor(model)
    min_level, max_level = model_config.feature_levels(message)
    is_single = model_config.is_single_level(message)
    return AnchorLayout(
        model=model,
        min_level=min_level,
        max_level=max_level,
        pad_to_multiple=1 if is_single else message.pad_to_multiple,
        borders=_borders(model),
    )


def _borders(model: model_pb2.DetectionModel) -> Borders:
    """As `modeling.heads.rpn.RPN` in training; a single-stage detector trains on all anchors as they are."""
    if model_config.detector_name(model) == "ssd":
        return Borders()
    detector = model.faster_rcnn
    if detector.rpn.anchor_border == rpn_pb2.RegionProposalNetwork.KEPT:
        return Borders(max_straddle=detector.rpn.max_straddle if detector.rpn.HasField("max_straddle") else math.inf)
    return Borders(clip=True) if detector.clip_anchors_to_image else Borders(max_straddle=0.0)


def training_sizes(
    config: pipeline_pb2.TrainEvalPipelineConfig, image_sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sizes to which the resizer of training brings images, without augmentation.

    Where it draws one of several sizes, the images take them in turn.

    Args:
        config: a checked config.
        image_sizes: [N, 2] stored (height, width).

    Returns:
        The sizes without padding and with it, [N, 2] int64 each.
    """
    resizers = _resizers(config.model)
    turns = np.arange(len(image_sizes)) % len(resizers)
    keys = np.concatenate([np.asarray(image_sizes, np.int64).reshape(-1, 2), turns[:, None]], axis=1)
    distinct, places = np.unique(keys, axis=0, return_inverse=True)
    found = np.zeros([len(distinct), 4], np.int64)
    for row, (height, width, turn) in enumerate(distinct.tolist()):
        resized, true_shape = resizers[turn](np.zeros([height, width, _NUM_COLOURS], np.uint8))
        found[row] = [*true_shape.numpy()[:2], *resized.shape[:2]]
    found = found[places.reshape(-1)]
    return found[:, :2], found[:, 2:]


def _resizers(model: model_pb2.DetectionModel) -> list[resize.Resizer]:
    """One for each size of training."""
    message = type(model_config.image_resizer(model))()
    message.CopyFrom(model_config.image_resizer(model))
    kind = message.WhichOneof("image_resizer_oneof")
    chosen = getattr(message, kind)
    sides = list(getattr(chosen, "min_dimensions_in_training", ()))
    fields = chosen.DESCRIPTOR.fields_by_name
    # Pad values are of all channels, where three stand here; only the size counts, which the quickest method gives too.
    for name in ("per_channel_pad_value", "half_pixel_centers", "antialias", "round_pixels"):
        if name in fields:
            chosen.ClearField(name)
    if "resize_method" in fields:
        chosen.resize_method = image_resizer_pb2.NEAREST_NEIGHBOR
    if not sides:
        return [builder.build_resizer(message)]
    resizers = []
    for side in sides:
        chosen.min_dimension = side
        resizers.append(builder.build_resizer(message))
    return resizers
