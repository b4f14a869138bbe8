"""Seconds and memory of the Object Detection API's pooling of RoIs, forward and with its gradient; a line of JSON.

    python benchmarks/peers/odapi_crop.py [--kind matmul] [--side 640] [--batch_size 1] [--num_rois 300] [--crop_size 14]

For an interpreter in which `object_detection` can be imported, as the peer of `benchmarks/crop_and_resize.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent.parent))

import crop_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("matmul", "native"), default="matmul", help="matmul is for static shapes")
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_rois", type=int, default=300)
    parser.add_argument("--crop_size", type=int, default=14)
    arguments = parser.parse_args()
    from object_detection.utils import spatial_transform_ops

    crop = getattr(spatial_transform_ops, f"multilevel_{arguments.kind}_crop_and_resize")
    size = [arguments.crop_size] * 2
    pyramid, boxes, level_indices = crop_data.draw(arguments.side, arguments.batch_size, arguments.num_rois)
    pyramid = [tf.constant(features) for features in pyramid]
    boxes, level_indices = tf.constant(boxes), tf.constant(level_indices)

    @tf.function
    def forward(*pyramid):
        return crop(list(pyramid), boxes, level_indices, size)

    @tf.function
    def forward_backward(*pyramid):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            total = tf.reduce_sum(tf.square(crop(list(pyramid), boxes, level_indices, size)))
        return tape.gradient(total, pyramid)

    print(
        json.dumps(
            crop_data.measure(lambda: forward(*pyramid)[:1, :1].numpy(), lambda: forward_backward(*pyramid)[-1].numpy())
        )
    )


if __name__ == "__main__":
    main()
