"""Requests of docs/serving.md, turned into tensors by the rules of TensorFlow Serving's REST API, fit exported signatures.

Rules and words of the errors are those of tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

import base64
import binascii
import http.server
import json
import re
import threading

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from object_detection_fpn import records
from object_detection_fpn.data import resize
from object_detection_fpn.data.context import ContextDecoding
from object_detection_fpn.serving.saved_model import export_saved_model

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

PIXELS = [[[[250, 40, 30], [10, 200, 60]], [[20, 30, 220], [240, 240, 240]]]]


# The REST API ---------------------------------------------------------------------------------------------------------


def read_request(text: str, inputs: dict[str, tf.TensorSpec]) -> tuple[dict[str, tf.Tensor], bool]:
    """Body of a request -> tensors by the names of the signature, and whether it is in row format."""
    body = json.loads(text)
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise ValueError("expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in body:
        return _read_rows(body["instances"], inputs), True
    return _read_columns(body["inputs"], inputs), False


def _read_rows(instances, inputs):
    if not isinstance(instances, list) or not instances:
        raise ValueError("Expecting 'instances' to be a list with values")
    named = _is_object(instances[0])
    if not named and len(inputs) > 1:
        raise ValueError("instances is a plain list, but expecting list of objects as multiple input tensors required")
    if any(_is_object(instance) != named for instance in instances):
        raise ValueError("'instances' is a mix of objects and values")
    if not named:
        [name] = inputs
        return {name: _to_tensor(instances, inputs[name])}
    for instance in instances:
        if set(instance) != set(inputs):
            raise ValueError(f"keys must be equal to: {','.join(sorted(inputs))}")
    return {name: _to_tensor([instance[name] for instance in instances], spec) for name, spec in inputs.items()}


def _read_columns(value, inputs):
    if not _is_object(value):
        if len(inputs) > 1:
            raise ValueError("inputs is a plain value/list, but expecting an object as multiple input tensors required")
        [name] = inputs
        return {name: _to_tensor(value, inputs[name])}
    for name in inputs:
        if name not in value:
            raise ValueError(f"Missing named input: {name} in 'inputs' object.")
    return {name: _to_tensor(value[name], spec) for name, spec in inputs.items()}


def _is_object(value) -> bool:
    return isinstance(value, dict) and not (list(value) == ["b64"] and isinstance(value["b64"], str))


def _to_tensor(value, spec: tf.TensorSpec) -> tf.Tensor:
    shape, first = [], value  # that of the first elements: all others must have the same
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    flat = []

    def fill(element, level):
        if isinstance(element, list):
            if level >= len(shape):
                raise ValueError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
            if len(element) != shape[level]:
                raise ValueError(f"Encountered list at unexpected size: {len(element)} at level: {level}")
            for each in element:
                fill(each, level + 1)
        elif level != len(shape):
            raise ValueError(f"JSON Value found at incorrect level: {level + 1}. Expected at level: {len(shape)}")
        else:
            flat.append(_to_scalar(element, spec.dtype))

    fill(value, 0)
    return tf.reshape(tf.constant(flat, spec.dtype), shape)


def _to_scalar(value, dtype: tf.DType):
    if dtype == tf.string and isinstance(value, dict):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (KeyError, binascii.Error):
            raise ValueError("not formatted correctly for base64 data") from None
    kinds = str if dtype == tf.string else int if dtype.is_integer else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"JSON Value: {json.dumps(value)} is not of expected type: {dtype.name}")
    return value.encode() if dtype == tf.string else value


def write_response(outputs: dict[str, tf.Tensor], *, is_row_format: bool) -> str:
    """Outputs of a signature, several and none of them a string -> body of the response."""
    values = {name: output.numpy().tolist() for name, output in outputs.items()}
    if not is_row_format:
        return json.dumps({"outputs": values})
    if len({len(value) for value in values.values()}) > 1:
        raise ValueError("Tensors have different batch sizes")
    return json.dumps(
        {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}
    )


def answer(signature, text: str) -> str:
    tensors, is_row_format = read_request(text, signature.structured_input_signature[1])
    return write_response(signature(**tensors), is_row_format=is_row_format)


def as_rows(response: str) -> list[dict]:
    """Predictions of a response in either format."""
    body = json.loads(response)
    if "predictions" in body:
        return body["predictions"]
    return [dict(zip(body["outputs"], row, strict=True)) for row in zip(*body["outputs"].values(), strict=True)]


# Models and the page --------------------------------------------------------------------------------------------------


class ContextModel(tf_keras.layers.Layer):
    """One detection an image, scored by the sum of its context features."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=[], initializer="ones")

    def preprocess(self, inputs):
        return inputs

    def predict(self, inputs, *, training):
        features, num_features = inputs.context
        is_real = tf.sequence_mask(num_features, tf.shape(features)[1])
        return self.scale * tf.reduce_sum(tf.where(is_real[..., None], features, 0.0), axis=[1, 2])

    def postprocess(self, predictions, inputs):
        rows = tf.ones_like(predictions)[:, tf.newaxis]
        return records.Detections(
            boxes=rows[..., tf.newaxis] * [0.0, 0.0, 1.0, 1.0],
            scores=predictions[:, tf.newaxis],
            classes=tf.cast(rows, tf.int32),
            num_detections=tf.cast(rows[:, 0], tf.int32),
        )


@pytest.fixture(scope="module")
def signatures(model, tmp_path_factory):
    """Heading of the page -> signature of the exported model that it is about; and the models, which keep the variables."""
    resizer = resize.fixed_shape(height=64, width=64)
    context = {"model": ContextModel(), "context": ContextDecoding(max_num=4, length=3)}
    loaded = []
    for input_type, settings in (
        ("image_tensor", {"model": model}),
        ("encoded_image_string_tensor", {"model": model}),
        ("encoded_image_string_tensor", context),
    ):
        folder = str(tmp_path_factory.mktemp("exported"))
        export_saved_model(
            resizer=resizer, input_type=input_type, output_dir=folder, pipeline_config_text="", **settings
        )
        loaded.append(tf.saved_model.load(folder + "/saved_model"))
    names = ("image_tensor", "encoded_image_string_tensor", "Models that look at context")
    yield {name: each.signatures["serving_default"] for name, each in zip(names, loaded, strict=True)}
    loaded.clear()


@pytest.fixture(scope="module")
def page(root_dir):
    return (root_dir / "docs" / "serving.md").read_text()


def blocks(page: str, title: str, language: str) -> list[str]:
    """The blocks of code of the section with that title."""
    section = re.split(rf"^#+ {title}$", page, flags=re.MULTILINE)[1]
    section = re.split(
        r"^#+ ", re.sub(r"^```\w*\n.*?^```", lambda m: m[0].replace("#", "\0"), section, flags=re.M | re.S), flags=re.M
    )[0]
    return [block.replace("\0", "#") for block in re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.M | re.S)]


@pytest.mark.parametrize("title, batch_size", [("image_tensor", 1), ("encoded_image_string_tensor", 2)])
def test_requests_of_both_formats_get_the_detections_of_the_signature(signatures, page, title, batch_size):
    signature = signatures[title]
    row_format, column_format = blocks(page, title, "json")
    assert "instances" in json.loads(row_format) and "inputs" in json.loads(column_format)
    by_rows, by_columns = (answer(signature, text) for text in (row_format, column_format))
    assert as_rows(by_rows) == as_rows(by_columns)
    images, _ = read_request(row_format, signature.structured_input_signature[1])
    expected = signature(**images)
    predictions = json.loads(by_rows)["predictions"]
    assert len(predictions) == batch_size
    for name, value in expected.items():
        found = np.array([prediction[name] for prediction in predictions], np.float32)
        np.testing.assert_array_equal(found, value, err_msg=name)


def test_both_inputs_of_the_page_show_the_same_image(signatures, page):
    pixels = json.loads(blocks(page, "image_tensor", "json")[0])["instances"]
    encoded = json.loads(blocks(page, "encoded_image_string_tensor", "json")[0])["instances"]
    decoded = [tf.io.decode_image(base64.b64decode(each["b64"])).numpy() for each in encoded]
    assert pixels == PIXELS == [decoded[0].tolist()]
    assert decoded[1].shape == (2, 3, 3)
    of_pixels, of_files = (
        as_rows(answer(signatures[title], json.dumps({"instances": images})))[0]
        for title, images in (("image_tensor", pixels), ("encoded_image_string_tensor", encoded[:1]))
    )
    for name, value in of_pixels.items():
        np.testing.assert_allclose(of_files[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_instances_may_name_the_input(signatures, page):
    [plain, _] = blocks(page, "encoded_image_string_tensor", "json")
    named = {"instances": [{"input_tensor": each} for each in json.loads(plain)["instances"]]}
    signature = signatures["encoded_image_string_tensor"]
    assert answer(signature, json.dumps(named)) == answer(signature, plain)


def test_side_inputs_stand_beside_the_image(signatures, page):
    signature = signatures["Models that look at context"]
    [by_rows] = blocks(page, "Models that look at context", "json")
    instances = json.loads(by_rows)["instances"]
    by_columns = json.dumps({"inputs": {name: [each[name] for each in instances] for name in instances[0]}})
    for text in (by_rows, by_columns):
        assert [row["detection_scores"] for row in as_rows(answer(signature, text))] == [[1.375], [0.75]]


def test_the_response_of_the_page_has_the_form_of_a_real_one(signatures, page):
    [shown] = blocks(page, "What it answers", "json")
    real = as_rows(answer(signatures["image_tensor"], json.dumps({"instances": PIXELS})))[0]
    for name, value in json.loads(shown)["predictions"][0].items():
        assert np.ndim(value) == np.ndim(real[name]), name
        assert np.shape(value)[1:] == np.shape(real[name])[1:], name
    table = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, flags=re.M)))
    assert set(real) <= set(table)


@pytest.mark.parametrize(
    "title, body, message",
    [
        ("image_tensor", {"instances": PIXELS, "inputs": PIXELS}, "expecting only one of"),
        ("image_tensor", {"instances": [[[[0.5, 1, 2]]]]}, "0.5 is not of expected type: uint8"),
        ("image_tensor", {"instances": [*PIXELS, [[[1, 2, 3]]]]}, "unexpected size: 1 at level: 1"),
        ("encoded_image_string_tensor", {"instances": [{"b64": "?"}]}, "not formatted correctly for base64"),
        ("encoded_image_string_tensor", {"inputs": {"image": [{"b64": ""}]}}, "Missing named input: input_tensor"),
        ("Models that look at context", {"instances": [{"b64": ""}]}, "expecting list of objects"),
        ("Models that look at context", {"instances": [{"input_tensor": {"b64": ""}}]}, "keys must be equal to: cont"),
    ],
)
def test_requests_of_another_form_are_refused(signatures, title, body, message):
    with pytest.raises(ValueError, match=message):
        answer(signatures[title], json.dumps(body))


# The client -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(signatures):
    """URL of a server of `encoded_image_string_tensor`, at any name of a model."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                status, body = 200, answer(signatures["encoded_image_string_tensor"], text)
            except (ValueError, tf.errors.InvalidArgumentError) as error:
                status, body = 400, json.dumps({"error": str(error)})
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://localhost:{listening.server_port}/v1/models/shapes:predict"
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def detect(page):
    [client] = blocks(page, "A client", "python")
    module = {"__name__": "client"}
    exec(compile(client, "client.py", "exec"), module)
    return module["detect"]


def test_the_client_gets_what_the_signature_gives(signatures, server, detect, tmp_path):
    sizes = [(50, 70), (64, 40)]
    paths = [str(tmp_path / f"{i}.png") for i in range(len(sizes))]
    for path, (height, width) in zip(paths, sizes, strict=True):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    files = tf.constant([tf.io.read_file(path).numpy() for path in paths])
    expected = signatures["encoded_image_string_tensor"](input_tensor=files)
    found = detect(paths, server, min_score=0.0)
    assert [len(rows) for rows in found] == expected["num_detections"].numpy().astype(int).tolist()
    for i, rows in enumerate(found):
        assert rows
        labels, scores, boxes = zip(*rows, strict=True)
        np.testing.assert_array_equal(labels, expected["detection_classes"][i, : len(rows)])
        np.testing.assert_array_equal(np.float32(scores), expected["detection_scores"][i, : len(rows)])
        np.testing.assert_array_equal(np.float32(boxes), expected["detection_boxes"][i, : len(rows)])
    assert detect(paths, server, min_score=2.0) == [[], []]


def test_the_client_says_what_the_server_said(server, detect, tmp_path):
    (tmp_path / "no.jpg").write_text("no image")
    with pytest.raises(RuntimeError, match=r"(?s)shapes:predict: .*Unknown image file format"):
        detect([str(tmp_path / "no.jpg")], server)
