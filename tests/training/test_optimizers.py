"""Optimizers against their formulas by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import optimizers, schedules

CONSTANT = schedules.ConstantLearningRate(learning_rate=0.1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optimizers.momentum(CONSTANT, momentum=1.5), r"momentum = 1.5 is outside \[0, 1\]"),
        (lambda: optimizers.rms_prop(CONSTANT, decay=-0.1), r"decay = -0.1 is outside \[0, 1\]"),
        (lambda: optimizers.rms_prop(CONSTANT, momentum=2.0), r"momentum = 2.0 is outside"),
        (lambda: optimizers.rms_prop(CONSTANT, epsilon=0.0), "epsilon = 0.0 is not positive"),
        (lambda: optimizers.adam(CONSTANT, epsilon=-1.0), "epsilon = -1.0 is not positive"),
        (lambda: optimizers.adam(CONSTANT, moving_average_decay=0.0), "moving_average_decay = 0.0 is out of range"),
        (lambda: optimizers.adam(CONSTANT, moving_average_decay=1.1), "moving_average_decay = 1.1 is out of range"),
    ],
)
def test_values_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def apply_gradients(optimizer, gradients_and_variables):
    optimizer.apply_gradients(gradients_and_variables)  # and returns nothing, for `tf.function` takes no operation


def momentum_by_hand(gradients, value):
    m = 0.0
    for gradient in gradients:
        m = 0.9 * m - 0.1 * gradient
        value += m
    return value


def rms_prop_by_hand(gradients, value):
    mean_square = m = 0.0
    for gradient in gradients:
        mean_square = 0.8 * mean_square + 0.2 * gradient**2
        m = 0.7 * m + 0.1 * gradient / np.sqrt(mean_square + 0.5)
        value -= m
    return value


def adam_by_hand(gradients, value):
    m = v = 0.0
    for step, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        rate = 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        value -= rate * m / (np.sqrt(v) + 1e-8)
    return value


OPTIMIZERS = {
    "momentum": (lambda **options: optimizers.momentum(CONSTANT, **options), momentum_by_hand, {"momentum"}),
    "rms_prop": (
        lambda **options: optimizers.rms_prop(CONSTANT, decay=0.8, momentum=0.7, epsilon=0.5, **options),
        rms_prop_by_hand,
        {"rms", "momentum"},
    ),
    "adam": (lambda **options: optimizers.adam(CONSTANT, **options), adam_by_hand, {"m", "v"}),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_follows_its_formula(name, compiled):
    make, by_hand, slots = OPTIMIZERS[name]
    variable = tf.Variable([1.0, -2.0])
    optimizer = make()
    optimizer.build([variable])
    assert set(optimizer.get_slot_names()) == slots
    num_variables = len(optimizer.variables())
    apply = tf.function(
        lambda gradient: apply_gradients(optimizer, [(gradient, variable)]), jit_compile=compiled, autograph=False
    )
    gradients = np.array([[0.5, 1.0], [-1.5, 2.0], [0.25, 0.0]], np.float32)
    for gradient in gradients:
        apply(tf.constant(gradient))
    np.testing.assert_allclose(variable, by_hand(gradients, np.array([1.0, -2.0])), rtol=1e-4)
    assert optimizer.iterations == 3
    assert len(optimizer.variables()) == num_variables, "a variable was made by a step instead of by `build`"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_averages_decay_as_in_the_object_detection_api(name, compiled):
    make, _, slots = OPTIMIZERS[name]
    variable = tf.Variable([1.0, -2.0])
    optimizer = make(moving_average_decay=0.25)
    optimizer.build([variable])
    assert set(optimizer.get_slot_names()) == slots | {"average"}
    optimizer.start_averages([variable])
    apply = tf.function(
        lambda: apply_gradients(optimizer, [(tf.ones(2), variable)]), jit_compile=compiled, autograph=False
    )
    average = variable.numpy()
    for num_updates in range(1, 5):
        apply()
        decay = min(0.25, (1 + num_updates) / (10 + num_updates))
        average = decay * average + (1 - decay) * variable.numpy()
        np.testing.assert_allclose(optimizer.get_slot(variable, "average"), average, rtol=1e-6)


def test_checkpoint_does_not_bring_back_old_settings(tmp_path):
    """What the configuration says now counts: rate and momentum are no variables."""
    variable = tf.Variable([1.0])
    old = optimizers.momentum(CONSTANT, momentum=0.5)
    old.build([variable])
    path = tf.train.Checkpoint(model=variable, optimizer=old).save(str(tmp_path / "ckpt"))
    new = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.7), momentum=0.9)
    new.build([variable])
    tf.train.Checkpoint(model=variable, optimizer=new).restore(path).assert_existing_objects_matched()
    assert new.learning_rate_at(0) == pytest.approx(0.7)
    assert float(new.momentum) == 0.9
