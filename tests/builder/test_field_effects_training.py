"""Each field of pipeline, train and optimizer messages that works changes something; a new field needs a row here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.config import checks
from object_detection_fpn.config.text import apply_override
from object_detection_fpn.jobs import strategies
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.protos import optimizer_pb2, pipeline_pb2, train_pb2
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

STEPS = (0, 3, 5, 8, 10, 15, 20, 30)

# "Message.field": (message that has it, the same with another value), both read as `Optimizer`.
_FASTER = "learning_rate { constant_learning_rate { learning_rate: 0.2 } }"
_CONSTANT = "learning_rate { constant_learning_rate { learning_rate: 0.1 } }"
_BURNIN = "initial_learning_rate: 0.1 decay_steps: 5 decay_factor: 0.5 burnin_steps: 2"
_COSINE = "learning_rate_base: 0.1 total_steps: 30 warmup_learning_rate: 0.01 warmup_steps: 5"
_MANUAL = "initial_learning_rate: 0.1 schedule { step: 8 learning_rate: 0.01 }"


def _momentum(rate: str) -> str:
    return f"momentum_optimizer {{ learning_rate {{ {rate} }} }}"


def _exponential(more: str, base: str = _BURNIN) -> str:
    return _momentum(f"exponential_decay_learning_rate {{ {base} {more} }}")


def _cosine(more: str) -> str:
    return _momentum(f"cosine_decay_learning_rate {{ {_COSINE} {more} }}")


def _manual(text: str) -> str:
    return _momentum(f"manual_step_learning_rate {{ {text} }}")


_SGD = f"momentum_optimizer {{ {_CONSTANT} }}"


def _rms(more: str = "", rate: str = _CONSTANT) -> str:
    return f"rms_prop_optimizer {{ {rate} {more} }}"


def _adam(more: str = "", rate: str = _CONSTANT) -> str:
    return f"adam_optimizer {{ {rate} {more} }}"


_OPTIMIZERS = {
    "Optimizer.rms_prop_optimizer": (_SGD, _rms()),
    "Optimizer.momentum_optimizer": (_adam(), _SGD),
    "Optimizer.adam_optimizer": (_SGD, _adam()),
    "Optimizer.use_moving_average": (_SGD, f"{_SGD} use_moving_average: false"),
    "Optimizer.moving_average_decay": (_SGD, f"{_SGD} moving_average_decay: 0.1"),
    "RMSPropOptimizer.learning_rate": (_rms(), _rms(rate=_FASTER)),
    "RMSPropOptimizer.momentum_optimizer_value": (_rms(), _rms("momentum_optimizer_value: 0.5")),
    "RMSPropOptimizer.decay": (_rms(), _rms("decay: 0.5")),
    "RMSPropOptimizer.epsilon": (_rms(), _rms("epsilon: 0.1")),
    "MomentumOptimizer.learning_rate": (_SGD, _SGD.replace("0.1", "0.2")),
    "MomentumOptimizer.momentum_optimizer_value": (
        _SGD,
        f"momentum_optimizer {{ {_CONSTANT} momentum_optimizer_value: 0.5 }}",
    ),
    "AdamOptimizer.learning_rate": (_adam(), _adam(rate=_FASTER)),
    "AdamOptimizer.epsilon": (_adam(), _adam("epsilon: 1")),
    "LearningRate.constant_learning_rate": (_cosine(""), _SGD),
    "LearningRate.exponential_decay_learning_rate": (_SGD, _exponential("")),
    "LearningRate.manual_step_learning_rate": (_SGD, _manual(_MANUAL)),
    "LearningRate.cosine_decay_learning_rate": (_SGD, _cosine("")),
    "ConstantLearningRate.learning_rate": (_SGD, _SGD.replace("0.1", "0.2")),
    "ExponentialDecayLearningRate.initial_learning_rate": (_exponential(""), _exponential("initial_learning_rate: 1")),
    "ExponentialDecayLearningRate.decay_steps": (_exponential(""), _exponential("decay_steps: 6")),
    "ExponentialDecayLearningRate.decay_factor": (_exponential(""), _exponential("decay_factor: 0.6")),
    "ExponentialDecayLearningRate.staircase": (_exponential(""), _exponential("staircase: false")),
    "ExponentialDecayLearningRate.burnin_learning_rate": (_exponential(""), _exponential("burnin_learning_rate: 1")),
    "ExponentialDecayLearningRate.burnin_steps": (_exponential(""), _exponential("burnin_steps: 4")),
    "ExponentialDecayLearningRate.min_learning_rate": (_exponential(""), _exponential("min_learning_rate: 0.04")),
    "ManualStepLearningRate.initial_learning_rate": (_manual(_MANUAL), _manual(_MANUAL.replace("0.1", "0.2"))),
    "ManualStepLearningRate.schedule": (_manual("initial_learning_rate: 0.1"), _manual(_MANUAL)),
    "ManualStepLearningRate.warmup": (_manual(_MANUAL), _manual(f"{_MANUAL} warmup: true")),
    "LearningRateSchedule.step": (_manual(_MANUAL), _manual(_MANUAL.replace("8", "9"))),
    "LearningRateSchedule.learning_rate": (_manual(_MANUAL), _manual(_MANUAL.replace("0.01", "0.02"))),
    "CosineDecayLearningRate.learning_rate_base": (_cosine(""), _cosine("learning_rate_base: 0.2")),
    "CosineDecayLearningRate.total_steps": (_cosine(""), _cosine("total_steps: 40")),
    "CosineDecayLearningRate.warmup_learning_rate": (_cosine(""), _cosine("warmup_learning_rate: 0.02")),
    "CosineDecayLearningRate.warmup_steps": (_cosine(""), _cosine("warmup_steps: 8")),
    "CosineDecayLearningRate.hold_base_rate_steps": (_cosine(""), _cosine("hold_base_rate_steps: 3")),
}

# "Message.field": overrides that give the field another value, in the small recipe.
_TRAINING = {
    "TrainEvalPipelineConfig.model": ["model.faster_rcnn.first_stage_box_predictor_depth=8"],
    "TrainEvalPipelineConfig.train_config": ["train_config.num_steps=3"],
    "TrainEvalPipelineConfig.train_input_reader": ["train_input_reader.max_number_of_boxes=3"],
    "TrainConfig.batch_size": ["train_config.batch_size=3"],
    "TrainConfig.data_augmentation_options": [
        "train_config.data_augmentation_options+={random_adjust_brightness {max_delta: 0.9}}"
    ],
    "TrainConfig.keep_checkpoint_every_n_hours": ["train_config.keep_checkpoint_every_n_hours=1"],
    "TrainConfig.optimizer": [
        "train_config.optimizer={momentum_optimizer {learning_rate {constant_learning_rate {}}}}"
    ],
    "TrainConfig.gradient_clipping_by_norm": ["train_config.gradient_clipping_by_norm=0.123"],
    "TrainConfig.num_steps": ["train_config.num_steps=3"],
    "TrainConfig.freeze_variables": ['train_config.freeze_variables=["rpn"]'],
    "TrainConfig.update_trainable_variables": ['train_config.update_trainable_variables=["rpn"]'],
    "TrainConfig.add_regularization_loss": ["train_config.add_regularization_loss=false"],
    "TrainConfig.max_number_of_boxes": ["train_config.max_number_of_boxes=3"],
    "TrainConfig.merge_multiple_label_boxes": ["train_config.merge_multiple_label_boxes=true"],
    "TrainConfig.use_multiclass_scores": [
        "train_input_reader.load_multiclass_scores=true",
        "train_config.use_multiclass_scores=true",
    ],
    "TrainConfig.use_bfloat16": ["train_config.use_bfloat16=true"],
    "TrainConfig.precision": ["train_config.precision=BFLOAT16"],
    "TrainConfig.accumulate_gradients": ["train_config.accumulate_gradients=2"],
    "TrainConfig.recompute_backbone": ["train_config.recompute_backbone=true"],
    "TrainConfig.all_reduce_precision": ["train_config.all_reduce_precision=BFLOAT16"],
}
_ABOUT_DATA = {
    *("TrainConfig.batch_size", "TrainConfig.data_augmentation_options", "TrainConfig.max_number_of_boxes"),
    *("TrainConfig.merge_multiple_label_boxes", "TrainConfig.use_multiclass_scores"),
}
# Fields whose effect needs files or a flag, or is a refusal: tests below, in interop/ and in config/test_scaling.py.
_OWN_TESTS = {
    "TrainEvalPipelineConfig.eval_config",
    "TrainEvalPipelineConfig.eval_input_reader",
    "TrainConfig.fine_tune_checkpoint",
    "TrainConfig.fine_tune_checkpoint_type",
    "TrainConfig.from_detection_checkpoint",
    "TrainConfig.fine_tune_checkpoint_version",
    "TrainConfig.reference_batch_size",
    "TrainConfig.restore_classes_by_name",
}


def test_every_field_that_works_has_a_row(effective_fields):
    fields = effective_fields("pipeline", "train", "optimizer")
    assert fields == set(_OPTIMIZERS) | set(_TRAINING) | _OWN_TESTS


def _run_optimizer(text: str) -> list[np.ndarray]:
    """Learning rates, and a weight and its average after some updates by a changing gradient."""
    message = text_format.Merge(text, optimizer_pb2.Optimizer())
    optimizer = builder.build_optimizer(message)
    weight = tf.Variable([1.0])
    optimizer.build([weight])
    optimizer.start_averages([weight])
    rates = [optimizer.learning_rate_at(step) for step in STEPS]
    for gradient in (0.5, -0.2, 0.3, 1.0):
        optimizer.apply_gradients([(tf.constant([gradient]), weight)])
    slots = optimizer.get_slot_names()
    average = optimizer.get_slot(weight, "average").numpy() if "average" in slots else np.zeros(1)
    return [np.array(rates), weight.numpy(), average]


@pytest.mark.parametrize("field", _OPTIMIZERS)
def test_a_field_of_an_optimizer_changes_the_updates(field):
    before, after = ([round(float(x), 7) for part in _run_optimizer(text) for x in part] for text in _OPTIMIZERS[field])
    assert before != after


class _Seen(Exception):
    """Ends a run where its training would begin."""


@pytest.fixture
def what_is_trained(small_config, tiny_resnet18, monkeypatch, tmp_path):
    """What a config makes of a training run: all that reaches the loop, which itself is tested beside it."""
    models = {}

    def build_model(message, *, execution, num_channels=3):
        key = (message.SerializeToString(), execution)
        if key not in models:
            models[key] = real_build(message, execution=execution, num_channels=num_channels)
        return models[key]

    real_build = builder.build_model
    monkeypatch.setattr(builder.model, "build_model", build_model)

    def observe(overrides, *, is_tpu=False, with_data=False):
        message = type(small_config)()
        message.CopyFrom(small_config)
        for override in overrides:
            apply_override(message, override)
        seen = {}

        def train(*, model, optimizer, dataset, variables, settings, **others):
            if with_data:
                batch = next(iter(dataset(tf.distribute.InputContext(), 0)))
                scores = batch.groundtruth.class_scores
                seen.update(
                    images=batch.inputs.images.numpy(),
                    boxes=batch.groundtruth.boxes.numpy(),
                    class_scores=None if scores is None else scores.numpy(),
                )
            seen.update(
                variables=[(path, v.shape) for path, v in variables_by_path(model).items()],
                trained=[v.name for v in variables],
                optimizer=type(optimizer).__name__,
                dtype=model.rpn.head.compute_dtype,
                recomputed_stages=model.feature_extractor.backbone.recomputed_stages,
                settings=dataclasses.asdict(settings),
                others={k: v for k, v in others.items() if isinstance(v, (int, float, bool, type(None), tf.DType))},
            )
            raise _Seen

        with monkeypatch.context() as patch:
            patch.setattr(train_job.training_loop, "train", train)
            patch.setattr(strategies, "is_tpu", lambda _: is_tpu)
            with pytest.raises(_Seen):
                train_job.train(message, model_dir=str(tmp_path))
        return seen

    return observe


def test_a_field_of_training_changes_the_run(what_is_trained):
    ways = [{}, {"is_tpu": True}, {"with_data": True}]
    before = [what_is_trained([], **way) for way in ways]
    np.testing.assert_equal(what_is_trained([], **ways[2]), before[2])  # the observation itself is steady
    for field, overrides in _TRAINING.items():
        is_about_data = field in _ABOUT_DATA or field.endswith("_input_reader")
        chosen = 1 if field == "TrainConfig.use_bfloat16" else 2 if is_about_data else 0  # that one is for TPUs only
        after = what_is_trained(overrides, **ways[chosen])
        with pytest.raises(AssertionError):
            np.testing.assert_equal(after, before[chosen])
            pytest.fail(f"{field} changes nothing", pytrace=False)


@pytest.mark.parametrize(
    "overrides, is_tpu, dtype, is_scaled",
    [
        ([], False, "float32", False),
        (["use_bfloat16=true"], False, "float32", False),
        (["use_bfloat16=true"], True, "bfloat16", False),
        (["use_bfloat16=true", "precision=FLOAT32"], True, "float32", False),
        (["precision=BFLOAT16"], False, "bfloat16", False),
        (["precision=FLOAT16"], False, "float16", True),
    ],
)
def test_precision_goes_before_use_bfloat16_which_is_for_tpus(what_is_trained, overrides, is_tpu, dtype, is_scaled):
    seen = what_is_trained([f"train_config.{override}" for override in overrides], is_tpu=is_tpu)
    assert (seen["dtype"], seen["settings"]["scale_loss"]) == (dtype, is_scaled)


def _problems(config) -> list[str]:
    return [problem.field for problem in checks.find_problems(config) if hasattr(problem, "field")]


def test_a_checkpoint_in_the_format_of_tensorflow_1_is_refused(small_config):
    for version, is_refused in ((train_pb2.V2, False), (train_pb2.V1, True)):
        message = pipeline_pb2.TrainEvalPipelineConfig()
        message.CopyFrom(small_config)
        message.train_config.fine_tune_checkpoint = "dir/ckpt-0"
        message.train_config.fine_tune_checkpoint_version = version
        assert ("train_config.fine_tune_checkpoint_version" in _problems(message)) == is_refused


def test_the_frozen_variables_are_listed(what_is_trained, capfd):
    what_is_trained(['train_config.freeze_variables=["rpn_head/conv", "deltas_0"]'])
    text = capfd.readouterr().out
    assert "trainable variables are frozen: " in text
    assert "rpn/head/conv/kernel" in text
