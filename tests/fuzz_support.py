"""What the fuzz targets share: the number of cases, and changes of bytes and text as transfers, editors and hands make them."""

from __future__ import annotations

import os
import re

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

SCALE = int(os.environ.get("ODFPN_FUZZ", "1"))
"""Cases for each of those that the suite takes; `make fuzz` sets it to 20, which makes 10,000."""

NUMBERS = ("0", "-1", "1", "nan", "inf", "-inf", "1e38", "1e400", "-0.0", "1e-46", "2147483647", "2147483648")
WORDS = (
    "true",
    "maybe",
    '""',
    '"x"',
    '"\\n"',
    "'",
    '"',
    "{",
    "}",
    "[",
    "]",
    ":",
    "#",
    "<",
    "\\",
    "é",
    "\ufeff",
    "\x00",
)
_TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|[^\s\w]')


def cases(number: int):
    """The settings of a target: the same cases each time, the first ones of a longer run among them."""
    return settings(
        max_examples=number * SCALE,
        derandomize=True,
        database=None,
        deadline=None,  # the machine's speed decides nothing
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def changed_bytes(draw, samples: tuple[bytes, ...], max_changes: int = 4) -> bytes:
    """One of the samples, with a few places overwritten, cut, doubled or left out."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, max_changes))):
        # Headers decide what is read, so every second change is near the beginning.
        end = len(data) if draw(st.booleans()) else min(len(data), 64)
        begin = draw(st.integers(0, end))
        size = draw(st.sampled_from((1, 1, 2, 4, 16)))
        kind = draw(st.sampled_from(("overwrite", "flip", "cut", "double", "drop", "insert")))
        if kind == "overwrite":
            data[begin : begin + size] = draw(st.sampled_from((b"\0", b"\xff", b"\x7f", b"\x80"))) * size
        elif kind == "flip" and begin < len(data):
            data[begin] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[begin:]
        elif kind == "double":
            data[begin:begin] = data[begin : begin + 8 * size]
        elif kind == "drop":
            del data[begin : begin + size]
        else:
            data[begin:begin] = draw(st.binary(min_size=size, max_size=size))
    return bytes(data)


@st.composite
def changed_text(draw, samples: tuple[str, ...], values: tuple[str, ...] = NUMBERS + WORDS) -> bytes:
    """One of the samples with a few tokens replaced, left out, doubled or swapped, as bytes; some are no UTF-8."""
    text = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 3))):
        tokens = [match.span() for match in _TOKEN.finditer(text)]
        if not tokens:
            break
        begin, end = tokens[draw(st.integers(0, len(tokens) - 1))]
        kind = draw(st.sampled_from(("replace", "replace", "replace", "drop", "double", "swap", "cut")))
        if kind == "replace":
            text = text[:begin] + draw(st.sampled_from(values) | st.text(max_size=6)) + text[end:]
        elif kind == "drop":
            text = text[:begin] + text[end:]
        elif kind == "double":
            text = text[:end] + " " + text[begin:]
        elif kind == "swap":
            first, last = tokens[draw(st.integers(0, len(tokens) - 1))]
            text = text[:begin] + text[first:last] + text[end:]
        else:
            text = text[:end]
    data = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.sampled_from((b"\xff", b"\xc3", b"\x00"))) + data[place:]
    return data
