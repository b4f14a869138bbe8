"""What the build adds to the sources: messages that every admitted protobuf runtime loads, recipes, a console script."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest
import setuptools
from setuptools.errors import CompileError

import object_detection_fpn.protos
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes

OLDEST_PROTOBUF = (5, 28)  # of the runtimes that TensorFlow 2.20 and 2.21 admit


@pytest.fixture
def command(root_dir, monkeypatch, tmp_path):
    """The build command as setuptools would run it for a wheel, and the arguments that the compiler was called with."""
    calls = []
    protoc = types.SimpleNamespace(main=lambda arguments: calls.append(arguments) or 0)
    monkeypatch.setitem(sys.modules, "grpc_tools", types.SimpleNamespace(protoc=protoc))
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    build_config_language = runpy.run_path(str(root_dir / "setup.py"))["BuildConfigLanguage"]
    command = build_config_language(setuptools.Distribution())
    command.build_lib = str(tmp_path)
    command.calls = calls
    return command


def test_messages_are_compiled_for_the_oldest_admitted_runtime(root_dir):
    folder = Path(object_detection_fpn.protos.__file__).parent
    for source in (root_dir / "protos").glob("*.proto"):
        text = (folder / f"{source.stem}_pb2.py").read_text()
        version = re.search(r"# Protobuf Python Version: (\d+)\.(\d+)", text)
        assert tuple(map(int, version.groups())) <= OLDEST_PROTOBUF, source


def test_messages_load_without_a_word():
    code = "import object_detection_fpn.protos as protos; protos.pipeline_pb2.TrainEvalPipelineConfig()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_build_compiles_every_proto_under_its_place_in_the_package(command, root_dir, tmp_path):
    command.run()
    [[_, mapping, python_out, pyi_out, *names]] = command.calls
    assert mapping == f"-Iobject_detection_fpn/protos={root_dir / 'protos'}"
    assert (python_out, pyi_out) == (f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    assert sorted(names) == sorted(
        f"object_detection_fpn/protos/{p.name}" for p in (root_dir / "protos").glob("*.proto")
    )


def test_wheel_carries_recipes_and_label_maps(command, tmp_path):
    command.run()
    carried = tmp_path / "object_detection_fpn" / "configs"
    assert sorted(path.stem for path in carried.glob("tf2/*")) == sorted(recipes.recipes())
    assert sorted(path.name for path in carried.glob("label_maps/*")) == sorted(recipes.label_maps())
    assert {str(path) for path in carried.glob("*/*")} <= set(command.get_outputs())


def test_editable_install_compiles_into_the_source_tree_and_copies_nothing(command, root_dir):
    command.editable_mode = True
    command.run()
    assert f"--python_out={root_dir}" in command.calls[0]
    assert not (root_dir / "object_detection_fpn" / "configs").exists()
    assert all(output.startswith(str(root_dir / "object_detection_fpn" / "protos")) for output in command.get_outputs())


def test_source_distribution_carries_protos_recipes_and_label_maps(command, root_dir):
    expected = [*(root_dir / "protos").glob("*.proto"), *(root_dir / "configs").glob("*/*")]
    assert sorted(command.get_source_files()) == sorted(str(path.relative_to(root_dir)) for path in expected)


def test_refused_proto_stops_the_build(command, monkeypatch):
    monkeypatch.setattr(sys.modules["grpc_tools"].protoc, "main", lambda arguments: 1)
    with pytest.raises(CompileError, match="protoc refused"):
        command.run()


def test_generated_files_are_not_in_git(root_dir):
    listed = subprocess.run(["git", "ls-files", "*_pb2*"], cwd=root_dir, capture_output=True, text=True, check=False)
    assert listed.stdout == ""


def test_recipes_are_found_by_name(root_dir):
    assert recipes.recipes() == {
        path.stem: str(path) for path in sorted((root_dir / "configs" / "tf2").glob("*.config"))
    }
    name, path = next(iter(recipes.recipes().items()))
    assert recipes.recipe_path(name) == recipes.recipe_path(f"{name}.config") == path


def test_recipes_of_an_installed_package_are_those_inside_it(monkeypatch, tmp_path):
    inside = tmp_path / "object_detection_fpn" / "configs" / "tf2"
    inside.mkdir(parents=True)
    (inside / "small.config").touch()
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "object_detection_fpn" / "config" / "recipes.py"))
    assert recipes.recipes() == {"small": str(inside / "small.config")}
    monkeypatch.setattr(
        recipes, "__file__", str(tmp_path / "elsewhere" / "object_detection_fpn" / "config" / "recipes.py")
    )
    assert recipes.recipes() == {}


def test_label_map_of_the_package_stands_in_for_a_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert recipes.find_label_map("coco_label_map.pbtxt") == recipes.label_maps()["coco_label_map.pbtxt"]
    assert recipes.find_label_map("data/coco_label_map.pbtxt") == "data/coco_label_map.pbtxt"
    assert recipes.find_label_map("other.pbtxt") == "other.pbtxt"
    (tmp_path / "coco_label_map.pbtxt").touch()
    assert recipes.find_label_map("coco_label_map.pbtxt") == "coco_label_map.pbtxt"


def test_unknown_recipe_is_refused():
    name = next(iter(recipes.recipes()))
    with pytest.raises(
        config.ConfigError, match=rf'among the recipes of this package \(nearest: "{name}"\). Allowed: '
    ):
        recipes.recipe_path(f"{name}x")


@pytest.mark.parametrize(
    "requirement",
    [
        "protobuf<8,>=5.28",
        'protobuf<=6.32; python_version < "3.11"',
        "tensorboard",
        "tensorflow<2.22,>=2.20",
        "tf-models-official<2.22,>=2.20",
        "tf_keras<2.22,>=2.20",
        'tensorflow-io-gcs-filesystem; python_version < "3.13" and extra == "gcs"',
    ],
)
def test_versions_that_were_tested_are_admitted(requirement):
    assert requirement in importlib.metadata.requires("object_detection_fpn")


def test_missing_keras_2_is_refused_with_the_version_of_each_tensorflow(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"Keras 2.* 'tf_keras==2.20.\*' for TensorFlow 2.20 or 'tf_keras==2.21"):
        object_detection_fpn._check_keras_2()


def test_console_script_is_the_command_line():
    [script] = importlib.metadata.entry_points(group="console_scripts", name="odfpn")
    assert script.value == "object_detection_fpn.cli.main:main"
