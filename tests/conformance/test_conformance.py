"""What holds for every backbone and every way to run the detector: eager, traced, compiled, in bfloat16, on two replicas.

A row of the table is a backbone; ResNet-34, -101 and -152 are built by the code of the first two. Three rows more are other
detectors, on a small backbone. What takes long on a whole ResNet, such as compiling its gradient, is shown on this one, which
has all its kinds of layers: a strided stem, pooling, blocks with and without projection.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Context, Groundtruth, Inputs

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

CONTEXT, ONE_LEVEL, RETINANET = "context", "one_level", "retinanet"  # on the small backbone
ROWS = ["resnet18", "resnet50", CONTEXT, ONE_LEVEL, RETINANET]
# ResNet-50 takes long to trace and to compile.
SHALLOW = pytest.mark.parametrize("row", ["resnet18", CONTEXT, RETINANET], indirect=True)

# The samplers take everything: what they draw differs between a graph and its compilation, which have other generators.
CONFIG = """
  feature_extractor {
    batch_norm_trainable: true
    conv_hyperparams {
      regularizer { l2_regularizer { weight: 0.0004 } }
      initializer { variance_scaling_initializer { mode: FAN_OUT } }
      activation: RELU
      batch_norm { decay: 0 scale: true }
    }
    override_base_feature_extractor_hyperparams: true
    fpn { max_level: 6 additional_layer_depth: 16 }
  }
  first_stage_anchor_generator { multiscale_anchor_generator { max_level: 6 } }
  first_stage_box_predictor_depth: 16
  first_stage_minibatch_size: 10000
  first_stage_positive_balance_fraction: 1
  first_stage_max_proposals: 48
  clip_anchors_to_image: true
  second_stage_batch_size: 48
  second_stage_balance_fraction: 1
  second_stage_post_processing { batch_non_max_suppression { score_threshold: 0 } }
"""
ONE_LEVEL_CONFIG = """
  first_stage_anchor_generator {
    grid_anchor_generator { height: 64 width: 64 scales: [0.25, 0.5] aspect_ratios: 1 }
  }
  initial_crop_size: 8
"""
CONTEXT_CONFIG = """
  context_config { context_feature_length: 9 attention_bottleneck_dimension: 12 attention_temperature: 0.1 }
"""
RETINANET_CONFIG = """
  feature_extractor {
    type: "ssd_small_fpn_keras"
    conv_hyperparams {
      regularizer { l2_regularizer { weight: 0.0004 } }
      initializer { variance_scaling_initializer { mode: FAN_OUT } }
      activation: RELU
      batch_norm { decay: 0 scale: true }
    }
    override_base_feature_extractor_hyperparams: true
    fpn { max_level: 6 additional_layer_depth: 16 }
  }
  anchor_generator { multiscale_anchor_generator { max_level: 6 } }
  box_predictor {
    weight_shared_convolutional_box_predictor { depth: 16 conv_hyperparams { batch_norm { decay: 0 scale: true } } }
  }
"""
SAMPLING = "first_stage_minibatch_size: 32 second_stage_batch_size: 8 second_stage_balance_fraction: 0.5"


SMALL = {"num_filters": (8, 12, 16, 24), "is_residual": True}


@pytest.fixture(scope="module", autouse=True)
def _small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(
            patch, "faster_rcnn_small_fpn_keras", "ssd_small_fpn_keras", support.SINGLE_RESNET18, **SMALL
        )
        yield


def build(row, *, text="", **settings):
    if row == RETINANET:
        return build_retinanet(**settings)
    tf_keras.utils.set_random_seed(0)
    if row == ONE_LEVEL:
        extractor = f'feature_extractor {{ type: "{support.SINGLE_RESNET18}" }}'
        message = support.model_message(CONFIG, extractor, ONE_LEVEL_CONFIG, text)
        message.faster_rcnn.feature_extractor.ClearField("fpn")
    else:
        backbone, more = ("small", CONTEXT_CONFIG) if row == CONTEXT else (row, "")
        extractor = f'feature_extractor {{ type: "faster_rcnn_{backbone}_fpn_keras" }}'
        message = support.model_message(CONFIG, extractor, more, text)
    model = builder.build_model(message, **settings)
    # Untrained, all scores are nearly equal and all boxes nearly anchors: rounding would decide their order.
    random = np.random.RandomState(0)
    for predictor in (*model.rpn.head.objectness, model.box_head.class_predictor, model.box_head.box_predictor):
        predictor.kernel.assign(random.normal(0, 0.3, predictor.kernel.shape))
    model.feature_extractor(
        model.feature_extractor.normalize_pixels(BATCH[0]), training=True
    )  # moving statistics that fit (decay is 0)
    if row in (CONTEXT, ONE_LEVEL):
        training_losses(model)(*BATCH)  # and of the attention, and of the last stage
    return model


def build_retinanet(**settings):
    tf_keras.utils.set_random_seed(0)
    model = builder.build_model(support.retinanet_message(RETINANET_CONFIG), **settings)
    random = np.random.RandomState(0)
    for predictor in (model.dense_head.class_predictor, model.dense_head.box_predictor):
        predictor.kernel.assign(random.normal(0, 0.3, predictor.kernel.shape))
    model.predict(model.preprocess(Inputs(*BATCH[:2])), training=True)  # moving statistics that fit (decay is 0)
    return model


def copy_weights(source, target):
    for theirs, ours in zip(source.variables, target.variables, strict=True):
        ours.assign(theirs)


def make_batch(batch=2, size=64, seed=0):
    """Images, true shapes (every second image is padded) and groundtruth (every third image has none)."""
    random = np.random.RandomState(seed)
    shapes = np.array([[size, size, 3] if i % 2 == 0 else [size - 14, size - 4, 3] for i in range(batch)], np.int32)
    images = random.uniform(0, 255, [batch, size, size, 3]).astype(np.float32)
    corners = random.uniform(0, size / 2, [batch, 3, 2])
    boxes = np.concatenate([corners, corners + random.uniform(14, size / 3, [batch, 3, 2])], -1).astype(np.float32)
    num_boxes = np.array([(i + 2) % 3 for i in range(batch)], np.int32)
    is_real = np.arange(3) < num_boxes[:, None]
    groundtruth = Groundtruth(
        boxes=tf.constant(boxes * is_real[..., None]),
        classes=tf.constant(random.randint(0, 3, [batch, 3]) * is_real, tf.int32),
        num_boxes=tf.constant(num_boxes),
        weights=tf.constant(is_real, tf.float32),
        is_crowd=tf.zeros([batch, 3], tf.bool),
    )
    return tf.constant(images), tf.constant(shapes), groundtruth


def context_for(model, images):
    """Context of up to three images, half of that of the second is padding, for a model that looks at it."""
    if getattr(model, "context_attention", None) is None:
        return None
    features = np.random.RandomState(3).normal(size=[3, 6, 9]).astype(np.float32)
    batch = tf.shape(images)[0]
    return Context(tf.constant(features)[:batch], tf.constant([6, 3, 6])[:batch])


BATCH = make_batch()
STATIC = Execution(static=True)
SEED = tf.constant([1, 2])


def inference(model):
    def run(images, true_shapes):
        inputs = model.preprocess(Inputs(images, true_shapes, context_for(model, images)))
        predictions = model.predict(inputs, training=False)
        return predictions, model.postprocess(predictions, inputs)

    return run


def training_losses(model):
    def run(images, true_shapes, groundtruth, seed=SEED):
        inputs = model.preprocess(Inputs(images, true_shapes, context_for(model, images)))
        predictions = model.predict(inputs, training=True, groundtruth=groundtruth, seed=seed)
        return mean_losses(model, predictions, groundtruth)

    return run


def train_step(model):
    """Losses and gradients."""

    def run(images, true_shapes, groundtruth, seed=SEED):
        with tf.GradientTape() as tape:
            losses = training_losses(model)(images, true_shapes, groundtruth, seed)
            total = tf.add_n(list(losses.values()))
        return losses, tape.gradient(total, model.trainable_variables)

    return run


def traced(function, **settings):
    return tf.function(function, autograph=False, **settings)


def compiled(function):
    return traced(function, jit_compile=True)


def assert_close(actual, expected, rtol=1e-3, atol=1e-3):
    """The same structure, and every tensor close on the scale of its largest value."""
    tf.nest.assert_same_structure(actual, expected)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        if a is None and b is None:  # a field that was not asked for
            continue
        a, b = (np.asarray(tf.cast(x, tf.float64)) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * max(1.0, np.abs(b).max(initial=0.0)))


@pytest.fixture(scope="module", params=ROWS)
def row(request):
    return request.param


@pytest.fixture(scope="module")
def model(row):
    """As a CPU runs it. Training moves its statistics."""
    return build(row)


# Ways to run ----------------------------------------------------------------------------------------------------------


def test_outputs_are_the_same_eager_and_traced(model):
    outputs = inference(model)(*BATCH[:2])
    assert np.all(outputs[1].num_detections > 3)
    assert_close(traced(inference(model))(*BATCH[:2]), outputs)


@SHALLOW
def test_outputs_are_the_same_eager_and_compiled(row, model):
    static = build(row, execution=STATIC)
    copy_weights(model, static)
    assert_close(compiled(inference(static))(*BATCH[:2]), inference(model)(*BATCH[:2]))


@SHALLOW
def test_losses_are_the_same_eager_and_traced(model):
    losses = training_losses(model)(*BATCH)
    assert all(np.isfinite(value) and value > 0 for value in losses.values())
    assert_close(traced(training_losses(model))(*BATCH), losses)


def test_construction_creates_every_variable(model):
    before = [id(variable) for variable in model.variables]
    assert len(set(before)) == len(before)
    inference(model)(*BATCH[:2])
    training_losses(model)(*BATCH)
    assert [id(variable) for variable in model.variables] == before


def test_a_checkpoint_restores_the_outputs(model, tmp_path):
    """Those of a model made anew: `test_end_to_end.py`."""
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))
    expected = inference(model)(*BATCH[:2])
    for variable in model.variables:
        variable.assign(tf.zeros_like(variable))
    tf.train.Checkpoint(model=model).read(path).assert_consumed()
    assert_close(inference(model)(*BATCH[:2]), expected)


@SHALLOW
def test_one_trace_of_unknown_shapes_serves_every_size(model):
    serve = traced(
        inference(model),
        input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 3], tf.int32)],
    )
    for batch, height, width in [(1, 64, 64), (2, 50, 97), (3, 33, 40)]:
        images = tf.constant(np.random.RandomState(batch).uniform(0, 255, [batch, height, width, 3]), tf.float32)
        shapes = tf.constant([[height, width - 2 * i, 3] for i in range(batch)])
        assert_close(serve(images, shapes), inference(model)(images, shapes))
    assert serve.experimental_get_tracing_count() == 1


# Precision ------------------------------------------------------------------------------------------------------------


def test_bfloat16_stays_near_float32():
    exact, mixed = build("small"), build("small", execution=Execution(dtype="mixed_bfloat16"))
    copy_weights(exact, mixed)
    losses, gradients = train_step(exact)(*BATCH)
    mixed_losses, mixed_gradients = train_step(mixed)(*BATCH)
    assert {v.dtype for v in mixed.variables} == {tf.float32}
    for name, value in losses.items():
        # Rounding reorders proposals of nearly equal score, and other RoIs have other losses.
        np.testing.assert_allclose(mixed_losses[name], value, rtol=0.15, atol=0.02, err_msg=name)
    copy_weights(exact, mixed)
    images = exact.feature_extractor.normalize_pixels(BATCH[0])
    pyramids = (model.feature_extractor(images, training=False) for model in (mixed, exact))
    for a, b in list(zip(*pyramids, strict=True))[:3]:  # P6 is a single cell, too few for its moving statistics
        assert a.dtype == tf.bfloat16
        assert np.linalg.norm(tf.cast(a, tf.float32) - b) < 0.05 * np.linalg.norm(b)
    norm, mixed_norm = tf.linalg.global_norm(gradients), tf.linalg.global_norm(mixed_gradients)
    np.testing.assert_allclose(mixed_norm, norm, rtol=0.15)


# The train step -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["small", CONTEXT, ONE_LEVEL, RETINANET])
def small_row(request):
    """Those whose train step is compiled in a moment."""
    return request.param


@pytest.fixture(scope="module")
def small(small_row):
    return build(small_row)


def test_the_compiled_train_step_has_the_gradients_of_the_traced_one(small_row, small):
    static = build(small_row, execution=STATIC)
    copy_weights(small, static)
    losses, gradients = traced(train_step(small))(*BATCH)
    compiled_losses, compiled_gradients = compiled(train_step(static))(*BATCH)
    assert_close(compiled_losses, losses)
    for variable, a, b in zip(small.trainable_variables, compiled_gradients, gradients, strict=True):
        assert np.all(np.isfinite(a)), variable.name
        if re.match("context_attention/.*/dense/bias", variable.name):
            continue  # a normalization subtracts it: both gradients are rounding errors
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 1e-5, variable.name
    assert sum(np.any(gradient != 0) for gradient in gradients) >= 0.9 * len(gradients)
    for a, b in zip(static.variables, small.variables, strict=True):  # moving statistics too
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_two_replicas_have_the_mean_gradient_of_their_batches(small_row, small, two_cpus):
    batches = [make_batch(seed=seed) for seed in range(2)]
    alone = [train_step(small)(*batch) for batch in batches]
    strategy = two_cpus
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        mirrored = build(small_row)
    copy_weights(small, mirrored)

    @tf.function(autograph=False)
    def distributed(batch):
        losses, gradients = strategy.run(train_step(mirrored), args=batch)
        return [strategy.reduce("MEAN", value, axis=None) for value in (*losses.values(), *gradients)]

    batch = strategy.experimental_distribute_values_from_function(
        lambda context: batches[context.replica_id_in_sync_group]
    )
    together = distributed(batch)
    for value, *apart in zip(together, *([*losses.values(), *gradients] for losses, gradients in alone), strict=True):
        mean = (apart[0] + apart[1]) / 2
        assert np.linalg.norm(value - mean) <= 1e-3 * np.linalg.norm(mean) + 1e-5


def num_operations(concrete_function):
    graph = concrete_function.graph.as_graph_def()
    return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)


@pytest.mark.parametrize("static", [False, True])
def test_the_graph_does_not_grow_with_the_batch(static):
    step = traced(training_losses(build("small", execution=Execution(static=static))))
    # TensorFlow writes zeros of up to 1000 elements in one operation and more in three; 2 and 5 images are on one side.
    two, five = (num_operations(step.get_concrete_function(*make_batch(batch))) for batch in (2, 5))
    assert two == five


def test_the_compiled_program_does_not_grow_with_the_batch_nor_work_on_all_anchors():
    step = compiled(train_step(build("small", text=SAMPLING, execution=STATIC)))
    programs = {}
    for batch in (2, 8):
        compile_to = step.experimental_get_compiler_ir(*make_batch(batch, size=128), SEED)
        programs[batch] = len(compile_to(stage="hlo_serialized"))
    assert programs[8] <= 1.1 * programs[2]
    text = compile_to(stage="hlo")
    num_cells = sum((128 >> level) ** 2 for level in (3, 4, 5, 6))  # each of one anchor
    assert len(re.findall(rf"sort\(\w+\[8,{num_cells}\]", text)) <= 1
    scatters = re.findall(r" = \w+\[([\d,]*)\]\S* scatter\(", text)
    sizes = [np.prod([int(side) for side in shape.split(",") if side]) for shape in scatters]
    assert max(sizes) <= 8 * num_cells * 16  # cells of the pyramid


# Chance ---------------------------------------------------------------------------------------------------------------


def test_a_seed_decides_everything_random():
    model = build("small", text=SAMPLING)

    def run(seed):
        images, shapes, groundtruth = BATCH
        inputs = Inputs(images, shapes)
        predictions = model.predict(inputs, training=True, groundtruth=groundtruth, seed=tf.constant(seed))
        losses = mean_losses(model, predictions, groundtruth)
        return predictions.rois.boxes.numpy(), {name: float(loss) for name, loss in losses.items()}

    (rois, losses), (same_rois, same_losses), (other_rois, other_losses) = run([1, 2]), run([1, 2]), run([1, 3])
    np.testing.assert_array_equal(rois, same_rois)
    assert losses == same_losses
    assert np.any(rois != other_rois)
    assert losses["Loss/RPNLoss/objectness_loss"] != other_losses["Loss/RPNLoss/objectness_loss"]  # other anchors too


def test_two_models_of_one_seed_start_alike_and_of_another_differ():
    def first_kernel(seed):
        tf_keras.utils.set_random_seed(seed)
        spec = layers.LayerSpec(norm=layers.BatchNormSpec())
        return support.make_backbone(spec, **SMALL).variables[0].numpy()

    np.testing.assert_array_equal(first_kernel(0), first_kernel(0))
    assert np.any(first_kernel(0) != first_kernel(1))
