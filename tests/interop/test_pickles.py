"""Nothing that a pickle names is run, whatever it does to have it run."""

from __future__ import annotations

import os
import pickle
import pickletools

import numpy as np
import pytest
from interop import torch_writer as writer

from object_detection_fpn.interop import pickles, torch_files
from object_detection_fpn.interop.pickle_values import ForbiddenNameError, PickleError
from object_detection_fpn.training.stored import CheckpointError


class Payload:
    """Runs something when Python unpickles it."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def attacks(folder):
    """Name -> pickle; each would make a file in the folder, if it were run."""
    touch = f"touch {folder}/harm"
    code = f"open({str(folder / 'harm')!r}, 'w')"
    return {
        "os.system": pickle.dumps(Payload(os.system, touch)),
        "eval": pickle.dumps({"model": Payload(eval, code)}, protocol=0),
        "exec": pickle.dumps({"model": {"a": Payload(exec, code)}}, protocol=4),
        "getattr": writer.pickled({"a": writer.call("builtins", "getattr", writer.name_of("torch", "Size"), "mro")}),
        "in the optimizer": writer.pickled(
            {"model": {"a": writer.tensor([1.0])}, "optimizer": writer.call("posix", "system", touch)}
        ),
        "INST": b"(X\x01\x00\x00\x00aios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nX\x01\x00\x00\x00ao.",
        "dotted name": b"\x80\x04\x8c\x05torch\x8c\x13serialization.pickle\x93.",
        "state of a function": writer.name_of("collections", "OrderedDict") + b"}X\x01\x00\x00\x00aNsb.",
        "state of a type": writer.name_of("argparse", "Namespace") + b"N}X\x01\x00\x00\x00aNs\x86b.",
        "call of a storage's type": writer.call("torch", "FloatStorage") + b".",
        "extension": b"\x80\x02\x82\x01.",
        "text as a name": b"\x80\x04N\x8c\x06system\x93.",
    }


NAMES = [
    "os.system", "eval", "exec", "getattr", "in the optimizer", "INST", "OBJ", "dotted name", "state of a function",
    "state of a type", "call of a storage's type", "extension", "text as a name",
]  # fmt: skip


def test_all_attacks_are_listed(tmp_path):
    assert [*attacks(tmp_path)] == NAMES
    with pytest.raises(FileNotFoundError):
        (tmp_path / "harm").stat()
    pickle.loads(attacks(tmp_path)["os.system"])
    assert (tmp_path / "harm").exists()  # it would harm


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs(tmp_path, name):
    content = attacks(tmp_path)[name]
    with pytest.raises(PickleError):
        pickles.load(content, has_storages=True)
    for form in ("pickle", "old", "zip"):
        path = tmp_path / "x.pth"
        if form == "pickle":
            path.write_bytes(content)
        elif form == "old":
            start = b"".join(writer.pickled(value) for value in (writer.MAGIC, 1001, {}))
            path.write_bytes(start + content + writer.pickled([]))
        else:
            body = content[2:] if content.startswith(b"\x80") else content
            path.write_bytes(writer.zip_bytes(writer.Raw(body[:-1])))
        with pytest.raises(CheckpointError, match=r"x\.pth: th(is file is refused|ese weights cannot be read): it "):
            torch_files.read_file(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize(
    "name, words",
    [
        ("os.system", "it asks for (posix|nt).system, which weights do not need. Nothing of it was run."),
        ("eval", "it asks for __builtin__.eval, which weights do not need"),
        ("INST", r"it asks for the operation INST \(at byte 7\), which weights do not need"),
        ("extension", r"it asks for the operation EXT1 \(at byte 2\)"),
    ],
)
def test_the_error_names_what_is_refused(tmp_path, name, words):
    path = tmp_path / "x.pkl"
    path.write_bytes(attacks(tmp_path)[name])
    with pytest.raises(CheckpointError, match=words):
        torch_files.read_file(str(path))


def test_a_whole_model_is_refused_with_what_to_save_instead(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(writer.zip_bytes(writer.call("torchvision.models.resnet", "ResNet")))
    with pytest.raises(CheckpointError, match=r"whole model; save model\.state_dict\(\) with torch\.save instead"):
        torch_files.read_file(str(path))


def test_operations_that_weights_do_not_need_are_refused():
    """All but those that Python writes for dicts, lists, tuples, texts, numbers, bytes, and calls of functions."""
    refused = set()
    for opcode in pickletools.opcodes:
        try:
            pickles.load(b"}(" + opcode.code.encode("latin1") + b"\0" * 20, has_storages=True)
        except PickleError as error:
            if "asks for the operation" in str(error):
                refused.add(opcode.name)
    assert refused == {
        *("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "DUP", "POP", "POP_MARK", "LONG4"),
        *("EMPTY_SET", "ADDITEMS", "FROZENSET", "NEXT_BUFFER", "READONLY_BUFFER"),
    }


@pytest.mark.parametrize(
    "value",
    [
        {
            "a": [
                1,
                2.5,
                None,
                True,
                False,
                -70000,
                1 << 60,
                b"bytes",
                b"",
                "text \u00fc \U0001f600",
                (),
                (1,),
                (1, 2, 3, 4),
            ]
        },
        {"n": {1: {"m": []}}, 2: "x" * 300, "y" * 300: b"z" * 300},
        [[], {}, ((),)],
    ],
)
@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_python(value, protocol):
    content = pickle.dumps(value, protocol=protocol)
    assert pickles.load(b"before" + content + b"after", 6) == (value, 6 + len(content), {})


def test_values_that_are_meant_twice_are_one():
    shared = [1]
    loaded = pickles.load(pickle.dumps({"a": shared, "b": shared})).value
    assert loaded["a"] is loaded["b"]


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "M8[s]", "c8", [("a", "f4")]])
def test_arrays_of_other_things_than_numbers_are_refused(dtype):
    with pytest.raises(
        PickleError, match=r"an array holds .*no numbers|objects instead of numbers|weights do not need"
    ):
        pickles.load(pickle.dumps(np.zeros(2, dtype), protocol=2))


@pytest.mark.parametrize(
    "content",
    [
        b")" + b"\x85" * 300_000 + b"NN\x86R.",
        b"}" + b")" + b"\x85" * 300_000 + b"Ns.",
        b"cnumpy\ndtype\n)" + b"\x85" * 300_000 + b"\x85R.",
        b"S'" + b"a" * 10 + b"'+" + b"(" * 100_000 + b"\n.",
        b"I" + b"9" * 100_000 + b"\n.",
        b")" + b"\x85" * 300_000 + b"Nb.",
    ],
)
def test_values_in_values_without_end_are_refused(content):
    with pytest.raises(PickleError):
        pickles.load(content)


def test_deeply_nested_values_that_are_not_weights_do_no_harm():
    pickles.load(b")" + b"\x85" * 300_000 + b".")


def test_a_name_of_a_harmless_module_is_refused_too():
    with pytest.raises(ForbiddenNameError, match=r"it asks for collections\.deque, which weights do not need"):
        pickles.load(writer.pickled({"a": writer.call("collections", "deque", [])}))
