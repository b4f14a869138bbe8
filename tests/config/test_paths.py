"""Why a path cannot be used, in one sentence."""

from __future__ import annotations

import errno
import sys

import pytest
import tensorflow as tf

from object_detection_fpn.config import paths

_HTTP = (
    "Error executing an HTTP request: libcurl code 28 meaning 'Timeout was reached', error details: Resolving timed out"
)


def op_error(kind: str, text: str) -> tf.errors.OpError:
    return getattr(tf.errors, kind)(None, None, text)


@pytest.mark.parametrize(
    "error, expected",
    [
        (op_error("FailedPreconditionError", "/a; Is a directory"), "is a folder, not a file"),
        (op_error("FailedPreconditionError", "/a/b is not a directory"), "is a file, or leads through one, where"),
        (op_error("NotFoundError", "/a; No such file or directory"), "does not exist"),
        (op_error("PermissionDeniedError", "/a; Permission denied"), "may not be read or written by this user"),
        (op_error("ResourceExhaustedError", "/a; No space left on device"), "no space is left on the device"),
        (
            op_error("FailedPreconditionError", f"{_HTTP}\n when reading gs://b"),
            "cannot be reached (Resolving timed out)",
        ),
        (
            op_error("UnimplementedError", "File system scheme 's3' not implemented (file: 's3://b')"),
            "is on s3://, a file",
        ),
        (
            op_error("UnimplementedError", "File system scheme 'http' not implemented (file: 'http://b')"),
            "is an http://",
        ),
        (
            ValueError("Failed to get files: File system scheme 'https' not implemented (file: 'https://b')"),
            "is an https",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "may not be read or written by this user"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "is a folder, not a file"),
        (OSError(errno.EIO, "Input/output error", "/a"), "cannot be used (Input/output error)"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/a"), "is too long for a path"),
    ],
)
def test_errors_of_files_are_explained(error, expected):
    assert expected in paths.explain(error)


@pytest.mark.parametrize(
    "error",
    [
        op_error("NotFoundError", "Op type not registered 'Foo'"),
        op_error("UnimplementedError", "Fused conv is not implemented"),
        op_error("ResourceExhaustedError", "OOM when allocating tensor"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ValueError("shapes differ"),
    ],
)
def test_other_errors_are_not(error):
    assert paths.explain(error) is None


@pytest.mark.parametrize(
    "version, expected",
    [
        ((3, 12), "(pip install 'object_detection_fpn[gcs]')"),
        ((3, 13), "(there is no wheel of it for Python 3.13: use"),
    ],
)
def test_gs_without_its_package_names_the_remedy(monkeypatch, version, expected):
    monkeypatch.setattr(sys, "version_info", version)
    assert expected in paths.unknown_scheme("gs")


@pytest.mark.parametrize(
    "error, path",
    [
        (op_error("FailedPreconditionError", "/a b/c; Is a directory"), "/a b/c"),
        (op_error("UnimplementedError", "File system scheme 's3' not implemented (file: 's3://b/x')"), "s3://b/x"),
        (op_error("FailedPreconditionError", f"{_HTTP}\n\t when reading metadata of gs://b/x"), "gs://b/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a"),
    ],
)
def test_errors_name_their_file(error, path):
    assert paths.name_file(error) == path


@pytest.mark.parametrize(
    "name, expected",
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("FOLDER", None),
        ("FOLDER/new/and/newer", None),
        ("relative", None),
        ("FOLDER/file", "is a file, where a folder is needed"),
        ("FOLDER/file/below", "is a file, or leads through one, where a folder is needed"),
        ("https://host/x", "is an https:// address, from which nothing is downloaded"),
        ("s3://bucket/x", "is on s3://, a file system that TensorFlow does not have here"),
        ("a\tb", "has a control character"),
        ("ram://anything", None),
    ],
)
def test_a_folder_to_be_written_is_tried_first(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    reason = paths.unusable_folder(name.replace("FOLDER", str(tmp_path)))
    assert reason is None if expected is None else expected in reason


def test_a_folder_of_somebody_else_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(paths.os, "access", lambda *_: False)
    assert paths.unusable_folder(f"{tmp_path}/new") == f"cannot be written to: this user may not write to {tmp_path}"
