from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.ops.dims import dim


def test_known_dimension_is_an_int_and_unknown_one_a_tensor():
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 3])], autograph=False)
    def function(tensor):
        seen.append(dim(tensor, 1))
        return dim(tensor, 0)

    assert function(tf.zeros([7, 3])) == 7
    assert seen == [3]
