"""What COCO Camera Traps files say of an image besides its pixels: camera, sequence, date; and how records hold it.

Nothing depends on these fields but the memory banks of Context R-CNN, so that a value of another kind is left out, not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_MAX_WHOLE = 2**63 - 1


class Capture(NamedTuple):
    """Where and when an image was taken; None where the file does not say."""

    date_captured: str | None = None
    """As the file writes it, mostly "YYYY-MM-DD HH:MM:SS"."""
    location: str | None = None
    """Of the camera."""
    seq_id: str | None = None
    """Of the sequence that the image belongs to."""
    seq_num_frames: int | None = None
    """Images of that sequence."""
    frame_num: int | None = None
    """Place of the image in it."""

    def fields(self) -> dict[str, str | int | None]:
        """Its values by the keys that records of the Object Detection API have for them."""
        return {
            "image/date_captured": self.date_captured,
            "image/location": self.location,
            "image/seq_id": self.seq_id,
            "image/seq_num_frames": self.seq_num_frames,
            "image/seq_frame_num": self.frame_num,
        }


def read_capture(row: Mapping[str, Any]) -> Capture:
    """Reads a row of "images". A date is called `date_captured`, or `datetime` in newer files."""
    return Capture(
        date_captured=_text(row.get("date_captured")) or _text(row.get("datetime")),
        location=_text(row.get("location")),
        seq_id=_text(row.get("seq_id")),
        seq_num_frames=_whole(row.get("seq_num_frames")),
        frame_num=_whole(row.get("frame_num")),
    )


def _text(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        return None
    is_unicode = not any(0xD800 <= ord(character) <= 0xDFFF for character in value)  # halves of surrogate pairs
    return value if is_unicode else None


def _whole(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_WHOLE
    return value if is_whole else None
