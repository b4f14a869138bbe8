"""Paths that a user gave: what is wrong with them, in one sentence, before anything is built or when a file fails.

The functions return the reason as a predicate ("is a folder, not a file") or None; the caller names the flag or field.
"""

from __future__ import annotations

import errno
import os
import re
import sys

import tensorflow as tf

_FIRST_PYTHON_WITHOUT_GCS = (3, 13)  # tensorflow-io-gcs-filesystem has no wheel for it
_WEB = ("http", "https", "ftp")

MISSING = "does not exist"
"""What `explain` gives for a file or folder that is not there."""

_IS_FOLDER = "is a folder, not a file"
_NOT_FOLDER = "is a file, or leads through one, where a folder is needed"
_DENIED = "may not be read or written by this user (permission denied)"
_FULL = "cannot be written: no space is left on the device"
_BY_ERRNO = {
    errno.EISDIR: _IS_FOLDER,
    errno.ENOTDIR: _NOT_FOLDER,
    errno.EEXIST: _NOT_FOLDER,
    errno.ENOENT: MISSING,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EROFS: "lies on a file system that is read-only",
    errno.ENAMETOOLONG: "is too long for a path",
}
# What TensorFlow says of files; an error of these classes may also be about something else.
_BY_TEXT = (
    (r"is a directory", _IS_FOLDER),
    (r"not a directory", _NOT_FOLDER),
    (r"no such file or directory|could not find directory|failed to find any matching files", MISSING),
    (r"permission denied", _DENIED),
    (r"no space left", _FULL),
    (r"read-only file system", _BY_ERRNO[errno.EROFS]),
    (r"file name too long", _BY_ERRNO[errno.ENAMETOOLONG]),
)


def scheme(path: str) -> str:
    """What stands before "://": "gs"; empty for a local path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    return match[1].lower() if match else ""


def explain(error: BaseException, path: str = "") -> str | None:
    """Why a file or folder cannot be used, as a predicate; None if the error is not about one.

    Args:
        error: an OSError, or an error of `tf.io.gfile` and what reads through it.
        path: the path, if it is known: a remote one that cannot be reached fails in many ways.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno:
        if not (path or error.filename):
            return None  # of a socket or a pipe
        return _BY_ERRNO.get(error.errno, f"cannot be used ({error.strerror or text})")
    if match := re.search(r"File system scheme '([^']*)' not implemented", text):
        return unknown_scheme(match[1])
    if not isinstance(error, OSError | tf.errors.OpError):
        return None
    is_remote = bool(scheme(path)) or "libcurl" in text or "Error executing an HTTP request" in text
    for pattern, reason in _BY_TEXT:
        if re.search(pattern, text, re.IGNORECASE) and "libcurl" not in text:
            return reason
    if isinstance(error, tf.errors.PermissionDeniedError | tf.errors.UnauthenticatedError):
        return _DENIED
    if is_remote and isinstance(error, tf.errors.OpError):
        return f"cannot be reached ({_first_line(error.message)})"
    return None


def unknown_scheme(name: str) -> str:
    """What to do about a path whose file system TensorFlow does not have."""
    if name in _WEB:
        return f"is an {name}:// address, from which nothing is downloaded: download the file, and write the local path"
    if name == "gs":
        remedy = "pip install 'object_detection_fpn[gcs]'"
        if sys.version_info >= _FIRST_PYTHON_WITHOUT_GCS:
            version = ".".join(map(str, sys.version_info[:2]))
            remedy = f"there is no wheel of it for Python {version}: use Python 3.12, or copy the files here"
        return f"is on gs://, for which the package tensorflow-io-gcs-filesystem is needed ({remedy})"
    return f"is on {name}://, a file system that TensorFlow does not have here. Allowed: local paths, gs://"


def name_file(error: BaseException, path: str = "") -> str:
    """The path that an error is about: the one that is known, or the one its text names."""
    if path:
        return path
    if isinstance(error, OSError) and error.filename:
        return str(error.filename)
    text = str(error)
    for pattern in (
        r"\(file: '([^']+)'\)",
        r"^([^;\n]+); ",
        r"when reading (?:metadata of )?(\S+)",
        r"(?:directory|for) (\S+)",
    ):
        if match := re.search(pattern, text):
            return match[1].strip()
    return _first_line(text)


def unusable_text(path: str) -> str | None:
    """Why a text is no path, without looking at a file: it is empty, or has a tab or new line from a backslash."""
    if not path.strip():
        return "is empty"
    if any(ord(character) < ord(" ") for character in path):
        return "has a control character, as \\t and \\n are in text format: write / between folders, or \\\\"
    return None


def unusable_input(path: str) -> str | None:
    """Why nothing can be read at a path; a path that is merely missing is not reported here.

    Returns:
        The reason for an empty path, a remote one that cannot be reached, a scheme TensorFlow does not know.
    """
    if reason := unusable_text(path):
        return reason
    try:
        tf.io.gfile.exists(path)
    except (OSError, tf.errors.OpError) as error:
        return explain(error, path) or f"cannot be used ({_first_line(str(error))})"
    return None


def unusable_folder(path: str) -> str | None:
    """Why a folder cannot be written to: it need not exist, but must be possible to make.

    Returns:
        The reason for an empty path, a file in its place or above it, a folder that this user may not write to, and those of
        `unusable_input`.
    """
    if reason := unusable_input(path):
        return reason
    if scheme(path):
        return None  # a remote file system has no folders that would have to be there
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        return _NOT_FOLDER if place != os.path.abspath(path) else "is a file, where a folder is needed"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"cannot be written to: this user may not write to {place}"
    return None


def _first_line(text: str) -> str:
    line = next(iter(text.strip().splitlines()), "").strip()
    match = re.search(r"error details: (.*)", line)
    return match[1] if match else line
