"""Learning rates for another batch: which numbers change, and that they change once."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from object_detection_fpn.config.scaling import scale_learning_rates
from object_detection_fpn.config.text import ConfigError
from object_detection_fpn.protos import optimizer_pb2, pipeline_pb2

SCHEDULES = {
    "constant_learning_rate { learning_rate: 0.02 }": "constant_learning_rate { learning_rate: 0.005 }",
    "constant_learning_rate { }": "constant_learning_rate { learning_rate: 0.0005 }",  # a default counts as well
    (
        "cosine_decay_learning_rate { learning_rate_base: 0.04 warmup_learning_rate: 0.01 warmup_steps: 7 total_steps: 9 }"
    ): "cosine_decay_learning_rate { learning_rate_base: 0.01 warmup_learning_rate: 0.0025 warmup_steps: 7 total_steps: 9 }",
    (
        "manual_step_learning_rate { initial_learning_rate: 0.4 warmup: true schedule { step: 5 learning_rate: 0.8 } "
        "schedule { step: 8 learning_rate: 0.08 } }"
    ): (
        "manual_step_learning_rate { initial_learning_rate: 0.1 warmup: true schedule { step: 5 learning_rate: 0.2 } "
        "schedule { step: 8 learning_rate: 0.02 } }"
    ),
    (
        "exponential_decay_learning_rate { initial_learning_rate: 0.4 decay_steps: 5 decay_factor: 0.5 "
        "burnin_learning_rate: 0.04 burnin_steps: 3 min_learning_rate: 0.004 }"
    ): (
        "exponential_decay_learning_rate { initial_learning_rate: 0.1 decay_steps: 5 decay_factor: 0.5 "
        "burnin_learning_rate: 0.01 burnin_steps: 3 min_learning_rate: 0.001 }"
    ),
}


def make_config(schedule: str, batch: str = "batch_size: 4 reference_batch_size: 16"):
    text = f"train_config {{ {batch} optimizer {{ momentum_optimizer {{ learning_rate {{ {schedule} }} }} }} }}"
    return text_format.Parse(text, pipeline_pb2.TrainEvalPipelineConfig())


def numbers_of(message) -> list[float]:
    """All numbers of a schedule, defaults included."""
    found = []
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        is_message = field.message_type is not None
        found += [n for row in value for n in numbers_of(row)] if is_message else [float(value)]
    return found


def schedule_of(config):
    rate = config.train_config.optimizer.momentum_optimizer.learning_rate
    return getattr(rate, rate.WhichOneof("learning_rate"))


@pytest.mark.parametrize("before", SCHEDULES)
def test_all_learning_rates_of_a_schedule_follow_the_batch_and_nothing_else(before):
    config, expected = make_config(before), make_config(SCHEDULES[before])
    scaling = scale_learning_rates(config, "my.config")
    assert numbers_of(schedule_of(config)) == pytest.approx(numbers_of(schedule_of(expected)), rel=1e-6)
    assert (scaling.batch_size, scaling.reference_batch_size) == (4, 16)
    assert scaling.new == pytest.approx(scaling.old / 4)


def test_every_kind_of_schedule_has_a_case():
    kinds = {schedule.split()[0] for schedule in SCHEDULES}
    assert kinds == {field.name for field in optimizer_pb2.LearningRate.DESCRIPTOR.fields}


def test_the_scaled_config_is_written_for_its_own_batch():
    config = make_config("constant_learning_rate { learning_rate: 0.02 }", "batch_size: 64 reference_batch_size: 16")
    assert str(scale_learning_rates(config, "my.config")) == (
        "Learning rates times batch_size / reference_batch_size = 64 / 16: the highest, 0.02, becomes 0.08."
    )
    assert config.train_config.reference_batch_size == 64
    saved = config.SerializeToString(deterministic=True)
    scaling = scale_learning_rates(config, "my.config")  # of a run that goes on from the saved config
    assert scaling.old == scaling.new
    assert config.SerializeToString(deterministic=True) == saved


def test_rates_for_an_unknown_batch_are_not_scaled():
    config, same = (make_config("constant_learning_rate { learning_rate: 0.02 }", "batch_size: 4") for _ in range(2))
    with pytest.raises(ConfigError) as caught:
        scale_learning_rates(config, "my.config")
    assert str(caught.value) == (
        "my.config: train_config.reference_batch_size = 0 does not say for which batch the learning rates are written, "
        "which --auto_scale_lr has to know. Allowed: 1 or more, in the config or by --config_override."
    )
    assert config == same
