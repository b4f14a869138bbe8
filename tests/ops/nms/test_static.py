from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import nms


@pytest.mark.parametrize("compiled", [False, True])
def test_long_rows_of_many_tiles_agree_with_the_kernel(compiled, run, random_boxes):
    rng = np.random.default_rng(0)
    boxes, scores = random_boxes(rng, (2, 6000)), rng.random((2, 6000)).astype(np.float32)
    settings_ = {"max_outputs": 900, "iou_threshold": 0.2, "score_threshold": 0.05}
    expected = run(nms.batched_nms, boxes, scores, mode=(False, False), **settings_)
    kept = run(nms.batched_nms, boxes, scores, mode=(True, compiled), **settings_)
    np.testing.assert_array_equal(kept[1], expected[1])
    np.testing.assert_array_equal(kept[0], expected[0])


def test_program_does_not_grow_with_the_batch():
    def num_lines(batch):
        def suppress(boxes, scores):
            return nms.batched_nms(boxes, scores, max_outputs=20, iou_threshold=0.5, score_threshold=0.0, static=True)

        run = tf.function(suppress, jit_compile=True, autograph=False)
        program = run.experimental_get_compiler_ir(tf.zeros([batch, 90, 4]), tf.zeros([batch, 90]))(stage="hlo")
        return len(program.splitlines())

    assert num_lines(2) == num_lines(7)


def test_large_rows_are_not_sorted_whole():
    def suppress(boxes, scores):
        return nms.batched_nms(boxes, scores, max_outputs=300, iou_threshold=0.7, score_threshold=0.0, static=True)

    run = tf.function(suppress, jit_compile=True, autograph=False)
    program = run.experimental_get_compiler_ir(tf.zeros([1, 20000, 4]), tf.zeros([1, 20000]))(stage="hlo")
    sorts = re.findall(r" = \(f32\[([\d,]+)\]\S*, .*\) sort\(", program)
    assert set(sorts) == {"1,4096"}
