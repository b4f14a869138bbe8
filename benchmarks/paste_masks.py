"""Seconds of pasting the masks of one image and of encoding them as run lengths; JSON.

    python benchmarks/paste_masks.py [--runs 5] [--side 640] [--num_masks 100] [--mask_side 28] [--pasting ZERO_BORDER]
    python benchmarks/paste_masks.py --peer_command 'python benchmarks/peers/torchvision_paste.py'

Every run is a process of its own, of so many threads as `--threads` says. With `--peer_command`, a command that takes the
flags that are printed under "arguments" and prints a JSON line with the same keys, this package and the peer run in turn.
`num_inside` counts pixels inside masks; with ZERO_BORDER it is the same on both sides.
"""

from __future__ import annotations

import argparse
import json
import os

import _common

KEYS = ("seconds", "num_inside")
SHAPES = ("side", "num_masks", "mask_side")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    import mask_data

    from object_detection_fpn.ops import pasting, rle

    masks, boxes = mask_data.draw(*(getattr(arguments, name) for name in SHAPES))
    size = (arguments.side, arguments.side)

    def paste() -> list[rle.Rle]:
        pasted = pasting.paste_masks(masks, boxes, size, pasting=arguments.pasting)
        return [rle.encode_pasted(mask, size) for mask in pasted]

    return mask_data.measure(paste)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _common.add_arguments(parser)
    parser.add_argument("--side", type=int, default=640, help="of the image")
    parser.add_argument("--num_masks", type=int, default=100)
    parser.add_argument("--mask_side", type=int, default=28)
    parser.add_argument("--pasting", default="ZERO_BORDER", help="see `ops.pasting`")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments)))
        return
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(arguments.threads)))
    shapes = [f"--{name}={getattr(arguments, name)}" for name in SHAPES]
    if arguments.peer_command:
        arguments.peer_command = " ".join([arguments.peer_command, *shapes])
    print(json.dumps({"arguments": shapes, **_common.compare(arguments, KEYS)}, indent=2))


if __name__ == "__main__":
    main()
