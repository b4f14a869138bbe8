"""Prints an inspection as tables, or says its parts in a line each; the page says them in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import rich.console
import rich.table
import rich.text

from object_detection_fpn.tools.inspect import statistics
from object_detection_fpn.tools.inspect.anchors import Coverage
from object_detection_fpn.tools.inspect.inspection import Inspection
from object_detection_fpn.tools.inspect.statistics import Spread

_WIDTH = 120  # characters, where the output is no terminal
_MOST_SUSPECTS = 5  # of a kind on the screen; JSON and the page have more
_MOST_NAMES = 12

KINDS = {
    "two_classes": "Boxes nearly equal (IoU 0.9 or more) with two classes",
    "marked_twice": "Objects marked twice: nearly equal boxes of one class",
    "one_pixel": "Boxes of one pixel: a side of at most a pixel in the stored image",
}
"""What the kinds of `Suspects` are."""


class Table(NamedTuple):
    """A table of texts; all columns but the first are numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def print_inspection(inspection: Inspection, console: rich.console.Console | None = None) -> None:
    """Prints everything but the plots and pictures to standard output."""
    if console is None:
        console = rich.console.Console(highlight=False)
        if not console.is_terminal:
            console.width = _WIDTH
    for line in summary(inspection):
        console.print(rich.text.Text(line))
    for table in tables(inspection):
        console.print(rich.text.Text(f"{table.title}:"))  # as a title of the table it would be as narrow
        shown = rich.table.Table()
        for place, name in enumerate(table.header):
            shown.add_column(rich.text.Text(name), justify="right" if place else "left")
        for row in table.rows:
            shown.add_row(*map(rich.text.Text, row))
        console.print(shown)
    console.print("Worth a look:")
    for line in worth_a_look(inspection):
        console.print(rich.text.Text(f"  {line}"), soft_wrap=True)
    console.print("Suggestions:")
    for line in suggestion_lines(inspection):
        console.print(rich.text.Text(f"  {line}"), soft_wrap=True)


def summary(inspection: Inspection) -> list[str]:
    """The whole in a few lines."""
    read = f"{inspection.num_images:,} images"
    if inspection.num_images < inspection.num_records:
        read = f"{inspection.num_images:,} of {inspection.num_records:,} images"
    lines = [
        f"{inspection.source}: {read}, {inspection.num_boxes:,} boxes, {inspection.num_crowds:,} crowd regions, "
        f"{inspection.num_empty:,} images without boxes."
    ]
    if inspection.training_sizes:
        smallest, largest = (f"{height} x {width}" for height, width in inspection.training_sizes)
        sizes = smallest if smallest == largest else f"{smallest} to {largest}"
        lines.append(f"Training size with padding (height x width): {sizes} pixels.")
    dropped = "no box of these images is dropped"
    if inspection.num_dropped:
        dropped = f"{inspection.num_dropped:,} boxes are dropped, in {inspection.num_images_cut:,} of the images"
    lines.append(f"max_number_of_boxes = {inspection.max_number_of_boxes}: {dropped}.")
    if inspection.pixel_mean:
        mean, deviation = (
            ", ".join(f"{value:.1f}" for value in values)
            for values in (inspection.pixel_mean, inspection.pixel_deviation)
        )
        lines.append(f"Pixels, by channel: mean {mean}; standard deviation {deviation}.")
    epochs = f"{inspection.num_epochs:,.0f}" if inspection.num_epochs >= 10 else f"{inspection.num_epochs:.2g}"
    lines.append(f"batch_size = {inspection.batch_size}: training goes through the data {epochs} times.")
    return lines


def tables(inspection: Inspection) -> list[Table]:
    """Classes, spreads, and coverage by anchors."""
    found = [
        class_table(inspection),
        spread_table(inspection),
        coverage_table("Anchors of the config", inspection.coverage),
    ]
    if inspection.suggested_coverage is not None:
        found.append(coverage_table("Anchors that are suggested", inspection.suggested_coverage))
    return found


def class_table(inspection: Inspection) -> Table:
    header = ("class", "id", "boxes", "images", "crowds", *statistics.COCO_SIZES, "median side", "median ratio")
    rows: list[tuple[str, ...]] = [
        (
            each.name,
            str(each.id),
            f"{each.num_boxes:,}",
            f"{each.num_images:,}",
            f"{each.num_crowds:,}",
            *(f"{value:.0%}" if each.num_boxes else "-" for value in each.coco_sizes),
            "-" if each.median_side is None else f"{each.median_side:.1f}",
            "-" if each.median_aspect_ratio is None else f"{each.median_aspect_ratio:.2f}",
        )
        for each in inspection.classes
    ]
    total = tuple(f"{value:.0%}" for value in inspection.coco_sizes)
    training = tuple(f"{value:.0%}" for value in inspection.coco_training_sizes)
    num_crowds = f"{inspection.num_crowds:,}"
    if inspection.num_boxes:
        num_images = f"{inspection.num_images - inspection.num_empty:,}"
        rows.append(("all", "", f"{inspection.num_boxes:,}", num_images, num_crowds, *total, "", ""))
        rows.append(("all, at the training size", "", "", "", "", *training, "", ""))
    return Table(
        "Classes; sizes as COCO counts them (small below 32 x 32 pixels, large from 96 x 96), medians at the training size",
        header,
        rows,
    )


def spread_table(inspection: Inspection) -> Table:
    rows = {
        "image height": (inspection.image_heights, "{:.0f}"),
        "image width": (inspection.image_widths, "{:.0f}"),
        "boxes of an image": (inspection.boxes_per_image, "{:.0f}"),
        "side of a box at the training size": (inspection.sides, "{:.1f}"),
        "width / height of a box at the training size": (inspection.aspect_ratios, "{:.2f}"),
    }
    names = ("least" if q == 0 else "most" if q == 1 else f"{q:.0%}" for q in statistics.QUANTILES)
    return Table(
        "Sizes in pixels, and the share of images or boxes at or below them",
        ("", *names),
        [(name, *_quantiles(spread, shown)) for name, (spread, shown) in rows.items()],
    )


def _quantiles(spread: Spread, shown: str) -> Sequence[str]:
    if not spread.quantiles:
        return ["-"] * len(statistics.QUANTILES)
    return [shown.format(value) for value in spread.quantiles]


def coverage_table(title: str, coverage: Coverage) -> Table:
    rows = [
        (
            f"P{level.level}",
            _range(level.min_side, level.max_side),
            f"{level.num_best:,}",
            f"{level.covered_50:.1%}",
            f"{level.covered_70:.1%}",
        )
        for level in coverage.levels
    ]
    rows.append(("all", "", f"{coverage.num_boxes:,}", f"{coverage.covered_50:.1%}", f"{coverage.covered_70:.1%}"))
    return Table(
        f"{title}: share of boxes that some anchor covers (mean of the best IoU {coverage.mean_iou:.3f})",
        ("level", "sides of anchors", "best here", "IoU 0.5", "IoU 0.7"),
        rows,
    )


def _range(low: float, high: float) -> str:
    least, most = f"{low:.4g}", f"{high:.4g}"
    return least if least == most else f"{least} to {most}"


def worth_a_look(inspection: Inspection) -> list[str]:
    """What may be wrong with the labels."""
    lines = list(_worth_a_look(inspection))
    return lines or ["Nothing was found."]


def _worth_a_look(inspection: Inspection) -> Iterator[str]:
    yield from inspection.faults
    for suspects in inspection.suspects:
        if not suspects.count:
            continue
        yield f"{KINDS[suspects.kind]}: {suspects.count:,}"
        for suspect in suspects.listed[:_MOST_SUSPECTS]:
            box = ", ".join(f"{value:g}" for value in suspect.box)
            yield f"  image {suspect.image}: {' / '.join(suspect.classes)} at (ymin, xmin, ymax, xmax) = ({box})"
        if suspects.count > _MOST_SUSPECTS:
            yield "  ..."
    if inspection.rare_classes:
        names = ", ".join(inspection.rare_classes[:_MOST_NAMES])
        more = len(inspection.rare_classes) - _MOST_NAMES
        names += f" and {more} more" if more > 0 else ""
        yield f"Classes with fewer than {statistics.RARE} boxes: {len(inspection.rare_classes):,} ({names})"
    if inspection.num_records and not inspection.num_boxes:
        yield "No image has a box: nothing can be learned."


def suggestion_lines(inspection: Inspection) -> list[str]:
    """What could be changed, with the overrides that do it."""
    lines = []
    for suggestion in inspection.suggestions:
        lines.append(f"{suggestion.what}: {suggestion.reason}")
        lines += [f"  --config_override '{override}'" for override in suggestion.overrides]
        if suggestion.scales_learning_rates:
            lines.append(
                "  and --auto_scale_lr with train_config.reference_batch_size; --write scales the rates itself"
            )
    return lines or ["none: anchors, max_number_of_boxes and batch_size fit these images."]
