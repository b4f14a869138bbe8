"""What a path may hold, what a model gets from it, and what is refused with words."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import label_map
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.data import resize
from object_detection_fpn.interop import odapi, sources
from object_detection_fpn.serving.saved_model import export_saved_model
from object_detection_fpn.training import checkpoints, optimizers, schedules
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import Restored, variables_by_path

BACKBONE = "feature_extractor/backbone/"
EXTRACTORS = ("feature_extractor/", "box_head/feature_extractor/")


def values(model):
    return {path: variable.numpy() for path, variable in variables_by_path(model).items()}


def assert_equal(model, other, paths=None):
    here, there = values(model), values(other)
    for path in paths or here:
        np.testing.assert_array_equal(here[path], there[path], err_msg=path)


@pytest.fixture
def saved(build_small, save_as_api, fill, tmp_path):
    """A model and the checkpoint of it that the Object Detection API would write."""
    model = build_small()
    fill(model)
    return model, save_as_api(model, tmp_path / "api")


@pytest.mark.parametrize(
    "kind, is_wanted",
    [
        ("classification", lambda path: path.startswith(BACKBONE)),
        ("detection", lambda path: path.startswith(EXTRACTORS)),
        ("full", lambda path: True),
        ("", lambda path: True),
    ],
)
def test_kind_of_fine_tuning_decides_what_is_restored(build_small, saved, kind, is_wanted):
    original, path = saved
    model = build_small()
    before = values(model)
    report, title = sources.restore_for_fine_tuning(path, model, kind=kind)
    wanted = {name for name in before if is_wanted(name)}
    assert set(report.restored) == wanted
    assert set(report.unused) == before.keys() - wanted
    assert report.missing == report.other_shape == []
    assert title == f"Weights from {path} (of the Object Detection API), {kind or 'full'}"
    assert_equal(model, original, wanted)
    for name in before.keys() - wanted:
        np.testing.assert_array_equal(values(model)[name], before[name])


@pytest.mark.parametrize("kind", ["classification", "detection", "full"])
def test_kinds_on_one_level_restore_both_parts_of_the_backbone(build_single_level, save_as_api, fill, tmp_path, kind):
    original, model = build_single_level(), build_single_level()
    fill(original)
    path = save_as_api(original, tmp_path / "api")
    report, _ = sources.restore_for_fine_tuning(path, model, kind=kind)
    wanted = {name for name in values(model) if kind == "full" or name.startswith(EXTRACTORS)}
    assert set(report.restored) == wanted
    assert report.missing == report.other_shape == []
    assert_equal(model, original, wanted)


def test_variables_of_other_shapes_are_skipped_and_reported(build_small, saved):
    _, path = saved
    report, _ = sources.restore_for_fine_tuning(path, build_small(num_classes=5), kind="full")
    assert {name for name, _, _ in report.other_shape} == {
        f"box_head/{predictor}/{name}"
        for predictor in ("class_predictor", "box_predictor")
        for name in ("kernel", "bias")
    }
    assert ("box_head/class_predictor/bias", (6,), (4,)) in report.other_shape
    assert report.missing == report.unused == []


def test_a_smaller_model_takes_its_part_of_a_larger_one(build_small, saved):
    """One stage, one level less: what it lacks is named as the checkpoint names it."""
    original, path = saved
    model = build_small(num_stages=1, max_level=6)
    for kind in ("detection", "full"):
        report, _ = sources.restore_for_fine_tuning(path, model, kind=kind)
        assert report.missing == []
        assert "_mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/1/bias" in report.unused
        assert "_feature_extractor_for_proposal_features/coarse_feature_layers/1/0/kernel" in report.unused
    assert_equal(model, original, values(model))


def test_folder_of_an_api_run_means_its_newest_checkpoint(build_small, saved, save_as_api, tmp_path):
    original, _ = saved
    newest = save_as_api(original, tmp_path / "api", step=9, number=2)
    assert newest.endswith("ckpt-2")
    assert sources.restore_model(str(tmp_path / "api"), build_small()) == Restored(newest, 9)


def test_model_is_restored_whole_from_an_api_checkpoint(build_small, saved):
    original, path = saved
    model = build_small()
    assert sources.restore_model(path, model) == Restored(path, 7)
    assert_equal(model, original)


def test_evaluating_another_number_of_classes_is_refused(build_small, saved):
    _, path = saved
    with pytest.raises(CheckpointError, match=r"another model; it lacks 4 of the model's \d+ variables: box_head"):
        sources.restore_model(path, build_small(num_classes=5))


def test_averages_of_an_api_checkpoint_are_taken_when_asked_for(build_small, save_as_api, fill, tmp_path):
    original = build_small()
    fill(original)
    path = save_as_api(original, tmp_path, averages=77.0)
    model = build_small()
    sources.restore_model(path, model, use_averages=True)
    assert all(np.all(variable == 77.0) for variable in model.trainable_variables)
    statistics = [name for name in values(model) if "moving_" in name]  # kept by the layers, not by the optimizer
    assert statistics
    assert_equal(model, original, statistics)
    sources.restore_model(path, model)
    assert_equal(model, original)


def test_averages_that_an_api_checkpoint_lacks_are_refused(build_small, saved):
    with pytest.raises(CheckpointError, match="no moving averages in this checkpoint"):
        sources.restore_model(saved[1], build_small(), use_averages=True)


class _ApiModel(tf_keras.layers.Layer):
    """Calls nothing, holds everything, as the Object Detection API's model is a Keras layer."""

    def call(self, images):
        return tf.reduce_sum(images) + tf.add_n([tf.reduce_sum(variable) for variable in self.variables])


class _ApiModule(tf.Module):
    """As its exporter wraps the model."""

    def __init__(self, model):
        super().__init__()
        self._model = model

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False)
    def __call__(self, input_tensor):
        return {"sum": self._model(tf.cast(input_tensor, tf.float32))}


def test_saved_model_of_the_api_is_read_by_its_objects(build_small, as_objects, fill, tmp_path):
    """Keras files its variables under lists there, so that no key says what it is."""
    original = build_small()
    fill(original)
    module = _ApiModule(as_objects(odapi.variables_by_api_path(original), _ApiModel()))
    folder = tmp_path / "exported" / "saved_model"
    tf.saved_model.save(module, str(folder), signatures=module.__call__.get_concrete_function())
    keys = [key for key, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    assert "_model/variables/0/.ATTRIBUTES/VARIABLE_VALUE" in keys
    for path in (folder, folder.parent, folder / "saved_model.pb"):
        model = build_small()
        report, title = sources.restore_for_fine_tuning(str(path), model)
        assert (len(report.restored), report.unused) == (len(model.variables), [])
        assert "of the Object Detection API" in title
        assert_equal(model, original)


def test_export_of_the_api_means_the_checkpoint_in_it(build_small, saved, as_objects, tmp_path):
    original, _ = saved
    checkpoint = tf.train.Checkpoint(model=as_objects(odapi.variables_by_api_path(original)))
    path = tf.train.CheckpointManager(checkpoint, str(tmp_path / "zoo" / "checkpoint"), 1).save(checkpoint_number=0)
    (tmp_path / "zoo" / "saved_model").mkdir()
    model = build_small()
    assert sources.restore_model(str(tmp_path / "zoo"), model) == Restored(path, 0)
    assert_equal(model, original)


def test_checkpoint_of_this_package_is_known_by_its_names(build_small, fill, tmp_path):
    original = build_small()
    fill(original)
    step = tf.Variable(3, dtype=tf.int64)
    path = tf.train.Checkpoint(model=original, step=step).write(str(tmp_path / "ckpt-3"))
    for spelling in (path, str(tmp_path), f"{path}.index"):
        model = build_small()
        assert sources.restore_model(spelling, model) == Restored(path, 3)
        assert_equal(model, original)
    report, title = sources.restore_for_fine_tuning(path, build_small(), kind="detection")
    assert all(name.startswith(EXTRACTORS) for name in report.restored)
    of_model = "a Faster R-CNN with a feature pyramid (faster_rcnn_*_fpn_keras) of this package"
    assert title == f"Weights from {path} ({of_model}), detection"


def test_saved_model_of_this_package_is_read_like_its_checkpoint(build_small, fill, tmp_path):
    original = build_small()
    fill(original)
    export_saved_model(
        model=original,
        resizer=resize.fixed_shape(height=32, width=32),
        input_type="image_tensor",
        output_dir=str(tmp_path),
        pipeline_config_text="",
        variables=variables_by_path(original),
    )
    for path in (tmp_path, tmp_path / "checkpoint", tmp_path / "saved_model"):
        model = build_small()
        sources.restore_model(str(path), model)
        assert_equal(model, original)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "paths, words",
    [
        (
            ["_feature_extractor_for_proposal_features/layer_with_weights-0/kernel"],
            "this is a Faster R-CNN of one level (faster_rcnn_*_keras), but the model is one with a feature pyramid",
        ),
        (
            ["_box_predictor/_box_prediction_head/kernel", "_feature_extractor/classification_backbone/kernel"],
            "this is an SSD or RetinaNet, but the model is a Faster R-CNN",
        ),
        (
            ["_prediction_head_dict/center/0/layer_with_weights-0/kernel", "_feature_extractor/_network/kernel"],
            "this is a CenterNet",
        ),
        (["generator/kernel"], "this checkpoint holds no detector (its objects are model)"),
    ],
)
def test_other_models_are_refused_by_their_names(build_small, as_objects, tmp_path, paths, words):
    objects = as_objects({path: tf.Variable(1.0) for path in paths})
    path = tf.train.Checkpoint(model=objects).write(str(tmp_path / "ckpt-1"))
    for restore in (sources.restore_model, sources.restore_for_fine_tuning):
        with pytest.raises(CheckpointError) as caught:
            restore(path, build_small())
        [line] = str(caught.value).splitlines()
        assert line.startswith(f"{path}: {words}")
        assert (
            ". Allowed: the same detector of this package or of the Object Detection API (ckpt-N or SavedModel), "
            in line
        )


def test_a_detector_with_a_pyramid_and_one_without_are_told_apart(
    build_small, build_single_level, saved, save_as_api, tmp_path
):
    _, with_pyramid = saved
    single = build_single_level()
    without = save_as_api(single, tmp_path / "single")
    for path, model, words in (
        (with_pyramid, single, "with a feature pyramid (faster_rcnn_*_fpn_keras), but the model is one of one level"),
        (without, build_small(), "of one level (faster_rcnn_*_keras), but the model is one with a feature pyramid"),
    ):
        for restore in (sources.restore_model, sources.restore_for_fine_tuning):
            with pytest.raises(CheckpointError) as caught:
                restore(path, model)
            assert str(caught.value).startswith(f"{path}: this is a Faster R-CNN {words}")


def test_checkpoint_of_tensorflow_1_is_refused(build_small, tmp_path):
    path = str(tmp_path / "model.ckpt")
    names = ["FirstStageFeatureExtractor/resnet_v1_50/conv1/weights"]
    tf.raw_ops.SaveV2(prefix=path, tensor_names=names, shape_and_slices=[""], tensors=[tf.zeros([3])])
    with pytest.raises(CheckpointError, match=r"model\.ckpt: this checkpoint was written by TensorFlow 1"):
        sources.restore_for_fine_tuning(path, build_small())


def test_checkpoint_with_missing_data_files_is_refused_before_anything_is_assigned(build_small, saved):
    _, path = saved
    index = tf.io.gfile.glob(f"{path}.data-*")[0]
    tf.io.gfile.rename(index, f"{path}.data-00001-of-00002")
    model = build_small()
    before = values(model)
    with pytest.raises(
        CheckpointError,
        match=r"1 of the 2 data files of this checkpoint are missing: ckpt-1\.data-00000-of-00002\. Copy all files ckpt-1",
    ):
        sources.restore_for_fine_tuning(path, model)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_run_of_the_api_is_not_continued_but_says_how_to_start_from_it(build_small, saved, tmp_path):
    _, path = saved
    model = build_small()
    optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.1))
    optimizer.build(model.trainable_variables)
    run = checkpoints.RunCheckpoints(
        str(tmp_path / "api"), model=model, optimizer=optimizer, strategy=tf.distribute.get_strategy()
    )
    with pytest.raises(CheckpointError) as caught:
        run.restore_latest(pytest.fail)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{path} was written by the Object Detection API")
    assert f'empty model_dir with fine_tune_checkpoint: "{path}" and fine_tune_checkpoint_type: "full"' in line


def test_reference_checkpoint_restores_for_fine_tuning(api_model):
    """All 327 variables of the API's own file; with other classes, all but the second stage's predictors."""
    message = config.load_config(str(api_model / "pipeline.config"), ["model.faster_rcnn.num_classes=20"])
    report, _ = sources.restore_for_fine_tuning(
        str(api_model / "ckpt-1"), builder.build_model(message.model), kind="full"
    )
    assert len(report.restored) == 327 - 4
    assert len(report.other_shape) == 4
    assert report.missing == report.unused == []


# RetinaNet ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def build_retinanet(monkeypatch):
    def build(*changes):
        support.put_backbone(monkeypatch, support.SSD_RESNET18)
        norms = (
            "feature_extractor { conv_hyperparams { batch_norm { scale: true } } } "
            "box_predictor { weight_shared_convolutional_box_predictor { "
            "num_layers_before_predictor: 2 conv_hyperparams { batch_norm { scale: true } } } }"
        )
        return builder.build_model(support.retinanet_message(norms, *changes))

    return build


RETINANET_HEAD = "box_predictor {{ weight_shared_convolutional_box_predictor {{ {} }} }}".format


@pytest.mark.parametrize(
    "kind, part", [("classification", BACKBONE), ("detection", "feature_extractor/"), ("full", "")]
)
def test_a_retinanet_of_the_api_restores_by_kind(build_retinanet, save_as_api, fill, tmp_path, kind, part):
    original, model = build_retinanet(), build_retinanet()
    fill(original)
    path = save_as_api(original, tmp_path / "api")
    report, title = sources.restore_for_fine_tuning(path, model, kind=kind)
    wanted = {name for name in values(model) if name.startswith(part)}
    assert set(report.restored) == wanted
    assert report.missing == report.other_shape == []
    assert title == f"Weights from {path} (of the Object Detection API), {kind}"
    assert_equal(model, original, wanted)


@pytest.mark.parametrize(
    "change", ["share_prediction_tower: true", "use_dropout: true", "conv_hyperparams { activation: SWISH }"]
)
def test_every_form_of_the_head_of_retinanet_has_names_there(build_retinanet, save_as_api, fill, tmp_path, change):
    original, model = (build_retinanet(RETINANET_HEAD(change)) for _ in range(2))
    fill(original)
    sources.restore_model(save_as_api(original, tmp_path / "api"), model)
    assert_equal(model, original)


def test_detectors_of_another_kind_are_named(build_small, build_retinanet, saved, save_as_api, tmp_path):
    retinanet = build_retinanet()
    single_stage = save_as_api(retinanet, tmp_path / "single_stage")
    for path, model, words in (
        (saved[1], retinanet, "this is a Faster R-CNN, but the model is a RetinaNet. Allowed: the same detector"),
        (
            single_stage,
            build_small(),
            "this is an SSD or RetinaNet, but the model is a Faster R-CNN. Allowed: the same",
        ),
    ):
        for restore in (sources.restore_model, sources.restore_for_fine_tuning):
            with pytest.raises(CheckpointError) as caught:
                restore(path, model)
            [line] = str(caught.value).splitlines()
            assert line.startswith(f"{path}: {words}")


def test_classes_of_each_anchor_move_by_name(build_retinanet, save_as_api, tmp_path):
    original, model = build_retinanet(), build_retinanet("num_classes: 2")
    kernel = original.dense_head.class_predictor.bias
    kernel.assign(tf.range(kernel.shape[0], dtype=tf.float32))  # 2 anchors of background, cat, dog, bird
    (tmp_path / "map.pbtxt").write_text(
        "".join(f'item {{ id: {i} name: "{n}" }}' for i, n in enumerate(["cat", "dog", "bird"], 1))
    )
    (tmp_path / "pipeline.config").write_text('train_input_reader { label_map_path: "map.pbtxt" }')
    path = save_as_api(original, tmp_path / "checkpoint")
    report, _ = sources.restore_for_fine_tuning(path, model, kind="full", label_map=label_map_of("bird", "cat"))
    assert "dense_head/class_predictor/bias" in report.by_class
    np.testing.assert_array_equal(model.dense_head.class_predictor.bias, [0, 3, 1, 4, 7, 5])


# Classes by name ------------------------------------------------------------------------------------------------------

PREDICTORS = [
    f"box_head/{layer}/{name}" for layer in ("class_predictor", "box_predictor") for name in ("kernel", "bias")
]


def label_map_of(*names):
    return label_map.LabelMap(tuple(label_map.LabelMapItem(i, name, name) for i, name in enumerate(names, 1)))


def spread(model):
    """Gives each column of the predictors a value of its own."""
    for path in PREDICTORS:
        variable = variables_by_path(model)[path]
        variable.assign(tf.broadcast_to(tf.range(variable.shape[-1], dtype=tf.float32), variable.shape))


@pytest.fixture(params=["api", "ours", "saved_model"])
def checkpoint_of_three(request, build_small, save_as_api, tmp_path):
    """A model of the classes cat, dog, bird, saved with its label map beside."""
    model = build_small()
    spread(model)
    (tmp_path / "map.pbtxt").write_text(
        "".join(f'item {{ id: {i} name: "{n}" }}' for i, n in enumerate(["cat", "dog", "bird"], 1))
    )
    (tmp_path / "pipeline.config").write_text('train_input_reader { label_map_path: "map.pbtxt" }')
    if request.param == "api":
        return save_as_api(model, tmp_path / "checkpoint")
    if request.param == "ours":
        return tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt-3"))
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved_model"))
    tf.train.Checkpoint(model=model).write(str(tmp_path / "saved_model" / "variables" / "variables"))
    return str(tmp_path)


@pytest.mark.parametrize("kind", ["", "detection"])
def test_predictors_are_restored_by_the_names_of_their_classes(build_small, checkpoint_of_three, kind):
    model = build_small(num_classes=2)
    before = values(model)
    report, _ = sources.restore_for_fine_tuning(
        checkpoint_of_three, model, kind=kind, label_map=label_map_of("fish", "Dog")
    )
    after = values(model)
    assert sorted(report.by_class) == sorted(PREDICTORS)
    assert report.other_shape == [] and not set(report.restored) & set(PREDICTORS)
    assert report.classes == "1 of 2 classes kept by name: Dog; from first values: fish"
    kernel, bias = after["box_head/class_predictor/kernel"], after["box_head/box_predictor/bias"]
    np.testing.assert_array_equal(kernel[:, [0, 2]], np.broadcast_to([0.0, 2.0], [len(kernel), 2]))
    np.testing.assert_array_equal(kernel[:, 1], before["box_head/class_predictor/kernel"][:, 1])
    assert bias.tolist() == [*before["box_head/box_predictor/bias"][:4], 4, 5, 6, 7]
    is_rpn_restored = any(path.startswith("rpn/") for path in report.restored)
    assert is_rpn_restored == (kind == "")


def test_a_label_map_that_is_given_goes_first(build_small, checkpoint_of_three):
    model = build_small()
    report, _ = sources.restore_for_fine_tuning(
        checkpoint_of_three,
        model,
        label_map=label_map_of("a", "b", "c"),
        from_label_map=label_map_of("c", "b", "a"),
    )
    assert report.classes == "3 of 3 classes kept by name: a, b, c"
    assert values(model)["box_head/class_predictor/bias"].tolist() == [0, 3, 2, 1]


def test_without_the_label_maps_predictors_are_restored_by_shape(build_small, saved, caplog):
    original, path = saved
    model = build_small()
    report, _ = sources.restore_for_fine_tuning(path, model, label_map=label_map_of("a", "b", "c"))
    assert (report.by_class, report.classes) == ((), "")
    assert_equal(model, original)
    assert "the label map of this checkpoint is not known" in caplog.text
    report, _ = sources.restore_for_fine_tuning(path, model, kind="detection", label_map=label_map_of("a", "b", "c"))
    assert set(PREDICTORS) <= set(report.unused)
