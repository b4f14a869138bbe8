"""The evaluation loop with a model whose detections and losses follow from the pixels, so that every number is known."""

from __future__ import annotations

import io
import json
from unittest import mock

import numpy as np
import pytest
import rich.console
import tensorflow as tf
import tf_keras
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from object_detection_fpn import records
from object_detection_fpn.evaluation import images
from object_detection_fpn.evaluation.coco import CocoBoxMetrics, CocoMaskMetrics
from object_detection_fpn.evaluation.loop import evaluate, make_eval_step
from object_detection_fpn.evaluation.metric import EvaluationError
from object_detection_fpn.evaluation.pascal import PascalBoxMetrics, PascalMaskMetrics
from object_detection_fpn.evaluation.pictures import PictureSettings

CATEGORIES = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
AP, AP50, LARGE = (
    "DetectionBoxes_Precision/mAP",
    "DetectionBoxes_Precision/mAP@.50IOU",
    "DetectionBoxes_Precision/mAP (large)",
)
RPN_LOSS, BOX_LOSS = "Loss/RPNLoss/objectness_loss", "Loss/BoxClassifierLoss/localization_loss"
REGULARIZATION, TOTAL = "Loss/regularization_loss", "Loss/total_loss"
FOUND = [0.25, 0.25, 0.75, 0.75]  # what the model detects in every image, normalized


class FixedModel(tf_keras.layers.Layer):
    """Detects FOUND in every image; its losses are the image's mean over 100 and its number of groundtruth boxes."""

    def __init__(self):
        super().__init__()
        self.score = self.add_weight(name="score", shape=[], initializer=tf_keras.initializers.Constant(0.9))
        self.num_traces = 0

    def preprocess(self, inputs):
        self.num_traces += 1
        return inputs._replace(images=inputs.images / 100.0)

    def predict(self, inputs, *, training):
        assert training is False
        images = inputs.images
        batch_size = tf.shape(images)[0]
        zeros = tf.zeros([batch_size, 3])
        return records.Predictions(
            rpn=records.RpnOutputs(
                objectness_logits=tf.reduce_mean(images, axis=[1, 2, 3])[:, tf.newaxis, tf.newaxis],
                box_deltas=tf.zeros([batch_size, 1, 4]),
                anchors=tf.zeros([7, 4]),  # fields without an image axis, unlike the batch in length
                is_valid=tf.ones([7], tf.bool),
            ),
            image_size=tf.shape(images)[1:3],
            rois=records.Proposals(zeros[..., tf.newaxis] * tf.zeros([4]), zeros, tf.zeros([batch_size], tf.int32)),
            pyramid=(images, images[:, ::2, ::2]),
        )

    def loss(self, predictions, groundtruth):
        tf.debugging.assert_equal(tf.shape(predictions.rpn.anchors), [7, 4])
        tf.debugging.assert_equal(tf.shape(predictions.image_size), [2])
        return {
            RPN_LOSS: predictions.rpn.objectness_logits[:, 0, 0],
            BOX_LOSS: tf.cast(groundtruth.num_boxes, tf.float32),
        }

    def regularization_loss(self):
        return tf.constant(0.5)

    def postprocess(self, predictions, inputs):
        batch_size = tf.shape(inputs.true_shapes)[0]
        return records.Detections(
            boxes=tf.tile(tf.constant([[FOUND, [0.0] * 4]]), [batch_size, 1, 1]),
            scores=tf.tile([[self.score, 0.0]], [batch_size, 1]),
            classes=tf.zeros([batch_size, 2], tf.int32),
            num_detections=tf.ones([batch_size], tf.int32),
            raw_boxes=tf.zeros([batch_size, 50, 4]),
        )


def make_batches(means, *, num_boxes=None, batch_size=2, source_ids=None, with_options=True, num_padding=0):
    """Images of 60 x 80, padded to 64 x 96, stored at 120 x 160; FOUND is the first of their boxes."""
    n = len(means)
    num_boxes = [1] * n if num_boxes is None else num_boxes
    first = np.array([0.25 * 60, 0.25 * 80, 0.75 * 60, 0.75 * 80], np.float32)
    others = np.array([0, 0, 6, 8], np.float32)
    boxes = np.stack([np.stack([first] + [others] * 2) * (np.arange(3) < k)[:, None] for k in num_boxes])
    columns = {
        "images": np.stack([np.full((64, 96, 3), mean, np.float32) for mean in means]),
        "boxes": boxes.astype(np.float32),
        "num_boxes": np.array(num_boxes, np.int32),
        "source_id": np.array(source_ids or [f"image{i}" for i in range(n)]),
        "is_padding": np.arange(n) >= n - num_padding,
    }

    def to_batch(row):
        groundtruth = records.Groundtruth(
            boxes=row["boxes"],
            classes=tf.zeros([3], tf.int32),
            num_boxes=row["num_boxes"],
            weights=tf.ones([3]),
            is_crowd=tf.zeros([3], tf.bool),
            areas=tf.zeros([3]) if with_options else None,
        )
        return records.Batch(
            inputs=records.Inputs(images=row["images"], true_shapes=tf.constant([60, 80, 3])),
            groundtruth=groundtruth,
            original_shapes=tf.constant([120, 160]),
            source_id=row["source_id"] if with_options else None,
            is_padding=row["is_padding"] if with_options else None,
        )

    rows = tf.data.Dataset.from_tensor_slices(columns).map(to_batch)
    options = tf.data.Options()
    options.autotune.enabled = False  # as in `data.input`, which says why
    return rows.batch(batch_size, drop_remainder=num_padding > 0).with_options(options)


def run(dataset, **options):
    options.setdefault("console", rich.console.Console(file=io.StringIO(), width=100))
    make = {name: options.pop(name) for name in ("compute_losses", "add_regularization_loss") if name in options}
    model = options.pop("model", None) or FixedModel()
    options.setdefault("eval_step", make_eval_step(model=model, strategy=options.get("strategy"), **make))
    options.setdefault("metrics", [CocoBoxMetrics(CATEGORIES, include_metrics_per_category=True)])
    return evaluate(dataset=dataset, step=options.pop("step", 7), categories=CATEGORIES, **options)


def test_detections_that_are_the_groundtruth_have_ap_one_in_original_pixels():
    results = run(make_batches([10, 20]))
    assert results[AP] == pytest.approx(1)
    # 30 x 40 in the resized image is medium, but 60 x 80 in the stored one; with 192 rows it would be large.
    assert results["DetectionBoxes_Precision/mAP (medium)"] == pytest.approx(1)
    stored = make_batches([10, 20]).map(lambda batch: batch._replace(original_shapes=batch.original_shapes * 4))
    assert run(stored)[LARGE] == pytest.approx(1)


def test_losses_are_means_over_the_real_images_whatever_the_batches():
    means, num_boxes = [10, 20, 60], [1, 2, 3]
    expected = {RPN_LOSS: 0.3, BOX_LOSS: 2.0, REGULARIZATION: 0.5, TOTAL: 2.8}
    datasets = {
        "a short last batch": make_batches(means, num_boxes=num_boxes),
        "a padded last batch": make_batches([*means, 1000], num_boxes=[*num_boxes, 0], num_padding=1),
        "one batch": make_batches(means, num_boxes=num_boxes, batch_size=3),
        "batches of one": make_batches(means, num_boxes=num_boxes, batch_size=1),
    }
    for case, dataset in datasets.items():
        results = run(dataset)
        assert {name: results[name] for name in expected} == pytest.approx(expected, rel=1e-5), case


def test_padding_images_reach_no_metric():
    # As an image, the padding one would be a false positive above the true ones: its groundtruth is empty.
    images = {"means": [10, 20, 30, 0], "num_boxes": [1, 1, 1, 0], "source_ids": ["b", "c", "d", "a"]}
    assert run(make_batches(**images, num_padding=1))[AP] == pytest.approx(1)
    assert run(make_batches(**images, num_padding=0))[AP] < 1


def test_data_without_any_groundtruth_object_are_warned_of(caplog):
    # The box of the padding image counts nowhere.
    padded = make_batches([10, 20, 30], num_boxes=[0, 0, 1], num_padding=1, batch_size=3)
    results = run(padded, metrics=[CocoBoxMetrics(CATEGORIES), PascalBoxMetrics(CATEGORIES)])
    assert results[AP] == -1 and np.isnan(results["PascalBoxes_Precision/mAP@0.5IOU"])
    assert [message[:56] for message in caplog.messages] == ["None of the 2 evaluated images has a groundtruth object,"]
    caplog.clear()
    run(make_batches([10, 20], num_boxes=[0, 1]))
    run(make_batches([10]), ignore_groundtruth=True, compute_losses=False)
    assert not caplog.messages


def test_objects_of_classes_that_the_label_map_does_not_name_are_left_out(caplog):
    def rename(batch):  # of the second object of every image
        classes = tf.constant([0, 6, 0]) * tf.ones_like(batch.groundtruth.classes)
        return batch._replace(groundtruth=batch.groundtruth._replace(classes=classes))

    results = run(make_batches([10, 20], num_boxes=[1, 2]).map(rename))
    assert results[AP] == pytest.approx(1.0)
    assert "1 groundtruth objects are left out of the metrics: the label map names no class of id 7." in caplog.text


def test_regularization_loss_can_be_left_out():
    results = run(make_batches([10, 20]), add_regularization_loss=False)
    assert REGULARIZATION not in results
    assert results[TOTAL] == pytest.approx(results[RPN_LOSS] + results[BOX_LOSS])


def test_losses_can_be_left_out():
    assert not [name for name in run(make_batches([10]), compute_losses=False) if name.startswith("Loss")]


def test_batches_without_optional_fields_are_evaluated():
    assert run(make_batches([10, 20], with_options=False))[AP] == pytest.approx(1)


def test_two_replicas_give_the_numbers_of_one(two_cpus):
    dataset = make_batches([10, 20, 60, 1000], num_boxes=[1, 2, 3, 0], num_padding=1, batch_size=4)
    with two_cpus.scope():
        model = FixedModel()
    assert run(dataset, model=model, strategy=two_cpus) == pytest.approx(run(dataset))


def test_losses_of_each_image_compile_under_xla():
    step = make_eval_step(model=FixedModel())
    # Their hundredths are binary fractions: XLA adds up the pixels in an order of its own.
    batch = next(iter(make_batches([25, 50], num_boxes=[1, 3])))._replace(source_id=None, is_padding=None)
    compiled = tf.function(step.run, jit_compile=True, autograph=False)
    _, losses = compiled(batch)
    assert losses[BOX_LOSS].numpy().tolist() == [1, 3]
    assert losses[RPN_LOSS].numpy() == pytest.approx([0.25, 0.5])


def test_a_step_made_once_is_traced_once():
    model = FixedModel()
    step = make_eval_step(model=model)
    for _ in range(3):
        run(make_batches([10, 20]), eval_step=step)
    assert model.num_traces == 1


def test_weights_changed_between_evaluations_count():
    model = FixedModel()
    step = make_eval_step(model=model)
    run(make_batches([10]), eval_step=step)
    model.score.assign(float("nan"))
    assert run(make_batches([10]), eval_step=step)[AP] == 0


def test_labeled_classes_reach_the_metrics():
    batches = make_batches([10, 20], num_boxes=[1, 0], source_ids=["b", "a"])
    labeled = batches.map(lambda batch: batch._replace(labeled_classes=tf.constant([[True, False], [False, True]])))
    skipping = CocoBoxMetrics(CATEGORIES, skip_predictions_for_unlabeled_class=True)
    assert run(batches)[AP] == pytest.approx(0.5)
    assert run(labeled, metrics=[skipping])[AP] == pytest.approx(1)


def test_ignored_groundtruth_leaves_detections_to_look_at(tmp_path):
    folder = tmp_path / "png"
    results = run(
        make_batches([10]),
        ignore_groundtruth=True,
        compute_losses=False,
        output_dir=str(tmp_path),
        pictures=PictureSettings(export_dir=str(folder), export_with_source_id=True),
    )
    assert results == {}
    assert [path.name for path in folder.iterdir()] == ["export-image-0-image0.png"]


def test_scalars_pictures_and_lines_are_written(tmp_path):
    run(make_batches([10, 20, 30]), output_dir=str(tmp_path), pictures=PictureSettings(num_images=2), step=7)
    results = run(make_batches([10, 20, 30]), output_dir=str(tmp_path), pictures=PictureSettings(num_images=2), step=9)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 9]
    assert lines[1] == {"step": 9, "num_images": 3, **results}
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["tensors"]
    assert set(tags) == set(results) | {"eval_side_by_side_0_0", "eval_side_by_side_1_0"}
    written = events.Tensors(TOTAL)
    assert [event.step for event in written] == [7, 9]
    assert tf.make_ndarray(written[1].tensor_proto) == pytest.approx(results[TOTAL])
    width, height, png = tf.make_ndarray(events.Tensors("eval_side_by_side_0_0")[0].tensor_proto)
    picture = tf.io.decode_png(png).numpy()
    assert picture.shape == (int(height), int(width), 3)
    assert picture.shape[1] == 2 * 80 * 6 + 8  # the padding of the image is not shown; enlarged to 360 x 480
    left, right = picture[-360:, :480], picture[-360:, 488:]
    differs = (left != 10).any(axis=-1), (right != 10).any(axis=-1)
    for panel in differs:  # both frames stand at FOUND
        assert panel[89:91, 125:355].any(axis=0).all() and panel[268:272, 125:355].any(axis=0).all()


def test_a_diverged_loss_is_null_in_the_lines(tmp_path):
    results = run(make_batches([float("nan")]), output_dir=str(tmp_path), pictures=PictureSettings(num_images=0))
    assert np.isnan(results[TOTAL])
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line[TOTAL] is None and line[BOX_LOSS] == 1


@pytest.mark.parametrize("metrics", [[], [CocoBoxMetrics(CATEGORIES)]], ids=["no metrics", "coco"])
def test_a_dataset_without_images_is_refused(metrics):
    with pytest.raises(EvaluationError, match="evaluation at step 7 saw no image"):
        run(make_batches([10]).take(0), metrics=metrics)


@pytest.mark.parametrize("option", ["output_dir", "export_dir"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_evaluation(tmp_path, option):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "results")
    options = {option: folder} if option == "output_dir" else {"pictures": PictureSettings(export_dir=folder)}
    model = FixedModel()
    with pytest.raises(EvaluationError, match=f"^{folder}: the results of the evaluation cannot be written there"):
        run(make_batches([10]), model=model, **options)
    assert model.num_traces == 0


def test_an_endless_dataset_is_refused():
    with pytest.raises(EvaluationError, match="repeats for ever"):
        run(make_batches([10]).repeat())


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(EvaluationError, match="Two metrics give the same name 'DetectionBoxes_Precision/mAP'"):
        run(make_batches([10]), metrics=[CocoBoxMetrics(CATEGORIES), CocoBoxMetrics(CATEGORIES)])


def test_several_workers_are_refused():
    with pytest.raises(EvaluationError, match="Evaluation runs on one worker"):
        run(make_batches([10]), strategy=mock.create_autospec(tf.distribute.MultiWorkerMirroredStrategy, instance=True))


def test_an_error_of_the_input_is_raised():
    broken = make_batches([10, 20]).map(
        lambda b: b._replace(
            inputs=b.inputs._replace(images=tf.debugging.check_numerics(b.inputs.images / 0.0, "broken"))
        )
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="broken"):
        run(broken)


class MaskModel(FixedModel):
    """Detects FOUND in every image, and in it the left half."""

    def postprocess(self, predictions, inputs):
        masks = tf.reshape(tf.cast(tf.range(8) < 4, tf.float32), [1, 1, 1, 8]) * tf.ones([1, 2, 8, 1])
        num_images = tf.shape(inputs.true_shapes)[0]
        return super().postprocess(predictions, inputs)._replace(masks=tf.tile(masks, [num_images, 1, 1, 1]))

    def loss(self, predictions, groundtruth):
        assert groundtruth.masks is not None  # the loss of masks needs them
        return super().loss(predictions, groundtruth)


def with_masks(dataset, *masks):
    """Stored masks, [120, 160] bool, of the first objects of every image; the others have none."""
    pngs = [tf.io.encode_png(tf.constant(mask[..., None], tf.uint8)).numpy() for mask in masks]
    pngs += [b""] * (3 - len(pngs))

    def add(batch):
        encoded = tf.tile(tf.constant([pngs]), [tf.shape(batch.original_shapes)[0], 1])
        kept = tf.zeros([tf.shape(encoded)[0], 3, 4, 4], tf.uint8)
        return batch._replace(encoded_masks=encoded, groundtruth=batch.groundtruth._replace(masks=kept))

    return dataset.map(add)


def left_half(columns=80):
    """The left half of FOUND in the stored image, or so many of its columns."""
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40 : 40 + columns // 2] = True
    return mask


MASK_AP = "DetectionMasks_Precision/mAP"


def test_boxes_and_masks_are_measured_in_one_evaluation():
    metrics = [CocoBoxMetrics(CATEGORIES), CocoMaskMetrics(CATEGORIES), PascalMaskMetrics(CATEGORIES)]
    with mock.patch.object(images, "encode_detections", wraps=images.encode_detections) as paste:
        dataset = with_masks(make_batches([10, 20, 60, 0], num_padding=1), left_half(columns=62))
        results = run(dataset, model=MaskModel(), metrics=metrics, mask_pasting="PIXEL_CENTERS")
    assert results[AP] == pytest.approx(1)
    assert results[MASK_AP] == pytest.approx(0.6)  # IoU 31 / 40 meets 6 of 10 thresholds
    assert results["PascalMasks_Precision/mAP@0.5IOU"] == 1
    assert results["DetectionMasks_Precision/mAP (medium)"] == pytest.approx(0.6)
    assert paste.call_count == 3  # once an image, whatever the number of metrics


def test_the_way_of_pasting_is_the_models():
    # Of 8 columns 3.5 cells are above a half where corners are aligned, and 4 of 8 elsewhere.
    dataset = with_masks(make_batches([10]), left_half())
    values = {
        pasting: run(dataset, model=MaskModel(), metrics=[CocoMaskMetrics(CATEGORIES)], mask_pasting=pasting)[MASK_AP]
        for pasting in ("PIXEL_CENTERS", "CORNERS_ALIGNED")
    }
    assert values["PIXEL_CENTERS"] == pytest.approx(1)
    assert 0 < values["CORNERS_ALIGNED"] <= 1


def test_two_replicas_measure_the_masks_of_one(two_cpus):
    dataset = with_masks(make_batches([10, 20, 60, 1000], num_padding=1, batch_size=4), left_half(columns=62))
    with two_cpus.scope():
        model = MaskModel()
    metrics = [[CocoMaskMetrics(CATEGORIES)] for _ in range(2)]
    of_two = run(dataset, model=model, strategy=two_cpus, metrics=metrics[0])
    assert of_two == pytest.approx(run(dataset, model=MaskModel(), metrics=metrics[1]))


def test_masks_are_not_pasted_for_boxes_alone():
    with mock.patch.object(images, "encode_detections", side_effect=AssertionError):
        run(with_masks(make_batches([10]), left_half()), model=MaskModel())


def test_objects_without_a_mask_are_counted(caplog):
    dataset = with_masks(make_batches([10, 20], num_boxes=[2, 1]), left_half())
    results = run(dataset, model=MaskModel(), metrics=[CocoMaskMetrics(CATEGORIES)], mask_pasting="PIXEL_CENTERS")
    assert results[MASK_AP] == pytest.approx(1)
    assert "1 groundtruth objects have no mask" in caplog.text


def test_metrics_of_masks_without_masks_are_refused():
    metrics = [CocoMaskMetrics(CATEGORIES)]
    with pytest.raises(EvaluationError, match=r"the model gives no masks\. Does it have number_of_stages: 3"):
        run(with_masks(make_batches([10]), left_half()), metrics=metrics)
    with pytest.raises(EvaluationError, match=r"the dataset has no masks\. Does .* load_instance_masks: true"):
        run(make_batches([10]), metrics=metrics)


def test_pictures_show_masks(tmp_path):
    options = {"output_dir": str(tmp_path), "pictures": PictureSettings(num_images=1, show_labels=False)}
    run(with_masks(make_batches([10]), left_half()), model=MaskModel(), **options)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    png = tf.make_ndarray(events.Tensors("eval_side_by_side_0_0")[0].tensor_proto)[2]
    picture = tf.io.decode_png(png).numpy()
    detections, groundtruth = picture[-360:, :480], picture[-360:, 488:]
    for panel in (detections, groundtruth):
        assert (panel[180, 180] != 10).any()  # the left half of FOUND
        assert (panel[180, 300] == 10).all()  # the right half
