"""Schedules against the Object Detection API's numbers, optimizers against their formulas by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.training import optimizers

CONSTANT = optimizers.ConstantLearningRate(learning_rate=0.1)

# The schedules whose messages learning_rates.json quotes.
SCHEDULES = {
    "cosine": optimizers.CosineDecayLearningRate(
        learning_rate_base=0.04, total_steps=25000, warmup_learning_rate=0.013333, warmup_steps=2000
    ),
    "manual": optimizers.ManualStepLearningRate(
        initial_learning_rate=0.01, steps=[100, 900], learning_rates=[0.1, 0.01], warmup=True
    ),
    "exponential": optimizers.ExponentialDecayLearningRate(
        initial_learning_rate=0.1,
        decay_steps=400,
        decay_factor=0.9,
        staircase=True,
        burnin_learning_rate=0.01,
        burnin_steps=50,
        min_learning_rate=0.001,
    ),
    "poly": optimizers.ConstantLearningRate(learning_rate=0.003),
}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "learning_rates.json").read_text())


def test_every_golden_schedule_is_checked(golden):
    assert set(golden) == set(SCHEDULES)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_reproduces_golden(golden, name, compiled):
    rate_at = tf.function(SCHEDULES[name], jit_compile=compiled)
    rates = [rate_at(tf.constant(step, tf.int64)) for step in golden[name]["steps"]]
    assert {rate.dtype for rate in rates} == {tf.float32}
    # 1e-9: the last step of the cosine is 0 there and half a float32 rounding of 1 here, if XLA rounds otherwise.
    np.testing.assert_allclose(rates, golden[name]["learning_rate"], rtol=1e-6, atol=4e-9 if compiled else 0.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_survives_its_configuration(name):
    schedule = SCHEDULES[name]
    copy = type(schedule).from_config(schedule.get_config())
    assert [float(copy(step)) for step in (0, 70, 950)] == [float(schedule(step)) for step in (0, 70, 950)]


@pytest.mark.parametrize(
    "step, rate", [(0, 0.0), (5, 0.5), (10, 1.0), (15, 1.0), (20, 1.0), (30, 0.5), (40, 0.0), (41, 0.0)]
)
def test_cosine_holds_its_plateau(step, rate):
    schedule = optimizers.CosineDecayLearningRate(
        learning_rate_base=1.0, total_steps=40, warmup_steps=10, hold_base_rate_steps=10
    )
    assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_cosine_may_end_where_its_warmup_ends():
    schedule = optimizers.CosineDecayLearningRate(learning_rate_base=1.0, total_steps=4, warmup_steps=4)
    assert [float(schedule(step)) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]


@pytest.mark.parametrize("step, rate", [(0, 0.1), (9, 0.1), (10, 0.1), (20, 0.05), (25, 0.1 * 0.5**1.5), (60, 0.01)])
def test_exponential_burns_in_at_its_own_initial_rate_and_decays_smoothly(step, rate):
    schedule = optimizers.ExponentialDecayLearningRate(
        initial_learning_rate=0.1,
        decay_steps=10,
        decay_factor=0.5,
        staircase=False,
        burnin_steps=10,
        min_learning_rate=0.01,
    )
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("warmup", [False, True])
def test_manual_steps_without_steps_are_constant(warmup):
    schedule = optimizers.ManualStepLearningRate(initial_learning_rate=0.3, steps=[], learning_rates=[], warmup=warmup)
    assert [float(schedule(step)) for step in (0, 1, 1000)] == [pytest.approx(0.3)] * 3


@pytest.mark.parametrize("step, rate", [(0, 1.0), (4, 1.0), (5, 0.5), (8, 0.5), (9, 0.25)])
def test_manual_steps_jump_without_warmup(step, rate):
    schedule = optimizers.ManualStepLearningRate(initial_learning_rate=1.0, steps=[5, 9], learning_rates=[0.5, 0.25])
    assert float(schedule(step)) == rate


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: optimizers.CosineDecayLearningRate(learning_rate_base=0.1, total_steps=10, warmup_steps=11),
            "total_steps = 10 is below the sum of warmup_steps = 11",
        ),
        (
            lambda: optimizers.CosineDecayLearningRate(
                learning_rate_base=0.1, total_steps=10, warmup_steps=2, warmup_learning_rate=0.2
            ),
            "warmup_learning_rate = 0.2 exceeds learning_rate_base = 0.1",
        ),
        (
            lambda: optimizers.ManualStepLearningRate(
                initial_learning_rate=0.1, steps=[5, 5], learning_rates=[0.1, 0.1]
            ),
            r"steps = \[5, 5\] do not rise",
        ),
        (
            lambda: optimizers.ManualStepLearningRate(initial_learning_rate=0.1, steps=[0], learning_rates=[0.1]),
            r"steps = \[0\] do not rise strictly from at least 1",
        ),
        (
            lambda: optimizers.ManualStepLearningRate(initial_learning_rate=0.1, steps=[5], learning_rates=[]),
            "1 steps but 0 learning rates",
        ),
        (
            lambda: optimizers.ExponentialDecayLearningRate(initial_learning_rate=0.1, decay_steps=0, decay_factor=0.9),
            "decay_steps = 0 is not positive",
        ),
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
    apply = tf.function(lambda gradient: apply_gradients(optimizer, [(gradient, variable)]), jit_compile=compiled)
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
    apply = tf.function(lambda: apply_gradients(optimizer, [(tf.ones(2), variable)]), jit_compile=compiled)
    average = variable.numpy()
    for num_updates in range(1, 5):
        apply()
        decay = min(0.25, (1 + num_updates) / (10 + num_updates))
        average = decay * average + (1 - decay) * variable.numpy()
        np.testing.assert_allclose(optimizer.get_slot(variable, "average"), average, rtol=1e-6)


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

    @tf.function
    def step():
        two_cpus.run(lambda: apply_gradients(optimizer, [(tf.ones(1), variable)]))

    step()
    assert variable.numpy() == pytest.approx(0.8)  # each replica adds 0.1 x 1
    for average in two_cpus.experimental_local_results(optimizer.get_slot(variable, "average")):
        assert average.numpy() == pytest.approx((2 * 1.0 + 9 * 0.8) / 11)


def test_checkpoint_does_not_bring_back_old_settings(tmp_path):
    """What the configuration says now counts: rate and momentum are no variables."""
    variable = tf.Variable([1.0])
    old = optimizers.momentum(CONSTANT, momentum=0.5)
    old.build([variable])
    path = tf.train.Checkpoint(model=variable, optimizer=old).save(str(tmp_path / "ckpt"))
    new = optimizers.momentum(optimizers.ConstantLearningRate(learning_rate=0.7), momentum=0.9)
    new.build([variable])
    tf.train.Checkpoint(model=variable, optimizer=new).restore(path).assert_existing_objects_matched()
    assert new.learning_rate_at(0) == pytest.approx(0.7)
    assert float(new.momentum) == 0.9


class Detector(tf_keras.layers.Layer):
    def __init__(self):
        super().__init__()
        conv1, conv2 = tf_keras.layers.Dense(1, name="conv1"), tf_keras.layers.Dense(1, name="conv2")
        image = tf_keras.Input([1])
        self.backbone = tf_keras.Model(image, conv2(conv1(image)))
        self.head = tf_keras.layers.Dense(1)
        self.head.build([None, 1])


@pytest.mark.parametrize(
    "update, freeze, expected",
    [
        ([], [], ["conv1/kernel", "conv1/bias", "conv2/kernel", "conv2/bias", "kernel", "bias"]),
        ([], ["backbone"], ["kernel", "bias"]),
        (["^head/"], [], ["kernel", "bias"]),
        ([], ["conv1", "bias"], ["conv2/kernel", "kernel"]),
        (["kernel$"], ["weights-0"], ["conv2/kernel", "kernel"]),
    ],
)
def test_variables_are_selected_by_path_or_name(update, freeze, expected):
    selected = optimizers.select_variables(Detector(), update=update, freeze=freeze)
    assert [variable.name.removesuffix(":0") for variable in selected] == expected


def test_pattern_that_matches_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r'"bakbone" matches none of the 6 trainable variables, such as backbone/layer'
    ):
        optimizers.select_variables(Detector(), freeze=["bakbone"])


def test_nothing_left_to_train_is_refused():
    with pytest.raises(ValueError, match="No variable remains"):
        optimizers.select_variables(Detector(), update=["head"], freeze=["head"])
