"""Drawn cases of one image: groundtruth and detections as metrics take them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from object_detection_fpn.jobs.detect import Detected, DetectedImage
from object_detection_fpn.tools.report.matching import match_image

# These tests need a browser, which no Python package brings.
collect_ignore = [] if shutil.which("chromium") and shutil.which("chromedriver") else ["test_browser.py"]


@pytest.fixture(scope="session")
def match(make_image):
    """`match_image` of what `make_image` makes."""

    def make(*boxes, use_masks=False, **settings):
        groundtruth, detections = make_image(*boxes, **settings)
        groundtruth = groundtruth._replace(boxes=groundtruth.boxes.astype(float))
        return match_image(groundtruth, detections._replace(boxes=detections.boxes.astype(float)), use_masks=use_masks)

    return make


@pytest.fixture(scope="session")
def random_images(make_image):
    """Given a seed and a number: images of three classes whose boxes overlap in many ways, crowds among them."""

    def make(seed: int, number: int):
        generator = np.random.default_rng(seed)
        images = []
        for image in range(number):
            num_gt, num = generator.integers(0, 7), generator.integers(0, 25)
            corners = generator.integers(0, 100, (num_gt, 2))
            gt_boxes = np.concatenate([corners, corners + generator.integers(10, 90, (num_gt, 2))], axis=1)
            source = generator.integers(0, max(num_gt, 1), num)
            boxes = (
                gt_boxes[source] + generator.integers(-8, 9, (num, 4))
                if num_gt
                else np.tile([10, 10, 60, 60], (num, 1)) + generator.integers(0, 9, (num, 1))
            )
            scores = np.sort(generator.integers(1, 20, num) / 20)[::-1]  # with many ties
            images.append(
                make_image(
                    gt_boxes,
                    boxes,
                    gt_classes=generator.integers(0, 3, num_gt).tolist(),
                    classes=generator.integers(0, 3, num).tolist(),
                    scores=scores,
                    crowd=(generator.random(num_gt) < 0.2).tolist(),
                    source_id=str(image),
                )
            )
        return images

    return make


class Picture:
    """What is asked of an `EvaluatedImage`: its pixels."""

    def __init__(self, value: int, size: tuple[int, int] = (300, 300)):
        self._pixels = np.full((*size, 3), value, np.float32)

    def pixels(self) -> np.ndarray:
        return self._pixels


@pytest.fixture(scope="session")
def detected():
    """A model and a data set made of `make_image`'s images, for `analyse`."""

    def make(images, *, names=("a", "b", "c"), has_masks=False, step=7):
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
        images = (DetectedImage(Picture(20 * (i % 12)), *image) for i, image in enumerate(images))
        return Detected(images, categories, has_masks, step)

    return make
