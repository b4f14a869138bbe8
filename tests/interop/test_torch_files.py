"""Every form of a file of weights gives its tensors, and what is no such file is refused in words."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from interop import torch_writer as writer

from object_detection_fpn.interop import torch_files
from object_detection_fpn.training.stored import CheckpointError

RNG = np.random.default_rng(0)
FORMS = {"zip": writer.zip_bytes, "old": writer.old_bytes}
WEIGHTS = {"conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32), "bn.num_batches_tracked": np.int64(7)}


@pytest.fixture
def read(tmp_path):
    """Writes bytes to a file and reads its weights."""

    def write_and_read(content: bytes, name: str = "x.pth") -> dict[str, np.ndarray]:
        path = tmp_path / name
        path.write_bytes(content)
        return torch_files.read_file(str(path)).tensors

    return write_and_read


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].shape == np.shape(array)


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_of_torch_save_give_the_tensors(read, form):
    found = read(FORMS[form](writer.state_dict(**WEIGHTS)))
    assert_same(found, WEIGHTS)
    assert found["conv.weight"].dtype == np.float32
    assert found["bn.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("name", ["archive", "fasterrcnn_resnet50_fpn-258fb6c6", "a/b"])
def test_the_folder_in_the_zip_has_any_name(read, name):
    assert_same(read(writer.zip_bytes(writer.state_dict(**WEIGHTS), name=name), "x.pt"), WEIGHTS)


@pytest.mark.parametrize("order", ["little", "big", None])
def test_byte_order_of_the_zip_is_heeded(read, order):
    weights = {f"a{i}": np.arange(3).astype(kind) for i, kind in enumerate(("f4", "f8", "f2", "i8", "i2", "u1"))}
    assert_same(read(writer.zip_bytes(writer.state_dict(**weights), order=order)), weights)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [*writer.STORAGES])
def test_every_type_of_number_is_read(read, form, dtype):
    if dtype == "bf16":
        expected = np.array([1.0, -2.5, 3.140625], np.float32)
        numbers = (expected.view(np.uint32) >> 16).astype(np.uint16)
    else:
        expected = numbers = np.array([1, 0, 3]).astype(dtype)
    found = read(FORMS[form]({"a": writer.tensor(numbers, dtype=dtype)}))["a"]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.float32 if dtype in ("f2", "f4", "f8", "bf16") else np.dtype(dtype))


@pytest.mark.parametrize("form", FORMS)
def test_strides_offsets_and_shared_storages_are_heeded(read, form):
    numbers = np.arange(24, dtype=np.float32)
    found = read(
        FORMS[form](
            {
                "whole": writer.Tensor(numbers, (2, 12), (12, 1)),
                "transposed": writer.Tensor(numbers, (3, 2), (1, 3), offset=6),
                "every second": writer.Tensor(numbers, (5,), (2,), offset=15),
                "one": writer.Tensor(numbers, (), (), offset=23),
                "expanded": writer.Tensor(numbers, (2, 3), (0, 1), offset=1),
                "empty": writer.Tensor(numbers, (0, 3), (3, 1), offset=24),
                "parameter": writer.Tensor(numbers, (1,), (1,), offset=9, is_parameter=True),
            }
        )
    )
    assert_same(
        found,
        {
            "whole": numbers.reshape(2, 12),
            "transposed": numbers[6:12].reshape(2, 3).T,
            "every second": numbers[15::2],
            "one": np.float32(23),
            "expanded": np.stack([numbers[1:4]] * 2),
            "empty": np.zeros((0, 3)),
            "parameter": numbers[9:10],
        },
    )


def test_the_oldest_files_name_parts_of_storages(read):
    numbers = np.arange(10, dtype=np.float32)
    part = writer.Tensor(numbers, (2, 2), (2, 1), offset=1, view=("1", 4, 5))
    assert_same(read(writer.old_bytes({"a": part})), {"a": numbers[5:9].reshape(2, 2)})
    with pytest.raises(CheckpointError, match="a part of storage 0 reaches beyond it"):
        read(writer.old_bytes({"a": part._replace(view=("1", 8, 5))}))


@pytest.mark.parametrize("form", FORMS)
def test_reading_does_not_copy_what_needs_no_change(read, form):
    content = FORMS[form]({"a": writer.tensor(np.zeros(2_000_000, np.float32))})
    tracemalloc.start()
    found = read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["a"].size == 2_000_000
    assert peak < 2.5 * len(content)  # the file, and in a zip its storages


# Checkpoints of training ------------------------------------------------------------------------------------------------


def namespace(**values) -> writer.Raw:
    return writer.Raw(writer.name_of("argparse", "Namespace") + b")\x81" + writer.pickled(values)[2:-1] + b"b")


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_training_gives_its_model(read, form):
    momentum = writer.tensor(np.ones((9, 9), np.float32))
    checkpoint = {
        "model": writer.state_dict(**WEIGHTS),
        "optimizer": {"state": {0: {"momentum_buffer": momentum, "step": 3}}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"milestones": writer.call("collections", "Counter", {16: 1}), "base": [0.1, float("inf")]},
        "args": namespace(lr=0.1, device=writer.call("torch", "device", "cuda"), dataset="coco", amp=False, eval=None),
        "size": writer.call("torch", "Size", (3, 4)),
        "epoch": 25,
    }
    assert_same(read(FORMS[form](checkpoint)), WEIGHTS)


@pytest.mark.parametrize("part", ["model", "state_dict", "model_state_dict"])
def test_names_of_parallel_training_lose_their_prefix(read, part, tmp_path):
    weights = {f"module.{name}": array for name, array in WEIGHTS.items()}
    assert_same(read(writer.zip_bytes({part: writer.state_dict(**weights)})), WEIGHTS)
    assert torch_files.read_file(str(tmp_path / "x.pth")).part == part


def test_averaged_weights_go_first(read):
    averaged = {"n_averaged": np.int64(9), **{f"module.{name}": array for name, array in WEIGHTS.items()}}
    others = {name: np.zeros_like(array) for name, array in WEIGHTS.items()}
    checkpoint = {"model": writer.state_dict(**others), "model_ema": writer.state_dict(**averaged)}
    assert_same(read(writer.zip_bytes(checkpoint)), WEIGHTS)


# Detectron2 and safetensors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read(read, protocol):
    weights = {
        **WEIGHTS,
        "half": np.arange(3, dtype=np.float16),
        "big": np.arange(4, dtype=">f4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 2), np.float32),
    }
    model = {"model": weights, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    found = read(pickle.dumps(model, protocol=protocol), "x.pkl")
    assert_same(found, weights)
    assert found["big"].dtype == found["fortran"].dtype == np.float32


def python2_array(array: np.ndarray, protocol: int) -> bytes:
    """As Python 2 pickles it: the numbers are a text of bytes."""

    def text(raw: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(raw)[1:].encode() + b"\np9\n"
        return b"T" + struct.pack("<i", len(raw)) + raw if len(raw) > 255 else b"U" + struct.pack("<B", len(raw)) + raw

    numbers = b"".join(b"I%d\n" % side for side in array.shape)
    dtype = b"cnumpy\ndtype\n(" + text(b"f4") + b"I0\nI1\ntRp2\n(I3\n" + text(b"<") + b"NNNI-1\nI-1\nI0\ntb"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\n(I0\nt"
        + text(b"b")
        + b"tR(I1\n("
        + numbers
        + b"t"
        + dtype
        + (b"I00\n" if protocol == 0 else b"\x89")
        + text(array.tobytes())
        + b"tb"
    )


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickles_of_python_2_are_read(read, protocol):
    array = RNG.normal(size=(10, 9)).astype(np.float32)
    if protocol == 0:
        content = b"(dp0\nS'blobs'\n(dp1\nS'conv1_w'\np4\n" + python2_array(array, 0) + b"sS'conv1_w_momentum'\n"
        content += python2_array(array * 0, 0) + b"ss."
    else:
        content = b"\x80\x02}q\x00U\x05blobs}(U\x07conv1_w" + python2_array(array, 2) + b"us."
    assert_same(read(content, "R-50.pkl"), {"conv1_w": array})


@pytest.mark.parametrize(
    "dtype, array",
    [
        ("BOOL", np.array([True, False])),
        ("U8", np.array([255], np.uint8)),
        ("I64", np.array([-3], np.int64)),
        ("F16", np.array([0.5, 2], np.float16)),
        ("F32", np.array([[0.1]], np.float32)),
        ("F64", np.float64(0.25)),
        ("BF16", np.array([1.5, -2], np.float32)),
    ],
)
def test_safetensors_are_read(read, dtype, array):
    raw = (array.view(np.uint32) >> 16).astype("<u2").tobytes() if dtype == "BF16" else array.tobytes()
    content = writer.safetensors_bytes({"z": ("F32", [0], b""), "a": (dtype, list(array.shape), raw)}, {"format": "pt"})
    found = read(content, "x.safetensors")
    assert_same(found, {"z": np.zeros(0), "a": array})
    assert found["a"].dtype == (np.float32 if array.dtype.kind == "f" else array.dtype)


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}, "lies at bytes 0 to 16 of the 8 that there are"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 0]}, "lies at bytes 4 to 0"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]}, "lies at bytes -4 to 4"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"the shape \[3\] of F32, but 8 bytes"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "no dtype, shape and data_offsets"),
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "numbers of the type F8_E4M3"),
        ([], "no dtype, shape and data_offsets"),
    ],
)
def test_safetensors_with_a_wrong_header_are_refused(read, entry, words):
    text = writer.json.dumps({"a": entry}).encode()
    with pytest.raises(CheckpointError, match=f'x.safetensors: these weights cannot be read: "a" .*{words}'):
        read(struct.pack("<Q", len(text)) + text + bytes(8), "x.safetensors")


def test_safetensors_with_a_damaged_header_are_refused(read):
    for text in (b'{"a": 1', b'{"a": [], "a": []}', b"{" + b"[" * 200_000):
        with pytest.raises(CheckpointError, match=r"its header of .* bytes is damaged"):
            read(struct.pack("<Q", len(text)) + text, "x.safetensors")


# What is no file of weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html>not found</html>", r"this is a web page \(HTML or XML\): download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS, not the file itself"),
        (b"hello", "it has no format of weights"),
        (bytes(100), "it has no format of weights"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00mod", "it ends too early"),
        (b"\x80\x02\xff.", "no operation has the code 255"),
        (writer.pickled(3), "it holds no dict of tensors by name"),
        (writer.pickled({}), "it holds no tensors"),
        (writer.pickled({"model": {}}), 'it holds no tensors in its part "model"'),
        (writer.pickled({"model": {"a": 3}}), 'other things than tensors in its part "model": a'),
        (writer.pickled({"a": 3, "b": "c"}), "it holds other things than tensors: a, b"),
    ],
)
def test_other_files_are_refused(read, content, words):
    with pytest.raises(CheckpointError, match=rf"x\.pth: these weights cannot be read: .*{words}.*\. Allowed: weights"):
        read(content)


def test_other_zips_are_refused(read, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.jpg", b"")
    with pytest.raises(CheckpointError, match=r"a zip of other things than weights: photo\.jpg"):
        read((tmp_path / "a.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/code/__torch__.py", b"")
    with pytest.raises(CheckpointError, match=r"a TorchScript program: save model\.state_dict\(\)"):
        read((tmp_path / "a.zip").read_bytes())
    with pytest.raises(CheckpointError, match=r"is compressed, which torch.save does not do"):
        read(writer.zip_bytes(writer.state_dict(**WEIGHTS), compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("form", [*FORMS, "safetensors", "pickle"])
def test_a_file_that_is_not_whole_is_refused_wherever_it_ends(read, form):
    if form in FORMS:
        content = FORMS[form](writer.state_dict(**WEIGHTS))
    elif form == "pickle":
        content = pickle.dumps({"model": WEIGHTS}, protocol=3)
    else:
        content = writer.safetensors_bytes({"a": ("F32", [4], bytes(16))})
    read(content)
    for end in sorted({*RNG.integers(1, len(content), 60).tolist(), len(content) - 1}):
        with pytest.raises(CheckpointError, match=r"x\.pth: these weights cannot be read: "):
            read(content[:end])


@pytest.mark.parametrize("form", [*FORMS, "pickle"])
def test_a_damaged_file_never_ends_in_another_error(read, form):
    """One byte changed: it is read all the same (a number, a name), or refused in words."""
    weights = {"a.weight": np.ones((2, 2), np.float32), "b": np.float32(1)}
    content = (
        FORMS[form](writer.state_dict(**weights)) if form in FORMS else pickle.dumps({"model": weights}, protocol=2)
    )
    num_refused = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= int(RNG.integers(1, 256))
        try:
            read(bytes(changed))
        except CheckpointError as error:
            assert str(error).count("x.pth") >= 1
            num_refused += 1
    assert num_refused > len(content) / 4


def test_damaged_numbers_in_a_zip_are_found(read):
    content = bytearray(writer.zip_bytes(writer.state_dict(a=np.zeros(100, np.float32))))
    content[content.index(bytes(400)) + 200] = 1
    with pytest.raises(CheckpointError, match=r"data/0 in the zip is missing or damaged .*CRC"):
        read(bytes(content))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "shape, strides, offset, words",
    [
        ((3,), (1,), 2, "reaches beyond its storage of 4 numbers"),
        ((2, 2), (3, 1), 0, "reaches beyond its storage of 4 numbers"),
        ((0,), (1,), 5, "reaches beyond its storage of 4 numbers"),
        ((2,), (-1,), 1, "something else than a storage and numbers"),
        ((2,), (1,), -1, "something else than a storage and numbers"),
        ((2,), (1, 1), 0, "has 2 strides"),
        ((1 << 30, 1 << 30), (0, 0), 0, "it has a tensor of 1152921504606846976 numbers"),
        ((1,) * 40, (1,) * 40, 0, "whose shape is none"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(read, form, shape, strides, offset, words):
    with pytest.raises(CheckpointError, match=words):
        read(FORMS[form]({"a": writer.Tensor(np.zeros(4, np.float32), shape, strides, offset=offset)}))


def test_folders_and_missing_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path} is a folder, not a file of weights"):
        torch_files.read_file(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist\."):
        torch_files.read_file(str(tmp_path / "nowhere.pth"))
    with pytest.raises(CheckpointError, match="is an https:// address, from which nothing is downloaded"):
        torch_files.read_file("https://host/x.pth")


def test_remote_files_are_read():
    with tf.io.gfile.GFile("ram://weights/x.pth", "wb") as file:
        file.write(writer.zip_bytes(writer.state_dict(**WEIGHTS)))
    assert_same(torch_files.read_file("ram://weights/x.pth").tensors, WEIGHTS)
