"""Plots as SVG text for a page: bars, with the numbers as tooltips."""

from __future__ import annotations

import html
from collections.abc import Sequence

from object_detection_fpn.tools.inspect.statistics import Spread

_WIDTH, _HEIGHT = 460, 180  # of a plot, in the units of its view box
_LEFT, _BOTTOM, _TOP = 8, 22, 16
_ROW = 20  # height of a horizontal bar's row
_NAME_WIDTH = 150
_LONGEST_NAME = 22  # characters


def histogram(spread: Spread, *, title: str, digits: int = 0, is_whole: bool = False) -> str:
    """Upright bars of a spread, labelled at both ends and in the middle.

    Args:
        spread: what to plot.
        title: stands above.
        digits: of the numbers below.
        is_whole: values are whole numbers: a bar of one value is named by it.
    """
    bars, labels = [], []
    if spread.counts:
        highest = max(spread.counts)
        width = (_WIDTH - 2 * _LEFT) / len(spread.counts)
        for place, count in enumerate(spread.counts):
            low, high = spread.edges[place], spread.edges[place + 1]
            height = (_HEIGHT - _BOTTOM - _TOP) * count / highest
            name = (
                f"{(low + high) / 2:.0f}" if is_whole and high - low == 1 else f"{low:.{digits}f} to {high:.{digits}f}"
            )
            bars.append(
                f'<rect x="{_LEFT + place * width:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" width="{max(width - 1, 1):.1f}" '
                f'height="{height:.1f}"><title>{name}: {count:,}</title></rect>'
            )
        last = len(spread.edges) - 1
        has_one_value = last == 1
        places = ((0, "start"), (last // 2, "middle"), (last, "end"))
        chosen: Sequence[tuple[float, str]] = ((0.5, "middle"),) if has_one_value else places
        for where, anchor in chosen:
            x = _LEFT + where * width
            value = sum(spread.edges) / 2 if has_one_value else spread.edges[int(where)]
            if is_whole and not has_one_value and spread.edges[1] - spread.edges[0] == 1:
                value = min(value + 0.5, spread.edges[-1] - 0.5)  # of the bar, not of its side
            labels.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{value:.{digits}f}</text>')
        labels.append(f'<text x="{_LEFT}" y="11">{highest:,} in the highest bar</text>')
    else:
        labels.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no boxes</text>')
    return _figure(title, "".join(bars + labels), _HEIGHT)


def bars(
    names: Sequence[str], values: Sequence[float], *, title: str, shown: Sequence[str], most: float | None = None
) -> str:
    """Lying bars, one below the other.

    Args:
        names: of the bars.
        values: their lengths.
        title: stands above.
        shown: the number behind each bar, as text.
        most: the value of a bar of full length; None = the greatest.
    """
    full = max(values, default=0.0) if most is None else most
    length = _WIDTH - _NAME_WIDTH - 70
    parts = []
    for row, (name, value, number) in enumerate(zip(names, values, shown, strict=True)):
        y = row * _ROW
        short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        width = length * value / full if full else 0.0
        parts.append(
            f'<text x="{_NAME_WIDTH - 6}" y="{y + 14}" text-anchor="end">{html.escape(short)}'
            f"<title>{html.escape(name)}</title></text>"
            f'<rect x="{_NAME_WIDTH}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}"></rect>'
            f'<text x="{_NAME_WIDTH + width + 5:.1f}" y="{y + 14}">{html.escape(number)}</text>'
        )
    return _figure(title, "".join(parts), max(_ROW * len(names), _ROW))


def _figure(title: str, content: str, height: int) -> str:
    title = html.escape(title)
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">'
        f"{content}</svg></figure>"
    )
