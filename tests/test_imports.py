"""The direction of imports: later layers import earlier ones, and only some layers read messages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "object_detection_fpn"

# The first prefix that fits a module gives its layer.
LAYERS = {
    "execution": 1,
    "records": 1,
    "protos": 1,
    "ops": 2,
    "drawing": 2,
    "data": 3,
    "modeling": 3,
    "training": 4,
    "evaluation": 4,
    "serving": 4,
    "config": 5,
    "builder": 5,
    "interop": 5,
    "jobs": 6,
    "tools": 7,
    "cli": 8,
}
READERS_OF_MESSAGES = {part for part, layer in LAYERS.items() if layer >= 5} | {"protos"}
ABOVE_CONFIG = {"builder", "interop"}  # of one layer, but config imports neither
BESIDE_EACH_OTHER = {"ops", "drawing", "data", "modeling", "training", "evaluation", "serving"}

FORBIDDEN = ("tensorflow.python", "keras", "tensorflow.keras")

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name)


def imported_parts(path: Path) -> set[str]:
    """First name below the package of everything the file imports from the package."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith(f"{PACKAGE.name}."):
                parts.add(name.split(".")[1])
    return parts


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_from_later_layers_to_earlier_ones(path):
    part = part_of(path)
    if part == "__init__":
        return
    for other in imported_parts(path) - {part}:
        assert LAYERS[other] <= LAYERS[part], (
            f"{path.name}, layer {LAYERS[part]}, imports {other}, layer {LAYERS[other]}"
        )
        if {part, other} <= BESIDE_EACH_OTHER and LAYERS[other] == LAYERS[part]:
            raise AssertionError(f"{path.name} imports {other} beside it")
        assert part != "config" or other not in ABOVE_CONFIG, f"{path.name} imports {other} above it"
        if other == "protos":
            assert part in READERS_OF_MESSAGES, f"{path.name} reads messages"


def test_every_part_has_a_layer():
    assert {part_of(path) for path in MODULES} - {"__init__"} <= set(LAYERS)


def test_no_module_uses_private_or_old_apis():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                is_from = isinstance(node, ast.ImportFrom)
                names = [node.module or ""] if is_from else [alias.name for alias in node.names]
                assert not any(name.startswith(FORBIDDEN) for name in names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tf":
                assert node.attr not in ("keras", "compat"), f"{path} line {node.lineno}"


def test_importing_the_package_prints_nothing_and_is_quick():
    """The package itself adds less than a second to what it stands on (measured inside one process)."""
    code = (
        "import tensorflow, tf_keras, time; start = time.perf_counter(); import object_detection_fpn; "
        "print(time.perf_counter() - start)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.0  # stdout holds the number alone
    assert "object_detection_fpn" not in result.stderr
