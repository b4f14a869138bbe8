"""Seconds and memory of pooling RoIs from a pyramid, forward and with its gradient; JSON.

    python benchmarks/crop_and_resize.py [--runs 3] [--side 640] [--batch_size 1] [--num_rois 300] [--crop_size 14]
    python benchmarks/crop_and_resize.py --peer_command 'python benchmarks/peers/odapi_crop.py'
    python benchmarks/crop_and_resize.py --roi_align --sampling_ratio 2 --num_rois 1000 --crop_size 7

Five levels, P2 to P6, of 256 channels; RoIs of all sizes, spread evenly over the levels. With `--roi_align`, the same RoIs,
each from the one of P2 to P5 that fits its size (FPN, equation 1). `extra_gb` is by how much the process grew at most beyond
pyramid and RoIs. Every run is a process of its own. With `--peer_command`, a command that takes the flags that are printed
under "arguments" and prints a JSON line with the same keys, this package and the peer run in turn.
"""

from __future__ import annotations

import argparse
import functools
import json

import _common

KEYS = ("forward", "forward_backward", "extra_forward_gb", "extra_gb")
SHAPES = ("side", "batch_size", "num_rois", "crop_size")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    import crop_data
    import tensorflow as tf

    from object_detection_fpn.ops import crop_and_resize

    pyramid, boxes, level_indices = crop_data.draw(*(getattr(arguments, name) for name in SHAPES[:3]))
    crop_size, static = arguments.crop_size, arguments.static
    if arguments.roi_align:
        levels = crop_data.LEVELS[:4]
        pyramid, boxes = pyramid[:4], tf.constant(boxes * arguments.side)
        pool = functools.partial(
            crop_and_resize.multilevel_roi_align,
            boxes=boxes,
            level_indices=crop_and_resize.assign_levels_in_pixels(
                boxes, min_level=levels[0], max_level=levels[-1], canonical_level=4
            ),
            strides=[2**level for level in levels],
            roi_align=crop_and_resize.RoIAlign(output_size=crop_size, sampling_ratio=arguments.sampling_ratio),
            static=static,
        )
    else:
        pool = functools.partial(
            crop_and_resize.multilevel_crop_and_resize,
            boxes_normalized=tf.constant(boxes),
            level_indices=tf.constant(level_indices),
            crop_size=crop_size,
            static=static,
        )
    pyramid = [tf.constant(features) for features in pyramid]

    @tf.function(autograph=False, jit_compile=static)
    def forward(*pyramid: tf.Tensor) -> tf.Tensor:
        return pool(pyramid)

    @tf.function(autograph=False, jit_compile=static)
    def forward_backward(*pyramid: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            total = tf.reduce_sum(tf.square(pool(pyramid)))
        return tape.gradient(total, pyramid)

    return crop_data.measure(lambda: forward(*pyramid)[:1, :1].numpy(), lambda: forward_backward(*pyramid)[-1].numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640, help="of the images")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_rois", type=int, default=300, help="of an image")
    parser.add_argument("--crop_size", type=int, default=14)
    parser.add_argument("--roi_align", action="store_true", help="pools by RoIAlign")
    parser.add_argument("--sampling_ratio", type=int, default=2, help="of RoIAlign; 0 is adaptive")
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
