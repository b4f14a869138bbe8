"""Finds a font that has the letters of a text: Pillow's own, or one of a Python package or of the system.

Pillow's own font has few letters beyond those of English; it draws any other as an empty box.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterator

from PIL import ImageFont, features

# First where the file's name begins with one of these, in this order: fonts without serifs that have many alphabets.
_PREFERRED = (
    "dejavusans.", "notosans-regular", "notosanscjk-regular", "notosanscjksc-regular", "notosanssc", "notosansjp", "notosanskr",
    "notosansarabic-regular", "notosans", "arialunicode", "arial unicode", "arial.", "pingfang", "hiragino", "msyh", "simhei",
    "malgun", "meiryo", "wqy", "droidsansfallback", "sourcehansans", "unifont", "freesans.",
)  # fmt: skip
_SUFFIXES = (".ttf", ".otf", ".ttc")
_WITHOUT_LETTERS = ("lastresort", "adobeblank")  # fonts that have one shape for a whole alphabet, or none
_NOT_A_CHARACTER = "\U0010ffff"  # no font has it: what is drawn for it is drawn for every letter that a font lacks


@functools.cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font.

    Args:
        size: height of the letters, pixels.

    Raises:
        RuntimeError: if Pillow has none that can be scaled.
    """
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("This Pillow was built without FreeType and has no scalable font. Install Pillow from PyPI.")
    return font


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The first font that has every letter of a text; None if no font here has, or Pillow cannot write from right to left.

    Args:
        text: one line.
        size: height of the letters, pixels.
    """
    is_rightwards = all(unicodedata.bidirectional(character) not in ("R", "AL") for character in text)
    if not is_rightwards and not features.check("raqm"):  # letters would be in the wrong order, and not joined
        return None
    letters = "".join(sorted({character for character in text if _is_drawn(character)}))
    path = _path_for(letters)
    if path is None:
        return None
    return _load_file(path, size) if path else load_font(size)


def _is_drawn(character: str) -> bool:
    """Whether a character has a shape of its own: no space, and no mark that only joins or directs its neighbours."""
    return not unicodedata.category(character).startswith(("Z", "C"))


@functools.lru_cache(maxsize=4096)
def _path_for(letters: str) -> str | None:
    """File of the first font that has these letters; "" = Pillow's own; None if there is none."""
    if letters.isascii() or _has(load_font(20), letters):
        return ""
    for path in _font_files():
        try:
            font = _load_file(path, 20)
            if _has(font, letters):
                return path
        except (OSError, ValueError):  # a file that is no font, or one of bitmaps alone
            continue
    return None


@functools.lru_cache(maxsize=64)
def _load_file(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _has(font: ImageFont.FreeTypeFont, letters: str) -> bool:
    """Whether a font has all these letters."""
    missing = _shape(font, _NOT_A_CHARACTER)
    return all(_shape(font, letter) != missing for letter in letters)


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.cache
def _font_files() -> tuple[str, ...]:
    """Font files, the preferred ones first; slanted and bold ones last."""
    found = [os.path.join(root, name) for root, name in _walk_fonts()]

    def rank(path: str) -> tuple[bool, int, str]:
        name = os.path.basename(path).lower()
        is_styled = any(
            style in name for style in ("bold", "italic", "oblique", "black", "light", "thin", "mono", "serif")
        )
        place = next((i for i, beginning in enumerate(_PREFERRED) if name.startswith(beginning)), len(_PREFERRED))
        return is_styled, place, name

    return tuple(sorted(found, key=rank))


def _is_font(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.lower().startswith(_WITHOUT_LETTERS)


def _walk_fonts() -> Iterator[tuple[str, str]]:
    """(folder, file name) of the fonts of this machine."""
    home = os.path.expanduser("~")
    folders = [os.path.join(home, ".fonts"), os.path.join(home, ".local", "share", "fonts")]
    folders += ["/usr/share/fonts", "/usr/local/share/fonts"]
    if sys.platform == "darwin":
        folders += [os.path.join(home, "Library", "Fonts"), "/Library/Fonts", "/System/Library/Fonts"]
    if sys.platform == "win32":
        folders.append(os.path.join(os.environ.get("WINDIR", "C:\\Windows"), "Fonts"))
    matplotlib = importlib.util.find_spec("matplotlib")  # it brings DejaVu Sans, and is not imported for it
    if matplotlib is not None and matplotlib.origin:
        folders.append(os.path.join(os.path.dirname(matplotlib.origin), "mpl-data", "fonts", "ttf"))
    for folder in folders:
        for root, _, names in os.walk(folder):
            yield from ((root, name) for name in sorted(names) if _is_font(name))
