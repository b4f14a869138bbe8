"""Refuses combinations of the fields of masks that cannot work, and names those that have no effect."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.problems import Problem, Rule, join, single, unset
from object_detection_fpn.protos import box_predictor_pb2, faster_rcnn_pb2, pipeline_pb2

_POOLED_SIZE = 14  # cells, of `builder.masks`, where nothing else is said
_NUM_GROUPS = 32  # of group normalization, see `modeling.layers`
_HEAD = "second_stage_box_predictor.mask_rcnn_box_predictor"
_TRANSPOSED = box_predictor_pb2.MaskRCNNBoxPredictor.TRANSPOSED_CONVOLUTION


def _pooled_size(message: faster_rcnn_pb2.FasterRcnn) -> int:
    """Cells along a side of what the mask head sees."""
    if model_config.is_single_level(message.feature_extractor):
        return _size_of_last_stage(message)
    if message.mask_roi_pooling.HasField("roi_align"):
        return message.mask_roi_pooling.roi_align.output_size
    return _POOLED_SIZE


def _size_of_last_stage(message: faster_rcnn_pb2.FasterRcnn) -> int:
    """Cells along a side of what the backbone's last stage, of stride 2, makes of a region."""
    if message.roi_pooling.HasField("roi_align"):
        pooled = message.roi_pooling.roi_align.output_size
    else:
        pooled = (message.initial_crop_size - message.maxpool_kernel_size) // max(message.maxpool_stride, 1) + 1
    return -(-pooled // 2)


def _masks_are_predicted(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    head, place = message.second_stage_box_predictor.mask_rcnn_box_predictor, join(path, _HEAD)
    if message.number_of_stages != 3 or not message.second_stage_box_predictor.HasField("mask_rcnn_box_predictor"):
        return
    if not head.predict_instance_masks:
        yield single(head, place, "predict_instance_masks", "does not go with number_of_stages = 3", "true")
    yield from unset(head, place, "conv_hyperparams")
    depth = head.mask_prediction_conv_depth
    if head.conv_hyperparams.HasField("group_norm") and depth % _NUM_GROUPS:
        problem = "does not go with conv_hyperparams.group_norm"
        yield single(head, place, "mask_prediction_conv_depth", problem, f"multiples of {_NUM_GROUPS}")


def _mask_size_follows_from_features(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    head, place = message.second_stage_box_predictor.mask_rcnn_box_predictor, join(path, _HEAD)
    if message.number_of_stages != 3:
        return
    pooled = _pooled_size(message)
    for name in ("mask_height", "mask_width"):
        if head.mask_upsampling == _TRANSPOSED and getattr(head, name) != 2 * pooled:
            problem = f"is not twice the {pooled} cells that are pooled, with mask_upsampling = TRANSPOSED_CONVOLUTION"
            yield single(head, place, name, problem, str(2 * pooled))
        elif head.convolve_then_upsample_masks and getattr(head, name) < pooled:
            problem = f"is below the {pooled} cells that are pooled, with convolve_then_upsample_masks = true"
            yield single(head, place, name, problem, f"{pooled} or more")


def _transfer_fits(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    head, place = message.second_stage_box_predictor.mask_rcnn_box_predictor, join(path, _HEAD)
    if not head.HasField("mask_transfer"):
        return
    if head.mask_upsampling != _TRANSPOSED and not head.masks_are_class_agnostic:
        problem = "does not go with mask_transfer, which predicts a 1 x 1 convolution"
        yield single(head, place, "mask_upsampling", problem, "TRANSPOSED_CONVOLUTION")
    for row, class_id in enumerate(head.mask_transfer.classes_with_masks):
        if class_id > message.num_classes:
            field = f"{place}.mask_transfer.classes_with_masks[{row}]"
            yield Problem(field, "is no class", f"1 to num_classes = {message.num_classes}", str(class_id))


def ineffective(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """Fields that ask for masks of a model that has none."""
    if model_config.has_masks(config.model):
        return
    reason = "has no effect: masks need number_of_stages = 3"
    if not model_config.has_stages(config.model):
        reason = f"has no effect: {model_config.why_no_masks(config.model)}"
    head = config.model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    if head.predict_instance_masks:
        yield single(head, model_config.field_path(config.model, _HEAD), "predict_instance_masks", reason)
    if config.train_input_reader.load_instance_masks:
        yield single(config.train_input_reader, "train_input_reader", "load_instance_masks", reason)
    for row, reader in enumerate(config.eval_input_reader):
        if reader.load_instance_masks:
            yield single(reader, f"eval_input_reader[{row}]", "load_instance_masks", reason)


RULES: dict[str, tuple[Rule, ...]] = {
    "FasterRcnn": (
        _masks_are_predicted,
        _mask_size_follows_from_features,
        _transfer_fits,
    ),
}
