"""Which detector variables belong to, told by their paths: so that an error can say what a checkpoint is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Kind(NamedTuple):
    """A detector of this package, by the parts that have variables."""

    is_single_stage: bool
    has_pyramid: bool
    has_boxes: bool
    """Of the second stage."""
    has_masks: bool
    has_context: bool

    def __str__(self) -> str:
        if self.is_single_stage:
            return "a RetinaNet (model.ssd)"
        name = "a Context R-CNN" if self.has_context else "a Mask R-CNN" if self.has_masks else "a Faster R-CNN"
        if self.has_context and self.has_masks:
            name += " with masks"
        if not self.has_boxes:
            name = "the first stage of a Faster R-CNN"
        levels = "with a feature pyramid (faster_rcnn_*_fpn_keras)"
        return f"{name} {levels if self.has_pyramid else 'of one level (faster_rcnn_*_keras)'}"

    def is_enough_for(self, other: Kind) -> bool:
        """Whether a checkpoint of this detector makes a whole model of the other, which may lack its masks or second stage.

        A second stage that was trained on what attention adds is of no use without it.
        """
        return (
            (self.is_single_stage, self.has_pyramid) == (other.is_single_stage, other.has_pyramid)
            and self.has_boxes >= other.has_boxes
            and self.has_masks >= other.has_masks
            and (self.has_context == other.has_context or not other.has_boxes)
        )


def find_kind(paths: Iterable[str]) -> Kind | None:
    """The detector that variables belong to.

    Args:
        paths: of its variables, as in a checkpoint, without "model/".

    Returns:
        None if they are of no detector of this package.
    """
    parts = {tuple(path.split("/")[:2]) for path in paths}
    tops = {part[0] for part in parts}
    is_single_stage = "dense_head" in tops
    if "feature_extractor" not in tops or not (is_single_stage or "rpn" in tops):
        return None
    return Kind(
        is_single_stage=is_single_stage,
        has_pyramid=("feature_extractor", "fpn") in parts,
        has_boxes="box_head" in tops,
        has_masks="mask_head" in tops,
        has_context="context_attention" in tops,
    )
