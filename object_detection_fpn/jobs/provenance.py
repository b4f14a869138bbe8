"""Where a run comes from, as text: its config, the versions of what it runs on, and the git commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.protos import pipeline_pb2

_PACKAGES = ("tensorflow", "tf_keras", "tf-models-official", "numpy", "protobuf", "object-detection-fpn")
_SECONDS = 10.0  # for git, which answers at once unless a folder is remote
_INDENT = "    "  # Markdown's mark of text that stays as it is


def describe_run(config: pipeline_pb2.TrainEvalPipelineConfig) -> dict[str, str]:
    """What TensorBoard shows of a run as text, in Markdown, by tag; `git_commit` only where there is one."""
    versions = [f"python {platform.python_version()}", *filter(None, map(_version, _PACKAGES))]
    texts = {"config": _as_it_is(config_lib.format_config(config)), "versions": _as_it_is("\n".join(versions))}
    commits = (git_commit(folder) for folder in (os.getcwd(), os.path.dirname(os.path.abspath(__file__))))
    commit = next(filter(None, commits), None)  # of an installed package there is none
    return texts | ({"git_commit": _as_it_is(commit)} if commit else {})


def git_commit(folder: str) -> str | None:
    """The commit of the repository that a folder lies in, with its place; None where there is none."""
    commit, place = _git(folder, "rev-parse", "HEAD"), _git(folder, "rev-parse", "--show-toplevel")
    if not commit or not place:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} of {place}{', with changes that are not committed' if changes else ''}"


def _git(folder: str, *arguments: str) -> str | None:
    """What git prints; None where there is no git, or it finds no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def _as_it_is(text: str) -> str:
    return "\n".join(_INDENT + line for line in text.splitlines())
