"""Label maps: what is read, and what is refused."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.label_map import load_label_map
from object_detection_fpn.config.pipeline import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "label_map.pbtxt"
        path.write_text(text)
        return str(path)

    return write


def test_items_come_in_order_of_id(write):
    label_map = load_label_map(write('item { id: 2 name: "dog" } item { id: 1 name: "cat" display_name: "Cat" }'))
    assert label_map.categories == [{"id": 1, "name": "Cat"}, {"id": 2, "name": "dog"}]
    assert label_map.name_to_id == {"cat": 1, "dog": 2}


def test_frequencies_are_those_of_lvis(write):
    frequencies = ["", "frequency: RARE", "frequency: COMMON", "frequency: FREQUENT"]
    items = [f'item {{ id: {i} name: "{i}" {frequency} }}' for i, frequency in enumerate(frequencies, start=1)]
    categories = load_label_map(write("\n".join(items))).categories
    assert [category.get("frequency") for category in categories] == [None, "r", "c", "f"]


def test_text_labels_may_be_display_names(write):
    path = write('item { id: 1 name: "/m/01yrx" display_name: "Cat" } item { id: 2 name: "/m/0bt9lr" }')
    assert load_label_map(path, use_display_name=True).name_to_id == {"Cat": 1, "/m/0bt9lr": 2}
    assert load_label_map(path).name_to_id == {"/m/01yrx": 1, "/m/0bt9lr": 2}


def test_both_names_of_a_class_are_understood(write):
    path = write('item { id: 1 name: "/m/01yrx" display_name: "Cat" } item { id: 2 name: "/m/0bt9lr" }')
    expected = {"/m/01yrx": 1, "Cat": 1, "/m/0bt9lr": 2}
    assert load_label_map(path).label_to_id == expected
    assert load_label_map(path, use_display_name=True).label_to_id == expected


def test_a_text_that_names_two_classes_means_what_use_display_name_says(write):
    path = write('item { id: 1 name: "crane" display_name: "bird" } item { id: 2 name: "lift" display_name: "crane" }')
    assert load_label_map(path).label_to_id == {"crane": 1, "bird": 1, "lift": 2}
    assert load_label_map(path, use_display_name=True).label_to_id == {"crane": 2, "bird": 1, "lift": 2}


def test_a_display_name_of_two_classes_means_neither(write):
    path = write('item { id: 1 name: "a" display_name: "cat" } item { id: 2 name: "b" display_name: "cat" }')
    assert load_label_map(path).label_to_id == {"a": 1, "b": 2}


def test_hierarchy_relates_every_class_to_itself_its_ancestors_and_its_descendants(write):
    path = write(
        'item { id: 1 name: "cat" ancestor_ids: 4 ancestor_ids: 9 } item { id: 2 name: "dog" ancestor_ids: [4, 0] }'
        'item { id: 4 name: "animal" descendant_ids: [1, 2] }'
    )
    ancestors, descendants = load_label_map(path).hierarchy()
    assert ancestors.astype(int).tolist() == [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert descendants.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]]


def test_item_with_only_a_name_to_show_has_it_as_name(write):
    assert load_label_map(write('item { id: 1 display_name: "person" }')).name_to_id == {"person": 1}


def test_ids_may_have_gaps(write):
    assert load_label_map(write('item { id: 1 name: "person" } item { id: 90 name: "toothbrush" }')).max_id == 90


@pytest.mark.parametrize("name", ["background", "none_of_the_above"])
def test_background_is_no_class(write, name):
    label_map = load_label_map(write(f'item {{ id: 0 name: "{name}" }} item {{ id: 1 name: "cat" }}'))
    assert label_map.name_to_id == {"cat": 1}


def test_background_may_say_so_by_its_name_to_show(write):
    path = write('item { id: 0 name: "nothing" display_name: "background" } item { id: 1 name: "cat" }')
    assert load_label_map(path).name_to_id == {"cat": 1}


def test_items_of_one_id_are_names_of_one_class(write):
    """As `label_map_util`: every name is a label of records, the first is shown."""
    path = write(
        'item { id: 2 name: "/m/1" display_name: "Car" } item { id: 1 name: "cat" } item { id: 2 name: "/m/2" '
        'display_name: "Auto" ancestor_ids: 1 } item { id: 1 name: "cat" display_name: "Cat" }'
    )
    label_map = load_label_map(path)
    assert label_map.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "Car"}]
    assert label_map.name_to_id == {"/m/1": 2, "/m/2": 2, "cat": 1}
    assert label_map.label_to_id == {"/m/1": 2, "/m/2": 2, "cat": 1, "Car": 2, "Auto": 2, "Cat": 1}
    assert load_label_map(path, use_display_name=True).name_to_id == {"Car": 2, "Auto": 2, "cat": 1, "Cat": 1}
    assert label_map.max_id == 2
    ancestors, _ = label_map.hierarchy()
    assert ancestors.tolist() == [[True, False], [True, True]]


def test_relations_have_the_classes_of_the_model(write):
    label_map = load_label_map(write('item { id: 1 name: "a" } item { id: 3 name: "b" ancestor_ids: 1 }'))
    assert [relation.shape for relation in label_map.hierarchy(5)] == [(5, 5)] * 2
    assert label_map.hierarchy(5)[0][2, 0]
    assert label_map.hierarchy(2)[0].tolist() == [[True, False], [False, True]]


def test_label_map_is_frozen(write):
    label_map = load_label_map(write('item { id: 1 name: "cat" }'))
    with pytest.raises(AttributeError):
        label_map.items = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "label_map.pbtxt: names no class. Allowed: at least one item"),
        ('item { id: 0 name: "background" }', "names no class"),
        (
            'item { id: 1 nme: "cat" }',
            r'label_map.pbtxt:1: StringIntLabelMapItem has no field "nme" \(nearest: "name"\)',
        ),
        ('item {\n id: one\n name: "cat" }', "label_map.pbtxt:2: Couldn't parse integer: one"),
        ('item { id: 0 name: "cat" }', r'item\[0\].id = 0 \("cat"\) is the id of the background. Allowed: 1 or more'),
        ('item { name: "cat" }', r'item\[0\].id of "cat" is not set. Allowed: 1 or more'),
        (
            'item { id: 1 name: "cat" } item { id: -1 name: "dog" }',
            r"item\[1\].id = -1 is negative. Allowed: 1 or more",
        ),
        ("item { id: 7 }", r"item\[0\] \(id 7\) has no name. Allowed: a unique text"),
        (
            'item { id: 1 name: "cat" } item { id: 2 name: "cat" }',
            r'name "cat" stands twice, in item\[0\] and item\[1\]',
        ),
    ],
)
def test_label_map_is_refused(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_label_map(write(text))


def test_display_name_of_two_classes_is_refused_where_it_is_the_label(write):
    path = write('item { id: 1 name: "a" display_name: "cat" } item { id: 2 name: "b" display_name: "cat" }')
    assert load_label_map(path).name_to_id == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match='display_name "cat" stands twice'):
        load_label_map(path, use_display_name=True)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.pbtxt: there is no such file"):
        load_label_map(str(tmp_path / "absent.pbtxt"))


def test_binary_file_is_refused(tmp_path):
    (tmp_path / "records").write_bytes(b"\x00\x81")
    with pytest.raises(ConfigError, match=r"records: is a binary file, not text"):
        load_label_map(str(tmp_path / "records"))


def test_each_class_of_a_model_has_all_its_names(write):
    items = 'item { id: 1 name: "a" display_name: "cat" } item { id: 3 name: "b" } item { id: 3 name: "c" }'
    label_map = load_label_map(write(items))
    assert label_map.class_names() == [("a", "cat"), (), ("b", "c")]
    assert label_map.class_names(1) == [("a", "cat")]
    assert label_map.class_names(4) == [("a", "cat"), (), ("b", "c"), ()]
    assert load_label_map(write(items), use_display_name=True).class_names(1) == [("cat", "a")]
