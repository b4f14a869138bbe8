"""Models in other runtimes: they give what the SavedModel's function gives, and say what they cannot do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import support

from object_detection_fpn import builder
from object_detection_fpn.data import resize
from object_detection_fpn.execution import Execution
from object_detection_fpn.serving import differences, litert, onnx, portable
from object_detection_fpn.serving.predictor import ImagePrediction, Predictor

pytestmark = pytest.mark.no_cover  # converting takes twice as long when it is measured

MODELS = {
    "faster_rcnn": support.model_message(),
    "mask_rcnn": support.model_message(
        """
        number_of_stages: 3
        second_stage_box_predictor { mask_rcnn_box_predictor {
          predict_instance_masks: true mask_height: 7 mask_width: 7
        } }
        """
    ),
    "one_level": support.single_level_message(),
    "retinanet": support.retinanet_message(),
}
PADDED = resize.keep_aspect_ratio(min_dimension=64, max_dimension=64, pad_to_max_dimension=True)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)


def fill(model):
    """Gives a model weights of which boxes and scores of all kinds come."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "moving_variance" in variable.name or "gamma" in variable.name:
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif "bias" in variable.name or "beta" in variable.name or "moving_mean" in variable.name:
            variable.assign(rng.normal(0, 0.3, variable.shape))
        else:
            gain = 0.01 if re.search("predictor|deltas|logits|objectness|rpn", variable.name) else 1.0
            variable.assign(rng.normal(0, gain * np.sqrt(2 / np.prod(variable.shape[:-1])), variable.shape))
    return model


@pytest.fixture(scope="module")
def build():
    """Given a name of `MODELS` and how it is computed: the detector, always with the same weights."""
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.RESNET18, support.SSD_RESNET18)
        support.put_backbone(patch, support.SINGLE_RESNET18, is_residual=True)
        yield lambda name, execution: fill(builder.build_model(MODELS[name], execution=execution))


@pytest.fixture(scope="module")
def make_graph(build):
    return lambda name, **settings: portable.make_portable_graph(
        model=build(name, builder.portable_execution()), resizer=PADDED, **settings
    )


@pytest.fixture(scope="module")
def wanted(build):
    """What the function of a SavedModel gives of `IMAGES`, by the name of the model."""

    def predict(name):
        predictor = Predictor.from_model(model=build(name, Execution()), resizer=PADDED)
        return [predictor.predict(image) for image in IMAGES]

    return predict


@pytest.fixture(scope="module")
def small(make_graph):
    """The graph of the model that several tests convert."""
    return make_graph("faster_rcnn")


def run_file(path, content, module):
    path.write_bytes(content)
    run, batch_size = module.load(str(path))
    return portable.make_predictor(run, resizer=PADDED, batch_size=batch_size)


def difference(wanted, predictor, images=IMAGES):
    found = [predictor.predict(image) for image in images]
    return differences.compare((w, f, image.shape[:2]) for w, f, image in zip(wanted, found, images, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_every_detector_gives_the_same_in_each_runtime(make_graph, wanted, tmp_path, name):
    graph, of_saved_model = make_graph(name), wanted(name)
    for module, content in ((litert, litert.convert(graph, "float32")), (onnx, onnx.convert(graph))):
        found = difference(of_saved_model, run_file(tmp_path / "model", content, module))
        assert found.num_found == found.num_detections > 5
        assert found.score < 1e-4 and found.box < 1e-2
        assert (found.mask is not None) == (name == "mask_rcnn")
        assert (found.mask or 0.0) < 1e-4


def test_halves_of_weights_change_little(small, wanted, tmp_path):
    content = litert.convert(small, "float16")
    assert len(content) < len(litert.convert(small, "float32"))
    found = difference(wanted("faster_rcnn"), run_file(tmp_path / "model", content, litert))
    assert found.num_found >= 0.9 * found.num_detections and 0.0 < found.score < 0.02


def test_int8_computes_convolutions_in_int8_and_boxes_in_float32(make_graph, wanted, tmp_path):
    inputs = [{name: value[np.newaxis] for name, value in portable.make_inputs(i, PADDED).items()} for i in IMAGES]
    content = litert.convert(make_graph("faster_rcnn", int8_inputs=inputs), "int8")
    predictor = run_file(tmp_path / "model", content, litert)
    found = difference(wanted("faster_rcnn"), predictor)
    assert found.num_found >= 0.6 * found.num_detections
    details = portable.import_package("ai_edge_litert.interpreter", package="", extra="").Interpreter(
        model_content=content
    )
    kinds = {str(np.dtype(detail["dtype"])) for detail in details.get_tensor_details()}
    assert {"int8", "float32"} <= kinds
    assert {str(np.dtype(detail["dtype"])) for detail in details.get_output_details()} == {"float32"}


def test_onnx_takes_any_number_of_images(make_graph, wanted, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.convert(make_graph("faster_rcnn", batch_size=None)))
    run, batch_size = onnx.load(str(path))
    assert batch_size is None
    inputs = [portable.make_inputs(image, PADDED) for image in IMAGES]
    outputs = run({name: np.stack([one[name] for one in inputs]) for name in inputs[0]})
    for i, prediction in enumerate(wanted("faster_rcnn")):
        n = len(prediction.scores)
        assert outputs["num_detections"][i] == n
        np.testing.assert_allclose(outputs["detection_scores"][i, :n], prediction.scores, atol=1e-4)


def test_a_file_of_several_images_predicts_one(make_graph, wanted, tmp_path):
    content = litert.convert(make_graph("retinanet", batch_size=2), "float32")
    found = difference(wanted("retinanet"), run_file(tmp_path / "model", content, litert))
    assert found.num_found == found.num_detections > 10 and found.score < 1e-4


def test_images_that_fill_their_frame_need_no_sizes(build):
    resizer = resize.fixed_shape(height=64, width=64)
    assert set(portable.make_inputs(IMAGES[0], resizer)) == {"input_tensor"}
    padded = portable.make_inputs(IMAGES[0], PADDED)
    assert padded["input_tensor"].shape == (64, 64, 3) and padded["image_sizes"].tolist() == [48, 64]


def test_a_resizer_of_many_sizes_is_refused():
    with pytest.raises(portable.FormatError, match="all images have one size"):
        portable.make_portable_graph(model=None, resizer=resize.identity())


@pytest.mark.parametrize("module", [litert, onnx])
def test_a_file_that_is_no_model_is_refused(module, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        module.load(str(tmp_path / "missing"))
    (tmp_path / "model").write_bytes(b"no model at all")
    with pytest.raises(portable.FormatError, match=r"model is no (LiteRT|ONNX) model"):
        module.load(str(tmp_path / "model"))


def test_a_missing_package_is_named_with_the_way_to_it():
    with pytest.raises(portable.FormatError, match=r"pip install odd-package, or this package with \[odd\]\.$"):
        portable.import_package("odd_package", package="odd-package", extra="odd")


def test_differences_are_those_of_the_same_detections():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]], np.float32)
    wanted = ImagePrediction(boxes, np.array([0.9, 0.5, 0.01]), np.array([1, 2, 1]))
    found = ImagePrediction(boxes[[1, 0]] + 0.01, np.array([0.8, 0.7]), np.array([2, 1]))
    of_both = differences.compare([(wanted, found, (100, 200))])
    assert of_both[:3] == (1, 2, 2)
    assert of_both.score == pytest.approx(0.3) and of_both.box == pytest.approx(2.0, rel=1e-4)
    none = differences.compare([(wanted, wanted.select(np.zeros(3, bool)), (100, 200))])
    assert none[:4] == (1, 2, 0, 0.0)
    assert str(of_both).startswith(
        "2 of 2 detections on 1 images are the SavedModel's; largest difference of a score 0.3,"
    )
