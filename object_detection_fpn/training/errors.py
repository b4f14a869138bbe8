"""The errors that end a training run."""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot go on. The message says at which step, why, and what is left on disk."""

    exit_code = 1
    """What the process should return."""


class SettingsError(TrainingError, ValueError):
    """A setting is out of its range. The message names it, its value, and what is allowed."""

    exit_code = 2
