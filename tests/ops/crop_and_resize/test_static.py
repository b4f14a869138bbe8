from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.ops import crop_and_resize as crop_ops


def test_program_does_not_grow_with_the_batch(random_case):
    def num_lines(batch):
        pyramid, boxes, levels = random_case(batch=batch)

        @tf.function(jit_compile=True, autograph=False)
        def run(pyramid, boxes, levels):
            with tf.GradientTape() as tape:
                tape.watch(pyramid)
                crops = crop_ops.multilevel_crop_and_resize(pyramid, boxes, levels, crop_size=3, static=True)
            return tape.gradient(crops, pyramid)

        args = [tf.constant(features) for features in pyramid], tf.constant(boxes), tf.constant(levels)
        return len(run.experimental_get_compiler_ir(*args)(stage="hlo").splitlines())

    assert num_lines(2) == num_lines(7)
