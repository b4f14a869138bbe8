"""`benchmarks/small_data.py`: its rows are configs that load, its results are kept, its photographs are read right."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from object_detection_fpn.config import label_map, pipeline, tables

XML = """<annotation>
  <filename>other.png</filename>
  <size><width>64</width><height>48</height><depth>3</depth></size>
  <object>
    <name>RBC</name>
    <bndbox><xmin>10</xmin><ymin>4</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>
  </object>
  <object>
    <name>Platelets</name>
    <bndbox><xmin>50</xmin><ymin>40.5</ymin><xmax>64</xmax><ymax>48</ymax></bndbox>
  </object>
  <object>
    <name>RBC</name>
    <bndbox><xmin>5</xmin><ymin>6</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>
  </object>
</annotation>
"""


@pytest.fixture(scope="module")
def small_data(import_benchmark):
    return import_benchmark("small_data")


@pytest.fixture(scope="module")
def voc(import_benchmark):
    return import_benchmark("_voc")


@pytest.fixture
def bccd(tmp_path):
    """A folder like BCCD_Dataset with two photographs in each list, the second of which shows nothing."""
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / "BCCD" / name).mkdir(parents=True)
    for split, names in {"train": ("a", "b"), "test": ("c", "d")}.items():
        (tmp_path / "BCCD" / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name, text in zip(names, (XML, XML.partition("<object>")[0] + "</annotation>"), strict=True):
            (tmp_path / "BCCD" / "Annotations" / f"{name}.xml").write_text(text)
            Image.new("RGB", (64, 48)).save(tmp_path / "BCCD" / "JPEGImages" / f"{name}.jpg")
    return tmp_path / "BCCD"


ROWS = (
    "api", "recipe", "roi", "rpn", "fpn", "losses", "giou", "shared_boxes", "box_head", "jitter", "multi_scale",
    "pyramid", "one_level", "retinanet", "eight_images", "custom_backbone",
)  # fmt: skip


def test_these_are_all_rows(small_data):
    assert set(ROWS) == set(small_data.ROWS) == {name for names in small_data.COMMANDS.values() for name in names}


@pytest.mark.parametrize("row", ROWS)
def test_the_config_of_every_row_loads(small_data, root_dir, monkeypatch, tmp_path, row):
    monkeypatch.setattr(tables, "EXTRACTOR_TYPES", (*tables.EXTRACTOR_TYPES, "faster_rcnn_six_blocks_fpn_keras"))
    config = small_data.with_data(small_data.compose(row), small_data.Data("map", "train", "eval"))
    path = str(tmp_path / "row.config")
    pipeline.save_config(config, path)
    loaded = pipeline.load_config(path)
    assert loaded == config
    schedule = loaded.train_config.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate
    assert loaded.train_config.num_steps == schedule.total_steps
    assert list(loaded.eval_input_reader[0].tf_record_input_reader.input_path) == ["eval"]


def test_api_row_has_no_field_of_this_package(small_data):
    def fields(message):
        for field, value in message.ListFields():
            yield field.number, field.full_name
            values = value if isinstance(value, list) or hasattr(value, "add") else [value]
            for each in values:
                if hasattr(each, "ListFields"):
                    yield from fields(each)

    assert [name for number, name in fields(small_data.compose("api")) if number >= 500] == []


def test_the_recipe_is_its_parts_together(small_data):
    recipe = small_data.compose("recipe")
    merged = small_data.compose("api")
    for name in small_data.ROWS["recipe"]:
        part = small_data.compose(name)
        assert part != small_data.compose("api"), name
        merged.model.MergeFrom(part.model)
    assert {field.name for field, _ in merged.model.faster_rcnn.ListFields()} == {
        field.name for field, _ in recipe.model.faster_rcnn.ListFields()
    }


def test_a_part_adds_its_augmentation(small_data):
    kinds = [
        option.WhichOneof("preprocessing_step")
        for option in small_data.compose("jitter").train_config.data_augmentation_options
    ]
    assert kinds == ["random_horizontal_flip", "random_scale_crop_and_pad_to_square"]


def test_eight_images_are_seen_as_they_are(small_data):
    assert not small_data.compose("eight_images").train_config.data_augmentation_options


def test_fewer_steps_have_a_schedule_of_the_same_shape(small_data):
    settings = small_data.compose("api", num_steps=80).train_config
    schedule = settings.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate
    assert (settings.num_steps, schedule.total_steps, schedule.warmup_steps) == (80, 80, 10)


def test_boxes_of_voc_become_those_of_coco(voc, bccd):
    found = voc.read_voc(bccd, "train", ("RBC", "WBC", "Platelets"))
    assert found["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48},
        {"id": 2, "file_name": "b.jpg", "width": 64, "height": 48},
    ]
    assert [(row["image_id"], row["category_id"], row["bbox"], row["area"]) for row in found["annotations"]] == [
        (1, 1, [10, 4, 20, 16], 320),
        (1, 3, [50, 40.5, 14, 7.5], 105),
        (1, 1, [5, 6, 0, 0], 0),
    ]
    assert [category["name"] for category in found["categories"]] == ["RBC", "WBC", "Platelets"]


@pytest.mark.parametrize(
    "path, text, words",
    [
        (
            "Annotations/a.xml",
            XML.replace("RBC", "rbc"),
            r'a\.xml: object "rbc" is unknown. Allowed: RBC, WBC, Platelets',
        ),
        ("Annotations/a.xml", XML.replace("xmin", "left"), r"a\.xml: object has no bndbox/xmin"),
        ("Annotations/a.xml", XML.replace(">10<", ">ten<"), r'a\.xml: bndbox/xmin of object = "ten" is no number'),
        ("Annotations/a.xml", XML[:-9], r"a\.xml: is no XML"),
        ("ImageSets/Main/train.txt", "z", r"z\.xml: cannot be read"),
    ],
)
def test_a_mistake_in_the_files_is_named(voc, bccd, path, text, words):
    (bccd / path).write_text(text)
    with pytest.raises(ValueError, match=words):
        voc.read_voc(bccd, "train", ("RBC", "WBC", "Platelets"))


def test_photographs_become_records_without_boxes_that_have_no_area(small_data, bccd, tmp_path, capsys):
    data = small_data.convert_bccd(bccd, tmp_path / "data")
    assert capsys.readouterr().err.count("Wrote 2 images with 2 boxes") == 2
    names = label_map.load_label_map(data.label_map).categories
    assert [row["name"] for row in names] == ["RBC", "WBC", "Platelets"]
    assert "train" in data.train_records and "test" in data.eval_records


def test_a_measured_row_is_kept_and_not_measured_again(small_data, tmp_path, monkeypatch):
    measured = []

    def run_own(words):
        measured.append(json.loads(words[-1])["config_path"].rpartition("/")[2])
        return {"AP": 50.0}

    monkeypatch.setattr(small_data._common, "run_own", run_own)
    monkeypatch.setattr(small_data, "prepare_data", lambda _: ("shapes", small_data.Data("map", "train", "eval")))
    words = ["groups", "--output", str(tmp_path), "--rows", "api", "roi", "--seeds", "0"]
    rows = small_data.measure_rows(small_data.parse_arguments(words))
    assert measured == ["api_0.config", "roi_0.config"]
    assert small_data.measure_rows(small_data.parse_arguments(words)) == rows
    assert len(measured) == 2
    small_data.measure_rows(small_data.parse_arguments([*words, "--again", "--num_steps", "5"]))
    small_data.measure_rows(small_data.parse_arguments([*words, "--again"]))
    assert len(measured) == 6
    stored = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert sorted(row["row"] for row in stored) == ["api", "api", "roi", "roi"]  # those of 5 steps stay beside


def test_tables_give_means_and_gains_and_plots_are_drawn(small_data, tmp_path):
    def row(name, seed, ap):
        values = {"AP50": 80.0, "small": 20.0, "medium": 40.0, "large": None}
        losses = {"Loss/total_loss": [[1, 2.0], [10, 1.0]]}
        minutes = {"train_minutes": 5.0, "evaluation_minutes": 1.0}
        return {"row": name, "seed": seed, "AP": ap, **values, "classes": {"RBC": ap}, **minutes, "losses": losses}

    rows = [row("api", 0, 40.0), row("recipe", 0, 46.0), row("api", 1, 42.0), row("recipe", 1, 47.0)]
    summary = small_data._rows.summarize(rows)
    assert {name: values["AP"] for name, values in summary.items()} == {"api": 41, "recipe": 46.5, "recipe - api": 5.5}
    lines = small_data._rows.table(summary).splitlines()
    assert lines[0] == "| row | AP | AP50 | small | medium | large | RBC | minutes |"
    assert lines[2].startswith("| api | 41.0 | 80.0 |")
    assert lines[4] == "| recipe - api | +5.5 | +0.0 | +0.0 | +0.0 |  | +5.5 | +0.0 |"
    for plot in (small_data._rows.plot_rows, small_data._rows.plot_losses):
        plot(rows, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as picture:
            assert picture.size == (750, 450)


@pytest.mark.parametrize(
    "words, problem",
    [
        ([], "a command"),
        (["recipe"], "--output are required"),
        (["recipe", "--output", "x", "--data", "bccd"], "needs --bccd DIR"),
        (["recipe", "--output", "x", "--num_steps", "0"], "--num_steps = 0 is not allowed"),
    ],
)
def test_what_is_missing_is_said(small_data, capsys, words, problem):
    with pytest.raises(SystemExit):
        small_data.parse_arguments(words)
    assert problem in capsys.readouterr().err


def test_seeds_are_those_of_the_command(small_data):
    for command, seeds in {"recipe": [0, 1, 2], "levels": [0, 1, 2], "groups": [0], "eight_images": [0]}.items():
        assert small_data.parse_arguments([command, "--output", "x"]).seeds == seeds
