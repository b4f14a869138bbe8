"""Whatever a label map says, it is refused in words, or names classes."""

from __future__ import annotations

from fuzz_support import cases, changed_text
from hypothesis import example, given

from object_detection_fpn.config.label_map import load_label_map
from object_detection_fpn.config.text import ConfigError

LABEL_MAPS = (
    'item { id: 1 name: "cat" display_name: "Cat" }\nitem { id: 2 name: "dog" }\n',
    "item {\n  name: '/m/01g317'\n  id: 7\n  display_name: 'person'\n  ancestor_ids: [7, 3]\n  frequency: RARE\n}\n",
    'item { id: 0 name: "background" }\nitem { id: 1 name: "a" }\nitem { id: 1 name: "b" }\n# the end\n',
)


@cases(60)
@given(data=changed_text(LABEL_MAPS))
@example(data=b"")
@example(data=b"item { id: 2147483647 name: 'x' }")
@example(data=b'["cat", "dog"]')
@example(data=b"item { ': '/m/01g317'\n id: 7 }")
def test_label_map_is_refused_in_words_or_names_classes(data, tmp_path_factory, no_hang):
    no_hang()
    path = tmp_path_factory.getbasetemp() / "fuzzed.pbtxt"
    path.write_bytes(data)
    try:
        labels = load_label_map(str(path))
    except ConfigError as error:
        assert str(error).startswith(str(path)), error
        assert len(error.problem) > 3
        return
    assert labels.categories and labels.name_to_id
    assert all(1 <= id <= labels.max_id for id in labels.label_to_id.values())
