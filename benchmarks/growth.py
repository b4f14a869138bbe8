"""How time and memory of a train step grow with image side, batch, RoIs, classes and groundtruth boxes; JSON, table, plots.

    python benchmarks/growth.py [--of side --of batch_size] [--plot growth.png]
    python benchmarks/growth.py --peer_command 'python bench.py {batch_size} {side} train'

One of the five grows at a time, the others stay as in `BASE`. ResNet-50 FPN, float32. Every point is a process of its own.
With `--peer_command`, a command that prints a JSON line with the keys `first` and `step_med`, in seconds, and `rss_gb`, the
peer runs after this package at every point of what the command names in braces.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import TypeAlias

import _common

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
BASE = {"side": 192, "batch_size": 1, "num_rois": 64, "num_classes": 90, "num_boxes": 20}
GROWTH = {
    "side": (128, 192, 256, 384, 512),
    "batch_size": (1, 2, 4, 8),
    "num_rois": (64, 128, 256, 512),
    "num_classes": (1, 20, 90, 365),
    "num_boxes": (5, 20, 100, 400),
}
WORDS = {
    "side": "image side, pixels",
    "batch_size": "images of a batch",
    "num_rois": "RoIs of an image",
    "num_classes": "classes",
    "num_boxes": "groundtruth boxes of an image",
}
KEYS = {"first": "first step, s", "step_med": "step, s", "rss_gb": "peak memory, GB"}
NUM_STEPS = 3


def measure(point: dict[str, int]) -> dict[str, float]:
    """One point in this process. Importing is not counted."""
    import numpy as np
    import tensorflow as tf

    from object_detection_fpn import builder
    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.config import recipes
    from object_detection_fpn.modeling.detector import mean_losses
    from object_detection_fpn.records import Groundtruth, Inputs

    side, batch_size, num_boxes = point["side"], point["batch_size"], point["num_boxes"]
    model_field = "model.faster_rcnn"
    overrides = [
        f"{model_field}.image_resizer.keep_aspect_ratio_resizer.min_dimension={side}",
        f"{model_field}.image_resizer.keep_aspect_ratio_resizer.max_dimension={side}",
        f"{model_field}.num_classes={point['num_classes']}",
        f"{model_field}.first_stage_max_proposals={max(300, point['num_rois'])}",  # the recipe's, or as many as RoIs
        f"{model_field}.second_stage_batch_size={point['num_rois']}",
        f"{model_field}.second_stage_post_processing.batch_non_max_suppression.max_total_detections=100",
    ]
    message = config.load_config(recipes.recipe_path(RECIPE), overrides)
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 0.6 * side, (batch_size, num_boxes, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05 * side, 0.4 * side, corners.shape)], -1)
    groundtruth = Groundtruth(
        boxes=tf.constant(boxes, tf.float32),
        classes=tf.constant(rng.integers(0, point["num_classes"], (batch_size, num_boxes)), tf.int32),
        num_boxes=tf.fill([batch_size], num_boxes),
        weights=tf.ones([batch_size, num_boxes]),
        is_crowd=tf.zeros([batch_size, num_boxes], tf.bool),
    )
    images = tf.constant(rng.uniform(0, 255, (batch_size, side, side, 3)), tf.float32)
    true_shapes = tf.tile([[side, side, 3]], [batch_size, 1])

    start = time.perf_counter()
    model = builder.build_model(message.model, execution=builder.training_execution(message))
    optimizer = builder.build_optimizer(message.train_config.optimizer)
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step(seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            inputs = model.preprocess(Inputs(images, true_shapes))
            predictions = model.predict(inputs, training=True, groundtruth=groundtruth, seed=seed)
            total = tf.add_n(list(mean_losses(model, predictions, groundtruth).values()))
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        return total

    seconds = [start]
    for i in range(NUM_STEPS + 1):
        step(tf.constant([i, 0])).numpy()
        seconds.append(time.perf_counter())
    steps = [end - begin for begin, end in itertools.pairwise(seconds[1:])]
    return {
        "first": round(seconds[1] - start, 2),
        "step_med": round(statistics.median(steps), 3),
        "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


Figures: TypeAlias = dict[str, float]
Results: TypeAlias = dict[str, dict[int, dict[str, Figures]]]
"""What grows, its value, "own" or "peer", and the figures of that point."""


def table(results: Results) -> str:
    """Markdown; where a peer ran, this package's figures by the peer's."""
    lines = [f"| | | {' | '.join(KEYS.values())} |", "|---" * (2 + len(KEYS)) + "|"]
    for name, points in results.items():
        for i, (value, figures) in enumerate(points.items()):
            cells = [" / ".join(f"{each[key]:g}" for each in figures.values()) for key in KEYS]
            lines.append(f"| {'' if i else WORDS[name]} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """A column for each of what grows, a row each for seconds of a step and for memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = ("step_med", "rss_gb")
    figure, axes = pyplot.subplots(len(rows), len(results), figsize=(3.2 * len(results), 5.2), squeeze=False)
    for column, (name, points) in zip(axes.T, results.items(), strict=True):
        for axis, key in zip(column, rows, strict=True):
            for who in ("own", "peer"):
                curve = {value: figures[who][key] for value, figures in points.items() if who in figures}
                if curve:
                    axis.plot(
                        list(curve), list(curve.values()), marker="o", label={"own": "this package"}.get(who, who)
                    )
            axis.set_ylim(0, 1.08 * axis.dataLim.ymax)
            axis.set_xlim(0, 1.05 * axis.dataLim.xmax)
            axis.grid(alpha=0.3)
        column[-1].set_xlabel(WORDS[name])
    if any("peer" in figures for points in results.values() for figures in points.values()):
        axes[0, 0].legend()
    for axis, key in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(KEYS[key])
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", action="append", choices=tuple(GROWTH), help="what is to grow; all of it by default")
    parser.add_argument("--plot", type=Path, help="picture to write; needs matplotlib")
    parser.add_argument("--results", type=Path, help="JSON of an earlier run, to be drawn instead of a new one")
    parser.add_argument("--peer_command", help="a command that prints a JSON line; see above")
    parser.add_argument("--once", help=argparse.SUPPRESS)  # the point that is measured in this process
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(json.loads(arguments.once))))
        return
    if arguments.results:
        stored = json.loads(arguments.results.read_text())["results"]
        results = {name: {int(value): figures for value, figures in points.items()} for name, points in stored.items()}
    else:
        peer_command = shlex.split(arguments.peer_command or "")
        own: dict[str, Figures] = {}  # the base belongs to all
        peer: dict[str, Figures] = {}
        results = {}
        for name in arguments.of or GROWTH:
            results[name] = {}
            for value in GROWTH[name]:
                values = {**BASE, name: value}
                point = json.dumps(values)
                if point not in own:
                    own[point] = _common.run_own([__file__, "--once", point])
                results[name][value] = {"own": own[point]}
                if any(f"{{{name}}}" in part for part in peer_command):
                    if point not in peer:
                        peer[point] = _common.run([part.format(**values) for part in peer_command])
                    results[name][value]["peer"] = {key: peer[point][key] for key in KEYS}
    print(json.dumps({"base": BASE, "results": results}, indent=2))
    print(table(results), file=sys.stderr)
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
