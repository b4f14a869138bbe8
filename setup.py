"""Builds what git does not hold: the messages compiled from protos/, and recipes and label maps of configs/ inside the package.

Everything else about the distribution stands in pyproject.toml.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.errors import CompileError

_ROOT = Path(__file__).resolve().parent
_PACKAGE = "object_detection_fpn"


class BuildConfigLanguage(Command):
    """Compiles protos/*.proto into `object_detection_fpn/protos` and copies recipes and label maps beside them.

    A sub-command of `build`, so wheels, sdists and editable installs all run it. An editable install compiles into the
    source tree (git ignores the result) and copies none of these: there `configs/` itself is read.
    """

    description = "compile the .proto files and place recipes and label maps"
    user_options: ClassVar = [("build-lib=", "d", "folder to build into")]
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        # Only the build needs the compiler; `pip install` of a wheel never gets here.
        from grpc_tools import protoc

        target = self._target()
        (target / _PACKAGE / "protos").mkdir(parents=True, exist_ok=True)
        # protos/fpn.proto gets the name object_detection_fpn/protos/fpn.proto, which imports and descriptors use.
        mapping = f"-I{_PACKAGE}/protos={_ROOT / 'protos'}"
        names = [f"{_PACKAGE}/protos/{source.name}" for source in self._protos()]
        if protoc.main(["protoc", mapping, f"--python_out={target}", f"--pyi_out={target}", *names]):
            raise CompileError("protoc refused protos/*.proto; its messages stand above.")
        for built, source in self._recipes().items():
            Path(built).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, built)

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(_ROOT)) for path in [*self._protos(), *self._recipe_sources()]]

    def get_outputs(self) -> list[str]:
        protos = self._target() / _PACKAGE / "protos"
        modules = [str(protos / f"{s.stem}_pb2{suffix}") for s in self._protos() for suffix in (".py", ".pyi")]
        return modules + list(self._recipes())

    def get_output_mapping(self) -> dict[str, str]:
        return self._recipes()

    def _target(self) -> Path:
        return _ROOT if self.editable_mode else Path(str(self.build_lib)).resolve()

    def _protos(self) -> list[Path]:
        return sorted((_ROOT / "protos").glob("*.proto"))

    def _recipe_sources(self) -> list[Path]:
        return sorted(path for path in (_ROOT / "configs").rglob("*") if path.suffix in (".config", ".pbtxt"))

    def _recipes(self) -> dict[str, str]:
        if self.editable_mode:
            return {}
        package = self._target() / _PACKAGE
        return {str(package / path.relative_to(_ROOT)): str(path) for path in self._recipe_sources()}


build.sub_commands.append(("build_config_language", None))

setup(cmdclass={"build_config_language": BuildConfigLanguage})
