"""Images a second that the training pipeline gives, from records that are drawn for it; JSON.

    python benchmarks/input_pipeline.py [--runs 3] [--image_size 640] [--side 640] [--batch_size 2]
    python benchmarks/input_pipeline.py --peer_command 'python benchmarks/peers/odapi_input.py {config} --num_batches 50'

Every run is a process of its own. With `--peer_command`, a command that prints a JSON line with the keys `first`, seconds
to the first batch, and `images_per_second`, this package and the peer run in turn. "{config}" in it stands for the pipeline
config, and "{data_dir}" for the folder of the records.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time

import _common

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
NUM_IMAGES, NUM_SHARDS = 64, 4
# What every release of the Object Detection API understands.
AUGMENTATIONS = ("random_horizontal_flip {}", "random_adjust_hue {}", "random_crop_image {}")


def draw(folder: str, image_size: int, side: int, batch_size: int) -> str:
    """Writes records and the config that reads them; returns the config's path."""
    from google.protobuf import text_format

    from object_detection_fpn import config
    from object_detection_fpn.data import shapes
    from object_detection_fpn.protos import pipeline_pb2

    data = shapes.write_dataset(
        folder, num_train=NUM_IMAGES, num_eval=1, image_size=image_size, num_shards=NUM_SHARDS, show_progress=False
    )
    resizer = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
    overrides = [
        f"{resizer}.min_dimension={side}",
        f"{resizer}.max_dimension={side}",
        "model.faster_rcnn.num_classes=3",
        f"train_config.batch_size={batch_size}",
        f'train_input_reader.label_map_path="{data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{data.train_records}"]',
    ]
    message = config.load_config(config.recipe_path(RECIPE), overrides)
    del message.train_config.data_augmentation_options[:]
    for step in AUGMENTATIONS:
        text_format.Parse(f"train_config {{ data_augmentation_options {{ {step} }} }}", message)
    assert isinstance(message, pipeline_pb2.TrainEvalPipelineConfig)
    path = os.path.join(folder, "pipeline.config")
    config.save_config(message, path)
    return path


def measure(config_path: str, num_batches: int, deterministic: bool) -> dict[str, float]:
    """One run in this process. Importing is not counted, as it is not for the peer."""
    from object_detection_fpn import builder, config
    from object_detection_fpn.label_map import load_label_map

    message = config.load_config(config_path)
    reader = message.train_input_reader
    start = time.perf_counter()
    dataset = builder.build_dataset(
        message,
        reader,
        label_map=load_label_map(reader.label_map_path),
        batch_size=message.train_config.batch_size,
        is_training=True,
        seed=0 if deterministic else None,
    )
    batches = iter(dataset)
    next(batches)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    seconds = time.perf_counter() - start
    return {
        "first": round(first, 2),
        "images_per_second": round(num_batches * message.train_config.batch_size / seconds, 1),
        "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--image_size", type=int, default=640, help="longer side of the drawn images")
    parser.add_argument("--side", type=int, default=640, help="of the resized images")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--num_batches", type=int, default=50)
    parser.add_argument("--deterministic", action="store_true", help="with a seed, as training does by default")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.config, arguments.num_batches, arguments.deterministic)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.data_dir = folder
        arguments.config = draw(folder, arguments.image_size, arguments.side, arguments.batch_size)
        keys = ("first", "images_per_second", "rss_gb")
        print(json.dumps(_common.compare(arguments, keys, ["--config", arguments.config]), indent=2))


if __name__ == "__main__":
    main()
