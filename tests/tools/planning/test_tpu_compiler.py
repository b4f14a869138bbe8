"""The script that compiles, with fakes in place of JAX; it is run in an environment that has JAX by nobody but users."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from object_detection_fpn.tools.planning import tpu_compiler

GIB = 2**30


class FakeOperation:
    def __init__(self, name, **attributes):
        self.name = name
        self.attributes = attributes
        self.operands = [SimpleNamespace(type="operand")]
        self.is_erased = False
        self.replaced_by = None
        self.results = [SimpleNamespace(replace_all_uses_with=self._replace)]

    def _replace(self, value):
        self.replaced_by = value

    def erase(self):
        self.is_erased = True


class FakeJax:
    """What the script calls, and what it was called with."""

    def __init__(self, monkeypatch):
        self.error = None
        self.effort = "default"
        self.copy = FakeOperation("mhlo.copy")
        self.compare = FakeOperation("stablehlo.compare", compare_type="TOTALORDER")
        self.element_type = "float"
        device = SimpleNamespace(id=3, client=SimpleNamespace(compile=self._compile))
        ir = SimpleNamespace(
            Module=SimpleNamespace(parse=self._parse),
            ShapedType=lambda _: SimpleNamespace(element_type=self.element_type),
            IntegerType=int,
            WalkResult=SimpleNamespace(ADVANCE="advance"),
        )
        build_options = SimpleNamespace(exec_time_optimization_effort=None, memory_fitting_effort=None)
        modules = {
            "jax": {},
            "jax._src": {},
            "jax._src.interpreters": {"mlir": SimpleNamespace(make_ir_context=contextlib.nullcontext)},
            "jax.experimental": {"topologies": SimpleNamespace(get_topology_desc=self._describe)},
            "jaxlib": {
                "_jax": SimpleNamespace(mlir=SimpleNamespace(hlo_to_stablehlo=lambda p: p[::-1]), DeviceList=list),
                "xla_client": SimpleNamespace(
                    CompileOptions=lambda: SimpleNamespace(executable_build_options=build_options),
                    DeviceAssignment=SimpleNamespace(create=lambda ids: ids.tolist()),
                ),
            },
            "jaxlib.mlir": {"ir": ir},
        }
        for name, contents in modules.items():
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(**contents))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        self._device = device

    def _describe(self, *, platform, topology_name):
        assert platform == "tpu"
        self.topology = topology_name
        return SimpleNamespace(devices=[self._device, None])

    def _parse(self, program):
        self.program = program

        def walk(visit):
            assert [visit(operation) for operation in (self.copy, self.compare)] == ["advance", "advance"]

        return SimpleNamespace(operation=SimpleNamespace(walk=walk))

    def _compile(self, module, *, executable_devices, compile_options):
        if self.error:
            raise ValueError(self.error)
        self.options = compile_options
        assert executable_devices == [self._device]
        return SimpleNamespace(
            hlo_modules=lambda: [SimpleNamespace(to_string=lambda: "HloModule optimized")],
            get_compiled_memory_stats=lambda: SimpleNamespace(
                argument_size_in_bytes=5,
                output_size_in_bytes=4,
                alias_size_in_bytes=3,
                temp_size_in_bytes=20,
                generated_code_size_in_bytes=300,
            ),
            cost_analysis=lambda: [{"flops": 7.0}],
        )


@pytest.fixture
def jax(monkeypatch) -> FakeJax:
    return FakeJax(monkeypatch)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the script in this process and returns its answer."""
    monkeypatch.setattr(tpu_compiler, "_ENVIRONMENT", {})
    program = tmp_path / "program.hlo"
    program.write_bytes(b"abc")

    def run(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["tpu_compiler.py", *arguments])
        tpu_compiler.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_program_is_compiled_for_one_device(jax, run, tmp_path):
    optimized = tmp_path / "optimized.txt"
    program = str(tmp_path / "program.hlo")
    answer = run(program, "--topology", "v5e:2x2", "--effort", "-1", "--optimized_hlo", str(optimized))
    assert answer["memory"] == {"arguments": 5, "results": 1, "temporary": 20, "program": 300}
    assert answer["flops"] == 7.0
    assert jax.program == b"cba"
    assert jax.topology == "v5e:2x2"
    assert jax.options.device_assignment == [[3]]
    assert jax.options.executable_build_options.exec_time_optimization_effort == -1.0
    assert jax.options.executable_build_options.memory_fitting_effort == -1.0
    assert optimized.read_text() == "HloModule optimized"


def test_effort_is_the_compilers_own_unless_given(jax, run, tmp_path):
    run(str(tmp_path / "program.hlo"), "--topology", "v5e:2x2")
    assert jax.options.executable_build_options.exec_time_optimization_effort is None


@pytest.mark.parametrize("element_type, is_kept", [("float", True), (5, False)])
def test_what_the_compiler_does_not_know_is_taken_out(jax, run, tmp_path, element_type, is_kept):
    jax.element_type = element_type
    run(str(tmp_path / "program.hlo"), "--topology", "v5e:2x2")
    assert jax.copy.is_erased
    assert jax.copy.replaced_by is jax.copy.operands[0]
    assert ("compare_type" in jax.compare.attributes) == is_kept  # integers have one order only


def test_a_failure_of_the_compiler_is_an_answer(jax, run, tmp_path):
    jax.error = "unknown custom call: Foo"
    answer = run(str(tmp_path / "program.hlo"), "--topology", "v5e:2x2")
    assert answer == {"error": "ValueError: unknown custom call: Foo"}


@pytest.mark.parametrize(
    "message, used, available",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 24.50G of 15.75G hbm. Exceeded by 8.7G.", 24.5, 15.75),
        ("Program size (512.0M) exceeds available HBM (0.25G)", 0.5, 0.25),
    ],
)
def test_too_little_memory_is_told_in_bytes(message, used, available):
    assert tpu_compiler.explain(message) == {
        "out_of_memory": {"used_bytes": used * GIB, "available_bytes": available * GIB}
    }


def test_too_little_memory_without_numbers_is_told_as_such():
    answer = tpu_compiler.explain("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of HBM.")
    assert answer == {"out_of_memory": {"used_bytes": None, "available_bytes": None}}


def test_long_message_is_cut_in_the_middle():
    answer = tpu_compiler.explain("first" + "x" * 10_000 + "last")["error"]
    assert answer.startswith("first") and answer.endswith("last") and len(answer) < 2000


@pytest.mark.parametrize("missing", ["jax", "jaxlib", "libtpu"])
def test_what_is_not_installed_is_named(run, monkeypatch, missing):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else name)
    assert run("--check") == {"missing": missing}


def test_check_tells_versions(jax, run, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 1")
    assert run("--check") == {"versions": {"jax": "jax 1", "jaxlib": "jaxlib 1", "libtpu": "libtpu 1"}}


def test_script_imports_neither_tensorflow_nor_this_package():
    tree = ast.parse(Path(tpu_compiler.__file__).read_text())
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith(("tensorflow", "tf_keras", "object_detection_fpn"))]
