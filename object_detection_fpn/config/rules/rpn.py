"""Refuses combinations of fields of the region proposal network, and of its proposals in training, that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message

from object_detection_fpn.config.problems import Problem, Rule, single
from object_detection_fpn.protos import faster_rcnn_pb2, rpn_pb2


def _no_more_samples_than_proposals(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    name, limit = "first_stage_max_proposals", message.first_stage_max_proposals
    if message.rpn.HasField("max_proposals_in_training"):
        name, limit = "rpn.max_proposals_in_training", message.rpn.max_proposals_in_training
    if message.number_of_stages > 1 and message.second_stage_batch_size > limit:
        problem = f"is above {name} = {limit}"
        yield single(message, path, "second_stage_batch_size", problem, f"1 to {limit}")


def _background_is_below_objects(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    return _at_most(message, path, "second_stage_min_background_iou", "second_stage_matched_threshold")


def _options_of_one_kind(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    is_kept = message.rpn.anchor_border == rpn_pb2.RegionProposalNetwork.KEPT
    if is_kept and message.clip_anchors_to_image:
        yield single(message, path, "clip_anchors_to_image", "does not go with rpn.anchor_border = KEPT", "false")
    if message.rpn.clip_before_suppression and message.use_combined_nms_in_first_stage:
        problem = "does not go with rpn.clip_before_suppression = true, which drops proposals without area"
        yield single(message, path, "use_combined_nms_in_first_stage", problem, "false")


def _anchors_are_pixels(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    anchors = message.first_stage_anchor_generator.multiscale_anchor_generator
    if anchors.HasField("normalize_coordinates") and anchors.normalize_coordinates:
        place = f"{path}.first_stage_anchor_generator.multiscale_anchor_generator"
        problem = "does not fit: Faster R-CNN has its anchors in pixels"
        yield single(anchors, place, "normalize_coordinates", problem, "false")


def _thresholds_are_in_order(message: rpn_pb2.RegionProposalNetwork, path: str) -> Iterator[Problem]:
    return _at_most(message, path, "unmatched_threshold", "matched_threshold")


def _at_most(message: Message, path: str, name: str, limit_name: str) -> Iterator[Problem]:
    """A field of a message is no greater than another one of it."""
    limit = getattr(message, limit_name)
    if getattr(message, name) > limit:
        yield single(message, path, name, f"is above {limit_name} = {limit:g}", f"0 to {limit:g}")


def _needed_fields_are_set(message: rpn_pb2.RegionProposalNetwork, path: str) -> Iterator[Problem]:
    if message.HasField("max_straddle") and message.anchor_border != rpn_pb2.RegionProposalNetwork.KEPT:
        yield single(message, path, "max_straddle", "needs anchor_border = KEPT", "to leave it out")
    if message.min_proposal_side and not message.clip_before_suppression:
        yield single(message, path, "min_proposal_side", "needs clip_before_suppression = true", "0")


RULES: dict[str, tuple[Rule, ...]] = {
    "FasterRcnn": (
        _no_more_samples_than_proposals,
        _background_is_below_objects,
        _options_of_one_kind,
        _anchors_are_pixels,
    ),
    "RegionProposalNetwork": (_thresholds_are_in_order, _needed_fields_are_set),
}
