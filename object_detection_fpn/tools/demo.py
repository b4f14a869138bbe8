"""`odfpn demo`: draws data, trains a small detector on it, evaluates, exports, reports and uses it."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from object_detection_fpn.tools.command import check_folder, say

_RECIPE = "faster_rcnn_resnet18_fpn_recipe_shapes_160x160"
_MASK_RECIPE = "mask_rcnn_resnet18_fpn_recipe_shapes_160x160"
_IMAGE_SIZE = 160  # that of the recipes: nothing is lost in resizing
_NUM_DRAWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir",
        metavar="DIR",
        help="folder for everything (demo_output, with --masks demo_masks_output)",
    )
    parser.add_argument("--masks", action="store_true", help="detect the shapes with their masks (Mask R-CNN)")
    parser.add_argument("--num_steps", type=int, metavar="N", help="train steps; the recipe's by default")


def run(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.config import recipes
    from object_detection_fpn.jobs import evaluate as evaluate_job
    from object_detection_fpn.jobs import export as export_job
    from object_detection_fpn.jobs import train as train_job
    from object_detection_fpn.tools import shapes
    from object_detection_fpn.tools.report.command import write_report

    default_dir = "demo_masks_output" if arguments.masks else "demo_output"
    output_dir = Path(
        check_folder("--output_dir", default_dir if arguments.output_dir is None else arguments.output_dir)
    )
    model_dir, export_dir = output_dir / "model", output_dir / "exported"
    say(f"Drawing circles, squares and triangles into {output_dir / 'data'} ...")
    data = shapes.write_dataset(str(output_dir / "data"), image_size=_IMAGE_SIZE, with_masks=arguments.masks)
    overrides = [
        f'train_input_reader.label_map_path="{data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{data.train_records}"]',
        f'eval_input_reader.0.label_map_path="{data.label_map_path}"',
        f'eval_input_reader.0.tf_record_input_reader.input_path=["{data.eval_records}"]',
    ]
    if arguments.num_steps is not None:
        overrides.append(f"train_config.num_steps={arguments.num_steps}")
    recipe = recipes.recipe_path(_MASK_RECIPE if arguments.masks else _RECIPE)
    config = config_lib.load_config(recipe, overrides, require_data=["train", "eval"])

    start = time.monotonic()
    train_job.train(config, model_dir=str(model_dir))
    metrics = evaluate_job.evaluate(config, checkpoint=str(model_dir), output_dir=str(model_dir))
    minutes = (time.monotonic() - start) / 60
    export_job.export(config, checkpoint=str(model_dir), output_dir=str(export_dir))

    report_path = write_report(config, checkpoint=str(model_dir), output_dir=str(output_dir / "report"))

    # A process of its own, as a server would be: nothing of this one helps it.
    images = sorted(Path(data.eval_images).iterdir())[:_NUM_DRAWN]
    status = subprocess.run(
        [sys.executable, "-m", "object_detection_fpn.cli", "predict", *map(str, images)]
        + ["--saved_model", str(export_dir), "--label_map", data.label_map_path]
        + ["--output_dir", str(output_dir / "predictions")],
        check=False,
    ).returncode
    of_masks = f" of boxes, {metrics['DetectionMasks_Precision/mAP@.50IOU']:.3f} of masks" if arguments.masks else ""
    say(
        f"AP50 {metrics['DetectionBoxes_Precision/mAP@.50IOU']:.3f}{of_masks} on held-out images; training and evaluation took "
        f"{minutes:.1f} minutes.\nReport, for a browser: {report_path}; drawn detections: {output_dir / 'predictions'}; "
        f"SavedModel: {export_dir}; TensorBoard: tensorboard --logdir {model_dir}"
    )
    return status
