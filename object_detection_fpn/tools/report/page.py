"""Writes the page of a report: one HTML file that needs nothing else, neither network nor a server.

Text of the data (names of classes and images) enters the page as JSON that no browser takes for markup, and its script puts it
into the page as text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

_FOLDER = "page_files"


def make_page(title: str, content: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> str:
    """The page's HTML.

    Args:
        title: of the page.
        content: see `analysis.Analysis.content`.
        examples: see `analysis.Analysis.examples`.
    """
    data = json.dumps({**content, "title": title, "examples": list(examples)}, allow_nan=False, separators=(",", ":"))
    parts = {
        "<!--title-->": html.escape(title),
        "/*style*/": _read("report.css"),
        "/*script*/": _read("charts.js") + _read("examples.js") + _read("report.js"),
        # Within JSON, < stands in texts alone, and as an escape it ends no script and opens no comment.
        "/*data*/": data.replace("<", "\\u003c"),
    }
    # All marks in one pass, as the parts may hold what marks another.
    return re.sub("|".join(map(re.escape, parts)), lambda mark: parts[mark.group()], _read("template.html"))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(_FOLDER).joinpath(name).read_text(encoding="utf-8")
