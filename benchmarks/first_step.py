"""Seconds from the start of building the model to the end of the first train step, and peak memory of the process; JSON.

    python benchmarks/first_step.py [--runs 3] [--side 640] [--batch_size 1] [--jit_compile]
    python benchmarks/first_step.py --peer_command 'python bench.py {batch_size} {side} train'

What `train_step.py` measures, with one step after the first.
"""

from __future__ import annotations

import train_step

if __name__ == "__main__":
    train_step.main(__doc__, ("first", "rss_gb"), num_steps=1)
