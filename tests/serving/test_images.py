"""Image files: which are found, and what is read of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from object_detection_fpn.serving.images import UnreadableImageError, find_images, read_image


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
