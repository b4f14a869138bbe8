"""Times a torchvision detector with its 1000 proposals, 2000 in training, all of whose backbone trains.

    python torchvision_detector.py train|infer [SIDE] [BATCH_SIZE] [--precision float32|bfloat16] [--runs 8]
        [--model fasterrcnn_resnet50_fpn|maskrcnn_resnet50_fpn|retinanet_resnet50_fpn]

Needs torch and torchvision; runs on a GPU where PyTorch finds one, with TF32 where float32 is asked for. Prints a JSON line:
seconds from the start of building the model to the end of the first run, the median of the runs after it, and peak memory of
the process (of the GPU, where there is one).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
import torchvision

NUM_BOXES, NUM_CLASSES = 20, 91
MODELS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
# Noise, too, is then detected: every detection of a mask model has a mask, and untrained scores are suppressed like others.
NO_THRESHOLD = {"maskrcnn_resnet50_fpn": {"box_score_thresh": 0.0}, "retinanet_resnet50_fpn": {"score_thresh": 0.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("train", "infer"))
    parser.add_argument("side", type=int, nargs="?", default=640)
    parser.add_argument("batch_size", type=int, nargs="?", default=1)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--runs", type=int, default=8)
    print(json.dumps(measure(parser.parse_args())))


def measure(arguments: argparse.Namespace) -> dict[str, float | str]:
    """Times the detector on noise with boxes of all sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    side = arguments.side
    images = list(torch.rand(arguments.batch_size, 3, side, side, device=device))
    corners = torch.rand(NUM_BOXES, 2) * 0.6 * side
    boxes = torch.cat([corners, corners + (0.05 + 0.3 * torch.rand(NUM_BOXES, 2)) * side], dim=1).to(device)
    labels = torch.randint(1, NUM_CLASSES, (NUM_BOXES,)).to(device)
    target = {"boxes": boxes, "labels": labels}
    if arguments.model.startswith("mask"):
        target["masks"] = torch.randint(0, 2, (NUM_BOXES, side, side), dtype=torch.uint8, device=device)
    targets = [target] * arguments.batch_size
    cast = (
        torch.autocast(device, dtype=torch.bfloat16) if arguments.precision == "bfloat16" else contextlib.nullcontext()
    )

    start = time.perf_counter()
    model = getattr(torchvision.models.detection, arguments.model)(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES,
        min_size=side,
        max_size=side,
        trainable_backbone_layers=5,
        **NO_THRESHOLD.get(arguments.model, {}),
    )
    model.to(device).train(arguments.mode == "train")
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def run() -> None:
        if arguments.mode == "infer":
            with torch.inference_mode(), cast:
                found = model(images)
            num_detections.append(min(len(each["scores"]) for each in found))
        else:
            optimizer.zero_grad()
            with cast:
                loss = sum(model(images, targets).values())
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    num_detections: list[int] = []
    run()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(arguments.runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    memory = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000
    )
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "first": round(first, 2),
        "step_med": round(statistics.median(seconds), 3),
        "rss_gb": round(memory / 1e9, 2),
    }


if __name__ == "__main__":
    main()
