"""The recipes and label maps of `configs`, in a checkout as in an installed package."""

from __future__ import annotations

import os

import tensorflow as tf

from object_detection_fpn.config.text import ConfigError, listed, nearest


def recipes() -> dict[str, str]:
    """Names and paths of the recipes that come with the package."""
    return {name.removesuffix(".config"): path for name, path in _files("tf2", ".config").items()}


def label_maps() -> dict[str, str]:
    """File names and paths of the label maps that come with the package."""
    return _files("label_maps", ".pbtxt")


def recipe_path(name: str) -> str:
    """Path of the recipe `configs/tf2/<name>.config`, in a checkout as in an installed package.

    Raises:
        ConfigError: if there is no such recipe.
    """
    known = recipes()
    key = name.removesuffix(".config")
    if key not in known:
        raise ConfigError(name, f"is not among the recipes of this package{nearest(key, known)}", allowed=listed(known))
    return known[key]


def find_label_map(path: str) -> str:
    """The label map that a config names: the file at the path, or if there is none, the one of this package of that name."""
    return path if "/" in path or tf.io.gfile.exists(path) else label_maps().get(path, path)


def _files(folder: str, suffix: str) -> dict[str, str]:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # A wheel carries them inside the package; in a checkout they stand beside it.
    for parent in (package, os.path.join(package, os.pardir)):
        path = os.path.join(parent, "configs", folder)
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.endswith(suffix))
            return {name: os.path.normpath(os.path.join(path, name)) for name in names}
    return {}
