"""Seconds from the start of building the model to the end of the first train step, and per step after it; JSON.

    python benchmarks/first_step.py [--runs 3] [--side 640] [--batch_size 1] [--jit_compile]
    python benchmarks/first_step.py --peer_command 'python bench.py 1 640 train'

Every run is a process of its own. With `--peer_command`, a command that prints a JSON line with the keys `first` and
`step_med` in seconds, this package and the peer run in turn, and the medians of both and their ratio are printed.
"""

from __future__ import annotations

import argparse
import json

import _common
import train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--num_steps", type=int, default=4)
    parser.add_argument("--jit_compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.once:
        values = train_step.measure(
            arguments.side, arguments.batch_size, num_steps=arguments.num_steps, jit_compile=arguments.jit_compile
        )
        print(json.dumps(values))
        return

    print(json.dumps(_common.compare(arguments, ("first", "step_med", "rss_gb")), indent=2))


if __name__ == "__main__":
    main()
