"""Writes a trained detector as a SavedModel, with the flags of the Object Detection API.

python exporter_main_v2.py --pipeline_config_path=my.config --trained_checkpoint_dir=runs/my --output_directory=exported
"""

from __future__ import annotations

import sys

from absl import app, flags

from object_detection_fpn.cli import odapi
from object_detection_fpn.serving.input_types import INPUT_TYPES

FLAGS = flags.FLAGS

flags.DEFINE_enum(
    "input_type",
    "image_tensor",
    INPUT_TYPES,
    "What the SavedModel takes.",
)
flags.DEFINE_string("pipeline_config_path", None, "Path to the pipeline config.")
flags.DEFINE_string(
    "trained_checkpoint_dir", None, "Folder of checkpoints (the newest is exported), or one checkpoint."
)
flags.DEFINE_string("output_directory", None, "Folder to write saved_model/, checkpoint/ and pipeline.config into.")
flags.DEFINE_multi_string("config_override", [], "key.path=value, changes one field of the config; may be repeated.")
flags.DEFINE_boolean("jit", False, "Let XLA compile the model where it is served; needs images of one size.")
flags.DEFINE_boolean(
    "paste_masks",
    False,
    "Give detection_masks as pixels of the given image, uint8 [B, D, height, width], instead of float32 within each box.",
)
flags.DEFINE_boolean(
    "use_side_inputs",
    False,
    "Check the following flags against the side inputs that the SavedModel takes: context_features and valid_context_size of "
    "a model with context_config, which has them without this flag too.",
)
flags.DEFINE_string(
    "side_input_shapes", "", "Their shapes, such as 1,2000,2057/1; -1 is any size. The batch may be of any size."
)
flags.DEFINE_string("side_input_types", "", "Their types: float,int.")
flags.DEFINE_string("side_input_names", "", "Their names: context_features,valid_context_size.")
flags.mark_flags_as_required(["pipeline_config_path", "trained_checkpoint_dir", "output_directory"])


def main(_: list[str]) -> None:
    sys.exit(odapi.run_exporter_main(FLAGS))


if __name__ == "__main__":
    app.run(main, flags_parser=odapi.parse_flags)
