"""The page in a real browser: it opens without an error, filters by class, and shows and hides boxes and masks.

Collected only where `chromium` and `chromedriver` are on the PATH (Debian: apt install chromium chromium-driver): a browser is
no Python package. The structure of the page is tested everywhere, in `test_page.py`.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from object_detection_fpn.tools.report.analysis import analyse
from object_detection_fpn.tools.report.page import make_page

MAX_PAGE = 30e6
ARGUMENTS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,1000",
)  # fmt: skip


class Browser:
    """As much of the WebDriver protocol (https://www.w3.org/TR/webdriver2/) as these tests need."""

    def __init__(self, address: str, profile: str):
        self._address = address
        options = {"args": [f"--{argument}" for argument in (*ARGUMENTS, f"user-data-dir={profile}")]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.send("/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{session['sessionId']}"

    def send(self, path, body=None, method="POST"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        self.send(f"{self._session}/url", {"url": path.as_uri()})

    def run(self, script):
        """The value of a JavaScript expression."""
        return self.send(f"{self._session}/execute/sync", {"script": f"return {script}", "args": []})

    def choose(self, name, value):
        """Sets a field of the page as a user does."""
        self.run(
            f"(() => {{ const field = document.getElementById('{name}');"
            f" if (field.type === 'checkbox') field.checked = {json.dumps(value)}; else field.value = {json.dumps(value)};"
            " for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, { bubbles: true })); })()"
        )

    def errors(self):
        """What the console said since it was last asked."""
        return [entry["message"] for entry in self.send(f"{self._session}/se/log", {"type": "browser"})]

    def close(self):
        self.send(self._session, method="DELETE")


@pytest.fixture(scope="module")
def browser(free_addresses, tmp_path_factory):
    (address,) = free_addresses(1)
    log = tmp_path_factory.mktemp("chromedriver") / "log"
    with log.open("w") as output:
        driver = subprocess.Popen(["chromedriver", f"--port={address.split(':')[1]}"], stdout=output, stderr=output)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                browser = Browser(f"http://{address}", str(tmp_path_factory.mktemp("profile")))
                break
            except urllib.error.URLError:
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        yield browser
        browser.close()
    finally:
        driver.terminate()
        driver.wait()


def write(folder, found):
    path = folder / "report.html"
    path.write_text(make_page("Report", {**found.content, "model": "m", "data": "d"}, found.examples))
    return path


@pytest.fixture
def page(browser, detected, random_images, tmp_path):
    """Opened, with all images and boxes of all scores shown."""
    found = analyse(detected(random_images(0, 30), has_masks=True), num_examples=30)
    browser.open(write(tmp_path, found))
    browser.choose("role", "")
    browser.choose("min-score", "0.05")
    return found


BOX_TITLES = "[...document.querySelectorAll('.picture svg rect title')].map((title) => title.textContent)"


def test_it_opens_with_every_section_filled_and_no_error(browser, page):
    assert browser.run("document.title") == "Report"
    assert browser.errors() == []
    empty = "[...document.querySelectorAll('section .content')].filter((each) => !each.children.length).length"
    assert browser.run(empty) == 0
    assert browser.run("document.querySelectorAll('svg.chart').length") == 3
    assert browser.run("document.querySelector('#summary .tile b').textContent") == (
        f"{100 * page.content['regions']['boxes']['summary']['Precision/mAP']:.1f}"
    )
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_a_class_is_chosen_for_the_whole_page(browser, page):
    browser.choose("class", "1")
    assert browser.run("document.querySelector('#scores .content').textContent").endswith("b")
    assert browser.run("document.querySelector('#classes tr.chosen td').textContent") == "b"
    titles = browser.run(BOX_TITLES)
    assert titles
    assert all(title.startswith("b") for title in titles)
    browser.run(
        "document.querySelector('#classes tr.chosen').click()"
    )  # a second choice of the same class takes it back
    assert browser.run("document.getElementById('class').value") == ""
    assert {title[0] for title in browser.run(BOX_TITLES)} == {"a", "b", "c"}
    assert browser.errors() == []


def test_boxes_are_shown_and_hidden(browser, page):
    every = len(browser.run(BOX_TITLES))
    browser.choose("show-groundtruth", False)
    detections = browser.run(BOX_TITLES)
    assert not any("groundtruth" in title for title in detections)
    browser.choose("show-groundtruth", True)
    browser.choose("show-detections", False)
    groundtruth = browser.run(BOX_TITLES)
    assert all("groundtruth" in title for title in groundtruth)
    assert len(groundtruth) + len(detections) == every
    browser.choose("show-detections", True)
    browser.choose("only-errors", True)
    assert 0 < len(browser.run(BOX_TITLES)) < every
    assert not any(title.endswith(": right") for title in browser.run(BOX_TITLES))
    browser.choose("only-errors", False)
    browser.choose("min-score", "1")
    assert browser.run(BOX_TITLES) == groundtruth
    assert browser.run("document.getElementById('min-score-value').textContent") == "1.00"
    assert browser.errors() == []


def test_labels_and_masks_are_shown_and_hidden(browser, page):
    opaque = (
        "[...document.querySelectorAll('.picture canvas')].map((canvas) => canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.reduce((sum, value, i) => sum + (i % 4 === 3 && value > 0), 0))"
        ".reduce((sum, each) => sum + each, 0)"
    )
    assert browser.run(opaque) > 0
    browser.choose("show-masks", False)
    assert browser.run(opaque) == 0
    assert browser.run("document.querySelectorAll('.picture svg text').length") > 0
    browser.choose("show-labels", False)
    assert browser.run("document.querySelectorAll('.picture svg text').length") == 0
    assert browser.errors() == []


def test_masks_boxes_and_sorting(browser, page):
    browser.choose("region", "masks")
    assert browser.run("document.querySelector('#summary .tile b').textContent") == (
        f"{100 * page.content['regions']['masks']['summary']['Precision/mAP']:.1f}"
    )
    column = "[...document.querySelectorAll('#classes tbody tr')].map((row) => Number(row.cells[1].textContent))"
    for expected in (lambda values: sorted(values, reverse=True), sorted):
        browser.run("document.querySelectorAll('#classes th')[1].click()")
        values = browser.run(column)
        assert values == expected(values)
    browser.run("document.querySelector('figure').click()")
    browser.choose("show-labels", False)
    assert browser.run("document.querySelectorAll('figure.large').length") == 1
    browser.run("document.querySelector('figure.large').click()")
    assert browser.run("document.querySelectorAll('figure.large').length") == 0
    assert browser.errors() == []


def test_a_page_of_five_thousand_images(browser, detected, random_images, tmp_path):
    found = analyse(detected(random_images(1, 50) * 100, has_masks=True), num_examples=24)
    path = write(tmp_path, found)
    assert path.stat().st_size < MAX_PAGE
    begin = time.monotonic()
    browser.open(path)
    assert browser.run("document.querySelectorAll('figure').length") == 24
    assert time.monotonic() - begin < 30
    assert "5,000" in browser.run("document.getElementById('summary').textContent")
    assert browser.errors() == []
