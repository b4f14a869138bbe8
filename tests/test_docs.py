"""docs/config.md is what the config language says of itself; the other pages' commands and links are real."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import tables

PAGES = (
    "README.md",
    "docs/check.md",
    "docs/context.md",
    "docs/data.md",
    "docs/export.md",
    "docs/inspect.md",
    "docs/masks.md",
    "docs/migrating.md",
    "docs/own_data.md",
    "docs/predict.md",
    "docs/reliability.md",
    "docs/report.md",
    "docs/scale.md",
    "docs/serving.md",
    "docs/training.md",
)
"""Those with commands."""

ROOT = Path(__file__).parent.parent
LINKING_PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
NOTEBOOKS = sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.py"))


@pytest.fixture(scope="module")
def generator(root_dir):
    spec = importlib.util.spec_from_file_location("generate_config", root_dir / "docs" / "generate_config.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(generator):
    return generator.generate()


def test_the_page_is_the_one_that_is_written(generator, page):
    assert generator.OUTPUT.read_text() == page, "Remedy: make docs"


def test_comments_are_found_by_what_they_stand_above(generator):
    text = """
    // The file.

    syntax = "proto2";

    // A message
    // of two lines.
    message Outer {
      reserved 2;
      oneof kind {
        // One.
        Inner one = 1;
      }
      // Several.
      map<int32, Inner> several = 3 [default = 1];
      // Inside.
      message Inner { }
      message Other {
        // Deep.
        repeated float deep = 1;
      }
      // Last.
      optional bool last = 4;
    }
    """
    assert generator.comments(text) == {
        "": "The file.",
        "Outer": "A message of two lines.",
        "Outer.one": "One.",
        "Outer.several": "Several.",
        "Outer.Inner": "Inside.",
        "Outer.Other.deep": "Deep.",
        "Outer.last": "Last.",
    }


def test_every_field_has_a_row_with_a_status_and_words(page):
    rows = [line.split(" | ") for line in page.split("## Left out")[0].splitlines() if line.startswith("| `")]
    assert len(rows) > 300
    for row in rows:
        assert len(row) == 5, row
        assert row[3] in ("works", "no effect", "refused"), row
        assert row[4].strip(" |"), row


def test_every_field_of_the_tables_is_on_the_page(page):
    sections = {part.split("\n")[0]: part for part in re.split(r"^### ", page, flags=re.MULTILINE)[1:]}
    by_name = {name.split(".")[-1]: text for name, text in sections.items()}
    for table, status in ((tables.REFUSED, "refused"), (tables.NO_EFFECT, "no effect")):
        for key, reason in table.items():
            message, field = key.split(".")
            row = next(line for line in by_name[message].splitlines() if line.startswith(f"| `{field}` |"))
            assert f"| {status} |" in row
            assert reason in row


def test_links_lead_to_sections(page):
    anchors = {title.replace(".", "").lower() for title in re.findall(r"^### (\S+)$", page, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= anchors


@pytest.mark.parametrize("name", LINKING_PAGES)
def test_links_lead_to_files(root_dir, name):
    path = root_dir / name
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link


def commands(text: str, program: str) -> list[list[str]]:
    """The words of each command of a program in a page's blocks of commands."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            line = re.split(r" && |; do", line)[0]
            if line.strip().startswith(program + " "):
                found.append(shlex.split(line.strip(), comments=True)[len(program.split()) :])
    return found


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_the_pages_are_understood(root_dir, name):
    text = (root_dir / name).read_text()
    found = commands(text, "odfpn")
    assert found
    for words in found:
        assert cli.make_parser().parse_args(words).run, words
    script = (root_dir / "model_main_tf2.py").read_text()
    for words in commands(text, "python model_main_tf2.py"):
        for flag in re.findall(r"--(\w+)", " ".join(words)):
            assert re.search(rf'DEFINE_\w+\(\s*"{flag}"', script), flag


# The site ------------------------------------------------------------------------------------------------------------


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(entry)]


def test_every_page_has_its_place_on_the_site(root_dir):
    nav = pages_of(yaml.safe_load((root_dir / "mkdocs.yml").read_text())["nav"])
    written = [path.name for path in (root_dir / "docs").glob("*.md")] + [f"notebooks/{n}.md" for n in NOTEBOOKS]
    assert sorted(nav) == sorted(written), "Remedy: a line in `nav` of mkdocs.yml"


def cells_of_script(text: str) -> list[tuple[str, str]]:
    """Kind and source of each cell of a script in jupytext's percent format."""
    cells = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        kind, source = part.split("\n", 1)
        if kind == " [markdown]":
            cells.append(("markdown", re.sub(r"^# ?", "", source, flags=re.MULTILINE).strip("\n")))
        else:
            cells.append(("code", source.strip("\n")))
    return cells


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_their_scripts_without_outputs(root_dir, name):
    folder = root_dir / "docs" / "notebooks"
    cells = json.loads((folder / f"{name}.ipynb").read_text())["cells"]
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    assert found == cells_of_script((folder / f"{name}.py").read_text()), "Remedy: make notebook"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
