"""The errors that end a training run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

# What TensorFlow and Python raise for a disk that is full, a folder without permission, or a file in place of a folder.
# Not UnavailableError and its like, which tell of lost workers.
_WRITE_ERRORS = (
    OSError,
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.AlreadyExistsError,
    tf.errors.UnknownError,
    tf.errors.InternalError,
)


class TrainingError(Exception):
    """Training cannot go on. The message says at which step, why, and what is left on disk."""

    exit_code = 1
    """What the process should return."""


class SettingsError(TrainingError, ValueError):
    """A setting is out of its range. The message names it, its value, and what is allowed."""

    exit_code = 2


class WriteError(TrainingError):
    """A file of the run cannot be written. The message names it and the reason."""


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns the errors of writing files into one line.

    Args:
        what: the subject of the line, with its path.

    Raises:
        WriteError: instead of these errors.
    """
    try:
        yield
    except _WRITE_ERRORS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WriteError(
            f"{what} cannot be written ({reason}). Check the free space and the permissions of its folder."
        ) from error
