"""Memory banks: which images share one, in what order, and which of its features an image gets.

Letters: M features of a bank, L entries of each.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from object_detection_fpn.tools.context_features.settings import Horizon, Subsampling


class Frame(NamedTuple):
    """An image as a memory bank knows it."""

    image_id: bytes
    bank: Hashable | None
    """What images of one bank have in common, see `bank_of`; None = the image belongs to no bank."""
    date: datetime.datetime | None
    frame_num: int | None
    """Place in its sequence, of images that share a second."""
    features: np.ndarray
    """[N, L] float32."""
    scores: np.ndarray
    """[N] float32."""


class Bank(NamedTuple):
    """The features of images that belong together, in the order in which these were taken."""

    features: np.ndarray
    """[M, L] float32."""
    scores: np.ndarray
    """[M] float32."""
    owners: np.ndarray
    """[M] int, the image that each is of, as its place in the order of the bank."""
    image_ids: tuple[bytes, ...]
    """M ids, of these images."""
    places: dict[int, int]
    """From the number of an image among all images to its place in the order of the bank; of all images that share it."""


def bank_of(key: str, date: datetime.datetime | None, horizon: Horizon | None) -> Hashable | None:
    """What images of one bank have in common: their key, and the calendar unit in which they were taken.

    Weeks are those of ISO 8601, Monday to Sunday; those of the Object Detection API begin anew with each month, and its first
    has six days.

    Returns:
        A hashable value; None if there is a horizon and no date.
    """
    if horizon is None:
        return (key,)
    if date is None:
        return None
    if horizon == "week":
        return (key, *date.isocalendar()[:2])
    units = (date.year, date.month, date.day, date.hour, date.minute)
    return (key, *units[: ("year", "month", "day", "hour", "minute").index(horizon) + 1])


def make_banks(frames: Sequence[Frame | None], *, rate: int, min_score: float) -> dict[Hashable, Bank]:
    """Builds the memory banks of a data set.

    Args:
        frames: all images, in the order of their records; None for one that is left out.
        rate: keep features of every n-th image of a bank; 0 and 1 = of all.
        min_score: keep features of detections with at least this score.

    Returns:
        The bank of each value of `Frame.bank`.
    """
    members: dict[Hashable, list[int]] = {}
    for number, frame in enumerate(frames):
        if frame is not None and frame.bank is not None:
            members.setdefault(frame.bank, []).append(number)
    return {key: _make_bank(frames, numbers, rate, min_score) for key, numbers in members.items()}


def _make_bank(frames: Sequence[Frame | None], numbers: list[int], rate: int, min_score: float) -> Bank:
    def when(number: int) -> tuple[bool, datetime.datetime, int, int]:
        frame = frames[number]
        assert frame is not None
        return frame.date is None, frame.date or datetime.datetime.min, frame.frame_num or 0, number

    features, scores, owners, image_ids = [], [], [], []
    places = {number: place for place, number in enumerate(sorted(numbers, key=when))}
    for number, place in places.items():
        frame = frames[number]
        assert frame is not None
        is_kept = frame.scores >= min_score
        if place % max(rate, 1):
            is_kept = np.zeros_like(is_kept)
        features.append(frame.features[is_kept])
        scores.append(frame.scores[is_kept])
        owners += [place] * int(is_kept.sum())
        image_ids += [frame.image_id] * int(is_kept.sum())
    return Bank(np.concatenate(features), np.concatenate(scores), np.array(owners, np.int64), tuple(image_ids), places)


def choose_features(
    bank: Bank, number: int, *, most: int, method: Subsampling = "score", exclude_own: bool = False
) -> np.ndarray:
    """Rows of a bank that an image gets, [K] int in the order of the bank, K at most `most`.

    Where the bank has more, "score" takes the highest scores, "uniform" rows that are evenly spread over the bank, and
    "nearest" those of the images that were taken next to this one, as many before as after. Of equals the earlier is taken.

    Args:
        bank: that of the image.
        number: of the image, among all images.
        most: how many rows at most.
        method: which of them.
        exclude_own: leave out rows of the image itself.
    """
    own = bank.places[number]
    rows = np.arange(len(bank.scores))
    if exclude_own:
        rows = rows[bank.owners != own]
    if len(rows) <= most:
        return rows
    if method == "uniform":
        return rows[np.arange(most) * len(rows) // most]
    distances = -bank.scores[rows] if method == "score" else np.abs(bank.owners[rows] - own)
    return np.sort(rows[np.argsort(distances, kind="stable")[:most]])
