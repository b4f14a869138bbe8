"""Images a second that the Object Detection API's training pipeline gives for a pipeline config; a line of JSON.

    python benchmarks/peers/odapi_input.py my.config [--num_batches 150]

For an interpreter in which `object_detection` can be imported, as the peer of `benchmarks/input_pipeline.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

NUM_WARM_UP_BATCHES = 25  # as in `benchmarks/input_pipeline.py`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--num_batches", type=int, default=150)
    arguments = parser.parse_args()

    from object_detection import inputs
    from object_detection.utils import config_util

    configs = config_util.get_configs_from_pipeline_file(arguments.config)
    batch_size = configs["train_config"].batch_size
    start = time.perf_counter()
    dataset = inputs.train_input(configs["train_config"], configs["train_input_config"], configs["model"])
    batches = iter(dataset.repeat())
    next(batches)
    first = time.perf_counter() - start
    for _ in range(NUM_WARM_UP_BATCHES):
        next(batches)
    start = time.perf_counter()
    for _ in range(arguments.num_batches):
        next(batches)
    seconds = time.perf_counter() - start
    values = {
        "first": round(first, 2),
        "images_per_second": round(arguments.num_batches * batch_size / seconds, 1),
        "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(values))


if __name__ == "__main__":
    main()
