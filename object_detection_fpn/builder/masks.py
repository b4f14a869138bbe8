"""What a detector needs for masks, from `model.faster_rcnn` with three stages."""

from __future__ import annotations

from object_detection_fpn.builder.layer_spec import build_initializer, build_layer_spec
from object_detection_fpn.builder.roi_pooling import build_roi_align, build_roi_levels
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, mask_targets, pooler, single_level
from object_detection_fpn.modeling.detectors import faster_rcnn
from object_detection_fpn.modeling.heads import box, mask, transfer
from object_detection_fpn.ops.masks import MaskCrop
from object_detection_fpn.protos import box_predictor_pb2, faster_rcnn_pb2

_POOLED_SIZE = 14  # cells, He et al. 2017, figure 4


def most_masks_in_training(config: faster_rcnn_pb2.FasterRcnn) -> int:
    """How many regions of an image train masks at most."""
    if config.HasField("mask_batch_size"):
        return config.mask_batch_size
    return max(int(config.second_stage_batch_size * config.second_stage_balance_fraction), 1)


def build_mask_branch(
    config: faster_rcnn_pb2.FasterRcnn,
    extractor: fpn.FeatureExtractor,
    box_head: box.BoxHead,
    *,
    execution: Execution = Execution(),
) -> faster_rcnn.MaskBranch:
    """Mask head, pooling and targets."""
    message: box_predictor_pb2.MaskRCNNBoxPredictor = config.second_stage_box_predictor.mask_rcnn_box_predictor
    mask_pooler = None
    if isinstance(box_head.feature_extractor, single_level.LastStage):
        in_size, in_filters = box_head.feature_extractor.output_size, box_head.feature_extractor.num_units
    else:
        mask_pooler = build_mask_pooler(config, execution=execution)
        in_size, in_filters = mask_pooler.output_size, extractor.num_filters
    head = build_mask_head(config, box_head, in_size=in_size, in_filters=in_filters, execution=execution)
    classes_with_masks = [class_id - 1 for class_id in message.mask_transfer.classes_with_masks]
    return faster_rcnn.MaskBranch(
        pooler=mask_pooler,
        head=head,
        sampler=mask_targets.MaskSampler(
            num_samples=most_masks_in_training(config),
            crop=build_mask_crop(config, head.size),
            threshold=config.mask_targets.threshold if config.mask_targets.HasField("threshold") else None,
            classes_with_masks=tuple(classes_with_masks) if message.HasField("mask_transfer") else None,
            static=execution.static or execution.portable,
        ),
    )


def build_mask_pooler(config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution()) -> pooler.RoIPooler:
    """Levels and RoIAlign of `mask_roi_pooling`, or those of `roi_pooling` with as many cells as masks need."""
    has_own = config.HasField("mask_roi_pooling")
    message = config.mask_roi_pooling if has_own else config.roi_pooling
    levels = build_roi_levels(message, config.feature_extractor)
    roi_align = None
    if message.HasField("roi_align"):
        roi_align = build_roi_align(message.roi_align, output_size=None if has_own else _POOLED_SIZE)
    return pooler.RoIPooler(
        levels=levels,
        roi_align=roi_align,
        crop_size=_POOLED_SIZE,
        pool_size=1,
        pool_stride=1,
        execution=execution,
        name="mask_pooler",
    )


def build_mask_head(
    config: faster_rcnn_pb2.FasterRcnn,
    box_head: box.BoxHead,
    *,
    in_size: int,
    in_filters: int,
    execution: Execution = Execution(),
) -> mask.MaskHead:
    """The head of the mask fields of `mask_rcnn_box_predictor`, and its loss, for features [in_size, in_size, in_filters]."""
    message: box_predictor_pb2.MaskRCNNBoxPredictor = config.second_stage_box_predictor.mask_rcnn_box_predictor
    spec = build_layer_spec(message.conv_hyperparams, execution=execution)
    num_masks = 1 if message.masks_are_class_agnostic else config.num_classes
    # By the classes also where masks are the same for all, as in the Object Detection API.
    depth = message.mask_prediction_conv_depth
    depth = depth or mask.choose_depth(num_filters=in_filters, num_classes=config.num_classes)
    upsampling: mask.MaskUpsampling = "repeat" if message.convolve_then_upsample_masks else "resize"
    if message.mask_upsampling == box_predictor_pb2.MaskRCNNBoxPredictor.TRANSPOSED_CONVOLUTION:
        upsampling = "transposed_convolution"
    weight_transfer = None
    if message.HasField("mask_transfer") and not message.masks_are_class_agnostic:
        weight_transfer = transfer.WeightTransfer(
            in_units=box_head.class_weights().shape[1],
            num_hidden=message.mask_transfer.hidden_units,
            out_units=depth,
            spec=spec,
        )
    return mask.MaskHead(
        in_size=in_size,
        in_filters=in_filters,
        num_masks=num_masks,
        size=(message.mask_height, message.mask_width),
        num_convolutions=message.mask_prediction_num_conv_layers,
        depth=depth,
        upsampling=upsampling,
        spec=spec,
        initializer=build_initializer(message.mask_initializer) if message.HasField("mask_initializer") else None,
        transfer=weight_transfer,
        loss=mask.MaskLoss(weight=config.second_stage_mask_prediction_loss_weight),
    )


def build_mask_crop(config: faster_rcnn_pb2.FasterRcnn, size: tuple[int, int]) -> MaskCrop:
    """How `mask_targets` crops the masks of objects to `size`, rows and columns."""
    if not config.HasField("mask_targets"):
        return MaskCrop(size=size, kind="corners_aligned")
    message = config.mask_targets
    return MaskCrop(size=size, kind="roi_align", sampling_ratio=message.sampling_ratio, aligned=message.aligned)
