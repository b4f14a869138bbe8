"""What is exported: of which weights, for which device."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config.pipeline import ConfigError
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import strategies
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.training.stored import latest_checkpoint

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


@pytest.mark.parametrize("gpus, device, winograd", [([], None, True), (["GPU:0"], None, False), ([], "gpu", False)])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_export_is_for_the_device_that_is_here_unless_said(
    small_config, monkeypatch, tmp_path, gpus, device, winograd, jit_compile
):
    class Built(Exception):
        pass

    def build_model(_, **settings):
        raise Built(settings)

    monkeypatch.setattr(builder.model, "build_model", build_model)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: {"GPU": gpus}[kind])
    monkeypatch.setattr(strategies, "check_strategy", lambda *_, **__: None)
    message = type(small_config)()
    message.CopyFrom(small_config)
    # So large that Winograd's algorithm is worth it.
    message.model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension = 512
    with pytest.raises(Built) as caught:
        export_job.export(message, checkpoint="", output_dir=str(tmp_path), device=device, jit_compile=jit_compile)
    execution = caught.value.args[0]["execution"]
    assert (execution.winograd, execution.static) == (winograd and not jit_compile, jit_compile)


def test_masks_of_a_model_without_any_are_not_pasted(small_config, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"^pipeline config: model\.faster_rcnn\.number_of_stages = 2 predicts no masks, which were to be pasted\. "
        r"Allowed: 3 with paste_masks\.$",
    ):
        export_job.export(small_config, checkpoint="", output_dir=str(tmp_path), paste_masks=True)


@pytest.mark.usefixtures("tiny_resnet18")
def test_averages_are_what_is_exported(small_config, untraced, tmp_path):
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.train_config.optimizer.use_moving_average = True
    message.train_config.optimizer.moving_average_decay = 0.5
    with untraced():
        train_job.train(message, model_dir=str(tmp_path / "model"), num_steps=2)
    message.eval_config.use_moving_averages = True
    export_job.export(message, checkpoint=str(tmp_path / "model"), output_dir=str(tmp_path / "exported"))
    name = "model/box_head/class_predictor/kernel"
    trained = tf.train.load_checkpoint(latest_checkpoint(str(tmp_path / "model")))
    average = trained.get_tensor(f"{name}/.OPTIMIZER_SLOT/optimizer/average/.ATTRIBUTES/VARIABLE_VALUE")
    assert np.any(average != trained.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE"))
    exported = tf.train.load_checkpoint(str(tmp_path / "exported" / "checkpoint"))
    np.testing.assert_array_equal(exported.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE"), average)
