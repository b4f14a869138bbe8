"""`odfpn compare`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from object_detection_fpn.tools import command

if TYPE_CHECKING:
    from object_detection_fpn.tools.report.bootstrap import Compared, Interval

_MAX_CLASSES = 20  # that the table shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The intervals hold 95 % of the values that other images of the same kind would give, found by drawing the images "
        "anew with replacement, for A and B the same ones. A difference whose interval leaves out 0 is marked."
    )
    parser.add_argument(
        "a", metavar="A", help="report.json of `odfpn report --json`, or its folder; or detections as JSON"
    )
    parser.add_argument("b", metavar="B", help="the same of another model on the same images")
    parser.add_argument("--groundtruth", metavar="FILE", help="COCO JSON file, if A or B holds detections")
    parser.add_argument("--num_samples", type=int, default=1000, metavar="N", help="how often images are drawn (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing: the same one gives the same intervals (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.tools.report import bootstrap, runs

    for flag, path in (("A", arguments.a), ("B", arguments.b), ("--groundtruth", arguments.groundtruth)):
        if path is not None:
            command.check_input(flag, path)
    if not 1 <= arguments.num_samples <= 100_000:
        raise command.UsageError(f"--num_samples = {arguments.num_samples} is out of range. Allowed: 1 to 100000.")
    if arguments.seed < 0:
        raise command.UsageError(f"--seed = {arguments.seed} is out of range. Allowed: 0 and above.")
    try:
        a, b = runs.read_runs([arguments.a, arguments.b], arguments.groundtruth)
        b = runs.in_order_of(a, b)
    except runs.RunError as error:
        raise command.UsageError(str(error)) from error
    result: dict[str, Any] = {
        "a": arguments.a,
        "b": arguments.b,
        "num_images": len(a.image_ids),
        "num_samples": arguments.num_samples,
        "seed": arguments.seed,
        "regions": {},
    }
    for region in b.matches:
        of_metrics, of_classes = bootstrap.compare_metrics(
            a.matches[region],
            b.matches[region],
            num_samples=arguments.num_samples,
            seed=arguments.seed,
            description=region,
        )
        result["regions"][region] = {
            "metrics": {name: _to_json(each) for name, each in of_metrics.items()},
            "classes": {a.names[index]: _to_json(each) for index, each in of_classes.items()},
        }
        if not arguments.json:
            _print(f"{region}, {len(a.image_ids)} images", of_metrics)
            ranked = sorted(of_classes.items(), key=lambda item: -abs(item[1].difference.value or 0.0))
            shown = {a.names[index]: each for index, each in ranked[:_MAX_CLASSES]}
            of = f"AP of {region} by class" + (
                f", the {_MAX_CLASSES} that differ most of {len(ranked)}" if len(ranked) > _MAX_CLASSES else ""
            )
            _print(of, shown)
    if arguments.json:
        print(json.dumps(result, indent=1))


def _to_json(compared: Compared) -> dict[str, Any]:
    return {
        **{name: getattr(compared, name)._asdict() for name in compared._fields},
        "is_clear": compared.is_clear,
    }


def _print(title: str, compared: dict[str, Compared]) -> None:
    import rich.console
    import rich.table
    import rich.text

    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("A", "B", "B - A"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("clear")
    for name, each in compared.items():
        values = (_text(each.a), _text(each.b), _text(each.difference, signed=True))
        table.add_row(*map(rich.text.Text, (name, *values, "yes" if each.is_clear else "")))
    rich.console.Console().print(table)


def _text(interval: Interval, *, signed: bool = False) -> str:
    """In percent."""
    if interval.value is None or interval.low is None or interval.high is None:
        return "-"
    sign = "+" if signed else ""
    return f"{100 * interval.value:{sign}.1f} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"
