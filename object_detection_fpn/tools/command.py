"""What the commands share: the arguments that several have, the config they name, and the error for a wrong command line.

Nothing here imports TensorFlow before a command runs: `odfpn --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2


OVERRIDE_HELP = "change one field of the config; may be repeated"


class UsageError(ValueError):
    """What the command line asks for cannot be done."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """A ValueError inside is about what the command line says."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def say(text: str) -> None:
    """Prints a line to the user; standard output stays for results."""
    print(text, file=sys.stderr, flush=True)


def check_folder(flag: str, path: str | os.PathLike[str]) -> str:
    """The path of a folder to be written, once it is known that this is possible.

    Args:
        flag: the name of the flag, with its dashes.
        path: its value.

    Raises:
        UsageError: if it is empty, a file, a remote path that cannot be reached, or may not be written to.
    """
    from object_detection_fpn.config import paths

    return _check(flag, os.fspath(path), paths.unusable_folder(os.fspath(path)))


def check_xla_cache(path: str | None) -> None:
    """`check_folder` for a flag that may be left out; here "" means to keep nothing."""
    if path:
        check_folder("--xla_cache_dir", path)


def check_input(flag: str, path: str, *, is_folder: bool = False) -> str:
    """A path to be read, once it is known that it can be asked for; whether it exists is seen where it is read.

    Args:
        flag: the name of the flag, with its dashes.
        path: its value.
        is_folder: a file is refused.

    Raises:
        UsageError: if it is empty, a web address, a remote path that cannot be reached, or a file for a folder.
    """
    import tensorflow as tf

    from object_detection_fpn.config import paths

    reason = paths.unusable_input(path)
    if not reason and is_folder and tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
        reason = "is a file, where a folder is needed"
    return _check(flag, path, reason)


def _check(flag: str, path: str, reason: str | None) -> str:
    if reason:
        raise UsageError(f"{flag} {reason}." if not path.strip() else f"{flag} = {path} {reason}.")
    return path


def add_starts(parser: argparse.ArgumentParser) -> None:
    """What training does with learning rates and weights that were made for other batches and classes."""
    parser.add_argument(
        "--auto_scale_lr",
        action="store_true",
        help="multiply the learning rates by batch_size / reference_batch_size of train_config",
    )
    parser.add_argument(
        "--from_label_map",
        metavar="FILE",
        help="label map of fine_tune_checkpoint, for restore_classes_by_name; the one beside it by default",
    )


def scale_learning_rates(config: pipeline_pb2.TrainEvalPipelineConfig, source: str) -> None:
    """Does what --auto_scale_lr asks for, in place, and says so."""
    from object_detection_fpn.config import scaling

    say(str(scaling.scale_learning_rates(config, source)))


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="pipeline config, or the name of a recipe")
    parser.add_argument("--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help=OVERRIDE_HELP)


def add_xla_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--xla_cache_dir", metavar="DIR", help="folder in which XLA keeps what it compiles, to start sooner next time"
    )


def add_tpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--use_tpu", action="store_true", help="use a TPU instead of the CPU or GPUs")
    parser.add_argument(
        "--tpu_name", metavar="NAME", help="name or address of the Cloud TPU; the TPU of this machine by default"
    )


def load_config(
    path: str, overrides: Sequence[str], *, require_data: Sequence[str] = ()
) -> pipeline_pb2.TrainEvalPipelineConfig:
    """Reads a config; a name without folder and ending means one of the package's recipes."""
    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.config import recipes

    if not path.endswith(".config") and path in recipes.recipes():
        path = recipes.recipe_path(path)
    return config_lib.load_config(path, overrides, require_data=require_data)


def check_service_address(text: str | None) -> str | None:
    """The address of a data service as it is, once it is known to be one."""
    from object_detection_fpn.data.source import service

    if text:
        with usage():
            service.split_address(text)
    return text
