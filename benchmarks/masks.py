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
import functools
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _common
import _rows
import _training

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
_BY_HEART_STEPS = 1200
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


def measure(config_path: str, *, seed: int, pictures: str) -> dict[str, Any]:
    """Trains and evaluates in this process; writes drawn detections to `<pictures>_0.png` and so on."""
    with tempfile.TemporaryDirectory() as model_dir:
        trained = _training.train_and_evaluate(config_path, seed=seed, model_dir=model_dir, pictures=pictures)
    metrics = {name: value for name, value in trained.metrics.items() if _KEPT.fullmatch(name) and value != -1}
    return {**{name: round(value, 4) for name, value in metrics.items()}, **trained.row}


def measure_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a command; those that are in its file with the same config and seed are not measured again."""
    from object_detection_fpn.config import label_map, pipeline, recipes
    from object_detection_fpn.tools import shapes

    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.command == "by_heart":
        names = label_map.load_label_map(arguments.label_map).label_to_id
        reading = _training.reading(arguments.label_map, arguments.records, arguments.records)
        overrides = {"by_heart": (*BY_HEART, f"{_MODEL}.num_classes={max(names.values())}")}
        steps = _training.number_of_steps(arguments.num_steps or _BY_HEART_STEPS)
    else:
        data = shapes.write_dataset(str(arguments.output / "data"), with_masks=True)
        reading = _training.reading(data.label_map_path, data.train_records, data.eval_records)
        overrides = TRANSFER_ROWS
        steps = _training.number_of_steps(arguments.num_steps) if arguments.num_steps else ()
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
    print(json.dumps(_training.rows_or_exit(lambda: measure_rows(arguments)), indent=2))


if __name__ == "__main__":
    main()
