"""docs/config.md is what the config language says of itself; the other pages' commands and links are real."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys

import pytest

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import tables

PAGES = (
    "README.md",
    "docs/context.md",
    "docs/data.md",
    "docs/inspect.md",
    "docs/masks.md",
    "docs/migrating.md",
    "docs/reliability.md",
    "docs/report.md",
    "docs/scale.md",
)


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


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(root_dir, name):
    path = root_dir / name
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link


def commands(text: str, program: str) -> list[list[str]]:
    """The words of each command of a program in a page's blocks of commands."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
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
