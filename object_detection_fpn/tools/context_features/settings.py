"""How memory banks are made, as the command line says it; imports nothing that takes time."""

from __future__ import annotations

import dataclasses
import typing
from typing import Literal

Horizon = Literal["year", "month", "week", "day", "hour", "minute"]
Subsampling = Literal["score", "uniform", "nearest"]

HORIZONS: tuple[str, ...] = typing.get_args(Horizon)
SUBSAMPLINGS: tuple[str, ...] = typing.get_args(Subsampling)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How memory banks are made. Names and defaults are the flags of the Object Detection API's two scripts where it has them.

    Raises:
        ValueError: if a value is out of its range.
    """

    sequence_key: str = "image/location"
    """The field of the records that images of one bank have in common."""
    time_horizon: Horizon | None = None
    """Images of one bank are of the same calendar year, month, week, day, hour or minute; None = of any time."""
    top_k_embedding_count: int = 1
    """Best detections of each image that are embedded."""
    bottom_k_embedding_count: int = 0
    """Worst detections of each image that are embedded."""
    keep_only_positives: bool = False
    """Keep features of detections whose score is at least `context_features_score_threshold` alone."""
    context_features_score_threshold: float = 0.7
    keep_only_positives_gt: bool = False
    """Keep features of images that have annotated boxes alone."""
    subsample_context_features_rate: int = 0
    """Keep features of every n-th image of a bank; 0 and 1 = of all."""
    max_num_elements_in_context_features: int = 2000
    """Most features that an image gets, see `subsample_method`."""
    subsample_method: Subsampling = "score"
    """Which ones it gets where its bank has more: those of the highest scores, evenly spread in time, or nearest in time."""
    exclude_own: bool = False
    """Give an image no features of itself."""

    def __post_init__(self) -> None:
        least = {
            "top_k_embedding_count": 0,
            "bottom_k_embedding_count": 0,
            "subsample_context_features_rate": 0,
            "max_num_elements_in_context_features": 1,
        }
        for name, minimum in least.items():
            if (value := getattr(self, name)) < minimum:
                raise ValueError(f"{name} = {value} is not allowed. Allowed: {minimum} and above.")
        if not self.top_k_embedding_count + self.bottom_k_embedding_count:
            raise ValueError(
                "top_k_embedding_count = 0 with bottom_k_embedding_count = 0 embeds nothing. Allowed: 1 and above for one."
            )
        if not 0 <= self.context_features_score_threshold <= 1:
            raise ValueError(
                f"context_features_score_threshold = {self.context_features_score_threshold} is not allowed. Allowed: 0 to 1."
            )
        if not self.sequence_key:
            raise ValueError("sequence_key is empty. Allowed: the name of a field of the records, as image/seq_id.")
