"""The place where messages become objects: four dicts of what can be named, and one short function for each message.

No defaults (those live in protos/) and no checks (those live in config.py): a config that `config.check_config` has passed
can be built.
"""

from object_detection_fpn.builder.data import (
    AUGMENTATIONS,
    build_augmentations,
    build_dataset,
    build_resizer,
    max_number_of_boxes,
    num_image_channels,
)
from object_detection_fpn.builder.layer_spec import (
    build_layer_spec,
)
from object_detection_fpn.builder.model import (
    BACKBONES,
    build_anchor_generator,
    build_box_head,
    build_calibration,
    build_classification_loss,
    build_feature_extractor,
    build_inference_model,
    build_miner,
    build_model,
    build_postprocessor,
    build_roi_pooler,
    build_score_converter,
    build_training_model,
)
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
    "METRICS",
    "OPTIMIZERS",
    "build_anchor_generator",
    "build_augmentations",
    "build_box_head",
    "build_calibration",
    "build_classification_loss",
    "build_dataset",
    "build_feature_extractor",
    "build_inference_model",
    "build_layer_spec",
    "build_learning_rate",
    "build_metrics",
    "build_miner",
    "build_model",
    "build_optimizer",
    "build_postprocessor",
    "build_resizer",
    "build_roi_pooler",
    "build_score_converter",
    "build_training_model",
    "dtype_name",
    "max_number_of_boxes",
    "num_image_channels",
    "training_precision",
]
