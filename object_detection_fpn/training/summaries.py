"""What a run writes to TensorBoard, and the means and speeds that it shows there and in the metrics log."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orbit
import tensorflow as tf

from object_detection_fpn.training.errors import writing


class Summaries:
    """TensorBoard's events of a run.

    Args:
        folder: where they go; None = nowhere.
        texts: what is written once, at the first step that is written; by tag.
    """

    def __init__(self, folder: str | None, *, texts: Mapping[str, str] | None = None):
        self._folder = folder
        self._texts = dict(texts or {})
        self._writers = orbit.utils.SummaryManager(folder, tf.summary.scalar)  # makes the folder when first written to

    def write(
        self, step: int, values: Mapping[str, float], histograms: Mapping[str, tf.Tensor | tf.Variable] | None = None
    ) -> None:
        """Writes scalars, but for those that are not finite, and histograms.

        Raises:
            WriteError: if they cannot be written.
        """
        with writing(f"A summary in {self._folder}"), self._writers.summary_writer().as_default(step):
            for tag, text in self._texts.items():
                tf.summary.text(tag, text)
            self._texts = {}
            for name, value in values.items():
                if not math.isnan(value):  # such as the recall of images without objects
                    tf.summary.scalar(name, value)
            for name, tensor in (histograms or {}).items():
                tf.summary.histogram(name, tensor)
            self._writers.flush()

    def write_images(self, step: int, images: tf.Tensor) -> None:
        with writing(f"A summary in {self._folder}"), self._writers.summary_writer().as_default(step):
            tf.summary.image("train_input_images", images, max_outputs=images.shape[0])


class Means:
    """Means over the steps between two summaries."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, sums: Mapping[str, float], num_steps: int, statistics: Mapping[str, tuple[float, float]]) -> None:
        """Adds some steps.

        Args:
            sums: over the steps.
            num_steps: how many they are.
            statistics: sums over the steps of values and of what these count for, see `modeling.statistics`.
        """
        shares = {name: (value, float(num_steps)) for name, value in sums.items()} | dict(statistics)
        for name, (value, count) in shares.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0.0) + count

    def take(self) -> dict[str, float]:
        """The means of what was added since the last call; NaN where nothing counts."""
        means = {
            name: value / self._counts[name] if self._counts[name] else math.nan for name, value in self._sums.items()
        }
        self._sums, self._counts = {}, {}
        return means


class Speed:
    """How fast steps are, without what happens between them. The first step, which compiles, is not to be added."""

    _MEMORY = 0.8  # share of the former estimate in the new one: calls last seconds, so that is about half a minute

    def __init__(self) -> None:
        self.seconds_per_step: float | None = None
        """Of the latest steps; None = not known."""
        self._num_steps = 0
        self._seconds = 0.0

    def add(self, num_steps: int, seconds: float) -> None:
        latest = seconds / num_steps
        if self.seconds_per_step is None:
            self.seconds_per_step = latest
        self.seconds_per_step = self._MEMORY * self.seconds_per_step + (1 - self._MEMORY) * latest
        self._num_steps += num_steps
        self._seconds += seconds

    @property
    def steps_per_second(self) -> float | None:
        """Over all steps added; None if there were none."""
        return self._num_steps / self._seconds if self._num_steps else None

    def steps_within(self, seconds: float, *, most: int) -> int:
        return most if self.seconds_per_step is None else max(1, min(most, int(seconds / self.seconds_per_step)))

    def values(self, batch_size: int | None) -> dict[str, float]:
        """The summaries of it; empty before it is known."""
        if self.seconds_per_step is None:
            return {}
        speed = {"steps_per_sec": 1 / self.seconds_per_step}
        if batch_size is not None:
            speed["images_per_sec"] = batch_size / self.seconds_per_step
        return speed
