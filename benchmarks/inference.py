"""Seconds from the start of building a model to its first detections, of inference after it, and share of peak; JSON.

    python benchmarks/inference.py [--runs 3] [--side 640] [--batch_size 1] [--num_steps 8] [--jit]
    python benchmarks/inference.py --peer_command 'python bench.py {batch_size} {side} infer'
    python benchmarks/inference.py --model torchvision --peer_command \
        'python benchmarks/peers/torchvision_detector.py infer {side} {batch_size}'

What runs is the function that `odfpn export` writes for CPUs, batch norm folded, on images that need no resizing. The share is
the arithmetic of convolutions and matrix products over the time, divided by what one large matrix product reaches in the same
process. Convolutions count as direct sums, though Winograd's algorithm needs less. `--model torchvision` is torchvision's
fasterrcnn_resnet50_fpn with 1000 proposals, as it is imported. `--model torchvision_masks`, beside the peer's `--model
maskrcnn_resnet50_fpn`, detects 100 objects with masks; it has no share of peak. `--model torchvision_retinanet` goes beside
`--model retinanet_resnet50_fpn`, `single_level` and `retinanet` beside the Object Detection API with the same config. Every run
is a process of its own; a peer's command prints a JSON line with `first` and `step_med`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from typing import TYPE_CHECKING

import _common

if TYPE_CHECKING:
    import tensorflow as tf

_PEAK_SIDE, _PEAK_RUNS = 3072, 5


def measure(side: int, batch_size: int, *, num_steps: int, model_name: str, jit: bool) -> dict[str, float]:
    """One run in this process. Importing is not counted, as it is not for the peer."""
    import tensorflow as tf

    from object_detection_fpn import builder
    from object_detection_fpn.config import model as model_config
    from object_detection_fpn.execution import Execution
    from object_detection_fpn.records import Inputs
    from object_detection_fpn.serving import saved_model
    from object_detection_fpn.serving.folding import Folding

    config = _common.load_recipe(side, model=model_name)
    images = _common.make_batch(side, batch_size).inputs.images

    start = time.perf_counter()
    execution = Execution(static=jit, jit_compile=jit, winograd=not jit)
    model = builder.build_model(config.model, execution=execution)
    detect = saved_model.make_serving_function(
        model=model,
        resizer=builder.build_resizer(model_config.image_resizer(config.model)),
        input_type="float_image_tensor",
        folding=Folding(model),
        jit_compile=jit,
    )
    last_output = "detection_masks" if model_config.has_masks(config.model) else "detection_scores"
    detect(images)[last_output].numpy()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(num_steps):
        start = time.perf_counter()
        detect(images)[last_output].numpy()
        seconds.append(time.perf_counter() - start)
    second = statistics.median(seconds)
    values = {"first": round(first, 2), "step_med": round(second, 3), "rss_gb": _common.peak_memory_gb()}
    if last_output == "detection_masks":
        return values  # as many masks are computed as there are detections, which the graph does not tell
    # Without Winograd's algorithm, which needs less: what counts is how soon a convolution's result is there.
    plain = builder.build_model(config.model)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(images.shape)])
    def whole(images):  # of known batch: its arithmetic can be counted
        true_shapes = tf.tile([[side, side, 3]], [batch_size, 1])
        inputs = Inputs(images, true_shapes)
        return plain.postprocess(plain.predict(inputs, training=False), inputs)

    gflop, peak = _gflop(whole.get_concrete_function().graph), _peak_gflops()
    return values | {
        "gflop": round(gflop, 1),
        "peak_gflops": round(peak, 1),
        "share_of_peak": round(gflop / second / peak, 3),
    }


def _gflop(graph: tf.Graph) -> float:
    """Multiplications and additions of a graph's convolutions and matrix products."""
    total = 0
    for op in graph.get_operations():
        if op.type in ("Conv2D", "MatMul"):
            weights = op.inputs[1].shape
            # Each output is a sum over all that leads to one channel.
            total += 2 * op.outputs[0].shape.num_elements() * math.prod(weights[:-1])
    return total / 1e9


def _peak_gflops() -> float:
    import tensorflow as tf

    matrix = tf.random.uniform([_PEAK_SIDE, _PEAK_SIDE])
    seconds = []
    for _ in range(_PEAK_RUNS):
        start = time.perf_counter()
        tf.linalg.matmul(matrix, matrix)[0, 0].numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * _PEAK_SIDE**3 / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_steps", type=int, default=8)
    parser.add_argument("--model", choices=_common.MODELS, default="recipe")
    parser.add_argument("--jit", action="store_true", help="let XLA compile the model")
    arguments = parser.parse_args()
    if arguments.once:
        values = measure(
            arguments.side,
            arguments.batch_size,
            num_steps=arguments.num_steps,
            model_name=arguments.model,
            jit=arguments.jit,
        )
        print(json.dumps(values))
        return

    keys: tuple[str, ...] = ("first", "step_med", "rss_gb")
    if not arguments.model.endswith("_masks"):
        keys += ("gflop", "peak_gflops", "share_of_peak")
    print(json.dumps(_common.compare(arguments, keys), indent=2))


if __name__ == "__main__":
    main()
