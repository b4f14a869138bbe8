"""The label maps in configs/label_maps."""

from __future__ import annotations

import pytest

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.config.label_map import load_label_map


def test_label_maps_of_coco_name_the_same_classes_in_the_same_order():
    gaps, contiguous = map(load_label_map, ("coco_label_map.pbtxt", "coco_contiguous_label_map.pbtxt"))
    assert [item.name for item in gaps.items] == [item.name for item in contiguous.items]
    assert [item.id for item in contiguous.items] == list(range(1, 81))
    assert set(range(1, 91)) - {item.id for item in gaps.items} == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert [gaps.name_to_id[name] for name in ("person", "stop sign", "tv", "toothbrush")] == [1, 13, 72, 90]


@pytest.mark.parametrize("name", [name for name in recipes.recipes() if "torchvision" in name or "detectron2" in name])
def test_imported_recipe_has_as_many_classes_as_its_label_map(name):
    message = config.load_config(recipes.recipe_path(name))
    for reader in (message.train_input_reader, *message.eval_input_reader):
        assert load_label_map(reader.label_map_path).max_id == model_config.num_classes(message.model)
