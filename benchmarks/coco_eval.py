"""Seconds of the COCO metrics with pycocotools and with faster-coco-eval, on drawn detections; JSON.

    python benchmarks/coco_eval.py [--runs 3] [--num_images 1000] [--num_detections 100]

Both see the same images in the same process, in turn, and must agree to 1e-9.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

IMAGE_SIDE, MOST_GROUNDTRUTH = 640, 15
BACKENDS = ("pycocotools", "faster-coco-eval")
TOLERANCE = 1e-9


def draw(num_images: int, num_detections: int, num_classes: int) -> list:
    """(groundtruth, detections) of images: about half of the groundtruth is found, somewhat off, among false alarms."""
    from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth

    rng = np.random.default_rng(0)
    images = []
    for i in range(num_images):
        num = int(rng.integers(0, MOST_GROUNDTRUTH + 1))
        boxes, classes = _draw_boxes(rng, num), rng.integers(0, num_classes, num).astype(np.int32)
        found_boxes = _draw_boxes(rng, num_detections)
        found_classes = rng.integers(0, num_classes, num_detections).astype(np.int32)
        num_found = min(num // 2, num_detections)
        found_boxes[:num_found] = boxes[:num_found] + rng.normal(0, 4, [num_found, 4])
        found_classes[:num_found] = classes[:num_found]
        groundtruth = ImageGroundtruth(source_id=str(i), boxes=boxes, classes=classes, is_crowd=rng.random(num) < 0.02)
        scores = np.sort(rng.random(num_detections))[::-1]
        images.append((groundtruth, ImageDetections(found_boxes, scores, found_classes)))
    return images


def _draw_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    corners = rng.uniform(0, 0.6 * IMAGE_SIDE, (num, 2))
    return np.concatenate([corners, corners + rng.uniform(8, 0.4 * IMAGE_SIDE, (num, 2))], axis=1)


def measure(images: list, backend: str, num_classes: int) -> tuple[float, dict[str, float]]:
    """Seconds, and the metrics."""
    from object_detection_fpn.evaluation.coco import CocoBoxMetrics

    categories = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(num_classes)]
    start = time.perf_counter()
    metric = CocoBoxMetrics(categories, backend=backend)
    for groundtruth, detections in images:
        metric.update(groundtruth, detections)
    results = metric.result()
    return time.perf_counter() - start, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--num_detections", type=int, default=100, help="of an image")
    parser.add_argument("--num_classes", type=int, default=80)
    arguments = parser.parse_args()
    images = draw(arguments.num_images, arguments.num_detections, arguments.num_classes)
    seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    results: dict[str, dict[str, float]] = {}
    for _ in range(arguments.runs):
        for backend in BACKENDS:
            taken, results[backend] = measure(images, backend, arguments.num_classes)
            seconds[backend].append(taken)
    slow, fast = (results[backend] for backend in BACKENDS)
    difference = max(abs(slow[name] - fast[name]) for name in slow.keys() | fast.keys())
    middle = {backend: round(statistics.median(values), 3) for backend, values in seconds.items()}
    print(
        json.dumps(
            {
                "seconds": middle,
                "ratio": round(middle["faster-coco-eval"] / middle["pycocotools"], 3),
                "largest_difference": difference,
            },
            indent=2,
        )
    )
    if not difference <= TOLERANCE:
        raise SystemExit(f"The back ends differ by {difference:g}. Allowed: {TOLERANCE:g}.")


if __name__ == "__main__":
    main()
