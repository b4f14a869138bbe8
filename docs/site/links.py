"""Makes links that leave docs/ work on the site: it holds a page of every file and folder outside that some page links to.

A page of docs/ links to what is outside by a relative path, such as `../configs/tf2`, which works where the repository is read.
On the site the page `files/configs/tf2.md` stands for it: a file is shown as it is, a Markdown file as a page, a folder as the
list of its files.

MkDocs calls these functions (`hooks` of mkdocs.yml).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[2]
_DOCS = _ROOT / "docs"
_LINK = re.compile(r"(?<=\]\()(?!#)(?!\w+:)([^)#\s]+)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"(^(```+).*?^\2$)", re.MULTILINE | re.DOTALL)
_LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".config": "text",
    ".proto": "protobuf",
    "Makefile": "make",
}
_MAX_SHOWN = 100_000  # characters of a file

_origins: dict[str, Path] = {}
"""Path among the site's sources -> the file or folder outside of docs/ that it shows."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for all that is linked to, and for what these pages link to in turn."""
    _origins.clear()
    waiting = [
        target for file in files.documentation_pages() for target in _targets(file.content_string, _DOCS / file.src_uri)
    ]
    while waiting:
        target = waiting.pop()
        if (uri := _uri(target)) in _origins:
            continue
        _origins[uri] = target
        text = _content(target)
        files.append(File.generated(config, uri, content=text))
        if target.is_dir():
            waiting += filter(Path.is_file, _listed(target))
        elif target.suffix == ".md":
            waiting += _targets(text, target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links of a page to where their targets are on the site."""
    origin = _origins.get(page.file.src_uri, _DOCS / page.file.src_uri)
    here = Path(page.file.src_uri).parent

    def turn(match: re.Match[str]) -> str:
        target = _resolve(origin, match[1])
        if not _is_outside(target):
            uri = target.relative_to(_DOCS).as_posix()
            uri = re.sub(r"\.ipynb$", ".md", uri)  # docs/site/notebooks.py
        elif target.exists() and target.is_relative_to(_ROOT):
            uri = _uri(target)
        else:
            return match[0]  # MkDocs reports it
        return os.path.relpath(uri, here) + (match[2] or "")

    if origin.is_dir() or (origin.suffix != ".md" and page.file.src_uri in _origins):
        return markdown  # made here, with links that are right
    parts = _CODE.split(markdown)
    # Text, then a block of code and its fence, again and again.
    return "".join(part if i % 3 == 1 else _LINK.sub(turn, part) for i, part in enumerate(parts) if i % 3 != 2)


def _targets(markdown: str, origin: Path) -> list[Path]:
    """Existing files and folders outside of docs/ that a page leads to."""
    targets = [_resolve(origin, match[1]) for match in _LINK.finditer(_CODE.sub("", markdown))]
    return [target for target in targets if _is_outside(target) and target.is_relative_to(_ROOT) and target.exists()]


def _is_outside(target: Path) -> bool:
    return not (target.is_relative_to(_DOCS) and target != _DOCS)


def _listed(folder: Path) -> list[Path]:
    """The files and folders in a folder that are not made by tools, files first."""
    found = (
        path for path in folder.iterdir() if not path.name.startswith((".", "__pycache__")) and "_pb2" not in path.name
    )
    return sorted(found, key=lambda path: (path.is_dir(), path.name))


def _content(target: Path) -> str:
    """The page that shows a file or folder."""
    name = target.relative_to(_ROOT).as_posix()
    head = f"---\nsearch:\n  exclude: true\nhide:\n  - navigation\n  - toc\ntitle: {name}\n---\n\n"
    if target.is_dir():
        here = Path(_uri(target)).parent
        rows = [
            f"- {path.name}/" if path.is_dir() else f"- [{path.name}]({os.path.relpath(_uri(path), here)})"
            for path in _listed(target)
        ]
        return f"{head}# {name}/\n\n" + "\n".join(rows) + "\n"
    text = target.read_text()
    if target.suffix == ".md":
        return text
    if len(text) > _MAX_SHOWN:
        text = text[:_MAX_SHOWN] + "\n...\n"
    fence = "`" * (1 + max(map(len, re.findall("`{3,}", text)), default=2))
    language = _LANGUAGES.get(target.suffix or target.name, "text")
    return f"{head}# {name}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _resolve(origin: Path, link: str) -> Path:
    folder = origin if origin.is_dir() else origin.parent
    return Path(os.path.normpath(folder / link))


def _uri(target: Path) -> str:
    """Where the page of a file or folder outside of docs/ stands among the site's sources."""
    name = target.relative_to(_ROOT).as_posix()
    return f"files/{name}" if target.suffix == ".md" else f"files/{name}.md"
