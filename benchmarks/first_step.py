"""Seconds from the start of building the model to the end of the first train step, and per step after it; JSON.

    python benchmarks/first_step.py [--runs 3] [--side 640] [--batch_size 1] [--jit_compile]
    python benchmarks/first_step.py --peer_command 'python bench.py 1 640 train'

Every run is a process of its own. With `--peer_command`, a command that prints a JSON line with the keys `first` and
`step_med` in seconds, this package and the peer run in turn, and the medians of both and their ratio are printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import _common

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
NUM_BOXES, NUM_ROWS = 20, 100


def measure(side: int, batch_size: int, jit_compile: bool, num_steps: int) -> dict[str, float]:
    """One run in this process. Importing is not counted, as it is not for the peer."""
    import numpy as np
    import tensorflow as tf

    from object_detection_fpn import builder, config
    from object_detection_fpn.records import Groundtruth

    resizer = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
    overrides = [f"{resizer}.min_dimension={side}", f"{resizer}.max_dimension={side}"]
    message = config.load_config(config.recipe_path(RECIPE), overrides)

    start = time.perf_counter()
    model = builder.build_model(message.model, static=jit_compile)
    optimizer = builder.build_optimizer(message.train_config.optimizer)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 0.6 * side, (batch_size, NUM_ROWS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05 * side, 0.4 * side, corners.shape)], -1)
    is_real = np.arange(NUM_ROWS) < NUM_BOXES
    groundtruth = Groundtruth(
        boxes=tf.constant(boxes * is_real[:, None], tf.float32),
        classes=tf.constant(rng.integers(0, 90, (batch_size, NUM_ROWS)) * is_real, tf.int32),
        num_boxes=tf.fill([batch_size], NUM_BOXES),
        weights=tf.tile(tf.constant(is_real, tf.float32)[None], [batch_size, 1]),
        is_crowd=tf.zeros([batch_size, NUM_ROWS], tf.bool),
    )
    images = tf.constant(rng.uniform(0, 255, (batch_size, side, side, 3)), tf.float32)
    true_shapes = tf.tile([[side, side, 3]], [batch_size, 1])
    variables = model.trainable_variables

    @tf.function(jit_compile=jit_compile, autograph=False)
    def gradients(images, groundtruth, seed):
        with tf.GradientTape() as tape:
            predictions = model.predict(
                model.preprocess(images), true_shapes, training=True, groundtruth=groundtruth, seed=seed
            )
            losses = model.loss(predictions, groundtruth)
            total = tf.add_n(list(losses.values()))
        return total, tape.gradient(total, variables)

    @tf.function(autograph=False)
    def step(images, groundtruth, seed):
        total, values = gradients(images, groundtruth, seed)
        optimizer.apply_gradients(zip(values, variables, strict=True))
        return total

    step(images, groundtruth, tf.constant([0, 0])).numpy()
    first = time.perf_counter() - start
    seconds = []
    for i in range(num_steps):
        start = time.perf_counter()
        step(images, groundtruth, tf.constant([i + 1, 0])).numpy()
        seconds.append(time.perf_counter() - start)
    return {
        "first": round(first, 2),
        "step_med": round(statistics.median(seconds), 3),
        "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_steps", type=int, default=4)
    parser.add_argument("--jit_compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.once:
        values = measure(arguments.side, arguments.batch_size, arguments.jit_compile, arguments.num_steps)
        print(json.dumps(values))
        return

    print(json.dumps(_common.compare(arguments, ("first", "step_med", "rss_gb")), indent=2))


if __name__ == "__main__":
    main()
