"""What a detector needs for the context of its images, from `model.faster_rcnn.context_config`."""

from __future__ import annotations

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn
from object_detection_fpn.modeling.detectors import faster_rcnn
from object_detection_fpn.modeling.heads import box, context
from object_detection_fpn.protos import faster_rcnn_pb2

_POSITIONS: dict[int, faster_rcnn.ContextPosition] = {
    faster_rcnn_pb2.POST_BOX_CLASSIFIER: "after_box_features",
    faster_rcnn_pb2.POST_RPN: "before_box_features",
}


def build_context_branch(
    config: faster_rcnn_pb2.FasterRcnn,
    extractor: fpn.FeatureExtractor,
    box_head: box.BoxHead,
    *,
    execution: Execution = Execution(),
) -> faster_rcnn.ContextBranch | None:
    """The attention, and where it stands; None where `context_config` asks for none."""
    message = config.context_config
    position = _POSITIONS.get(message.attention_position)
    if position is None:
        return None
    in_units = extractor.num_filters if position == "before_box_features" else box_head.feature_extractor.num_units
    attention = context.ContextAttention(
        in_units=in_units,
        context_length=message.context_feature_length,
        num_units=message.attention_bottleneck_dimension,
        temperature=message.attention_temperature,
        execution=execution,
    )
    return faster_rcnn.ContextBranch(attention=attention, position=position)
