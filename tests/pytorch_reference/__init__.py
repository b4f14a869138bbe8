"""What the tests of `interop.torchvision` and `interop.detectron2` share: their reference numbers, and models to compare with.

The numbers were computed by torchvision 0.27.1 and Detectron2 0.6 on a CPU in float32, from weights that `cases.fill` makes of
names and shapes. Boxes there are (xmin, ymin, xmax, ymax), maps [B, channels, H, W].
"""

from pytorch_reference.agreement import CHECKS, SINGLE_LEVEL_CHECKS, Agreement, name_of, with_mask_head
from pytorch_reference.cases import YXYX, Case, load
from pytorch_reference.files import (
    assert_fills_backbone,
    assert_older_names_are_understood,
    assert_refused,
    backbone_of,
    num_parameters,
)
from pytorch_reference.training import SINGLE_LEVEL_TRAINING_CHECKS, TRAINING_CHECKS, TrainingAgreement

__all__ = [
    "CHECKS",
    "SINGLE_LEVEL_CHECKS",
    "SINGLE_LEVEL_TRAINING_CHECKS",
    "TRAINING_CHECKS",
    "YXYX",
    "Agreement",
    "Case",
    "TrainingAgreement",
    "assert_fills_backbone",
    "assert_older_names_are_understood",
    "assert_refused",
    "backbone_of",
    "load",
    "name_of",
    "num_parameters",
    "with_mask_head",
]
