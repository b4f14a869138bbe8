"""Images a second that the training pipeline gives, from records that are drawn for it; JSON.

    python benchmarks/input_pipeline.py [--runs 3] [--side 640] [--batch_size 8]
    python benchmarks/input_pipeline.py --peer_command 'python benchmarks/peers/odapi_input.py {config}'

The records are like COCO's: JPEG files of about 640 x 480 pixels and 160 kB with seven boxes each. The pipeline is that of
the recipe: flip, resize and pad to a square. Every run is a process of its own. With `--peer_command`, a command that
prints a JSON line with the keys `first`, seconds to the first batch, and `images_per_second`, this package and the peer run
in turn. "{config}" in it stands for the pipeline config, "{num_batches}" for the number of batches that are timed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import tempfile
import time

import _common
import numpy as np

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
NUM_IMAGES, NUM_SHARDS, NUM_BOXES, NUM_CLASSES = 256, 4, 7, 90
SIZES = ((480, 640), (480, 640), (427, 640), (640, 480))  # height, width; the commonest of COCO
JPEG_QUALITY = 90
NUM_WARM_UP_BATCHES = 25  # what was made ahead while nobody waited


def draw(folder: str, *, side: int, batch_size: int, augmentations: list[str] | None) -> str:
    """Writes records, a label map and the config that reads them; returns the config's path."""
    from google.protobuf import text_format

    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.config import recipes
    from object_detection_fpn.tools.convert import records

    label_map_path = os.path.join(folder, "label_map.pbtxt")
    records.write_label_map(label_map_path, {i: f"class {i}" for i in range(1, NUM_CLASSES + 1)})
    draw_records(folder)
    resizer = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
    overrides = [
        f"{resizer}.min_dimension={side}",
        f"{resizer}.max_dimension={side}",
        f"train_config.batch_size={batch_size}",
        f'train_input_reader.label_map_path="{label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{folder}/*.tfrecord"]',
    ]
    message = config.load_config(recipes.recipe_path(RECIPE), overrides)
    if augmentations is not None:
        del message.train_config.data_augmentation_options[:]
        for step in augmentations:
            text_format.Parse(f"train_config {{ data_augmentation_options {{ {step} }} }}", message)
    path = os.path.join(folder, "pipeline.config")
    config.save_config(message, path)
    return path


def draw_records(folder: str) -> None:
    """Blurred noise over a gradient: as many bytes, and as long to decode, as a photograph."""
    import tensorflow as tf
    from PIL import Image

    rng = np.random.default_rng(0)
    for shard in range(NUM_SHARDS):
        with tf.io.TFRecordWriter(os.path.join(folder, f"{shard}.tfrecord")) as writer:
            for i in range(shard, NUM_IMAGES, NUM_SHARDS):
                height, width = SIZES[i % len(SIZES)]
                coarse = rng.integers(0, 256, (height // 32, width // 32, 3), np.uint8)
                picture = np.asarray(
                    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32
                )
                noise = rng.normal(0, 22, (height // 2, width // 2, 3)).repeat(2, 0).repeat(2, 1)
                picture[: noise.shape[0], : noise.shape[1]] += noise
                encoded = io.BytesIO()
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=JPEG_QUALITY)
                corners = rng.uniform(0, 0.6, (NUM_BOXES, 2))
                ends = corners + rng.uniform(0.05, 0.4, (NUM_BOXES, 2))
                example = tf.train.Example()
                feature = example.features.feature
                feature["image/encoded"].bytes_list.value.append(encoded.getvalue())
                feature["image/format"].bytes_list.value.append(b"jpeg")
                feature["image/source_id"].bytes_list.value.append(str(i).encode())
                feature["image/height"].int64_list.value.append(height)
                feature["image/width"].int64_list.value.append(width)
                for axis, name in enumerate("yx"):
                    feature[f"image/object/bbox/{name}min"].float_list.value.extend(corners[:, axis])
                    feature[f"image/object/bbox/{name}max"].float_list.value.extend(ends[:, axis])
                classes = rng.integers(1, NUM_CLASSES + 1, NUM_BOXES)
                feature["image/object/class/label"].int64_list.value.extend(classes)
                feature["image/object/class/text"].bytes_list.value.extend(b"class %d" % c for c in classes)
                feature["image/object/is_crowd"].int64_list.value.extend([0] * NUM_BOXES)
                feature["image/object/area"].float_list.value.extend((ends - corners).prod(1) * height * width)
                writer.write(example.SerializeToString())


def measure(config_path: str, num_batches: int, is_seeded: bool) -> dict[str, float]:
    """One run in this process. Importing is not counted, as it is not for the peer."""
    from object_detection_fpn import builder
    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.config.label_map import load_label_map

    message = config.load_config(config_path)
    reader = message.train_input_reader
    start = time.perf_counter()
    dataset = builder.build_dataset(
        message,
        reader,
        label_map=load_label_map(reader.label_map_path),
        batch_size=message.train_config.batch_size,
        is_training=True,
        seed=0 if is_seeded else None,
    )
    batches = iter(dataset)
    next(batches)
    first = time.perf_counter() - start
    for _ in range(NUM_WARM_UP_BATCHES):
        next(batches)
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
    parser.add_argument("--side", type=int, default=640, help="of the resized images")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_batches", type=int, default=150)
    parser.add_argument("--no_seed", action="store_true", help="any order; training has a seed")
    parser.add_argument(
        "--augmentation", action="append", help="a step such as random_adjust_hue {}, instead of the flip"
    )
    parser.add_argument("--config", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.config, arguments.num_batches, not arguments.no_seed)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.config = draw(
            folder, side=arguments.side, batch_size=arguments.batch_size, augmentations=arguments.augmentation
        )
        keys = ("first", "images_per_second", "rss_gb")
        print(json.dumps(_common.compare(arguments, keys, ["--config", arguments.config]), indent=2))


if __name__ == "__main__":
    main()
