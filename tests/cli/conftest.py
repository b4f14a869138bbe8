"""The Object Detection API's scripts."""

from __future__ import annotations

import importlib.util

import pytest
from absl import flags


@pytest.fixture
def scripts(root_dir):
    """The Object Detection API's two scripts, loaded with flags of their own."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, root_dir / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    before = set(flags.FLAGS)
    yield load
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
