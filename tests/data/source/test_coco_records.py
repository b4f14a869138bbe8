"""`coco_input_reader`: what training gets of a COCO file is what it gets of the records that `odfpn convert` writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from object_detection_fpn import builder
from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import label_map as label_map_lib
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.config.pipeline import ConfigError
from object_detection_fpn.data import failures
from object_detection_fpn.data.source import service
from object_detection_fpn.interop import label_maps
from object_detection_fpn.tools.convert import coco

MASKS = "mask_rcnn_resnet18_fpn_recipe_shapes_160x160"
CHANGES = [
    "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.min_dimension=32",
    "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension=32",
    "train_config.batch_size=2",
    "eval_config.batch_size=2",
]
SQUARE = [4, 4, 24, 4, 24, 20, 4, 20]


def write_source(folder, num_images=5, **more) -> str:
    """Photographs of noise, one of which is turned and one a WebP, with a square, a crowd and an empty image."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(num_images):
        picture, exif = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)), Image.Exif()
        name, size = f"{i}.jpg", picture.size
        if i == 1:
            exif[274], size = 6, (30, 40)
        if i == 2:
            name = "2.webp"
        picture.save(folder / name, exif=exif)
        images.append({"id": 10 + i, "file_name": name, "width": size[0], "height": size[1]})
        if i == 3:
            continue
        row = {"image_id": 10 + i, "bbox": [4, 4, 20, 16], "segmentation": [SQUARE]}
        annotations += [row | {"category_id": 2}, row | {"category_id": 3, "iscrowd": int(i == 0)}]
        annotations.append(row | {"category_id": 2, "bbox": [100, 4, 5, 5]})  # outside
    annotations = [{"id": i} | row for i, row in enumerate(annotations, start=1)]
    categories = [{"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories} | more))
    return str(path)


def configs(folder, path, recipe=MASKS, *changes):
    """Of one source: the config that names the COCO file, and the one of its records."""
    written = coco.coco_to_tfrecords(
        path, str(folder), str(folder / "records"), label_map_path=str(folder / "map.pbtxt"), show_progress=False
    )
    messages = []
    for is_coco in (True, False):
        message = config_lib.load_config(recipes.recipe_path(recipe), [*CHANGES, *changes])
        for reader in (message.train_input_reader, message.eval_input_reader[0]):
            reader.ClearField("tf_record_input_reader")
            if is_coco:
                reader.ClearField("label_map_path")
                reader.coco_input_reader.annotations_path = path
            else:
                reader.label_map_path = written.label_map_path
                reader.tf_record_input_reader.input_path.append(written.record_pattern)
        messages.append(message)
    return messages


def batches(message, *, is_training, number=4, **settings):
    reader = message.train_input_reader if is_training else message.eval_input_reader[0]
    label_map = label_map_lib.reader_label_map(reader)
    made = builder.build_dataset(
        message, reader, label_map=label_map, batch_size=2, is_training=is_training, seed=3, **settings
    )
    # Keys are of the files.
    found = [tf.nest.flatten(batch._replace(record_keys=None)) for batch in made.take(number)]
    return [[np.asarray(leaf) for leaf in batch if leaf is not None] for batch in found]


def assert_equal(first, second):
    assert len(first) == len(second) > 1
    for one, two in zip(first, second, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_batches_are_those_of_the_converted_records(tmp_path):
    own, other = configs(tmp_path, write_source(tmp_path))
    config_lib.check_config(own, "my.config", require_data="train")
    assert label_map_lib.reader_label_map(own.train_input_reader) == label_map_lib.reader_label_map(
        other.train_input_reader
    )
    for is_training in (True, False):
        assert_equal(batches(own, is_training=is_training), batches(other, is_training=is_training))
    for shard in (0, 1):  # of two workers
        context = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=shard, num_replicas_in_sync=2)
        made = [batches(each, is_training=True, input_context=context) for each in (own, other)]
        assert_equal(*made)


def test_the_classes_of_a_checkpoint_are_found(tmp_path):
    own, _ = configs(tmp_path, write_source(tmp_path))
    (tmp_path / "map.pbtxt").unlink()
    config_lib.save_config(own, str(tmp_path / "model" / "pipeline.config"))
    found = label_maps.find_label_map(str(tmp_path / "model" / "ckpt-1"))
    assert found is not None and found.name_to_id == {"cat": 2, "dog": 3}


def test_a_data_service_makes_the_batches(tmp_path):
    own, _ = configs(tmp_path, write_source(tmp_path))
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    worker = tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
    )
    found = batches(own, is_training=True, number=2, service=service.DataService(address, "job"))
    assert len(found) == 2
    del worker


@pytest.mark.parametrize(
    "change, message",
    [
        ({"categories": [{"id": 0, "name": "cat"}]}, r"category id 0 is below 1, .*renumber_classes: true numbers"),
        ({"images": [{"id": 1, "file_name": None}]}, r"image 1 has file_name null"),
        ({"annotations": [{"image_id": 99, "category_id": 2}]}, r"is of image id 99, which is not among the images"),
    ],
)
def test_files_that_convert_refuses_are_refused_by_field(tmp_path, change, message):
    config = config_lib.load_config(recipes.recipe_path(MASKS), CHANGES)
    config.train_input_reader.ClearField("label_map_path")
    config.train_input_reader.coco_input_reader.annotations_path = write_source(tmp_path, **change)
    with pytest.raises(ConfigError, match=message) as raised:
        config_lib.check_config(config, "my.config", require_data="train")
    assert str(raised.value).startswith("my.config: train_input_reader.coco_input_reader.annotations_path = ")
    config.train_input_reader.coco_input_reader.annotations_path = str(tmp_path / "none.json")
    config.train_input_reader.coco_input_reader.image_dir = str(tmp_path / "none")
    with pytest.raises(ConfigError) as raised:
        config_lib.check_config(config, "my.config", require_data="train")
    places = {each.field for each in (raised.value, *raised.value.others)}
    assert {f"train_input_reader.coco_input_reader.{name}" for name in ("annotations_path", "image_dir")} <= places


def test_images_that_cannot_be_used_are_named(tmp_path):
    own, _ = configs(tmp_path, write_source(tmp_path))
    (tmp_path / "4.jpg").write_bytes((tmp_path / "4.jpg").read_bytes()[:-300])  # noticed where it is decoded
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        batches(own, is_training=False)
    assert "4.jpg" in failures.error_message(raised.value) and "does not decode" in str(raised.value)
    (tmp_path / "4.jpg").unlink()
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        batches(own, is_training=False)
    assert "train.json, record 4 (source_id 14)" in failures.error_message(raised.value)
    assert "cannot be read" in failures.error_message(raised.value)
    path = write_source(tmp_path)
    (tmp_path / "4.jpg").unlink()
    own.train_input_reader.coco_input_reader.annotations_path = path
    with pytest.raises(failures.DataError, match=r"image 14 names .*4.jpg, which does not exist"):
        batches(own, is_training=True)


def test_what_only_records_hold_is_refused():
    config = config_lib.load_config(recipes.recipe_path(MASKS), CHANGES)
    reader = config.train_input_reader
    reader.coco_input_reader.annotations_path = "train.json"
    reader.cache = reader.MEMORY
    with pytest.raises(ConfigError, match=r"cache = MEMORY keeps nothing of images that are files of their own"):
        config_lib.check_config(config, "my.config")


def test_inspect_reads_a_coco_file(tmp_path):
    own, _ = configs(tmp_path, write_source(tmp_path))
    config_lib.save_config(own, str(tmp_path / "my.config"))
    html, found = tmp_path / "page.html", tmp_path / "found.json"
    outputs = ["--html", str(html), "--num_pictures", "2", "--json", str(found)]
    assert cli.main(["inspect", str(tmp_path / "my.config"), *outputs]) == 0
    assert json.loads(found.read_text())["num_images"] == 5 and "data:image/jpeg" in html.read_text()
