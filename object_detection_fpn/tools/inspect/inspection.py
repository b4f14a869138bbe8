"""Inspects what a config trains on: reads its records, judges its anchors, and says what could be changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from object_detection_fpn import builder
from object_detection_fpn.config import label_map as label_map_lib
from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.tools.inspect import anchors, search, statistics, suggestions
from object_detection_fpn.tools.inspect.anchors import Coverage
from object_detection_fpn.tools.inspect.layout import AnchorLayout, anchor_layout, training_sizes
from object_detection_fpn.tools.inspect.reading import Records, read_records
from object_detection_fpn.tools.inspect.statistics import ClassStatistics, Spread, Suspect
from object_detection_fpn.tools.inspect.suggestions import Suggestion

Config = pipeline_pb2.TrainEvalPipelineConfig

_MOST_LISTED = 50  # suspects of a kind


@dataclasses.dataclass(frozen=True)
class Suspects:
    """Labels of one kind that are worth a look."""

    kind: str
    """One of "two_classes", "marked_twice" and "one_pixel"."""
    count: int
    listed: tuple[Suspect, ...]
    """The first of them."""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is known of the training data of a config. "At the training size" is after the resizer, without augmentation."""

    source: str
    """The config."""
    num_records: int
    num_images: int
    """That were read."""
    num_empty: int
    """Images without boxes, crowds too."""
    num_boxes: int
    """Without crowds."""
    num_crowds: int
    classes: tuple[ClassStatistics, ...]
    image_heights: Spread
    image_widths: Spread
    training_sizes: tuple[tuple[int, int], ...]
    """(height, width) of the smallest and the largest training image by area, padded; empty without images."""
    boxes_per_image: Spread
    sides: Spread
    """Square roots of the areas of boxes at the training size, pixels."""
    aspect_ratios: Spread
    """Width / height at the training size."""
    coco_sizes: tuple[float, float, float]
    """Share of small, medium and large boxes as stored."""
    coco_training_sizes: tuple[float, float, float]
    """The same at the training size."""
    coverage: Coverage
    suggested_coverage: Coverage | None
    """Of the anchors that are suggested."""
    max_number_of_boxes: int
    num_dropped: int
    """Boxes, crowds too, beyond `max_number_of_boxes`."""
    num_images_cut: int
    """Images that have them."""
    pixel_mean: tuple[float, ...]
    """Of each channel, in [0, 255], of the stored images."""
    pixel_deviation: tuple[float, ...]
    batch_size: int
    num_epochs: float
    """How often training goes through the data: num_steps * batch_size / images."""
    faults: tuple[str, ...]
    """A line for each kind of box that cannot train as it stands."""
    suspects: tuple[Suspects, ...]
    rare_classes: tuple[str, ...]
    """Names of the classes with fewer than 20 boxes."""
    suggestions: tuple[Suggestion, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def load_label_map(config: Config) -> LabelMap:
    """The label map of the training data."""
    return label_map_lib.reader_label_map(config.train_input_reader)


def class_names(label_map: LabelMap) -> dict[int, str]:
    """0-based class -> name to show."""
    return {category["id"] - 1: category["name"] for category in label_map.categories}


def inspect(config: Config, *, source: str, max_images: int | None = None, show_progress: bool = True) -> Inspection:
    """Reads the training records of a config and says what they are like.

    Args:
        config: a checked config whose data exist.
        source: the file it comes from.
        max_images: read at most so many records, at equal distances; None = all.
        show_progress: show a progress bar.
    """
    label_map = load_label_map(config)
    names = class_names(label_map)
    records = read_records(config, label_map=label_map, max_images=max_images, show_progress=show_progress)
    true_sizes, padded_sizes = training_sizes(config, records.image_sizes)
    factors = true_sizes / np.maximum(records.image_sizes, 1)
    training_boxes = records.boxes * np.tile(factors, 2)[records.images]
    objects = ~records.is_crowd

    layout = anchor_layout(config)
    box_sizes = padded_sizes[records.images][objects]
    grids = layout.grids(box_sizes)  # other anchors stand at the same places
    coverage = cover(layout, training_boxes[objects], box_sizes, grids)
    found = search.search(layout, training_boxes[objects], box_sizes)
    found_coverage = None
    if found is not None:
        found_coverage = cover(search.with_generator(layout, found), training_boxes[objects], box_sizes, grids)

    per_image = np.bincount(records.images, minlength=len(records.image_sizes))
    limit = builder.max_number_of_boxes(config, config.train_input_reader)
    num_dropped = int(np.maximum(per_image - limit, 0).sum())
    num_images = len(records.image_sizes)
    most = int(per_image.max(initial=0))
    anchor_suggestions = tuple(suggestions.suggest_anchors(layout, found, coverage, found_coverage))
    of_limits = (
        *suggestions.suggest_max_boxes(config, most, num_dropped, has_all=num_images == records.num_records),
        *suggestions.suggest_batch_size(config, records.num_records),
    )
    classes = statistics.class_statistics(
        names,
        images=records.images,
        classes=records.classes,
        is_crowd=records.is_crowd,
        boxes=records.boxes,
        training_boxes=training_boxes,
    )
    mean, deviation = statistics.pixel_moments(records.pixel_means, records.pixel_variances, records.image_sizes)
    train = config.train_config
    by_area: Any = np.argsort(np.prod(padded_sizes, axis=1), kind="stable")[[0, -1]] if num_images else []
    return Inspection(
        source=source,
        num_records=records.num_records,
        num_images=num_images,
        num_empty=int((per_image == 0).sum()),
        num_boxes=int(objects.sum()),
        num_crowds=int(records.is_crowd.sum()),
        classes=tuple(classes),
        image_heights=statistics.spread(records.image_sizes[:, 0]),
        image_widths=statistics.spread(records.image_sizes[:, 1]),
        training_sizes=tuple((int(padded_sizes[row, 0]), int(padded_sizes[row, 1])) for row in by_area),
        boxes_per_image=statistics.spread(per_image),
        sides=statistics.spread(statistics.sides(training_boxes[objects]), log=True),
        aspect_ratios=statistics.spread(statistics.aspect_ratios(training_boxes[objects]), log=True),
        coco_sizes=statistics.coco_size_shares(records.boxes[objects]),
        coco_training_sizes=statistics.coco_size_shares(training_boxes[objects]),
        coverage=coverage,
        suggested_coverage=found_coverage if anchor_suggestions else None,
        max_number_of_boxes=limit,
        num_dropped=num_dropped,
        num_images_cut=int((per_image > limit).sum()),
        pixel_mean=tuple(mean),
        pixel_deviation=tuple(deviation),
        batch_size=train.batch_size,
        num_epochs=train.num_steps * train.batch_size / max(records.num_records, 1),
        faults=tuple(records.faults),
        suspects=tuple(_find_suspects(config, records, names)),
        rare_classes=tuple(each.name for each in classes if each.num_boxes < statistics.RARE),
        suggestions=anchor_suggestions + of_limits,
    )


def cover(layout: AnchorLayout, boxes: np.ndarray, image_sizes: np.ndarray, grids: Sequence[anchors.Grid]) -> Coverage:
    """How well the anchors of a layout, which stand on the grids, cover boxes [N, 4] in padded images of sizes [N, 2]."""
    shapes = layout.shapes()
    ious = anchors.best_ious(boxes, image_sizes, grids, shapes, layout.borders)
    return anchors.summarize(ious, shapes, min_level=layout.min_level)


def _find_suspects(config: Config, records: Records, names: dict[int, str]) -> list[Suspects]:
    class_of = [names.get(class_index, f"id {class_index + 1}") for class_index in records.classes.tolist()]
    ids = [source_id or f"record {row}" for row, source_id in enumerate(records.source_ids)]
    pairs = statistics.find_pairs(records.images, records.boxes, records.classes, records.is_crowd)
    # Where one object may have several classes, equal boxes are meant.
    has_several = config.train_input_reader.expand_labels_hierarchy or config.train_config.merge_multiple_label_boxes
    kinds: dict[str, Sequence[tuple[int, ...]]] = {
        "two_classes": [] if has_several else pairs.two_classes,
        "marked_twice": pairs.one_class,
        "one_pixel": [(row,) for row in statistics.find_one_pixel(records.boxes).tolist()],
    }
    return [
        Suspects(
            kind,
            len(rows),
            tuple(
                statistics.suspects(
                    rows[:_MOST_LISTED], images=records.images, boxes=records.boxes, classes=class_of, ids=ids
                )
            ),
        )
        for kind, rows in kinds.items()
    ]
