"""Times torchvision's fasterrcnn_resnet50_fpn with its 1000 proposals, 2000 in training, all of whose backbone trains.

    python torchvision_detector.py train|infer [SIDE] [BATCH_SIZE] [RUNS]

Needs torch and torchvision. Prints a JSON line: seconds from the start of building the model to the end of the first run, the
median of the runs after it, and peak memory.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time

import torch
import torchvision

NUM_BOXES, NUM_CLASSES = 20, 91


def main(mode: str, side: int = 640, batch_size: int = 1, num_runs: int = 8) -> None:
    torch.manual_seed(0)
    images = list(torch.rand(batch_size, 3, side, side))
    corners = torch.rand(NUM_BOXES, 2) * 0.6 * side
    boxes = torch.cat([corners, corners + (0.05 + 0.3 * torch.rand(NUM_BOXES, 2)) * side], dim=1)
    targets = [{"boxes": boxes, "labels": torch.randint(1, NUM_CLASSES, (NUM_BOXES,))}] * batch_size

    start = time.perf_counter()
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES,
        min_size=side,
        max_size=side,
        trainable_backbone_layers=5,
    ).train(mode == "train")
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def run() -> None:
        if mode == "infer":
            with torch.inference_mode():
                model(images)
            return
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    run()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(num_runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    values = {
        "first": round(first, 2),
        "step_med": round(statistics.median(seconds), 3),
        "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(values))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
