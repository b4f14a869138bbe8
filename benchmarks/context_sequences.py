"""What a memory bank is worth where one frame does not tell the class (Context R-CNN); a few minutes of a CPU a row; JSON.

    python benchmarks/context_sequences.py --output DIR [--seeds 0 1 2]

Drawn sequences of fixed cameras, eight frames each: a disc whose mark is red, green or blue, its class, in two of them and gray
in the others (`_sequences.py`). For each seed, on data of its own:

- first: a ResNet-18 FPN trained from random weights, which sees single frames;
- `odfpn context-features` with that detector gives every record the features of its sequence;
- without: the first detector trained further on these records;
- with: the same, for as many steps, with `context_config`, so that it looks at the memory bank.

AP is that of held-out sequences. Each row is trained and evaluated in a process of its own from
`faster_rcnn_resnet18_fpn_recipe_shapes_160x160` and the overrides below. DIR/context_sequences.json has every row as soon as it
is measured; DIR has the models, the configs and drawn detections beside groundtruth too.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _common
import _rows
import _sequences
import _training

_RECIPE = "faster_rcnn_resnet18_fpn_recipe_shapes_160x160"
_IMAGE_SIZE, _NUM_FRAMES, _NUM_SHOWN = 128, 8, 2
_NUM_SEQUENCES = {"train": 80, "eval": 30}
_NUM_STEPS = 400
_FEATURE_LENGTH = 1024 + 9  # units of the recipe's box head; place and time

_MODEL = "model.faster_rcnn"
_RESIZER = f"{_MODEL}.image_resizer.keep_aspect_ratio_resizer"
SMALL = (
    f"{_RESIZER}.min_dimension={_IMAGE_SIZE}",
    f"{_RESIZER}.max_dimension={_IMAGE_SIZE}",
    f"{_MODEL}.first_stage_max_proposals=64",
    f"{_MODEL}.second_stage_batch_size=32",
    # A gray mark gets one detection of each class, all with the same box.
    f"{_MODEL}.second_stage_post_processing.batch_non_max_suppression.max_total_detections=20",
    "train_input_reader.max_number_of_boxes=4",
    "eval_input_reader[0].max_number_of_boxes=4",
    "eval_config.all_metrics_per_category=true",
)
"""Overrides of the recipe for all rows."""

# At the default temperature, 0.01, a region gets a single feature from the start, and without a gradient it learns to find no
# other: after 400 steps AP was 61 instead of 94, after 1000 steps 65 (seed 0).
WITH_CONTEXT = (
    f"{_MODEL}.context_config={{max_num_context_features: {_NUM_FRAMES} context_feature_length: {_FEATURE_LENGTH} "
    "attention_bottleneck_dimension: 256 attention_temperature: 0.1 pool_by_level: true}",
    "train_input_reader.load_context_features=true",
    "eval_input_reader[0].load_context_features=true",
)
"""What makes of the first detector one that looks at its memory bank."""

ROWS = ("first", "without", "with")


class Records(NamedTuple):
    """Globs of record files."""

    train: str
    eval: str


def draw_data(folder: Path, seed: int) -> tuple[str, Records]:
    """The label map and the records of a seed."""
    from object_detection_fpn.tools.convert import records

    label_map = str(folder / "label_map.pbtxt")
    patterns = {
        split: _sequences.write_records(
            folder / split,
            num_sequences=number,
            seed=(seed, part),
            image_size=_IMAGE_SIZE,
            num_frames=_NUM_FRAMES,
            num_shown=_NUM_SHOWN,
        )
        for part, (split, number) in enumerate(_NUM_SEQUENCES.items())
    }
    records.write_label_map(label_map, dict(enumerate(_sequences.CLASS_NAMES, start=1)))
    return label_map, Records(**patterns)


def overrides_of(row: str, *, label_map: str, records: Records, first: str, num_steps: int) -> list[str]:
    """What a row changes in the recipe.

    Args:
        row: one of `ROWS`.
        label_map: path.
        records: of the row.
        first: folder of the first detector.
        num_steps: train steps.
    """
    start = [] if row == "first" else [f'train_config.fine_tune_checkpoint="{first}"']
    reading = _training.reading(label_map, records.train, records.eval)
    return [*SMALL, *reading, *_training.number_of_steps(num_steps), *start, *(WITH_CONTEXT if row == "with" else ())]


def make_context(records: Records, folder: Path, config_path: str, checkpoint: str) -> Records:
    """Runs `odfpn context-features` on both parts."""
    patterns = {}
    for split, pattern in records._asdict().items():
        words = ["--input", pattern, "--output", str(folder / f"{split}_context"), "--config", config_path]
        grouping = ["--sequence_key", "image/seq_id"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "object_detection_fpn.cli",
                "context-features",
                *words,
                "--checkpoint",
                checkpoint,
                *grouping,
            ],
            check=True,
        )
        patterns[split] = str(folder / f"{split}_context-*.tfrecord")
    return Records(**patterns)


def measure(config_path: str, *, seed: int, model_dir: str, pictures: str) -> _rows.Row:
    """Trains and evaluates in this process; writes drawn detections to `<pictures>_0.png` and so on."""
    shutil.rmtree(model_dir, ignore_errors=True)  # of a run that was cut off, which training would go on with
    trained = _training.train_and_evaluate(config_path, seed=seed, model_dir=model_dir, pictures=pictures)
    return {**trained.box_metrics(), **trained.row}


def measure_rows(arguments: argparse.Namespace) -> list[_rows.Row]:
    """The rows of all seeds; those that are in the file with the same config and seed are not measured again."""
    from object_detection_fpn.config import pipeline, recipes

    arguments.output.mkdir(parents=True, exist_ok=True)
    results = _rows.Results(arguments.output / "context_sequences.json")
    rows = []
    for seed in arguments.seeds:
        folder = arguments.output / f"seed_{seed}"
        label_map, records = draw_data(folder / "data", seed)
        first = str(folder / "first")
        for name in ROWS:
            if name == "without":  # and what comes after it, on the same records
                records = make_context(records, folder / "data", f"{first}.config", first)
            changes = overrides_of(
                name, label_map=label_map, records=records, first=first, num_steps=arguments.num_steps
            )
            place = str(folder / name)
            pipeline.save_config(pipeline.load_config(recipes.recipe_path(_RECIPE), changes), f"{place}.config")
            key = {"data": "context_sequences", "row": name, "seed": seed, "config": " ".join(changes)}
            task = json.dumps({"config_path": f"{place}.config", "seed": seed, "model_dir": place, "pictures": place})
            measure_row = functools.partial(_common.run_own, [__file__, "--once", task])
            print(f"seed {seed}: {name}", file=sys.stderr, flush=True)
            is_lost = name == "first" and not (folder / name / "checkpoint").exists()
            rows.append(results.find_or_measure(measure_row, again=is_lost, **key))
    return rows


def summarize(rows: Sequence[_rows.Row]) -> dict[str, Any]:
    """Means over the seeds by row, and by how many points of AP each seed is better with the memory bank."""
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], {})[row["row"]] = row["AP"]
    gains = {seed: round(ap["with"] - ap["without"], 2) for seed, ap in by_seed.items()}
    return {"rows": _rows.summarize(rows), "gains": gains, "gain": round(statistics.mean(gains.values()), 2)}


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is missing ends the process with a line that says so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=lambda path: Path(path).resolve(), help="folder of the results, required")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_steps", type=int, default=_NUM_STEPS, help=f"train steps of each row ({_NUM_STEPS})")
    parser.add_argument("--once", type=json.loads, help=argparse.SUPPRESS)  # the row that is measured in this process
    arguments = parser.parse_args(words)
    if arguments.once is None:
        if arguments.output is None:
            parser.error("--output is required")
        if arguments.num_steps < 1:
            parser.error(f"--num_steps = {arguments.num_steps} is not allowed. Allowed: 1 and above")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.once:
        print(json.dumps(measure(**arguments.once)))
        return
    rows = _training.rows_or_exit(lambda: measure_rows(arguments))
    summary = summarize(rows)
    print(json.dumps({"seeds": arguments.seeds, **summary}, indent=2))
    print(_rows.table(summary["rows"]), file=sys.stderr)


if __name__ == "__main__":
    main()
