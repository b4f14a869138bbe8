"""`odfpn context-features`."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING

from object_detection_fpn.tools import command
from object_detection_fpn.tools.context_features.settings import HORIZONS, SUBSAMPLINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from object_detection_fpn.data.source.files import RecordFile
    from object_detection_fpn.serving.predictor import Predictor

_FEATURES_OVERRIDE = "model.faster_rcnn.output_final_box_features=true"
_SINGLE_IMAGES = (
    "Allowed: a detector that looks at single images; it makes the memory banks of one that looks at context."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the detector, of the records, of what is embedded, and of how it is grouped."""
    parser.description = (
        "Add to every record the memory bank that Context R-CNN looks at: what a first detector saw in the other images of the "
        "same camera or sequence. Run it once for the training records and once for the evaluation records, with the same "
        "detector, and then train a config with context_config on the new records."
    )
    records = parser.add_argument_group("records")
    records.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATTERN",
        help="record files (TFRecord of tf.Example), or globs of them",
    )
    records.add_argument("--output", required=True, help="records are written to OUTPUT-00000-of-0000N.tfrecord")
    records.add_argument(
        "--num_shards", type=int, metavar="N", help="number of record files; as many as are read by default"
    )

    detector = parser.add_argument_group("the first detector, one of")
    detector.add_argument(
        "--saved_model",
        metavar="DIR",
        help=f"folder of a model that was exported with --config_override {_FEATURES_OVERRIDE}",
    )
    detector.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="checkpoint of --config, or a folder: its newest one; instead of --saved_model",
    )
    detector.add_argument("--config", metavar="FILE", help="pipeline config, for --checkpoint")
    detector.add_argument(
        "--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help=command.OVERRIDE_HELP
    )

    grouping = parser.add_argument_group("which images share a memory bank")
    grouping.add_argument(
        "--sequence_key",
        default="image/location",
        metavar="FIELD",
        help="images with the same value in this field of the records share one, as image/location or image/seq_id "
        "(image/location)",
    )
    grouping.add_argument(
        "--time_horizon",
        choices=HORIZONS,
        help="and were taken in the same calendar month, week, ... by image/date_captured (YYYY-MM-DD HH:MM:SS); at any time "
        "by default",
    )

    embedding = parser.add_argument_group("what an image gives to its memory bank")
    embedding.add_argument(
        "--top_k_embedding_count", type=int, default=1, metavar="N", help="features of its N best detections (1)"
    )
    embedding.add_argument(
        "--bottom_k_embedding_count", type=int, default=0, metavar="N", help="and of its N worst ones (0)"
    )
    embedding.add_argument(
        "--keep_only_positives",
        action="store_true",
        help="only those of detections with a score of at least --context_features_score_threshold",
    )
    embedding.add_argument(
        "--context_features_score_threshold", type=float, default=0.7, metavar="SCORE", help="see there (0.7)"
    )
    embedding.add_argument(
        "--keep_only_positives_gt", action="store_true", help="only those of images that have annotated boxes"
    )
    embedding.add_argument(
        "--subsample_context_features_rate",
        type=int,
        default=0,
        metavar="N",
        help="only those of every Nth image, in the order of time (0, of all)",
    )

    choosing = parser.add_argument_group("what an image gets of its memory bank")
    choosing.add_argument(
        "--max_num_elements_in_context_features",
        type=int,
        default=2000,
        metavar="N",
        help="at most N features; each record holds a copy of what its image gets, 8 kB a feature of 2057 entries (2000)",
    )
    choosing.add_argument(
        "--subsample_method",
        choices=SUBSAMPLINGS,
        default="score",
        help="which N, where the bank has more: those of the highest scores, evenly spread in time, or nearest in time (score)",
    )
    choosing.add_argument("--exclude_own", action="store_true", help="none that are of the image itself")


def run(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.data.source import files as record_files
    from object_detection_fpn.tools.context_features import build, embedding

    names = [field for field in vars(arguments) if field in Settings.__dataclass_fields__]
    with command.usage():
        settings = Settings(**{name: getattr(arguments, name) for name in names})
    if arguments.num_shards is not None and arguments.num_shards < 1:
        raise command.UsageError(f"--num_shards = {arguments.num_shards} is not allowed. Allowed: 1 and above.")
    _check_detector(arguments)
    for pattern in arguments.input:
        command.check_input("--input", pattern)
    if not os.path.basename(arguments.output):
        raise command.UsageError(
            f"--output = {arguments.output} names a folder. Allowed: folder and beginning of file names, as data/train_context."
        )
    command.check_folder("--output", os.path.dirname(arguments.output) or ".")
    files = record_files.list_record_files(arguments.input)
    _refuse_to_replace(files, arguments.output)
    detector = _load_detector(arguments)
    try:
        building = build.add_context(
            detector, files, arguments.output, settings=settings, num_shards=arguments.num_shards
        )
    except embedding.FeaturesError as error:
        raise command.UsageError(
            f"{arguments.saved_model or arguments.checkpoint}: {error} Remedy for a SavedModel without them: odfpn export ... "
            f"--config_override {_FEATURES_OVERRIDE}."
        ) from error
    command.say(building.summary())
    return building.exit_code


def _check_detector(arguments: argparse.Namespace) -> None:
    if (arguments.saved_model is None) == (arguments.checkpoint is None):
        raise command.UsageError("Give either --saved_model, or --checkpoint with --config.")
    if arguments.checkpoint is not None and arguments.config is None:
        raise command.UsageError("--checkpoint needs --config, the pipeline config it was trained with.")
    for flag in ("saved_model", "checkpoint"):
        if getattr(arguments, flag) is not None:
            command.check_input(f"--{flag}", getattr(arguments, flag))


def _refuse_to_replace(files: Sequence[RecordFile], output_prefix: str) -> None:
    """Refuses an output whose files would take the place of those that are read."""
    folder, name = os.path.split(os.path.abspath(output_prefix))
    is_output = re.compile(re.escape(name) + r"-\d{5}-of-\d{5}\.tfrecord")
    for file in files:
        its_folder, its_name = os.path.split(os.path.abspath(file.path))
        if its_folder == folder and is_output.fullmatch(its_name):
            raise command.UsageError(
                f"--output = {output_prefix} would replace {file.path}, which is read. Allowed: another beginning of names."
            )


def _load_detector(arguments: argparse.Namespace) -> Predictor:
    from object_detection_fpn.config import model as model_config
    from object_detection_fpn.jobs import predict as predict_job

    if arguments.saved_model is not None:
        with command.usage():
            predictor = predict_job.Predictor.from_saved_model(arguments.saved_model)
        if predictor.context_length is not None:
            raise command.UsageError(
                f"--saved_model = {arguments.saved_model} looks at context itself. {_SINGLE_IMAGES}"
            )
        return predictor
    config = command.load_config(arguments.config, arguments.config_override)
    path = model_config.field_path(config.model)
    if path != "model.faster_rcnn":
        raise command.UsageError(f"{arguments.config}: {path} gives no features of boxes. Allowed: model.faster_rcnn.")
    if config.model.faster_rcnn.HasField("context_config"):
        raise command.UsageError(f"{arguments.config}: {path}.context_config is set. {_SINGLE_IMAGES}")
    config = command.load_config(arguments.config, [*arguments.config_override, _FEATURES_OVERRIDE])
    return predict_job.make_predictor(config, checkpoint=arguments.checkpoint)
