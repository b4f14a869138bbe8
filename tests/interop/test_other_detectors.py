"""A checkpoint of one detector of this package in another: refused in one line, or taken for what fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import support
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.interop import sources
from object_detection_fpn.training import checkpoints, optimizers, schedules
from object_detection_fpn.training.stored import CheckpointError

MASKS = """
number_of_stages: 3
second_stage_box_predictor { mask_rcnn_box_predictor { predict_instance_masks: true mask_height: 28 mask_width: 28 } }
"""
CONTEXT = "context_config { context_feature_length: 7 attention_bottleneck_dimension: 5 }"
PYRAMID, ONE_LEVEL = "with a feature pyramid (faster_rcnn_*_fpn_keras)", "of one level (faster_rcnn_*_keras)"
MESSAGES = {
    f"a Faster R-CNN {PYRAMID}": support.model_message(),
    f"the first stage of a Faster R-CNN {PYRAMID}": support.model_message("number_of_stages: 1"),
    f"a Mask R-CNN {PYRAMID}": support.model_message(MASKS),
    f"a Context R-CNN {PYRAMID}": support.model_message(CONTEXT),
    f"a Context R-CNN with masks {PYRAMID}": support.model_message(MASKS, CONTEXT),
    f"a Faster R-CNN {ONE_LEVEL}": support.single_level_message(),
    f"a Mask R-CNN {ONE_LEVEL}": support.single_level_message(MASKS),
    "a RetinaNet (model.ssd)": support.retinanet_message(),
}
"""By what their checkpoints are called."""

# (checkpoint, model) that go together although they differ.
TAKEN = {
    (f"a Mask R-CNN {PYRAMID}", f"a Faster R-CNN {PYRAMID}"),
    (f"a Mask R-CNN {ONE_LEVEL}", f"a Faster R-CNN {ONE_LEVEL}"),
    (f"a Context R-CNN with masks {PYRAMID}", f"a Context R-CNN {PYRAMID}"),
    *((name, f"the first stage of a Faster R-CNN {PYRAMID}") for name in MESSAGES if name.endswith(PYRAMID)),
}


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.RESNET18, support.SINGLE_RESNET18, support.SSD_RESNET18)
        yield {name: builder.build_model(message) for name, message in MESSAGES.items()}


@pytest.fixture(scope="module")
def paths(models, tmp_path_factory) -> dict[str, str]:
    """Of a checkpoint of each, in a folder of its own."""
    paths = {}
    for name, model in models.items():
        checkpoint = tf.train.Checkpoint(step=tf.Variable(1, dtype=tf.int64), model=model)
        manager = tf.train.CheckpointManager(checkpoint, str(tmp_path_factory.mktemp("checkpoint")), max_to_keep=1)
        paths[name] = manager.save(1)
    return paths


PAIRS = list(itertools.permutations(MESSAGES, 2))


def test_a_checkpoint_of_another_detector_says_what_it_is(models, paths):
    for there, here in PAIRS:
        if (there, here) in TAKEN:
            assert sources.restore_model(paths[there], models[here]).path == paths[there]
            continue
        with pytest.raises(CheckpointError) as caught:
            sources.restore_model(paths[there], models[here])
        [line] = str(caught.value).splitlines()
        assert line.startswith(f"{paths[there]}: this checkpoint is of {there}, but the model is {here}. Allowed: ")
        assert "train_config.fine_tune_checkpoint, of which a training takes what fits" in line


def test_a_run_is_not_continued_by_another_detector(models, paths):
    for here, model in models.items():
        optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.1))
        optimizer.build(model.trainable_variables)
        for there in MESSAGES.keys() - {here}:
            folder = paths[there].rpartition("/")[0]
            run = checkpoints.RunCheckpoints(
                folder, model=model, optimizer=optimizer, strategy=tf.distribute.get_strategy()
            )
            with pytest.raises(CheckpointError) as caught:
                run.restore_latest(pytest.fail)
            [line] = str(caught.value).splitlines()
            assert line.startswith(
                f"{paths[there]}: this checkpoint is of {there}, but the model is {here}. Nothing was"
            )
            assert "empty model_dir" in line and "fine_tune_checkpoint" in line


@pytest.mark.parametrize("kind", ["classification", "detection", "full"])
def test_fine_tuning_takes_what_fits_of_any_detector(models, paths, kind):
    for there, here in PAIRS:
        report, title = sources.restore_for_fine_tuning(paths[there], models[here], kind=kind)
        assert title == f"Weights from {paths[there]} ({there} of this package), {kind}"
        assert any("/backbone/" in name for name in report.restored), (there, here)
