"""The page: whole, without anything from elsewhere, and safe whatever the data are called."""

from __future__ import annotations

import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from object_detection_fpn.evaluation.coco import CocoBoxMetrics
from object_detection_fpn.evaluation.metric import EvaluationError
from object_detection_fpn.tools.report import examples as examples_lib
from object_detection_fpn.tools.report.analysis import analyse
from object_detection_fpn.tools.report.examples import Examples, image_quality
from object_detection_fpn.tools.report.page import make_page

SECTIONS = {
    "summary", "errors", "classes", "curves", "sizes", "thresholds", "confusion", "calibration", "scores", "images",
}  # fmt: skip
SQUARE = [0, 0, 100, 100]
FAR = [150, 150, 250, 250]
EVIL = '</script><script>alert("1")</script><!-- & \' " <b>'


class Reader(html.parser.HTMLParser):
    """Collects what a browser would see."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.ids, self.links, self.texts, self.open = [], set(), [], {}, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("src", "href", "action", "data", "poster") if name in attributes]
        if tag not in self.VOID:
            self.open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data


def page_of(found, title="Report"):
    reader = Reader(make_page(title, {**found.content, "model": "m", "data": "d"}, found.examples))
    assert reader.open == []
    return reader, json.loads(reader.texts["script", "data"])


@pytest.fixture(scope="module")
def images(random_images):
    return random_images(0, 12)


def test_every_section_is_there_and_nothing_comes_from_elsewhere(detected, images):
    reader, data = page_of(analyse(detected(images, has_masks=True), num_examples=3))
    assert reader.ids >= SECTIONS
    assert reader.tags.count("script") == 2
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} == SECTIONS
    assert "default-src 'none'" in make_page("t", {}, [])
    code = reader.texts["script", None] + reader.texts["style", None]
    assert "http" not in code.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in code
    assert data["regions"].keys() == {"boxes", "masks"}
    assert (data["num_images"], data["step"]) == (12, 7)


def test_text_of_the_data_is_no_markup(detected, make_image):
    image = make_image([SQUARE], [SQUARE], source_id=EVIL)
    reader, data = page_of(analyse(detected([image], names=(EVIL, "b")), num_examples=1), title=EVIL)
    assert reader.tags.count("script") == 2
    assert "b" not in reader.tags
    assert data["classes"][0]["name"] == data["examples"][0]["name"] == EVIL
    assert reader.texts["title", None] == reader.texts["h1", None] == EVIL


def test_marks_within_the_data_stay_as_they_are(detected, make_image):
    found = analyse(detected([make_image([SQUARE], [SQUARE])], names=("/*script*/", "/*data*/ \\1")), num_examples=0)
    _, data = page_of(found)
    assert [entry["name"] for entry in data["classes"]] == ["/*script*/", "/*data*/ \\1"]


def test_numbers_are_those_of_the_metrics(detected, images):
    found = analyse(detected(images), num_examples=0).content
    metric = CocoBoxMetrics([{"id": i + 1, "name": name} for i, name in enumerate("abc")])
    for image in images:
        metric.update(*image)
    expected = metric.result()
    boxes = found["regions"]["boxes"]
    assert boxes["summary"].keys() == {name.removeprefix("DetectionBoxes_") for name in expected}
    for name, value in boxes["summary"].items():
        wanted = expected[f"DetectionBoxes_{name}"]
        assert value == (None if wanted == -1 else pytest.approx(wanted))
    assert len(boxes["classes"][0]["metrics"]) == 12
    assert boxes["errors"]["ap50"] == pytest.approx(expected["DetectionBoxes_Precision/mAP@.50IOU"])
    assert np.mean(boxes["precision"]["0.50"]) == pytest.approx(boxes["errors"]["ap50"], abs=1e-4)


def test_errors_and_what_is_true_add_up_to_all_detections(detected, images):
    boxes = analyse(detected(images), num_examples=0).content["regions"]["boxes"]
    errors = boxes["errors"]
    num = sum(kind["num"] for kind in errors["kinds"] if kind["kind"] != "missed")
    assert num + errors["num_true"] + errors["num_ignored"] == sum(len(found.scores) for _, found in images)
    kept = sum(kind["num_kept"] for kind in errors["kinds"] if kind["kind"] != "missed")
    assert kept == sum(num for kind in errors["kinds"] if kind["kind"] != "missed" for num in kind["by_class"].values())
    assert kept < num


def test_a_perfect_detector(detected, make_image):
    images = [make_image([SQUARE, FAR], [SQUARE, FAR], gt_classes=[0, 1], classes=[0, 1], scores=[1, 1])] * 2
    boxes = analyse(detected(images, names=("a", "b")), num_examples=2).content["regions"]["boxes"]
    assert boxes["summary"]["Precision/mAP"] == pytest.approx(1)
    assert boxes["confusion"] == [[0, 0, 2], [1, 1, 2]]
    assert boxes["classes"][0]["best_f1"] == {"threshold": 1, "precision": 1, "recall": 1, "f1": 1}
    assert boxes["calibration"]["error"] == 0
    assert all(kind["num"] == kind["gain"] == 0 for kind in boxes["errors"]["kinds"])


def test_a_detector_that_finds_nothing_and_an_image_without_objects(detected, make_image):
    found = analyse(detected([make_image([SQUARE], []), make_image([], [])], names=("a", "b")), num_examples=2)
    boxes = found.content["regions"]["boxes"]
    assert boxes["summary"]["Precision/mAP"] == 0
    assert boxes["summary"]["Precision/mAP (small)"] is None
    assert boxes["classes"][0]["best_f1"] is None
    assert boxes["classes"][1]["precision"]["0.50"] == [None] * 101
    assert boxes["confusion"] == [[0, 2, 1]]
    assert boxes["errors"]["kinds"][-1] == {
        "kind": "missed", "num": 1, "num_kept": 1, "gain": 1.0, "by_class": {0: 1},
    }  # fmt: skip
    assert [example["quality"] for example in found.examples] == [0, 1]


def test_no_objects_at_all_leave_undefined_numbers_null(detected, make_image):
    boxes = analyse(detected([make_image([], [SQUARE])]), num_examples=1).content["regions"]["boxes"]
    assert boxes["summary"]["Precision/mAP"] is None
    assert boxes["errors"]["ap50"] is None


def test_a_data_set_without_images_is_refused(detected):
    with pytest.raises(EvaluationError, match="saw no image"):
        analyse(detected([]), num_examples=1)


def test_quality_of_images(match):
    assert image_quality(match([SQUARE], [SQUARE])) == pytest.approx(1)
    assert image_quality(match([SQUARE, FAR], [SQUARE])) == pytest.approx(51 / 101)
    assert image_quality(match([], [])) == 1
    assert image_quality(match([], [SQUARE], scores=[0.75])) == 0.25
    assert image_quality(match([SQUARE], [[0, 0, 50, 50]], crowd=[True])) == 1


def test_the_worst_and_the_best_images_are_shown_with_what_is_in_them(detected, make_image):
    good = make_image([SQUARE], [SQUARE], source_id="good")
    missed = make_image([SQUARE], [], source_id="missed")
    false = make_image([SQUARE], [FAR, SQUARE], classes=[1, 0], source_id="false")
    found = analyse(detected([good, missed, false, good, good]), num_examples=1).examples
    assert [(example["name"], example["roles"]) for example in found] == [
        ("missed", ["worst", "class"]), ("good", ["best"]), ("false", ["class"]),
    ]  # fmt: skip
    worst, best, of_class = found
    assert worst["groundtruth"] == [{"box": [0, 0, 100, 100], "class": 0, "kind": "missed", **masks_of(worst)}]
    assert best["groundtruth"][0]["kind"] == "object"
    assert best["detections"][0]["kind"] == "true"
    assert [box["kind"] for box in of_class["detections"]] == ["background", "true"]


def masks_of(example):
    return {name: value for name, value in example["groundtruth"][0].items() if name == "mask"}


def test_thumbnails_are_small_and_boxes_and_masks_follow_them(detected, make_image):
    groundtruth, detections = make_image([[30, 60, 90, 120]], [[30, 60, 90, 120]])
    groundtruth = groundtruth._replace(image_size=(300, 300))
    run = detected([(groundtruth, detections)], has_masks=True)
    big = run._replace(images=(image._replace(image=Big()) for image in run.images))
    (example,) = analyse(big, num_examples=1).examples
    assert (example["width"], example["height"]) == (480, 480)
    with Image.open(io.BytesIO(base64.b64decode(example["jpeg"]))) as image:
        assert (image.format, image.size) == ("JPEG", (480, 480))
    assert example["detections"][0]["box"] == [96, 48, 96, 96]
    assert example["detections"][0]["mask"] == {"frame": [96, 48, 96, 96], "runs": [0, 96 * 96]}


class Big:
    def pixels(self):
        return np.zeros((1200, 1200, 3), np.uint8)


def test_runs_of_a_mask_are_row_by_row_and_begin_outside():
    from object_detection_fpn.ops.rle import encode_mask

    mask = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]], bool)
    assert examples_lib._mask(encode_mask(mask), (3, 4)) == {"mask": {"frame": [1, 1, 2, 2], "runs": [1, 3]}}
    assert examples_lib._mask(encode_mask(np.zeros((3, 4), bool)), (3, 4)) == {}
    assert examples_lib._mask(None, (3, 4)) == {}


def test_as_many_images_are_shown_as_fit(detected, images, monkeypatch):
    every = analyse(detected(images), num_examples=6).examples
    monkeypatch.setattr(examples_lib, "MAX_BYTES", 20_000)
    fewer = analyse(detected(images), num_examples=6).examples
    assert 0 < len(fewer) < len(every)
    assert len(json.dumps(fewer)) < 20_000
    assert fewer == every[: len(fewer)]


def test_a_page_of_five_thousand_images_stays_under_30_megabytes(make_image, match):
    """Of noise, which JPEG compresses worst, with 60 detections and masks an image: by what is kept of each."""
    generator = np.random.default_rng(0)
    boxes = np.tile([10, 10, 200, 250], (60, 1))
    truth, found = make_image([SQUARE], boxes, classes=(np.arange(60) % 60).tolist(), source_id="x" * 40)

    class Noise:
        def pixels(self):
            return generator.integers(0, 256, (480, 480, 3), np.uint8)

    from object_detection_fpn.jobs.detect import DetectedImage
    from object_detection_fpn.tools.report.errors import classify_errors

    matches = match([SQUARE], boxes, classes=(np.arange(60) % 60).tolist(), scores=np.full(60, 0.5))
    errors = classify_errors(matches)
    kept = Examples(200)
    for _ in range(300):  # more than are shown: 4,700 further ones would change no byte
        kept.add(DetectedImage(Noise(), truth, found), matches, errors)
    shown = kept.to_json()
    assert len(shown) < 300
    assert 15e6 < len(json.dumps(shown)) < 21e6
