"""Trains or evaluates a detector, with the flags of the Object Detection API.

Training:

    python model_main_tf2.py --pipeline_config_path=my.config --model_dir=runs/my

Evaluation beside it, of every checkpoint that appears in `--checkpoint_dir`:

    python model_main_tf2.py --pipeline_config_path=my.config --model_dir=runs/my --checkpoint_dir=runs/my

Both in one process, keeping the best checkpoint: add `--train_and_eval` to the first command.
"""

from __future__ import annotations

import sys

from absl import app, flags

from object_detection_fpn.cli import odapi

FLAGS = flags.FLAGS

flags.DEFINE_string("pipeline_config_path", None, "Path to the pipeline config.")
flags.DEFINE_string("model_dir", None, "Folder for checkpoints, summaries and evaluation results.")
flags.DEFINE_integer("num_train_steps", None, "Number of train steps; overrides train_config.num_steps.")
flags.DEFINE_integer("checkpoint_every_n", 1000, "Steps between two checkpoints.")
flags.DEFINE_string("checkpoint_dir", None, "Evaluate the checkpoints that appear in this folder instead of training.")
flags.DEFINE_integer("eval_timeout", 3600, "Seconds that evaluation waits for the next checkpoint.")
flags.DEFINE_integer("sample_1_of_n_eval_examples", None, "Evaluate one of every n examples of the evaluation data.")
flags.DEFINE_bool("eval_on_train_data", False, "Evaluate on the training data (one of every n examples, see below).")
flags.DEFINE_integer("sample_1_of_n_eval_on_train_examples", 5, "n for --eval_on_train_data.")
flags.DEFINE_bool("record_summaries", True, "Write TensorBoard summaries while training.")
flags.DEFINE_bool("use_tpu", False, "Train or evaluate on a TPU.")
flags.DEFINE_string("tpu_name", None, "Name or address of the Cloud TPU; empty for the TPU of this machine.")
flags.DEFINE_integer("num_workers", 1, "Above 1: train with MultiWorkerMirroredStrategy as TF_CONFIG says.")
flags.DEFINE_float("worker_timeout", 600, "Seconds to wait for the other workers at the start.")
flags.DEFINE_bool("train_and_eval", False, "Evaluate after every checkpoint in the same process, and keep the best.")
flags.DEFINE_multi_string("config_override", [], "key.path=value, changes one field of the config; may be repeated.")
flags.DEFINE_bool("jit_compile", False, "Compile the train step with XLA on CPU and GPU too.")
flags.DEFINE_string("xla_cache_dir", None, "Folder in which XLA keeps what it compiles, to start sooner next time.")
flags.DEFINE_integer("seed", 0, "Start of all random choices of the run.")
flags.DEFINE_string(
    "data_service_address",
    None,
    "HOST:PORT of the dispatcher of `odfpn data-service` whose workers prepare the batches.",
)
flags.DEFINE_bool("auto_scale_lr", False, "Multiply the learning rates by batch_size / reference_batch_size.")
flags.DEFINE_string("from_label_map", None, "Label map of fine_tune_checkpoint, for restore_classes_by_name.")
flags.mark_flags_as_required(["pipeline_config_path", "model_dir"])


def main(_: list[str]) -> None:
    sys.exit(odapi.run_model_main(FLAGS))


if __name__ == "__main__":
    app.run(main, flags_parser=odapi.parse_flags)
