"""What the options of the recipes are worth, on drawn scenes and on photographs, from random weights; JSON, table, plots.

    python benchmarks/small_data.py eight_images --output DIR
    python benchmarks/small_data.py recipe --data shapes --output DIR [--seeds 0 1 2]
    python benchmarks/small_data.py recipe --data bccd --bccd BCCD --output DIR
    python benchmarks/small_data.py groups --data shapes --output DIR
    python benchmarks/small_data.py levels --data shapes --output DIR [--num_steps 300]
    python benchmarks/small_data.py detectors --data shapes --output DIR
    python benchmarks/small_data.py custom_backbone --output DIR

eight_images: ResNet-34 FPN, trained and evaluated on the same eight drawn images. recipe: the Object Detection API's semantics
and the recipe. groups: each group of options by itself, added to the API's semantics. levels: the recipe with a pyramid, and
with the same backbone on one level. detectors: the recipe, which is a Faster R-CNN, and a RetinaNet. custom_backbone: the
backbone of docs/adding_a_backbone.md on the eight images. A row is `small_data/api.config` with the parts that `ROWS` names
merged into it; each is trained and evaluated in a process of its own.

`shapes` are 400 drawn scenes of 256 pixels with 10 to 30 objects of 6 to 60 pixels, and 100 others to evaluate; `bccd` is the
unpacked BCCD_Dataset (its lists train and test). DIR/results.json has every row as soon as it is measured; a row that is there
with the same config, data and seed is not measured again without `--again`. DIR has drawn detections beside groundtruth, the
configs and the plots too.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import _common
import _rows
import _training
import _voc

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2

_RECIPE = ("roi", "rpn", "losses", "shared_boxes")

ROWS: dict[str, tuple[str, ...]] = {
    "api": (),
    "recipe": _RECIPE,
    "roi": ("roi",),
    "rpn": ("rpn",),
    "fpn": ("fpn",),
    "losses": ("losses",),
    "giou": ("giou",),
    "shared_boxes": ("shared_boxes",),
    "box_head": ("box_head",),
    "jitter": ("jitter",),
    "multi_scale": ("multi_scale",),
    "pyramid": (*_RECIPE, "few_regions"),
    "one_level": (*_RECIPE, "few_regions", "one_level"),
    "retinanet": ("retinanet",),
    "eight_images": (*_RECIPE, "eight_images"),
    "custom_backbone": (*_RECIPE, "eight_images", "custom_backbone"),
}
"""The parts of a row, in the order in which they are merged; each is a file of the folder small_data."""

COMMANDS = {
    "eight_images": ("eight_images",),
    "recipe": ("api", "recipe"),
    "groups": ("api", "rpn", "roi", "losses", "shared_boxes", "giou", "box_head", "fpn", "jitter", "multi_scale"),
    "levels": ("one_level", "pyramid"),
    "detectors": ("recipe", "retinanet"),
    "custom_backbone": ("custom_backbone",),
}
_ON_EIGHT_IMAGES = ("eight_images", "custom_backbone")
_WITHOUT_PYRAMID = ("one_level",)
_OVER_SEEDS = ("recipe", "levels", "detectors")

_OF_CLASS = "DetectionBoxes_PerformanceByCategory/mAP/"
_BCCD_CLASSES = ("RBC", "WBC", "Platelets")
_PARTS = Path(__file__).parent / "small_data"
_SUMMARY_STEPS = 10


class Data(NamedTuple):
    """Paths of what a row trains on and of what it is evaluated on."""

    label_map: str
    train_records: str
    eval_records: str


def compose(row: str, *, num_steps: int | None = None) -> pipeline_pb2.TrainEvalPipelineConfig:
    """The config of a row without its data; `num_steps` replaces its own, with a schedule of the same shape."""
    from object_detection_fpn.config import text
    from object_detection_fpn.protos import pipeline_pb2

    config = pipeline_pb2.TrainEvalPipelineConfig()
    for part in ("api", *ROWS[row]):
        path = str(_PARTS / f"{part}.config")
        config.MergeFrom(text.parse_text(text.read_text(path), pipeline_pb2.TrainEvalPipelineConfig, path))
    if row in _WITHOUT_PYRAMID:
        config.model.faster_rcnn.feature_extractor.ClearField("fpn")
    settings = config.train_config
    if row in _ON_EIGHT_IMAGES:
        del settings.data_augmentation_options[:]
    if num_steps is not None:
        schedule = settings.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate
        schedule.warmup_steps = schedule.warmup_steps * num_steps // settings.num_steps
        settings.num_steps = schedule.total_steps = num_steps
    return config


def with_data(config: pipeline_pb2.TrainEvalPipelineConfig, data: Data) -> pipeline_pb2.TrainEvalPipelineConfig:
    """A copy of the config that reads `data`."""
    copy = type(config)()
    copy.CopyFrom(config)
    readers = ((copy.train_input_reader, data.train_records), (copy.eval_input_reader[0], data.eval_records))
    for reader, records in readers:
        reader.label_map_path = data.label_map
        reader.tf_record_input_reader.input_path[:] = [records]
    return copy


def draw_data(folder: Path, *, num_images: int, on_eight_images: bool) -> Data:
    """Drawn images: eight with few objects, which are their own held-out images, or scenes with many small objects."""
    from object_detection_fpn.tools import shapes

    if on_eight_images:
        drawn = shapes.write_dataset(str(folder), num_train=8, num_eval=1, num_shards=1)
        return Data(drawn.label_map_path, drawn.train_records, drawn.train_records)
    num_eval = max(num_images // 4, 1)
    drawn = shapes.write_dataset(
        str(folder), num_train=num_images, num_eval=num_eval, image_size=256, scenes=shapes.MANY_SMALL
    )
    return Data(drawn.label_map_path, drawn.train_records, drawn.eval_records)


def convert_bccd(source: Path, folder: Path) -> Data:
    """The photographs and boxes of BCCD's lists train and test as records.

    Raises:
        ValueError: if `source` does not hold them.
    """
    from object_detection_fpn.tools.convert import coco

    folder.mkdir(parents=True, exist_ok=True)
    label_map = str(folder / "label_map.pbtxt")
    patterns = []
    for split in ("test", "train"):  # boxes without area, of which train has one, are left out
        annotations = folder / f"{split}.json"
        annotations.write_text(json.dumps(_voc.read_voc(source, split, _BCCD_CLASSES)))
        conversion = coco.coco_to_tfrecords(
            str(annotations), str(source / "JPEGImages"), str(folder / split), num_shards=2, label_map_path=label_map
        )
        print(conversion.summary(), file=sys.stderr)
        patterns.append(conversion.record_pattern)
    return Data(label_map, train_records=patterns[1], eval_records=patterns[0])


def prepare_data(arguments: argparse.Namespace) -> tuple[str, Data]:
    """The name of the data and where they are; they are written once for each folder of output."""
    if arguments.command in _ON_EIGHT_IMAGES:
        name = "eight_images"
    else:
        name = "bccd" if arguments.data == "bccd" else f"shapes_{arguments.num_images}"
    folder = arguments.output / "data" / name
    paths = folder / "data.json"
    if not paths.exists():
        if name == "bccd":
            data = convert_bccd(arguments.bccd, folder)
        else:
            on_eight_images = arguments.command in _ON_EIGHT_IMAGES
            data = draw_data(folder, num_images=arguments.num_images, on_eight_images=on_eight_images)
        paths.write_text(json.dumps(data._asdict()))
    return name, Data(**json.loads(paths.read_text()))


def measure(config_path: str, *, seed: int, pictures: str) -> _rows.Row:
    """Trains and evaluates in this process; writes drawn detections to `<pictures>_0.png` and so on."""
    import custom_backbone

    custom_backbone.register()
    with tempfile.TemporaryDirectory() as model_dir:
        trained = _training.train_and_evaluate(
            config_path, seed=seed, model_dir=model_dir, pictures=pictures, summary_every_n=_SUMMARY_STEPS
        )
        losses = _training.read_events(os.path.join(model_dir, "train"))
    speed = trained.steps_per_second
    return {
        **trained.box_metrics(),
        **trained.row,
        "seconds_per_step": round(1 / speed, 3) if speed else None,
        "losses": {
            tag: [[step, round(float(value), 5)] for step, value in events]
            for tag, events in losses.items()
            if tag.startswith("Loss/")
        },
    }


def measure_rows(arguments: argparse.Namespace) -> list[_rows.Row]:
    """The rows of a command, those measured before included."""
    from object_detection_fpn.config import pipeline

    data_name, data = prepare_data(arguments)
    results = _rows.Results(arguments.output / "results.json")
    rows = []
    for seed in arguments.seeds:
        for name in arguments.rows or COMMANDS[arguments.command]:
            config = compose(name, num_steps=arguments.num_steps)
            digest = hashlib.sha256(pipeline.format_config(config).encode()).hexdigest()[:12]
            key = {"data": data_name, "row": name, "seed": seed, "config": digest}
            place = arguments.output / data_name / f"{name}_{seed}"
            pipeline.save_config(with_data(config, data), f"{place}.config")
            task = json.dumps({"config_path": f"{place}.config", "seed": seed, "pictures": str(place)})
            measure_row = functools.partial(_common.run_own, [__file__, "--once", task])
            print(f"{data_name}: {name}, seed {seed}", file=sys.stderr, flush=True)
            rows.append(results.find_or_measure(measure_row, again=arguments.again, **key))
    return rows


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is missing or does not go together ends the process with a line that says so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=tuple(COMMANDS))
    parser.add_argument("--output", type=lambda path: Path(path).resolve(), help="folder of the results, required")
    parser.add_argument("--data", choices=("shapes", "bccd"), default="shapes")
    parser.add_argument(
        "--bccd", type=Path, metavar="DIR", help="unpacked BCCD_Dataset: the folder with ImageSets in it"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2 for recipe, levels and detectors, otherwise 0")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), metavar="ROW", help="other rows than the command's")
    parser.add_argument("--num_steps", type=int, help="train steps, to try it out; otherwise those of the configs")
    parser.add_argument("--num_images", type=int, default=400, help="drawn scenes to train on")
    parser.add_argument("--again", action="store_true", help="measure rows that are in results.json too")
    parser.add_argument("--once", type=json.loads, help=argparse.SUPPRESS)  # the row that is measured in this process
    arguments = parser.parse_args(words)
    if arguments.once is None:
        if arguments.command is None or arguments.output is None:
            parser.error(f"a command ({', '.join(COMMANDS)}) and --output are required")
        for name in ("num_steps", "num_images"):
            value = getattr(arguments, name)
            if value is not None and value < 1:
                parser.error(f"--{name} = {value} is not allowed. Allowed: 1 and above")
        is_drawn = arguments.data == "shapes" or arguments.command in _ON_EIGHT_IMAGES
        if not is_drawn and not (arguments.bccd and (arguments.bccd / "ImageSets").is_dir()):
            parser.error(f"--data bccd needs --bccd DIR, a folder with ImageSets in it; {arguments.bccd} is none")
        arguments.seeds = arguments.seeds or ([0, 1, 2] if arguments.command in _OVER_SEEDS else [0])
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.once:
        print(json.dumps(measure(**arguments.once)))
        return
    rows = _training.rows_or_exit(lambda: measure_rows(arguments))
    summary = _rows.summarize(rows)
    is_on_eight_images = arguments.command in _ON_EIGHT_IMAGES
    name = arguments.command if is_on_eight_images else f"{arguments.command}_{rows[0]['data']}"
    plot = _rows.plot_losses if is_on_eight_images else _rows.plot_rows
    plot(rows, arguments.output / f"{name}.png")
    (arguments.output / f"{name}.md").write_text(_rows.table(summary) + "\n")
    print(json.dumps({"data": rows[0]["data"], "seeds": arguments.seeds, "rows": summary}, indent=2))
    print(_rows.table(summary), file=sys.stderr)


if __name__ == "__main__":
    main()
