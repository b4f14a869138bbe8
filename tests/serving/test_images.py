"""Image files: which are found, and what is read of them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from object_detection_fpn.serving.images import (
    UnreadableImageError,
    find_images,
    find_named_images,
    natural_key,
    read_image,
)


def write_image(path, *, height=40, width=60, value=102, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tif"])
def test_formats_of_tensorflow_and_pillow_are_read(tmp_path, suffix):
    path = write_image(tmp_path / f"a{suffix}", value=102)
    pixels = read_image(path).pixels
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - 102).max() <= 1
    assert read_image(path, num_channels=1).pixels.shape == (40, 60, 1) or suffix == ".bmp"


def test_unreadable_file_says_why(tmp_path):
    with pytest.raises(UnreadableImageError, match="cannot be opened"):
        read_image(str(tmp_path / "none.png"))


def test_folders_files_and_patterns_are_found_once_in_order(tmp_path):
    paths = [write_image(tmp_path / name) for name in ("b/2.png", "b/1.JPG", "b/c/3.webp", "a.png")]
    (tmp_path / "b" / "notes.txt").write_text("no image")
    folder = str(tmp_path / "b")
    assert find_images([paths[3], folder]) == [paths[3], paths[1], paths[0], paths[2]]
    assert find_images([paths[0], folder, paths[3]]) == [paths[0], paths[1], paths[2], paths[3]]
    assert find_images([str(tmp_path / "b" / "*.png")]) == [paths[0]]
    assert find_images([str(tmp_path / "b" / "notes.txt")]) == [str(tmp_path / "b" / "notes.txt")]


def test_frames_come_in_the_order_of_their_numbers():
    names = ["v2/1.png", "v10/frame_2.png", "v10/frame_010.png", "v10/frame_10.png", "v/9.png", "v/x.png", "v/x1/1.png"]
    assert sorted(names, key=natural_key) == [names[4], names[6], names[5], names[0], *names[1:4]]


@pytest.mark.parametrize("root", ["", "ram://found/"])
def test_names_are_relative_to_the_folder_or_the_pattern(tmp_path, root):
    """On a local disk and in a remote file system, here TensorFlow's in memory."""
    root = root or f"{tmp_path}/"
    for name in ("a/x/2.png", "a/x/10.png", "a/y/1.png", "a/.cache/1.png", "a/y/._1.png", "b.png"):
        tf.io.gfile.makedirs(os.path.dirname(root + name))
        with tf.io.gfile.GFile(root + name, "wb") as file:
            file.write(b"x")
    names = {f"{root}a/x/2.png": "x/2.png", f"{root}a/x/10.png": "x/10.png", f"{root}a/y/1.png": "y/1.png"}
    for given in (f"{root}a", f"{root}a/"):
        assert list(find_named_images([given]).items()) == list(names.items())
    found = find_named_images([f"{root}a/x/*.png"])
    assert list(found.items()) == [(f"{root}a/x/2.png", "2.png"), (f"{root}a/x/10.png", "10.png")]
    found = find_named_images([f"{root}b.png", f"{root}a/x"])
    assert list(found.values()) == ["b.png", "2.png", "10.png"]
    found = find_named_images([f"{root}a/y", f"{root}a/x"])
    assert list(found.values()) == ["y/1.png", "x/2.png", "x/10.png"]
    if not root.startswith("ram"):  # whose patterns match folders only below
        assert list(find_named_images([f"{root}a/*"]).values()) == ["x/2.png", "x/10.png", "y/1.png"]


def test_nothing_found_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder .*empty holds no images. Looked for: \.jpg"):
        find_images([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match=r"no image, folder or match of a pattern named .*none\.jpg"):
        find_images([str(tmp_path / "none.jpg")])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "webp"])  # TensorFlow reads one, Pillow the other
def test_photographs_are_turned_upright(tmp_path, orientation, suffix):
    stored = Image.new("RGB", (48, 32))
    stored.paste((255, 255, 255), (0, 0, 16, 16))
    tags = Image.Exif()
    tags[274] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=tags)
    with Image.open(tmp_path / f"a.{suffix}") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    pixels, found = read_image(str(tmp_path / f"a.{suffix}"))
    assert found == orientation and pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 8  # the two decoders differ a little


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    pixels = np.full((4, 4), 102 * 256 + 7, np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert (read_image(str(tmp_path / name)).pixels == 102).all()


def test_a_folder_is_no_image_and_an_unknown_scheme_is_refused(tmp_path):
    with pytest.raises(UnreadableImageError, match="it is a folder"):
        read_image(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere://a.jpg cannot be reached"):
        find_images(["nowhere://a.jpg"])
