"""`odfpn inspect` on drawn records: what it prints, writes, suggests and refuses."""

from __future__ import annotations

import html.parser
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.drawing.boxes import Boxes
from object_detection_fpn.tools.convert import records as records_lib
from object_detection_fpn.tools.inspect import pictures

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"
MASKS = "mask_rcnn_resnet18_fpn_recipe_shapes_160x160"
RETINANET = "retinanet_resnet18_fpn_shapes_160x160"


def write_records(folder, images, *, names=("cat", "dog", "rare")):
    """Records of (height, width, boxes in pixels, class ids); returns the overrides that read them."""
    with tf.io.TFRecordWriter(str(folder / "train.tfrecord")) as writer:
        for number, (height, width, boxes, classes) in enumerate(images):
            example = tf.train.Example()
            feature = example.features.feature
            file = io.BytesIO()
            Image.fromarray(np.full([height, width, 3], (10, 20, 30), np.uint8)).save(file, "PNG")
            feature["image/encoded"].bytes_list.value.append(file.getvalue())
            feature["image/source_id"].bytes_list.value.append(f"photo {number}".encode())
            shares = np.reshape(boxes, [-1, 4]) / [height, width, height, width]
            for side, values in zip(("ymin", "xmin", "ymax", "xmax"), shares.T, strict=True):
                feature[f"image/object/bbox/{side}"].float_list.value.extend(values)
            feature["image/object/class/label"].int64_list.value.extend(classes)
            writer.write(example.SerializeToString())
    records_lib.write_label_map(str(folder / "label_map.pbtxt"), dict(enumerate(names, start=1)))
    return data_arguments(folder / "label_map.pbtxt", folder / "train.tfrecord")


def data_arguments(label_map, records):
    return [
        "--config_override",
        f'train_input_reader.label_map_path="{label_map}"',
        "--config_override",
        f'train_input_reader.tf_record_input_reader.input_path=["{records}"]',
    ]


@pytest.fixture(scope="module")
def shapes_arguments(shapes_data):
    return data_arguments(shapes_data.label_map_path, shapes_data.train_records)


@pytest.fixture
def run(capsys):
    """Runs the command on a recipe; returns what it printed and its JSON."""

    def call(folder, *arguments, recipe=RECIPE):
        path = folder / "inspection.json"
        assert cli.main(["inspect", recipe, *arguments, "--json", str(path)]) == 0
        return capsys.readouterr().out, json.loads(path.read_text())

    return call


class Page(html.parser.HTMLParser):
    """The tags of a page, and what it points to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_what_stands_in_records_is_found(tmp_path, run):
    images = [
        # Two boxes around one object with two classes, one marked twice, one of one pixel.
        (
            50,
            100,
            [[10, 10, 30, 50], [10, 10, 30, 49], [0, 60, 40, 100], [0, 60, 40, 100], [5, 5, 6, 20]],
            [1, 2, 1, 1, 1],
        ),
        (100, 100, [[0, 0, 50, 100]], [2]),
        (80, 40, [], []),
    ]
    printed, found = run(tmp_path, *write_records(tmp_path, images))
    assert (found["num_records"], found["num_images"], found["num_empty"], found["num_boxes"]) == (3, 3, 1, 6)
    classes = {each["name"]: each for each in found["classes"]}
    assert [classes[name]["num_boxes"] for name in ("cat", "dog", "rare")] == [4, 2, 0]
    assert [classes[name]["num_images"] for name in ("cat", "dog", "rare")] == [1, 2, 0]
    assert classes["dog"]["coco_sizes"] == [0.5, 0.5, 0.0]
    # 100 pixels become 160: a box of 20 x 39 pixels becomes 32 x 62.4, one of 50 x 100 becomes 80 x 160.
    sides = np.sqrt([32 * 62.4, 80 * 160])
    assert classes["dog"]["median_side"] == pytest.approx(sides.mean(), rel=1e-4)
    assert classes["rare"]["median_side"] is None
    assert found["training_sizes"] == [[160, 160], [160, 160]]
    np.testing.assert_allclose(found["pixel_mean"], [10, 20, 30], atol=1e-3)
    np.testing.assert_allclose(found["pixel_deviation"], 0, atol=1e-2)
    kinds = {each["kind"]: each for each in found["suspects"]}
    assert {kind: each["count"] for kind, each in kinds.items()} == {
        "two_classes": 1,
        "marked_twice": 1,
        "one_pixel": 1,
    }
    assert kinds["two_classes"]["listed"][0] == {"image": "photo 0", "box": [10, 10, 30, 50], "classes": ["cat", "dog"]}
    assert found["rare_classes"] == ["cat", "dog", "rare"]
    for text in (
        "3 images, 6 boxes",
        "cat / dog",
        "Classes with fewer than 20 boxes: 3 (cat, dog, rare)",
        "image photo 0",
    ):
        assert text in printed, printed


def test_boxes_beyond_the_limit_are_counted_and_room_is_suggested(tmp_path, run):
    many = [[i, i, i + 20, i + 20] for i in range(25)]
    arguments = write_records(tmp_path, [(64, 64, many, [1] * 25), (64, 64, many[:3], [2] * 3)])
    printed, found = run(tmp_path, *arguments)
    assert (found["max_number_of_boxes"], found["num_dropped"], found["num_images_cut"]) == (20, 5, 1)
    assert "5 boxes are dropped, in 1 of the images" in printed
    overrides = [override for each in found["suggestions"] for override in each["overrides"]]
    assert "train_input_reader.max_number_of_boxes=30" in overrides
    assert "eval_input_reader.0.max_number_of_boxes=30" in overrides


def test_faults_of_boxes_are_listed_once_and_not_logged(tmp_path, run, caplog):
    images = [(64, 64, [[0, 0, 20, 20], [30, 30, 20, 40], [70, 70, 90, 90]], [1, 1, 1])]
    _, found = run(tmp_path, *write_records(tmp_path, images))
    assert found["num_boxes"] == 1 and len(found["faults"]) == 2
    assert any("inverted" in line for line in found["faults"])
    assert "inverted" not in caplog.text


def test_records_without_boxes_are_inspected(tmp_path, run):
    page_path = tmp_path / "page.html"
    arguments = write_records(tmp_path, [(32, 48, [], []), (32, 32, [], [])])
    printed, found = run(tmp_path, *arguments, "--html", str(page_path))
    assert found["num_boxes"] == 0 and found["coverage"]["covered_50"] == 0
    assert found["sides"] == {"quantiles": [], "edges": [], "counts": []}
    assert "nothing can be learned" in printed
    text = page_path.read_text()
    assert "None could be made" in text and "<img" not in text
    assert not Page(text).open


def test_the_written_config_loads_and_covers_more(tmp_path, run):
    tall = [[i * 8, 10 + i * 20, i * 8 + 80, 24 + i * 20] for i in range(6)]
    arguments = write_records(tmp_path, [(160, 160, tall, [1, 2, 3, 1, 2, 3])] * 4)
    new_path = tmp_path / "new" / "my.config"
    _, found = run(tmp_path, *arguments, "--write", str(new_path))
    kinds = {each["what"] for each in found["suggestions"]}
    assert kinds == {"anchors", "batch_size"}
    config = config_lib.load_config(str(new_path), require_data="train")
    assert config.train_config.batch_size == config.train_config.reference_batch_size == 1
    rate = config.train_config.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate.learning_rate_base
    assert rate == pytest.approx(0.001 / 4)
    _, after = run(tmp_path, recipe=str(new_path))
    assert found["coverage"]["covered_50"] < 0.2
    assert after["coverage"] == found["suggested_coverage"]
    assert after["coverage"]["covered_50"] > 0.9
    assert after["suggestions"] == []


def test_a_config_that_fits_stays_as_it_is(tmp_path, run):
    squares = [[4, 4, 20, 20], [56, 88, 88, 120], [48, 48, 112, 112]]  # where anchors are
    new_path = tmp_path / "new.config"
    arguments = write_records(tmp_path, [(160, 160, squares, [1, 2, 3])] * 4)
    override = ["--config_override", "train_config.batch_size=1"]
    printed, found = run(tmp_path, *arguments, *override, "--write", str(new_path))
    assert found["coverage"]["covered_70"] == 1.0
    assert found["suggestions"] == [] and found["suggested_coverage"] is None
    assert "none: anchors, max_number_of_boxes and batch_size fit" in printed
    assert config_lib.load_config(str(new_path)).train_config.batch_size == 1  # the overrides are written


def test_all_objects_of_a_data_set_are_counted(tmp_path, run, shapes_arguments, shapes_data):
    _, found = run(tmp_path, *shapes_arguments)
    with open(shapes_data.train_annotations) as file:
        annotations = json.load(file)["annotations"]
    assert found["num_images"] == found["num_records"] == 8
    assert found["num_crowds"] == sum(each["iscrowd"] for each in annotations)
    assert found["num_boxes"] + found["num_crowds"] == len(annotations)


@pytest.mark.parametrize("recipe", [RETINANET, RECIPE, MASKS])
def test_the_page_stands_alone(tmp_path, run, shapes_arguments, recipe):
    path = tmp_path / "page.html"
    run(tmp_path, *shapes_arguments, "--html", str(path), "--num_pictures", "5", recipe=recipe)
    text = path.read_text()
    page = Page(text)
    assert not page.open
    assert page.ids == ["summary", "suggestions", "look", "classes", "sizes", "anchors", "pictures"]
    assert page.tags.count("img") == 5 == len(page.links)
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags) and "http" not in text and "url(" not in text
    assert page.tags.count("svg") == 8
    for word in ("circle", "square", "triangle", "P3"):
        assert word in text
    again = tmp_path / "again.html"
    run(tmp_path, *shapes_arguments, "--html", str(again), "--num_pictures", "5", recipe=recipe)
    assert again.read_text() == text


def test_masks_are_drawn_in_their_frames():
    image = np.zeros([100, 200, 3], np.float32)
    boxes = Boxes(np.array([[0.2, 0.1, 0.8, 0.5]]), np.array([0]))
    shares = np.zeros([1, 4, 4], np.uint8)
    shares[:, :, :2] = 255  # the left half of the box
    masks = pictures.Masks(shares, np.array([[20.0, 20.0, 80.0, 100.0]]))
    file = pictures.draw_picture(image, boxes, {0: "cat"}, masks)
    pixels = np.asarray(Image.open(io.BytesIO(file)), np.int64).sum(axis=-1)
    height, width = pixels.shape  # 2.1 times the batch's
    assert pixels[height // 2, round(0.2 * width)] > 50 > pixels[height // 2, round(0.4 * width)]


def test_names_are_escaped(tmp_path, run):
    path = tmp_path / "page.html"
    arguments = write_records(
        tmp_path, [(64, 64, [[0, 0, 20, 20]], [1])], names=("<script>alert(1)</script>", "[red]b", "c & d")
    )
    printed, _ = run(tmp_path, *arguments, "--html", str(path), "--num_pictures", "0")
    assert "[red]b" in printed
    text = path.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "c &amp; d" in text


def test_a_sample_is_spread_over_the_records(tmp_path, run):
    images = [(20 + number, 40, [[0, 0, 10, 10]], [1]) for number in range(10)]
    printed, found = run(tmp_path, *write_records(tmp_path, images), "--max_images", "3")
    assert (found["num_images"], found["num_records"]) == (3, 10)
    assert found["image_heights"]["quantiles"][0] == 20 and found["image_heights"]["quantiles"][-1] == 28
    assert "3 of 10 images" in printed
    assert all(each["what"] != "max_number_of_boxes" for each in found["suggestions"])  # others may have more


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--max_images", "0"], "--max_images = 0 is not allowed. Allowed: 1 and above."),
        (["--num_pictures", "-1"], "--num_pictures = -1 is not allowed. Allowed: 0 and above."),
        (["--html", ""], '--html = "" is no path of a file.'),
        (["--json", "FOLDER"], "is no path of a file."),
        (["--json", "FOLDER/train.tfrecord/a.json"], "is a file, where a folder is needed"),
        (["--json", "FOLDER/a", "--html", "FOLDER/a"], "name one file twice"),
        (["--config_override", "train_input_reader.label_map_path='no.pbtxt'"], "train_input_reader.label_map_path"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, capsys, arguments, text):
    data = write_records(tmp_path, [(32, 32, [], [])])
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    assert cli.main(["inspect", RECIPE, *data, *arguments]) == 2
    assert text in capsys.readouterr().err


def test_the_config_itself_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "my.config"
    with open(recipes.recipe_path(RECIPE)) as file:
        path.write_text(file.read())
    assert cli.main(["inspect", str(path), "--write", str(path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_missing_records_are_refused_and_a_missing_checkpoint_is_not(tmp_path, capsys):
    assert cli.main(["inspect", RECIPE]) == 2
    assert "demo_output/data/train-*.tfrecord" in capsys.readouterr().err
    arguments = write_records(tmp_path, [(64, 64, [[0, 0, 20, 20]], [1])])
    override = "train_config.fine_tune_checkpoint='nowhere/ckpt-0'"
    assert cli.main(["inspect", RECIPE, *arguments, "--config_override", override]) == 0


def test_a_record_that_does_not_decode_is_named(tmp_path, capsys):
    arguments = write_records(tmp_path, [(32, 32, [], [])])
    with tf.io.TFRecordWriter(str(tmp_path / "train.tfrecord")) as writer:
        writer.write(b"no example")
    assert cli.main(["inspect", RECIPE, *arguments]) == 1
    assert f"{tmp_path}/train.tfrecord" in capsys.readouterr().err


def test_it_runs_as_a_process(tmp_path, shapes_arguments):
    command = [sys.executable, "-m", "object_detection_fpn.cli", "inspect", RECIPE, *shapes_arguments]
    paths = [str(tmp_path / name) for name in ("a.html", "a.json", "a.config")]
    flags = ["--html", paths[0], "--json", paths[1], "--write", paths[2]]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "Anchors of the config" in done.stdout and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.config", "a.html", "a.json"]
