"""`data/report.py`: counts, and what is logged of them."""

from __future__ import annotations

import threading

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
