"""A compiler for TPUs that is a script of the same protocol as `tpu_compiler.py`, and answers what a test tells it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

GIB = 2**30
_OPTIMIZED = Path(__file__).parent / "golden" / "tpu_program.txt"

# Stands in for an interpreter: its first argument is the script of the real one.
_FAKE = """#!{python}
import json, pathlib, shutil, sys
folder = pathlib.Path({folder!r})
arguments = sys.argv[2:]
with open(folder / "calls.txt", "a") as file:
    print(json.dumps(arguments), file=file)
print("a library says something")
if "--check" in arguments:
    print((folder / "check.json").read_text())
    sys.exit()
shutil.copy(arguments[0], folder / f"program_{{len(list(folder.glob('program_*')))}}")
if "--optimized_hlo" in arguments:
    shutil.copy({optimized!r}, arguments[arguments.index("--optimized_hlo") + 1])
print("Check failed: no way", file=sys.stderr)
print((folder / "answer.json").read_text())
"""


class FakeCompiler:
    """Says that everything fits, unless told otherwise.

    Attributes:
        python: the path for `--plan_python`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = str(folder / "python")
        text = _FAKE.format(python=sys.executable, folder=str(folder), optimized=str(_OPTIMIZED))
        Path(self.python).write_text(text)
        Path(self.python).chmod(0o755)
        self.answer_check({"versions": {}})
        memory = {"arguments": GIB, "results": 0, "temporary": 2 * GIB, "program": 0}
        self.answer({"memory": memory, "flops": 2e12, "seconds": 61.0})

    def answer(self, answer: object) -> None:
        """What it says of every program."""
        text = answer if isinstance(answer, str) else json.dumps(answer)
        (self.folder / "answer.json").write_text(text)

    def answer_check(self, answer: object) -> None:
        """What it says of its environment."""
        (self.folder / "check.json").write_text(json.dumps(answer))

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of all compilations."""
        lines = (self.folder / "calls.txt").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call != ["--check"]]

    @property
    def programs(self) -> list[bytes]:
        """All that was to be compiled."""
        return [path.read_bytes() for path in sorted(self.folder.glob("program_*"))]
