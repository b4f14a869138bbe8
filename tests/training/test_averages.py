"""Moving averages of the weights."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import optimizers, schedules

CONSTANT = schedules.ConstantLearningRate(learning_rate=0.1)


def test_averages_are_lent_and_the_weights_come_back_to_the_bit():
    variable = tf.Variable([0.1, 1e8])
    optimizer = optimizers.momentum(CONSTANT, moving_average_decay=0.5)
    optimizer.build([variable])
    optimizer.get_slot(variable, "average").assign([7.0, 1e-8])
    before = variable.numpy()
    with optimizer.averaged([variable]):
        np.testing.assert_array_equal(variable, np.float32([7.0, 1e-8]))
    np.testing.assert_array_equal(variable, before)
    with pytest.raises(RuntimeError, match="inside"), optimizer.averaged([variable]):
        raise RuntimeError("inside")
    np.testing.assert_array_equal(variable, before)


def test_without_averages_the_weights_stay():
    variable = tf.Variable([1.0])
    optimizer = optimizers.momentum(CONSTANT)
    optimizer.build([variable])
    optimizer.start_averages([variable])
    with optimizer.averaged([variable]):
        assert variable.numpy() == 1.0
    assert "average" not in optimizer.get_slot_names()


def test_averages_follow_on_two_replicas(two_cpus):
    with two_cpus.scope():
        variable = tf.Variable([1.0])
        optimizer = optimizers.momentum(CONSTANT, moving_average_decay=0.99)
        optimizer.build([variable])
    optimizer.start_averages([variable])

    def update():
        optimizer.apply_gradients([(tf.ones(1), variable)])  # and returns nothing, for `run` takes no operation

    @tf.function(autograph=False)
    def step():
        two_cpus.run(update)

    step()
    assert variable.numpy() == pytest.approx(0.8)  # each replica adds 0.1 x 1
    for average in two_cpus.experimental_local_results(optimizer.get_slot(variable, "average")):
        assert average.numpy() == pytest.approx((2 * 1.0 + 9 * 0.8) / 11)
