"""The place where messages become objects: dicts of what can be named, and one short function for each message.

No defaults (those live in protos/) and no checks (those live in config.py): a config that `config.check_config` has passed
can be built.
"""

from object_detection_fpn.builder.context import build_context_branch
from object_detection_fpn.builder.data import (
    AUGMENTATIONS,
    build_augmentations,
    build_context_decoding,
    build_dataset,
    build_resizer,
    list_record_files,
    max_number_of_boxes,
)
from object_detection_fpn.builder.execution import inference_execution, portable_execution, training_execution
from object_detection_fpn.builder.faster_rcnn import (
    build_box_feature_extractor,
    build_box_head,
    build_roi_sampler,
)
from object_detection_fpn.builder.feature_extractor import (
    BACKBONES,
    build_both_stages,
    build_feature_extractor,
    build_pyramid,
)
from object_detection_fpn.builder.layer_spec import build_layer_spec
from object_detection_fpn.builder.losses import (
    build_box_loss,
    build_classification_loss,
    build_localization_loss,
    build_miner,
)
from object_detection_fpn.builder.masks import build_mask_branch, most_masks_in_training
from object_detection_fpn.builder.model import DETECTORS, build_detector, build_model
from object_detection_fpn.builder.postprocess import build_calibration, build_postprocessor, build_score_converter
from object_detection_fpn.builder.retinanet import build_dense_anchors
from object_detection_fpn.builder.roi_pooling import build_roi_pooler
from object_detection_fpn.builder.rpn import build_anchor_generator, build_box_coder, build_rpn
from object_detection_fpn.builder.training import (
    METRICS,
    OPTIMIZERS,
    build_learning_rate,
    build_metrics,
    build_optimizer,
    dtype_name,
    training_precision,
)

__all__ = [
    "AUGMENTATIONS",
    "BACKBONES",
    "DETECTORS",
    "METRICS",
    "OPTIMIZERS",
    "build_anchor_generator",
    "build_augmentations",
    "build_both_stages",
    "build_box_coder",
    "build_box_feature_extractor",
    "build_box_head",
    "build_box_loss",
    "build_calibration",
    "build_classification_loss",
    "build_context_branch",
    "build_context_decoding",
    "build_dataset",
    "build_dense_anchors",
    "build_detector",
    "build_feature_extractor",
    "build_layer_spec",
    "build_learning_rate",
    "build_localization_loss",
    "build_mask_branch",
    "build_metrics",
    "build_miner",
    "build_model",
    "build_optimizer",
    "build_postprocessor",
    "build_pyramid",
    "build_resizer",
    "build_roi_pooler",
    "build_roi_sampler",
    "build_rpn",
    "build_score_converter",
    "dtype_name",
    "inference_execution",
    "list_record_files",
    "max_number_of_boxes",
    "most_masks_in_training",
    "portable_execution",
    "training_execution",
    "training_precision",
]
