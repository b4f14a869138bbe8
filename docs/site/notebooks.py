"""Shows notebooks of docs/ as pages of the site, with the outputs of `make notebook` where it has run.

`notebooks/demo.ipynb` has no outputs in git. On the site the page `notebooks/demo.md` stands for it; links lead there
(docs/site/links.py). MkDocs calls this function (`hooks` of mkdocs.yml).
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parents[2]
_EXECUTED = _ROOT / "notebook_output"
_IMAGES = {"image/jpeg": "jpg", "image/png": "png"}  # of both the smaller


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page, and its pictures, for each notebook."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        executed = _EXECUTED / Path(file.src_uri).name
        path = executed if executed.exists() else _ROOT / "docs" / file.src_uri
        stem = file.src_uri.removesuffix(".ipynb")
        text, pictures = _convert(json.loads(path.read_text()), Path(stem).name)
        files.append(File.generated(config, f"{stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, (Path(stem).parent / name).as_posix(), content=content))
    return files


def _convert(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook -> Markdown, and its pictures by their file names."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = ""
        for output in cell["outputs"]:
            data = output.get("data", {})
            kind = next((kind for kind in _IMAGES if kind in data), None)
            if kind is None:
                printed += "".join(output.get("text", data.get("text/plain", "")))
                continue
            file_name = f"{name}_{len(pictures) + 1}.{_IMAGES[kind]}"
            pictures[file_name] = base64.b64decode("".join(data[kind]))
            parts += [*_block(printed), f"![Output]({file_name})"]
            printed = ""
        parts += _block(printed)
    head, *rest = parts
    download = f'<a href="{name}.ipynb" download>This page as a notebook</a>'
    return "\n\n".join([head, download, *rest]) + "\n", pictures


def _block(printed: str) -> list[str]:
    """What was printed, as a block; nothing where nothing was."""
    shown = _as_terminal(printed)
    return [f"```text\n{shown}\n```"] if shown else []


def _as_terminal(text: str) -> str:
    """What a terminal shows in the end: a carriage return writes over its line, colours are no letters."""
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).split("\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines).strip("\n")
