"""The recipes of `configs/tf2`, in a checkout as in an installed package."""

from __future__ import annotations

import os

from object_detection_fpn.config.text import ConfigError, listed, nearest


def recipes() -> dict[str, str]:
    """Names and paths of the recipes that come with the package."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # A wheel carries the recipes inside the package; in a checkout they stand beside it.
    for folder in (os.path.join(package, "configs", "tf2"), os.path.join(package, os.pardir, "configs", "tf2")):
        if os.path.isdir(folder):
            files = sorted(name for name in os.listdir(folder) if name.endswith(".config"))
            return {name.removesuffix(".config"): os.path.normpath(os.path.join(folder, name)) for name in files}
    return {}


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
