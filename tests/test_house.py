"""The size of the rooms: no file and no signature of the package grows without bound."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "object_detection_fpn"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name)
MAX_LINES = 400
MAX_ARGUMENTS = 12


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Of a function or method, without `self` and `cls`; `*arguments` and `**settings` count as one each."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(set(names) - {"self", "cls"}) + (arguments.vararg is not None) + (arguments.kwarg is not None)


def test_arguments_are_counted_without_self():
    functions = ast.parse("def f(self, a, /, b, *c, d, **e): ...\nasync def g(cls): ...\ndef h(a, b=1): ...").body
    assert [num_arguments(function) for function in functions] == [5, 0, 2]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_function_has_more_than_12_arguments(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {
        f"{node.name}, line {node.lineno}": num_arguments(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds)
    }
    assert {name: number for name, number in found.items() if number > MAX_ARGUMENTS} == {}


def test_make_test_runs_every_folder():
    parts = re.search(r"^TEST_PARTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    named = {"top" if folder.endswith(".py") else folder for folder in folders}
    assert sorted(re.split(r"[ +]", parts)) == sorted(named)
