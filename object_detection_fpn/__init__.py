"""Faster R-CNN with feature pyramid networks for TensorFlow: pipeline config in, trained, evaluated, exported detector out."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from object_detection_fpn.builder import build_model
    from object_detection_fpn.config.pipeline import load_config
    from object_detection_fpn.jobs.evaluate import evaluate
    from object_detection_fpn.jobs.export import export
    from object_detection_fpn.jobs.train import train
    from object_detection_fpn.modeling.fpn import FeatureExtractor
    from object_detection_fpn.modeling.heads.box import BoxFeatureExtractor

__version__ = "0.1.0"
__all__ = ["BoxFeatureExtractor", "FeatureExtractor", "build_model", "evaluate", "export", "load_config", "train"]

# Imported at first use, so that `import object_detection_fpn` costs no more than what the caller needs.
_HOMES = {
    "BoxFeatureExtractor": "modeling.heads.box",
    "FeatureExtractor": "modeling.fpn",
    "build_model": "builder",
    "evaluate": "jobs.evaluate",
    "export": "jobs.export",
    "load_config": "config.pipeline",
    "train": "jobs.train",
}


def _check_keras_2() -> None:
    """The models are Keras 2 models; tf_keras is a package of its own since TensorFlow 2.16."""
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError(
            "object_detection_fpn needs Keras 2. Remedy: pip install tf_keras of TensorFlow's version, "
            "'tf_keras==2.20.*' for TensorFlow 2.20 or 'tf_keras==2.21.*' for 2.21."
        )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


_check_keras_2()
