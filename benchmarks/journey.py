"""Seconds of a whole journey, from a config to a SavedModel, on drawn images; JSON.

    python benchmarks/journey.py [--runs 1] [--side 160] [--batch_size 2] [--num_steps 20] [--num_eval 16]
    python benchmarks/journey.py --peer_command 'python benchmarks/peers/odapi_journey.py {config} {model_dir}'

ResNet-50 FPN is trained with a checkpoint at the end, evaluated, and exported, in one process each run. With
`--peer_command`, a command that prints a JSON line with the same keys, this package and the peer run in turn. "{config}" in
it stands for the pipeline config, "{model_dir}" for a folder that is not there yet.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time

import _common

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
KEYS = ("train", "evaluate", "export", "total", "rss_gb")
NUM_TRAIN = 64


def draw(folder: str, *, side: int, batch_size: int, num_steps: int, num_eval: int) -> str:
    """Writes records and the config that reads them; returns the config's path."""
    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.config import recipes
    from object_detection_fpn.tools import shapes

    data = shapes.write_dataset(
        os.path.join(folder, "data"), num_train=NUM_TRAIN, num_eval=num_eval, image_size=side, show_progress=False
    )
    resizer = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
    overrides = [
        f"{resizer}.min_dimension={side}",
        f"{resizer}.max_dimension={side}",
        f"model.faster_rcnn.num_classes={len(shapes.CLASS_NAMES)}",
        f"train_config.batch_size={batch_size}",
        f"train_config.num_steps={num_steps}",
        "train_config.use_bfloat16=false",
        "eval_config.num_visualizations=0",  # the Object Detection API cannot draw with a Pillow of today
        f'train_input_reader.label_map_path="{data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{data.train_records}"]',
        f'eval_input_reader.0.label_map_path="{data.label_map_path}"',
        f'eval_input_reader.0.tf_record_input_reader.input_path=["{data.eval_records}"]',
    ]
    path = os.path.join(folder, "pipeline.config")
    config.save_config(config.load_config(recipes.recipe_path(RECIPE), overrides), path)
    return path


def measure(config_path: str, model_dir: str) -> dict[str, float]:
    """One run in this process. Importing is not counted, as it is not for the peer."""
    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.jobs import evaluate as evaluate_job
    from object_detection_fpn.jobs import export as export_job
    from object_detection_fpn.jobs import train as train_job

    seconds = [time.perf_counter()]
    message = config.load_config(config_path, require_data=["train", "eval"])
    result = train_job.train(message, model_dir=model_dir)
    seconds.append(time.perf_counter())
    evaluate_job.evaluate(message, checkpoint=result.checkpoint, output_dir=model_dir)
    seconds.append(time.perf_counter())
    export_job.export(message, checkpoint=result.checkpoint, output_dir=os.path.join(model_dir, "exported"))
    seconds.append(time.perf_counter())
    values = {name: round(seconds[i + 1] - seconds[i], 1) for i, name in enumerate(KEYS[:3])}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {**values, "total": round(seconds[-1] - seconds[0], 1), "rss_gb": round(rss, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.set_defaults(runs=1)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--num_eval", type=int, default=16, help="images to evaluate")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        model_dir = os.path.join(os.path.dirname(arguments.config), "own")
        shutil.rmtree(model_dir, ignore_errors=True)  # of the run before, which would be gone on with
        print(json.dumps(measure(arguments.config, model_dir)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.config = draw(
            folder,
            side=arguments.side,
            batch_size=arguments.batch_size,
            num_steps=arguments.num_steps,
            num_eval=arguments.num_eval,
        )
        arguments.model_dir = os.path.join(folder, "peer")
        print(json.dumps(_common.compare(arguments, KEYS, ["--config", arguments.config]), indent=2))


if __name__ == "__main__":
    main()
