"""Masks learned from random weights on a CPU: photographs by heart, and classes whose objects have boxes only; JSON, pictures.

    python benchmarks/masks.py by_heart --records 'train-*.tfrecord' --label_map label_map.pbtxt --output DIR
    python benchmarks/masks.py transfer --output DIR [--seeds 0 1 2]

by_heart: a ResNet-18 FPN with masks, trained and evaluated on the same photographs, resized to 320 pixels; `odfpn convert`
makes the records of a COCO JSON with segmentations. transfer: the drawn shapes of `odfpn demo --masks`, whose circles and
squares have masks in training, and whose triangles have boxes only: the weight transfer of Mask^X R-CNN ("transfer"), one
mask for all classes ("agnostic"), and, to compare, masks of all three ("full"). The figures are of held-out images.

Each row is trained and evaluated in a process of its own from `mask_rcnn_resnet18_fpn_recipe_shapes_160x160` and the overrides
below. DIR/<command>.json has the rows, DIR the configs and the drawn detections.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _common
import _rows
import small_data

_RECIPE = "mask_rcnn_resnet18_fpn_recipe_shapes_160x160"
_MODEL = "model.faster_rcnn"
_HEAD = f"{_MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
_CLASSES_WITH_MASKS = (1, 2)
_KEPT = re.compile(r"Detection(Boxes|Masks)_Precision/mAP(@\.50IOU( ByCategory/.+)?)?")

TRANSFER_ROWS: dict[str, tuple[str, ...]] = {
    "full": (),
    "transfer": (f"{_HEAD}.mask_transfer={{classes_with_masks: {list(_CLASSES_WITH_MASKS)}}}",),
    "agnostic": (
        f"{_HEAD}.mask_transfer={{classes_with_masks: {list(_CLASSES_WITH_MASKS)}}}",
        f"{_HEAD}.masks_are_class_agnostic=true",
    ),
}
"""Overrides of the recipe for the rows of `transfer`."""

_SUPPRESSION = f"{_MODEL}.second_stage_post_processing.batch_non_max_suppression"
_RESIZER = f"{_MODEL}.image_resizer.keep_aspect_ratio_resizer"
_ANCHORS = f"{_MODEL}.first_stage_anchor_generator.multiscale_anchor_generator"
_RATE = "train_config.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate"
_BY_HEART_STEPS, _WARM_UP_STEPS = 1200, 50
BY_HEART = (
    f"{_RESIZER}.min_dimension=320",
    f"{_RESIZER}.max_dimension=320",
    # Objects of photographs have all sizes and shapes.
    f"{_MODEL}.feature_extractor.fpn.max_level=7",
    f"{_ANCHORS}.max_level=7",
    f"{_ANCHORS}.aspect_ratios=[0.5, 1.0, 2.0]",
    f"{_MODEL}.roi_pooling.max_level=5",
    # Photographs show up to 60 objects.
    "train_input_reader.max_number_of_boxes=100",
    "eval_input_reader[0].max_number_of_boxes=100",
    f"{_MODEL}.first_stage_max_proposals=300",
    f"{_SUPPRESSION}.max_detections_per_class=100",
    f"{_SUPPRESSION}.max_total_detections=100",
    # Few objects of each class: masks are learned from those of all, by normalized layers.
    f"{_HEAD}.masks_are_class_agnostic=true",
    f"{_HEAD}.conv_hyperparams.group_norm={{}}",
    f"{_MODEL}.second_stage_mask_prediction_loss_weight=2.0",
    "train_config.data_augmentation_options=[]",
)
"""Overrides of the recipe for `by_heart`."""


def _number_of_steps(num_steps: int) -> tuple[str, ...]:
    return (
        f"train_config.num_steps={num_steps}",
        f"{_RATE}.total_steps={num_steps}",
        f"{_RATE}.warmup_steps={min(_WARM_UP_STEPS, num_steps // 4)}",
    )


def _reading(label_map: str, train_records: str, eval_records: str) -> tuple[str, ...]:
    """Overrides that say where the data are."""
    return tuple(
        f'{reader}.{field}="{value}"'
        for reader, records in (("train_input_reader", train_records), ("eval_input_reader[0]", eval_records))
        for field, value in (("label_map_path", label_map), ("tf_record_input_reader.input_path[0]", records))
    )


def measure(config_path: str, *, seed: int, pictures: str) -> dict[str, Any]:
    """Trains and evaluates in this process; writes drawn detections to `<pictures>_0.png` and so on."""
    from object_detection_fpn.config import pipeline
    from object_detection_fpn.jobs import evaluate as evaluate_job
    from object_detection_fpn.jobs import train as train_job

    config = pipeline.load_config(config_path, require_data=["train", "eval"])
    with tempfile.TemporaryDirectory() as model_dir:
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the row
            result = train_job.train(config, model_dir=model_dir, seed=seed)
            trained = time.perf_counter()
            metrics = evaluate_job.evaluate(config, checkpoint=result.checkpoint, output_dir=model_dir)
        end = time.perf_counter()
        for tag, events in small_data.read_events(os.path.join(model_dir, "eval")).items():
            if tag.startswith("eval_side_by_side_"):
                number = tag.split("_")[-2]
                Path(f"{pictures}_{number}.png").write_bytes(events[-1][1][2])
    return {
        **{name: round(value, 4) for name, value in metrics.items() if _KEPT.fullmatch(name) and value != -1},
        "num_steps": config.train_config.num_steps,
        "train_minutes": round((trained - start) / 60, 2),
        "evaluation_minutes": round((end - trained) / 60, 2),
    }


def measure_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a command; those that are in its file with the same config and seed are not measured again."""
    from object_detection_fpn.config import label_map, pipeline, recipes
    from object_detection_fpn.tools import shapes

    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.command == "by_heart":
        names = label_map.load_label_map(arguments.label_map).label_to_id
        reading = _reading(arguments.label_map, arguments.records, arguments.records)
        overrides = {"by_heart": (*BY_HEART, f"{_MODEL}.num_classes={max(names.values())}")}
        steps = _number_of_steps(arguments.num_steps or _BY_HEART_STEPS)
    else:
        data = shapes.write_dataset(str(arguments.output / "data"), with_masks=True)
        reading = _reading(data.label_map_path, data.train_records, data.eval_records)
        overrides = TRANSFER_ROWS
        steps = _number_of_steps(arguments.num_steps) if arguments.num_steps else ()
    results = _rows.Results(arguments.output / f"{arguments.command}.json")
    rows = []
    for seed in arguments.seeds:
        for name in arguments.rows or overrides:
            per_class = ("eval_config.include_metrics_per_category=true", "eval_config.all_metrics_per_category=true")
            changes = [*overrides[name], *steps, *reading, *per_class]
            config = pipeline.load_config(recipes.recipe_path(_RECIPE), changes)
            place = arguments.output / f"{name}_{seed}"
            pipeline.save_config(config, f"{place}.config")
            key = {"data": arguments.command, "row": name, "seed": seed, "config": " ".join(changes)}
            task = json.dumps({"config_path": f"{place}.config", "seed": seed, "pictures": str(place)})
            measure_row = functools.partial(_common.run_own, [__file__, "--once", task])
            rows.append(results.find_or_measure(measure_row, **key))
    return rows


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is missing ends the process with a line that says so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("by_heart", "transfer"))
    parser.add_argument("--output", type=lambda path: Path(path).resolve(), help="folder of the results, required")
    parser.add_argument("--records", help="of by_heart: a glob of records with masks")
    parser.add_argument("--label_map", help="of by_heart: the label map of these records")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--rows", nargs="+", choices=tuple(TRANSFER_ROWS), metavar="ROW", help="of transfer; all of them"
    )
    parser.add_argument("--num_steps", type=int, help="train steps, instead of those of the configs")
    parser.add_argument("--once", type=json.loads, help=argparse.SUPPRESS)  # the row that is measured in this process
    arguments = parser.parse_args(words)
    if arguments.once is None:
        if arguments.command is None or arguments.output is None:
            parser.error("a command (by_heart, transfer) and --output are required")
        if arguments.command == "by_heart" and not (arguments.records and arguments.label_map):
            parser.error("by_heart needs --records and --label_map")
        if arguments.num_steps is not None and arguments.num_steps < 1:
            parser.error(f"--num_steps = {arguments.num_steps} is not allowed. Allowed: 1 and above")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.once:
        print(json.dumps(measure(**arguments.once)))
        return
    try:
        rows = measure_rows(arguments)
    except (ValueError, OSError) as error:  # of the data, or of a config
        raise SystemExit(f"error: {error}") from error
    except subprocess.CalledProcessError as error:  # which has said why
        raise SystemExit(f"error: a row could not be measured (exit status {error.returncode}).") from error
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
