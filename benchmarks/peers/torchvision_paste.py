"""Times torchvision's `paste_masks_in_image` and the encoding of what it gives by pycocotools, for `paste_masks.py`.

Needs torch, torchvision and pycocotools; prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np
import pycocotools.mask
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
import mask_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--num_masks", type=int, default=100)
    parser.add_argument("--mask_side", type=int, default=28)
    arguments = parser.parse_args()
    masks, boxes = mask_data.draw(arguments.side, arguments.num_masks, arguments.mask_side)
    masks, boxes = torch.from_numpy(masks)[:, None], torch.from_numpy(boxes[:, [1, 0, 3, 2]])

    def paste() -> list[dict]:
        pasted = paste_masks_in_image(masks, boxes, (arguments.side, arguments.side))[:, 0] > 0.5
        return [pycocotools.mask.encode(np.asfortranarray(mask, np.uint8)) for mask in pasted.numpy()]

    with torch.inference_mode():
        print(json.dumps(mask_data.measure(paste)))


if __name__ == "__main__":
    main()
