"""What tests of every field of a detector's messages share: an observation before and after the field is changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from object_detection_fpn.config.checks import find_problems
from object_detection_fpn.protos import model_pb2, pipeline_pb2


def differ(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return len(one) != len(other) or any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Observer:
    """Observes configurations, each once.

    Args:
        parse: the small configuration with these texts merged into it.
        observations: by name; each makes arrays of a configuration.
    """

    def __init__(self, parse: Callable[..., Any], observations: Mapping[str, Callable[[Any], Any]]):
        self._parse, self._observations = parse, observations
        self.observe = functools.lru_cache(self._observe)

    def _observe(self, seen_in: str, *texts: str) -> list[np.ndarray]:
        found = self._observations[seen_in](self._parse(*texts))
        return [np.asarray(value) for value in tf.nest.flatten(found) if value is not None]

    def assert_changes(self, seen_in: str, needs: str, change: str) -> None:
        """A change of what is needed for it is seen, and makes no number that is none."""
        before, after = self.observe(seen_in, needs), self.observe(seen_in, needs, change)
        assert differ(before, after)
        numbers = [value for value in (*before, *after) if value.dtype.kind == "f"]
        assert all(np.all(np.isfinite(value)) for value in numbers)


def refused_fields(model: model_pb2.DetectionModel) -> list[str]:
    """Names of the fields that the rules refuse, without their paths."""
    problems = find_problems(pipeline_pb2.TrainEvalPipelineConfig(model=model))
    return [problem.field.split(".")[-1] for problem in problems]
