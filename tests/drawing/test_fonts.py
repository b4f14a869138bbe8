"""Fonts: the first that has the letters; what happens where none has."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.drawing import boxes, fonts


@pytest.fixture
def fresh(monkeypatch):
    """Nothing found or warned of before, nor kept after."""

    def clear():
        for cached in (fonts._path_for, fonts._font_files):
            cached.cache_clear()

    clear()
    monkeypatch.setattr(boxes, "_warned_of_letters", [])
    yield
    clear()


@pytest.fixture
def no_fonts(monkeypatch, fresh):
    """A machine without any font but Pillow's own."""
    monkeypatch.setattr(fonts, "_walk_fonts", lambda: iter(()))


@pytest.fixture
def one_font(monkeypatch, fresh):
    """A machine with the fonts of matplotlib alone, and one file that is no font."""
    folder = pytest.importorskip("matplotlib").get_data_path() + "/fonts/ttf"
    names = ("broken.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "LastResortHE-Regular.ttf")
    found = [(folder, name) for name in names if fonts._is_font(name)]
    monkeypatch.setattr(fonts, "_walk_fonts", lambda: iter(found))


def test_english_names_keep_pillows_own_font(no_fonts):
    for name in ("circle", "T-shirt (red)", "50 %"):
        assert fonts.font_for(name, 20) is fonts.load_font(20)


@pytest.mark.parametrize("name", ["кошка и собака", "قطة", "Ελλάδα", "חתול", "Ñandú", "Việt"])
def test_a_font_is_found_that_has_every_letter(one_font, name):
    font = fonts.font_for(name, 20)
    assert font.path.endswith("DejaVuSans.ttf") and font.size == 20
    assert fonts._has(font, name.replace(" ", "")) and not fonts._has(fonts.load_font(20), name.replace(" ", ""))


def test_a_font_of_placeholders_is_none(one_font):
    assert fonts.font_for("猫", 20) is None  # LastResort would draw one sign for all Chinese


def test_text_from_right_to_left_needs_raqm(one_font, monkeypatch):
    monkeypatch.setattr(fonts.features, "check", lambda name: False)
    assert fonts.font_for("قطة", 20) is None
    assert fonts.font_for("кошка", 20) is not None


def draw(names):
    found = boxes.Boxes(np.array([[0.4, 0.1, 0.9, 0.9]], np.float32), np.array([0]), scores=np.array([0.9]))
    return boxes.draw_boxes(np.full((100, 200, 3), 120, np.uint8), found, names=names)


def test_names_that_no_font_has_are_drawn_as_ids_with_one_warning(no_fonts, caplog):
    np.testing.assert_array_equal(draw({0: "猫"}), draw({}))
    draw({0: "犬"})
    assert caplog.text.count("No font of this machine") == 1
    assert 'the letters of "猫", which is drawn as "id 1"' in caplog.text


def test_names_of_several_lines_are_drawn_in_one():
    np.testing.assert_array_equal(draw({0: "new\nline\t"}), draw({0: "new line"}))
