"""Prints what is known of a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import rich.console
import rich.table
import rich.text

from object_detection_fpn.tools.check import schedule
from object_detection_fpn.tools.check.findings import Findings, gib

_WIDTH = 120  # characters, where the output is no terminal
_MOST_PATHS = 2  # of frozen variables that a line names


def print_findings(findings: Findings, console: rich.console.Console | None = None) -> None:
    """Prints everything to standard output, as far as the trial came."""
    if console is None:
        console = rich.console.Console(highlight=False)
        if not console.is_terminal:
            console.width = _WIDTH
    for title, section in (
        ("Model", _model(findings)),
        ("Weights", _weights(findings)),
        ("Learning rate", _schedule(findings)),
        ("Memory", _memory(findings)),
        ("Steps", _steps(findings)),
    ):
        lines = list(section)
        if lines:
            console.print(rich.text.Text(f"{title}:"))
        for line in lines:
            console.print(line if isinstance(line, rich.table.Table) else rich.text.Text(f"  {line}"), soft_wrap=True)
    console.print("Training would fail:" if findings.problems else "Training would work.")
    for problem in findings.problems:
        console.print(rich.text.Text(f"  {problem}"), soft_wrap=True)


def _model(findings: Findings) -> Iterator[str | rich.table.Table]:
    model = findings.model
    if model is None:
        return
    height, width = model["image_size"]
    rows = [
        (
            part["name"],
            f"{part['num_layers']:,}",
            f"{part['num_parameters']:,}",
            f"{part['num_trained']:,}",
            part["output"],
        )
        for part in model["parts"]
    ]
    total, trained = model["num_parameters"], model["num_trained"]
    num_layers = sum(part["num_layers"] for part in model["parts"])
    rows.append(("all", f"{num_layers:,}", f"{total:,}", f"{trained:,}", ""))
    yield _table(("part", "layers", "parameters", "trained", f"output of an image of {height} x {width}"), rows)
    yield f"{total:,} parameters, of which {trained:,} are trained and {total - trained:,} are not:"
    for frozen in model["frozen"]:
        paths = frozen["paths"]
        names = ", ".join(paths[:_MOST_PATHS]) + (", ..." if len(paths) > _MOST_PATHS else "")
        yield f"  {frozen['num_parameters']:,} in {len(paths)} variables: {frozen['reason']} ({names})"
    if model["inference_flops"]:
        yield f"Inference of an image: {flops(model['inference_flops'])}."
    if findings.measured:
        step = findings.measured[-1]
        per_image = step["flops"] / step["batch_size"]
        whole = flops(per_image * findings.batch_size)
        yield f"A train step of {_images(findings.batch_size)}: {whole}, {flops(per_image)} an image."


def _weights(findings: Findings) -> Iterator[str]:
    if findings.restored is not None:
        yield from findings.restored["table"].splitlines()
    elif findings.measured:
        yield "Random: train_config.fine_tune_checkpoint is not set."


def _schedule(findings: Findings) -> Iterator[str]:
    found = findings.schedule
    if found is None or found.is_zero:
        return
    yield from schedule.plot(found)
    highest, step = found.highest
    first, last = found.rates[0], found.rates[-1]
    if first == highest == last:
        yield f"{first:.4g} at every step."
    else:
        yield (
            f"{first:.4g} at step 1, {highest:.4g} at about step {step + 1:,}, {last:.4g} at the last, {found.num_steps:,}."
        )


def _memory(findings: Findings) -> Iterator[str]:
    device = findings.device
    if device is None or not findings.measured:
        return
    replicas = f"{device['num_replicas']} replicas; of each, " if device["num_replicas"] > 1 else ""
    if device["available_bytes"] is None:
        yield f"The memory of this {device['device']} is unknown here."
    else:
        yield f"{device['device']}: {replicas}{gib(device['available_bytes'])} of {gib(device['total_bytes'])} can be taken."
    expected, largest = findings.expected, findings.largest
    small = [str(step["batch_size"]) for step in findings.measured if step["batch_size"] != findings.batch_size]
    expectation = ""
    if expected is not None:
        expectation = f"{gib(expected['bytes'])} expected from the steps of {' and '.join(small)}"
    for step in findings.measured:
        if step["peak_bytes"] is not None:
            more = f" ({expectation})" if expectation and step is findings.of_batch else ""
            yield f"{_images(step['batch_size'])}: {gib(step['peak_bytes'])}, measured{more}."
    if expectation and findings.of_batch is None:
        yield f"{_images(findings.batch_size)}: {expectation}."
    if device["num_masks"]:
        yield (
            f"A step trains the masks of few regions as long as it finds few objects: later of up to {device['num_masks']} an "
            "image, which takes more."
        )
    if largest is not None:
        yield f"Each further image takes {gib(largest['bytes_per_image'])}."
        yield (
            f"Largest batch that fits, about: {largest['batch_size']}. --batch_size auto of odfpn train leaves "
            f"{device['margin']:.0%} free and takes {largest['chosen']}."
        )


def _steps(findings: Findings) -> Iterator[str]:
    step = findings.of_batch or (findings.measured[-1] if findings.measured else None)
    if step is None:
        return
    images = step["images"]
    yield (
        f"One real batch: {' x '.join(map(str, images))} (images of a replica, height, width, channels), "
        f"{step['num_boxes']:,} boxes."
    )
    losses = ", ".join(f"{name.removeprefix('Loss/')} {value:.4g}" for name, value in step["losses"].items())
    yield f"Losses of the first step: {losses}."
    yield f"Norm of the gradients: {step['gradient_norm']:.4g}."
    later = "" if step["seconds"] is None else f", the next {step['seconds']:.2f} s"
    yield f"The first step took {step['first_seconds']:.1f} s, in which its program is made{later}."


def flops(number: float) -> str:
    """Operations, for people."""
    return f"{number / 1e12:.2f} TFLOP" if number >= 1e12 else f"{number / 1e9:.2f} GFLOP"


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> rich.table.Table:
    table = rich.table.Table()
    for place, name in enumerate(header):
        table.add_column(rich.text.Text(name), justify="right" if 0 < place < len(header) - 1 else "left")
    for row in rows:
        table.add_row(*map(rich.text.Text, row))
    return table
