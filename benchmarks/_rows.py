"""Rows of a table of trainings: kept in a file as they are measured, averaged over seeds, printed, drawn."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
"""A measured row: `Results.KEY`, `METRICS` in percent, "classes" (AP by name), minutes, "losses" ([step, value] by name)."""
Summary: TypeAlias = dict[str, dict[str, float | None]]
"""A column's values by name of row, in the order of the rows."""

METRICS = {
    "AP": "DetectionBoxes_Precision/mAP",
    "AP50": "DetectionBoxes_Precision/mAP@.50IOU",
    "small": "DetectionBoxes_Precision/mAP (small)",
    "medium": "DetectionBoxes_Precision/mAP (medium)",
    "large": "DetectionBoxes_Precision/mAP (large)",
}


class Results:
    """The measured rows of a file."""

    KEY = ("data", "row", "seed", "config")

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []

    def find(self, **key: Any) -> Row | None:
        """The row of this data, row, seed and config, or None."""
        return next((row for row in self._rows if self._key(row) == self._key(key)), None)

    def find_or_measure(self, measure: Callable[[], Row], *, again: bool = False, **key: Any) -> Row:
        """The row of this key; if there is none, or `again`, it is measured and kept."""
        row = None if again else self.find(**key)
        if row is None:
            row = {**key, **measure()}
            self.add(row)
        return row

    def add(self, row: Row) -> None:
        """Adds a row, or replaces the one of the same key; the file is whole at any time."""
        self._rows = [other for other in self._rows if self._key(other) != self._key(row)] + [row]
        unfinished = self._path.with_suffix(".unfinished")
        lines = ",\n".join(json.dumps(each) for each in self._rows)
        unfinished.write_text(f'{{"rows": [\n{lines}\n]}}\n')
        unfinished.replace(self._path)

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.KEY)


BASES = ("api", "one_level")
"""Rows that others are compared with."""


def summarize(rows: Sequence[Row]) -> Summary:
    """Means over the seeds by row, in the order of the rows; where one of `BASES` is among them, gains of the others over it.

    None where the images that were evaluated have no objects of that size.
    """
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["row"], []).append(row)
    columns = {
        name: {
            **{key: _mean(row[key] for row in of_name) for key in METRICS},
            **{key: _mean(row["classes"][key] for row in of_name) for key in of_name[0]["classes"]},
            "minutes": _mean(row["train_minutes"] + row["evaluation_minutes"] for row in of_name),
        }
        for name, of_name in by_name.items()
    }
    base = next((name for name in BASES if name in columns), None)
    gains = {
        f"{name} - {base}": {key: _difference(value, columns[base][key]) for key, value in values.items()}
        for name, values in columns.items()
        if base and name != base
    }
    return columns | gains


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), 2) if known else None


def _difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else round(value - base, 2)


def table(summary: Summary) -> str:
    """Markdown."""
    keys = list(next(iter(summary.values())))
    lines = [f"| row | {' | '.join(keys)} |", "|---" * (1 + len(keys)) + "|"]
    for name, values in summary.items():
        style = "+.1f" if name.partition(" - ")[2] in BASES else ".1f"
        cells = ["" if values[key] is None else format(values[key], style) for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """A bar for each row, the mean AP of its seeds, and a point for each seed."""
    figure, axis = _figure()
    summary = summarize(rows)
    names = list(dict.fromkeys(row["row"] for row in rows))
    axis.bar(names, [summary[name]["AP"] for name in names], color="#9ab7d3")
    axis.plot([row["row"] for row in rows], [row["AP"] for row in rows], "o", color="#1f3d5a", label="a seed")
    axis.set_ylabel("AP, percent")
    axis.tick_params(axis="x", rotation=30)
    axis.legend()
    figure.savefig(path, dpi=100)


def plot_losses(rows: Sequence[Row], path: Path) -> None:
    """The losses of training, each the mean of some steps."""
    figure, axis = _figure()
    for row in rows:
        for tag, events in sorted(row["losses"].items()):
            steps, values = zip(*events, strict=True)
            axis.plot(steps, values, label=f"{tag.removeprefix('Loss/')}, seed {row['seed']}")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=100)


def _figure() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    axis.grid(alpha=0.3)
    return figure, axis
