"""Files that are compared: reports, detections with groundtruth, and what cannot be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from object_detection_fpn.cli import main as cli
from object_detection_fpn.evaluation.metric import clean_image
from object_detection_fpn.ops.rle import encode_box
from object_detection_fpn.tools.report import stored
from object_detection_fpn.tools.report.bootstrap import class_aps
from object_detection_fpn.tools.report.matching import gather, match_image
from object_detection_fpn.tools.report.runs import RunError, in_order_of, match_coco, read_runs

CLASSES = [{"index": 0, "name": "a"}, {"index": 1, "name": "b"}, {"index": 2, "name": "c"}]


@pytest.fixture
def report_text(random_images):
    """The text of a report of random images; `skip` leaves out every n-th detection."""

    def make(seed=0, *, order=None, classes=CLASSES, skip=None):
        images = random_images(seed, 6)
        cleaned = [clean_image(*image, {1, 2, 3})[:2] for image in images]
        if skip:
            cleaned = [
                (truth, found._replace(**{
                    name: [value for row, value in enumerate(getattr(found, name)) if row % skip]
                    if name == "masks"
                    else getattr(found, name)[np.arange(len(found.scores)) % skip > 0]
                    for name in found._fields
                }))
                for truth, found in cleaned
            ]  # fmt: skip
        cleaned = [cleaned[i] for i in order or range(6)]
        matches = gather([match_image(*image) for image in cleaned], num_classes=3)
        content = {"format": stored.FORMAT, "classes": classes}
        return stored.to_text(content, {"boxes": matches}, [truth.source_id for truth, _ in cleaned]), matches

    return make


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return str(path)


def test_matches_come_back_as_they_were(report_text):
    text, matches = report_text()
    run = stored.parse(json.loads(text))
    assert run.image_ids == [str(i) for i in range(6)]
    assert run.names == {0: "a", 1: "b", 2: "c"}
    for name, value in matches._asdict().items():
        np.testing.assert_array_equal(getattr(run.matches["boxes"], name), value)


def test_a_report_with_images_in_another_order_is_the_same(report_text, tmp_path):
    paths = [
        write(tmp_path / "a" / "report.json", report_text()[0]),
        write(tmp_path / "b" / "report.json", report_text(order=[3, 1, 0, 5, 4, 2])[0]),
    ]
    a, b = read_runs([str(tmp_path / "a"), paths[1]], None)
    b = in_order_of(a, b)
    weights = np.array([[3, 0, 1, 1, 1, 0]])
    np.testing.assert_allclose(
        np.nanmean(class_aps(a.matches["boxes"], weights), axis=2),
        np.nanmean(class_aps(b.matches["boxes"], weights), axis=2),
        atol=0.02,  # ties between images are broken by their order
    )


SQUARE = [0, 0, 10, 10]  # xmin, ymin, width, height


def coco(*, segmentation=None):
    """Two images, class ids with a gap, one object each."""
    return {
        "images": [
            {"id": 7, "file_name": "x/a.jpg", "height": 30, "width": 40},
            {"id": 8, "file_name": "x/b.jpg", "height": 30, "width": 40},
        ],
        "categories": [{"id": 2, "name": "a"}, {"id": 9, "name": "b"}],
        "annotations": [
            {"image_id": 7, "category_id": 2, "bbox": SQUARE, "segmentation": segmentation},
            {"image_id": 8, "category_id": 9, "bbox": [20, 5, 15, 10], "segmentation": segmentation},
        ],
    }


RESULTS = [
    {"image_id": 7, "category_id": 2, "bbox": SQUARE, "score": 0.9},
    {"image_id": 8, "category_id": 9, "bbox": [20, 5, 15, 10], "score": 0.8},
    {"image_id": 8, "category_id": 5, "bbox": [20, 5, 15, 10], "score": 0.8},  # of no class that is measured
]


def test_detections_are_matched_by_image_and_class():
    matches = match_coco(coco(), RESULTS).matches["boxes"]
    assert matches.images.tolist() == [0, 1]
    assert matches.classes.tolist() == [0, 1]
    assert matches.is_true.all()


def test_detections_of_predict_are_found_by_file_name():
    found = {
        "images": [{"id": 1, "file_name": "other/b.jpg"}, {"id": 2, "file_name": "a.jpg"}],
        "detections": [{**RESULTS[1], "image_id": 1}, {**RESULTS[0], "image_id": 2}],
    }
    matches = match_coco(coco(), found).matches["boxes"]
    assert matches.images.tolist() == [0, 1]
    assert matches.is_true.all()
    found["images"][1]["file_name"] = "elsewhere.jpg"  # and its detection is left out
    assert match_coco(coco(), found).matches["boxes"].images.tolist() == [1]


@pytest.mark.parametrize("kind", ["polygon", "compressed", "counts"])
def test_masks_are_matched_too(kind):
    square = encode_box(np.array([0, 0, 10, 10]), (30, 40))
    text = {"size": square["size"], "counts": square["counts"].decode()}
    segmentation = {
        "polygon": [[0, 0, 10, 0, 10, 10, 0, 10]],
        "compressed": text,
        "counts": {"size": [30, 40], "counts": [0, *([10, 20] * 9), 10, 920]},
    }[kind]
    run = match_coco(coco(segmentation=segmentation), [{**RESULTS[0], "segmentation": text}])
    assert run.matches.keys() == {"boxes", "masks"}
    assert run.matches["masks"].is_true.all()


def test_compare_prints_both_and_their_difference(report_text, tmp_path, capsys):
    paths = [
        write(tmp_path / "a.json", report_text(skip=2)[0]),
        write(tmp_path / "b.json", report_text()[0]),
    ]
    arguments = ["compare", *paths, "--num_samples", "50"]
    assert cli.main([*arguments, "--json"]) == 0
    first = capsys.readouterr().out
    found = json.loads(first)["regions"]["boxes"]
    assert found["metrics"].keys() == {"AP", "AP50", "AP75"}
    assert found["classes"].keys() == {"a", "b", "c"}
    ap = found["metrics"]["AP"]
    assert ap["difference"]["value"] == pytest.approx(ap["b"]["value"] - ap["a"]["value"])
    assert cli.main([*arguments, "--json"]) == 0
    assert capsys.readouterr().out == first
    assert cli.main([*arguments, "--json", "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["regions"]["boxes"]["metrics"]["AP"]["a"]["value"] == ap["a"]["value"]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out
    assert "boxes, 6 images" in table
    assert f"{100 * ap['a']['value']:.1f} [" in table


def test_detections_need_groundtruth(tmp_path, capsys):
    path = write(tmp_path / "found.json", RESULTS)
    assert cli.main(["compare", path, path]) == 2
    assert "Files of detections need --groundtruth" in capsys.readouterr().err
    truth = write(tmp_path / "truth.json", coco())
    assert cli.main(["compare", path, path, "--groundtruth", truth, "--num_samples", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["regions"]["boxes"]["metrics"]["AP"]["b"]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no JSON file"),
        ("\x00", "is no JSON file"),
        (json.dumps({"format": stored.FORMAT}), "is a damaged report: KeyError('image_ids')"),
        (json.dumps([{"image_id": 7}]), "is no file of detections as COCO has them: KeyError('category_id')"),
        (json.dumps([{**RESULTS[0], "bbox": [1, 2, 3]}]), "is no file of detections"),
        (json.dumps({"images": [], "detections": RESULTS}), "no image has the file name of one of the groundtruth"),
        (json.dumps({"a": 1}), "is no file of detections"),
        (json.dumps(3), "is no file of detections"),
    ],
)
def test_a_file_of_another_kind_ends_with_one_line(tmp_path, capsys, text, words):
    path = write(tmp_path / "a.json", text)
    assert cli.main(["compare", path, path, "--groundtruth", write(tmp_path / "truth.json", coco())]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}")
    assert words in message


def test_a_file_that_is_missing_is_named(tmp_path, capsys):
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path)]) == 2
    assert "a.json is missing" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--num_samples=0", "--seed=-1"])
def test_numbers_out_of_range_are_refused(tmp_path, capsys, flag):
    assert cli.main(["compare", str(tmp_path), str(tmp_path), flag]) == 2
    assert "is out of range" in capsys.readouterr().err


def damaged(report_text, **columns):
    content = json.loads(report_text()[0])
    content["matches"]["boxes"].update(columns)
    return content


@pytest.mark.parametrize("columns", [{"true": []}, {"images": [99] * 500}, {"scores": 3}])
def test_a_damaged_report_is_refused(report_text, columns):
    content = damaged(report_text, **columns)
    if "images" in columns:
        content["matches"]["boxes"]["images"] = [99] * len(content["matches"]["boxes"]["scores"])
    with pytest.raises(stored.NotAReportError, match="is a damaged report"):
        stored.parse(content)


def test_runs_that_differ_in_more_than_the_model_are_refused(report_text):
    a = stored.parse(json.loads(report_text()[0]))
    fewer = a._replace(image_ids=[*a.image_ids[:-1], "other"])
    with pytest.raises(RunError, match="2 are in one alone, such as '5'"):
        in_order_of(a, fewer)
    with pytest.raises(RunError, match=r"different classes: 3 \(a, b, c\) and 3 \(a, b, d\)"):
        in_order_of(a, a._replace(names={0: "a", 1: "b", 2: "d"}))
    other = stored.parse(json.loads(report_text(1)[0]))
    with pytest.raises(RunError, match="different groundtruth of boxes"):
        in_order_of(a, other)


def test_classes_are_known_by_their_names(report_text):
    a = stored.parse(json.loads(report_text()[0]))
    table = a.matches["boxes"]
    gap = np.array([3, 0, 1])  # class ids of another label map
    other = a._replace(
        names={3: "a", 0: "b", 1: "c"},
        matches={"boxes": table._replace(classes=gap[table.classes], gt_classes=gap[table.gt_classes], num_classes=4)},
    )
    found = in_order_of(a, other).matches["boxes"]
    for name in ("classes", "gt_classes", "num_classes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))


def test_repeated_image_ids_are_told_apart_by_order(report_text):
    a = stored.parse(json.loads(report_text()[0]))._replace(image_ids=[""] * 6)
    assert in_order_of(a, a).matches["boxes"].images.tolist() == a.matches["boxes"].images.tolist()
