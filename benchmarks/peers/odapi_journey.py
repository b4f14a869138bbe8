"""Seconds in which the Object Detection API trains, evaluates and exports a pipeline config; a line of JSON.

    python benchmarks/peers/odapi_journey.py my.config model_dir

What its `model_main_tf2.py` (twice) and `exporter_main_v2.py` do, but in one process, and without the 100 steps that the
first always takes at least. For an interpreter in which `object_detection` can be imported, as the peer of
`benchmarks/journey.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("model_dir", help="what is there is deleted")
    arguments = parser.parse_args()
    config, model_dir = arguments.config, arguments.model_dir
    shutil.rmtree(model_dir, ignore_errors=True)
    from object_detection import exporter_lib_v2, model_lib_v2
    from object_detection.utils import config_util

    pipeline = config_util.create_pipeline_proto_from_configs(config_util.get_configs_from_pipeline_file(config))
    num_steps = pipeline.train_config.num_steps
    seconds = [time.perf_counter()]
    model_lib_v2.train_loop(
        config, model_dir, train_steps=num_steps, checkpoint_every_n=num_steps, num_steps_per_iteration=num_steps
    )
    seconds.append(time.perf_counter())
    model_lib_v2.eval_continuously(
        config, model_dir=model_dir, checkpoint_dir=model_dir, sample_1_of_n_eval_examples=1, wait_interval=1, timeout=1
    )
    seconds.append(time.perf_counter())
    exporter_lib_v2.export_inference_graph("image_tensor", pipeline, model_dir, os.path.join(model_dir, "exported"))
    seconds.append(time.perf_counter())
    values = {name: round(seconds[i + 1] - seconds[i], 1) for i, name in enumerate(("train", "evaluate", "export"))}
    values["total"] = round(seconds[-1] - seconds[0], 1)
    values["rss_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    print(json.dumps(values))


if __name__ == "__main__":
    main()
