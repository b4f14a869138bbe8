"""`data/report.py`: counts, and what is logged of them."""

from __future__ import annotations

import threading

import pytest
from absl import logging

from object_detection_fpn.data.report import DataReport, Notice


def test_boxes_are_counted_by_notice_and_clipped_ones_are_not_dropped():
    report = DataReport()
    report.add(Notice.INVERTED, 2, "a, record 0")
    report.add(Notice.INVERTED, 1, "a, record 1")
    report.add(Notice.CLIPPED, 4, "a, record 2")
    report.add(Notice.EMPTY, 0, "a, record 3")
    assert report.counts[Notice.INVERTED] == 3
    assert report.counts[Notice.EMPTY] == 0
    assert report.num_dropped == 3
    assert report.summary().splitlines() == [
        "4 boxes clipped: reaches beyond the image",
        "3 boxes dropped: inverted (ymin > ymax or xmin > xmax)",
    ]


def test_clean_data_have_an_empty_summary():
    assert DataReport().summary() == ""


def test_first_boxes_are_logged_in_full_then_one_line_for_each_power_of_ten(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    report = DataReport()
    for i in range(120):
        report.add(Notice.EMPTY, 1, f"file, record {i}")
    assert lines[:5] == [f"file, record {i}: 1 box dropped: no height or no width" for i in range(5)]
    assert [line.split(" so far")[0] for line in lines[5:]] == ["10 boxes", "100 boxes"]


def test_counts_are_exact_when_threads_add_at_the_same_time():
    report = DataReport()
    threads = [
        threading.Thread(target=lambda: [report.add(Notice.OUTSIDE, 1, "r") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert report.counts[Notice.OUTSIDE] == 2000


@pytest.fixture
def lines(monkeypatch):
    """What is logged."""
    found: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: found.append(text % values))
    return found


def test_shares_and_first_values_are_told(lines):
    report = DataReport()
    report.add(Notice.INVERTED, 1, "a, record 0", num_boxes=4, value="0.5, 0.1, 0.25, 0.75")
    report.add(Notice.INVERTED, 2, "a, record 1", num_boxes=2, value="0.5, 0.5, 0.1, 0.1")
    assert lines[0] == (
        "a, record 0: 1 box dropped: inverted (ymin > ymax or xmin > xmax); "
        "first (ymin, xmin, ymax, xmax) = (0.5, 0.1, 0.25, 0.75)."
    )
    assert report.summary() == (
        "3 of 6 boxes (50%) in 2 images dropped: inverted (ymin > ymax or xmin > xmax); "
        "first (ymin, xmin, ymax, xmax) = (0.5, 0.1, 0.25, 0.75) in a, record 0."
    )


@pytest.mark.parametrize(
    "notice, value, cause",
    [
        (Notice.OUTSIDE, "12, 8, 100, 90", "seem to be pixels"),
        (Notice.CLIPPED, "0, 0, 100, 90", "seem to be pixels"),
        (Notice.INVERTED, "300, 0, 100, 90", "seem to be pixels"),
        (Notice.CLIPPED, "-0.5, 0, 1.5, 0.5", None),
        (Notice.NOT_FINITE, "nan, inf, 0.5, 0.5", None),
        (Notice.NOT_FINITE, "nan, 70, 80, 90", "seem to be pixels"),
        (Notice.UNKNOWN_CLASS, "Cat", "The label map has 'cat': names must be equal in every letter."),
        (Notice.UNKNOWN_CLASS, "cat ", "The label map has 'cat': names must be equal in every letter."),
        (
            Notice.UNKNOWN_CLASS,
            "traffic-light",
            "The label map has 'traffic light': names must be equal in every letter.",
        ),
        (Notice.UNKNOWN_CLASS, "cow", "The label map has 'cat', 'traffic light'."),
    ],
)
def test_the_likely_cause_is_told(lines, notice, value, cause):
    report = DataReport(["cat", "traffic light"])
    report.add(notice, 1, "a, record 0", num_boxes=1, value=value)
    for text in (lines[0], report.summary()):
        assert ("seem to be" in text or "label map has" in text) == (cause is not None)
        assert (cause or "") in text


def test_rotated_images_are_told_once_and_counted(lines):
    report = DataReport()
    for i in range(150):
        report.add(Notice.ROTATED, 1, f"a, record {i}", num_boxes=0)
    assert len(lines) == 1 and lines[0].startswith("a, record 0: 1 image whose EXIF orientation asks for a turn")
    assert report.summary().startswith(
        "150 images whose EXIF orientation asks for a turn: pixels are used as they are stored"
    )
    assert report.num_dropped == 0


def test_messages_name_the_field_as_configs_do():
    report = DataReport()
    report.add(Notice.TOO_MANY, 1, "a")
    assert "more boxes in the image than max_number_of_boxes" in report.summary()
