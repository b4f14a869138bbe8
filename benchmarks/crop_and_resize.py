"""Seconds and memory of pooling RoIs from a pyramid, forward and with its gradient; JSON.

    python benchmarks/crop_and_resize.py [--runs 3] [--side 640] [--batch_size 1] [--num_rois 300] [--crop_size 14]
    python benchmarks/crop_and_resize.py --peer_command 'python benchmarks/peers/odapi_crop.py'

Five levels, P2 to P6, of 256 channels; RoIs of all sizes, spread evenly over the levels. `extra_gb` is by how much the
process grew at most beyond pyramid and RoIs. Every run is a process of its own. With `--peer_command`, a command that takes
the flags that are printed under "arguments" and prints a JSON line with the same keys, this package and the peer run in turn.
"""

from __future__ import annotations

import argparse
import json

import _common

KEYS = ("forward", "forward_backward", "extra_forward_gb", "extra_gb")
SHAPES = ("side", "batch_size", "num_rois", "crop_size")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    import crop_data
    import tensorflow as tf

    from object_detection_fpn.ops import crop_and_resize

    pyramid, boxes, level_indices = crop_data.draw(*(getattr(arguments, name) for name in SHAPES[:3]))
    pyramid = [tf.constant(features) for features in pyramid]
    boxes, level_indices = tf.constant(boxes), tf.constant(level_indices)
    crop_size, static = arguments.crop_size, arguments.static

    @tf.function(autograph=False, jit_compile=static)
    def forward(*pyramid: tf.Tensor) -> tf.Tensor:
        return crop_and_resize.multilevel_crop_and_resize(
            pyramid, boxes, level_indices, crop_size=crop_size, static=static
        )

    @tf.function(autograph=False, jit_compile=static)
    def forward_backward(*pyramid: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            crops = crop_and_resize.multilevel_crop_and_resize(
                pyramid, boxes, level_indices, crop_size=crop_size, static=static
            )
            total = tf.reduce_sum(tf.square(crops))
        return tape.gradient(total, pyramid)

    return crop_data.measure(lambda: forward(*pyramid)[:1, :1].numpy(), lambda: forward_backward(*pyramid)[-1].numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640, help="of the images")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_rois", type=int, default=300, help="of an image")
    parser.add_argument("--crop_size", type=int, default=14)
    parser.add_argument("--static", action="store_true", help="see `ops.crop_and_resize`; compiled by XLA")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments)))
        return
    shapes = [f"--{name}={getattr(arguments, name)}" for name in SHAPES]
    if arguments.peer_command:
        arguments.peer_command = " ".join([arguments.peer_command, *shapes])
    print(json.dumps({"arguments": shapes, **_common.compare(arguments, KEYS)}, indent=2))


if __name__ == "__main__":
    main()
