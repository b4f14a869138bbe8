"""What the commands share: the arguments that several have, the config they name, and the error for a wrong command line.

Nothing here imports TensorFlow before a command runs: `odfpn --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2


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


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="pipeline config, or the name of a recipe")
    parser.add_argument(
        "--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help="may be repeated"
    )


def add_xla_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--xla_cache_dir", metavar="DIR", help="keep what XLA compiles here, to start sooner next time")


def add_tpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--use_tpu", action="store_true", help="work on a TPU")
    parser.add_argument("--tpu_name", help="name or address of the Cloud TPU; the TPU of this machine by default")


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
