"""Results of an evaluation: tables on the screen, TensorBoard's events and `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import rich.console
import rich.table
import rich.text
import tensorflow as tf

from object_detection_fpn.evaluation.metric import EvaluationError

_OF_CLASS = re.compile(r"(\w+)_PerformanceByCategory/([^/]+)/(.+)")  # the name of a class's metric
_OF_SET = re.compile(r"([A-Za-z0-9]+)_(.+)")  # of any metric: its set, such as DetectionMasks, and its own name


@contextlib.contextmanager
def writing_to(folder: str) -> Iterator[None]:
    """Turns the errors of writing results into one line.

    Raises:
        EvaluationError: if the folder is a file, may not be written to, or its disk is full.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EvaluationError(
            f"{folder}: the results of the evaluation cannot be written there ({reason}). Allowed: a folder, which may be new, "
            "with write permission and free space."
        ) from error


def print_results(results: Mapping[str, float], title: str, console: rich.console.Console) -> None:
    """Tables of metrics and losses, and of the classes' AP, lowest last.

    What several sets of metrics have, such as those of boxes and of masks, stands beside each other in a table of its own.
    """
    per_class: dict[str, dict[str, dict[str, float]]] = {}
    others: dict[str, float] = {}
    for name, value in results.items():
        if of_class := _OF_CLASS.fullmatch(name):
            per_class.setdefault(of_class[2], {}).setdefault(of_class[3], {})[of_class[1]] = value
        else:
            others[name] = value
    title = f"Evaluation of {title}"
    shared = _shared_by_sets(others)
    for sets, rows in shared.items():
        console.print(_table(title, ("metric", *sets), rows))
        for row in rows:
            for of_set in sets:
                del others[f"{of_set}_{row}"]
        title = ""
    if others:
        console.print(_table(title, ("metric", "value"), {name: {"value": value} for name, value in others.items()}))
    all_sets = {of_set for of_classes in per_class.values() for values in of_classes.values() for of_set in values}
    for of_classes in per_class.values():
        columns = list(dict.fromkeys(of_set for values in of_classes.values() for of_set in values))
        first = columns[0]
        best_first = dict(sorted(of_classes.items(), key=lambda item: -np.nan_to_num(item[1].get(first, -1), nan=-1)))
        if len(all_sets) == 1:
            columns, best_first = ["AP"], {name: {"AP": values[first]} for name, values in best_first.items()}
        console.print(_table("AP of each class", ("class", *columns), best_first))


def _shared_by_sets(results: Mapping[str, float]) -> dict[tuple[str, ...], dict[str, dict[str, float]]]:
    """Sets, two at least -> name -> set -> value of the metrics that these sets have."""
    found: dict[str, dict[str, float]] = {}
    for name, value in results.items():
        if of_set := _OF_SET.fullmatch(name):
            found.setdefault(of_set[2], {})[of_set[1]] = value
    shared: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for name, of_sets in found.items():
        if len(of_sets) > 1:
            shared.setdefault(tuple(of_sets), {})[name] = of_sets
    return shared


def write_results(
    output_dir: str, results: Mapping[str, float], pictures: Sequence[np.ndarray], *, step: int, num_images: int
) -> None:
    """Appends an evaluation to TensorBoard's events and `metrics.jsonl`.

    Raises:
        EvaluationError: if they cannot be written.
    """
    with writing_to(output_dir):
        _write(output_dir, results, pictures, step=step, num_images=num_images)


def _write(
    output_dir: str, results: Mapping[str, float], pictures: Sequence[np.ndarray], *, step: int, num_images: int
) -> None:
    writer = tf.summary.create_file_writer(output_dir)
    with writer.as_default(step=step):
        for name, value in results.items():
            tf.summary.scalar(name, value)
        for i, picture in enumerate(pictures):
            tf.summary.image(f"eval_side_by_side_{i}_0", picture[np.newaxis])  # the Object Detection API's tag
    writer.close()
    line: dict[str, float | None] = {"step": step, "num_images": num_images}
    # JSON has no NaN: a diverged loss is null.
    line.update((name, value if math.isfinite(value) else None) for name, value in results.items())
    _append_line(os.path.join(output_dir, "metrics.jsonl"), json.dumps(line))


def _append_line(path: str, line: str) -> None:
    """Appends a line to a file; what a full disk or a kill left of an earlier one is dropped."""
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            text = file.read()
        if text and not text.endswith("\n"):
            with tf.io.gfile.GFile(f"{path}.new", "w") as file:
                file.write(text[: text.rfind("\n") + 1])
            tf.io.gfile.rename(f"{path}.new", path, overwrite=True)
    with tf.io.gfile.GFile(path, "a") as file:
        file.write(f"{line}\n")


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> rich.table.Table:
    """A row for each name, with the values of its columns, all but the first."""
    table = rich.table.Table(title=rich.text.Text(title) if title else None, title_justify="left")
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        cells = [_shown(name, values[column]) if column in values else "" for column in columns[1:]]
        table.add_row(rich.text.Text(name), *cells)
    return table


def _shown(name: str, value: float) -> str:
    # -1 is COCO's value for "no groundtruth to measure", NaN that of the other metrics, but a loss may diverge.
    is_undefined = value == -1 or (math.isnan(value) and not name.startswith("Loss/"))
    return "no groundtruth" if is_undefined else f"{value:.4f}"
