"""Seconds of a train step, of the first one from the start of building the model, and peak memory of the process; JSON.

    python benchmarks/train_step.py [--runs 3] [--side 640] [--batch_size 1] [--num_steps 5]
        [--precision float32|bfloat16] [--jit_compile] [--recompute_backbone true|false]
    python benchmarks/train_step.py --peer_command 'python bench.py {batch_size} {side} train'
    python benchmarks/train_step.py --model torchvision --peer_command \
        'python benchmarks/peers/torchvision_detector.py train {side} {batch_size} --precision {precision}'

The step is that of `odfpn train`: forward, backward, norm of the gradients, update. `--model torchvision` is that of
torchvision's fasterrcnn_resnet50_fpn: 2000 proposals, 512 samples, and a backbone that trains whole, statistics too;
`single_level` and `retinanet` are the Object Detection API's. Every run is a process of its own. With `--peer_command`, a
command that prints a JSON line with the keys `first` and `step_med`, in seconds, and `rss_gb`, this package and the peer run
in turn, and the medians of both and their ratio are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import _common


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One run in this process. Importing is not counted, as it is not for the peer, but its memory is."""
    import tensorflow as tf

    from object_detection_fpn import builder
    from object_detection_fpn.config import model as model_config
    from object_detection_fpn.protos import train_pb2
    from object_detection_fpn.training.settings import StepSettings
    from object_detection_fpn.training.step import Trainer

    config = _common.load_recipe(arguments.side, model=arguments.model)
    has_masks = model_config.has_masks(config.model)
    batch = _common.make_batch(arguments.side, arguments.batch_size, with_masks=has_masks)

    start = time.perf_counter()
    strategy = tf.distribute.get_strategy()
    if arguments.recompute_backbone is not None:
        config.train_config.recompute_backbone = arguments.recompute_backbone
    config.train_config.precision = train_pb2.Precision.Value(arguments.precision.upper())
    execution = builder.training_execution(config, jit_compile=arguments.jit_compile)
    model = builder.build_detector(config, config.train_input_reader, execution=execution)
    optimizer = builder.build_optimizer(config.train_config.optimizer)
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    trainer = Trainer(
        tf.data.Dataset.from_tensors(batch).repeat(),
        model=model,
        optimizer=optimizer,
        variables=variables,
        strategy=strategy,
        settings=StepSettings(jit_compile=arguments.jit_compile),
    )
    trainer.run(1)
    first = time.perf_counter() - start
    seconds = []
    for _ in range(arguments.num_steps):
        start = time.perf_counter()
        trainer.run(1)
        seconds.append(time.perf_counter() - start)
    return {
        "first": round(first, 2),
        "step_med": round(statistics.median(seconds), 3),
        "rss_gb": _common.peak_memory_gb(),
    }


def main(description: str | None, keys: Sequence[str], *, num_steps: int) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_steps", type=int, default=num_steps)
    parser.add_argument("--model", choices=_common.MODELS, default="recipe")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument(
        "--recompute_backbone",
        type=lambda word: {"true": True, "false": False}[word],
        metavar="true|false",
        help="as `train_config.recompute_backbone`, and unset like it by default",
    )
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments)))
    else:
        print(json.dumps(_common.compare(arguments, keys), indent=2))


if __name__ == "__main__":
    main(__doc__, ("first", "step_med", "rss_gb"), num_steps=5)
