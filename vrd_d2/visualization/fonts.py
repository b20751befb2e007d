"""Fonts of drawings: the one that matplotlib ships, and others for scripts that it lacks.

Other fonts are those of the system, or the one that the environment variable VRD_D2_FONT names.
"""

import logging
import os
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

SETTING = "VRD_D2_FONT"
# matplotlib's stand-in, which has a box for every character, and fonts of signs alone.
_NO_FONTS = ("lastresort", "lastresorthe", "emoji", "symbol")
# What a name of a file says of a font that is less like the others, the worst first.
_UNLIKE = ("italic", "oblique", "mono", "condensed", "serif", "thin", "light", "black")

logger = logging.getLogger(__name__)


@lru_cache(maxsize=64)
def load_font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Load the usual font at a size in pixels."""
    return ImageFont.truetype(usual_font(bold), size)


@lru_cache(maxsize=2)
def usual_font(bold: bool) -> str:
    """Return the file of the usual font."""
    # matplotlib ships this family, so that drawings look alike on every machine. It is imported
    # here because programs that never draw need not wait for it.
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@lru_cache(maxsize=4096)
def runs(text: str, size: int, bold: bool) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Return the parts of a line of text, each with a font that has its characters.

    Args:
        text: the line.
        size: of the fonts in pixels.
        bold: whether bold fonts are preferred.
    """
    usual = load_font(size, bold)
    chosen = fonts_for(frozenset(text), bold)
    parts: list[tuple[str, ImageFont.FreeTypeFont]] = []
    for character in text:
        font = usual
        if character in chosen:
            font = _loaded(chosen[character], size) or usual
        elif parts and _goes_along(character):
            font = parts[-1][1]
        if parts and parts[-1][1] is font:
            parts[-1] = (parts[-1][0] + character, font)
        else:
            parts.append((character, font))
    return parts


@lru_cache(maxsize=4096)
def fonts_for(characters: frozenset[str], bold: bool) -> dict[str, str]:
    """Return the font file of each character that the usual font lacks and another one has.

    What no font has is told once.
    """
    missing = {c for c in characters if not _goes_along(c)} - _usual_characters(bold)
    chosen: dict[str, str] = {}
    left = set(missing)
    while left:
        file, has = _best(frozenset(left), bold)
        if not has:
            _tell(left)
            break
        chosen.update(dict.fromkeys(has, file))
        left -= has
    return chosen


def families(texts: Iterable[str]) -> list[str]:
    """Return the families of matplotlib that texts need beside its usual one."""
    files = fonts_for(frozenset("".join(texts)), False).values()
    if not files:
        return []
    from matplotlib import font_manager

    found = []
    for file in dict.fromkeys(files):
        font_manager.fontManager.addfont(file)
        found.append(font_manager.FontProperties(fname=file).get_name())
    return found


def _goes_along(character: str) -> bool:
    """Return whether a character has no shape of its own: blanks, marks and controls."""
    return unicodedata.category(character)[0] in "ZCM"


@lru_cache(maxsize=2)
def _usual_characters(bold: bool) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(usual_font(bold)).get_charmap()))


@lru_cache(maxsize=1024)
def _best(characters: frozenset[str], bold: bool) -> tuple[str, frozenset[str]]:
    """Return the font that has most of the characters, and those that it has."""
    best: tuple[str, frozenset[str]] = ("", frozenset())
    for file in _system_fonts(os.environ.get(SETTING, ""), bold):
        has = _characters_of(file, characters)
        if len(has) > len(best[1]):
            best = file, has
            if has == characters:
                break
    return best


def _characters_of(file: str, wanted: frozenset[str]) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        has = frozenset(c for c in wanted if font.get_char_index(ord(c)))
        # Pillow must be able to draw it: bitmaps have one size.
        return has if not has or _loaded(file, 24) else frozenset()
    except (OSError, RuntimeError, ValueError):  # no font, or a broken one
        return frozenset()


@lru_cache(maxsize=8)
def _system_fonts(setting: str, bold: bool) -> tuple[str, ...]:
    """Return font files, that of the setting first, then those most like the usual one."""
    from matplotlib import font_manager

    if setting and not Path(setting).is_file():
        logger.warning("%s: there is no font file %s", SETTING, setting)

    def unlike(file: str) -> tuple:
        name = Path(file).stem.lower()
        kinds = [kind for kind in _UNLIKE if kind in name.replace("sansserif", "")]
        return ("bold" in name) != bold, len(kinds), name

    files = [
        file
        for file in font_manager.findSystemFonts()
        if not any(kind in Path(file).stem.lower() for kind in _NO_FONTS)
    ]
    given = [setting] if setting and Path(setting).is_file() else []
    return (*given, *sorted(files, key=unlike))


@lru_cache(maxsize=256)
def _loaded(file: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(file, size)
    except OSError:
        return None


@lru_cache(maxsize=1)
def _told() -> set[str]:
    return set()


def _tell(characters: set[str]) -> None:
    """Say once that characters are drawn as empty squares."""
    if _told():
        return
    _told().update(characters)
    some = "".join(sorted(characters)[:10])
    logger.warning(
        "no font of this system has %s (%s): drawings show squares. Install a font that does, "
        "such as Noto Sans CJK, or set %s to the path of one",
        some,
        ", ".join(f"U+{ord(c):04X}" for c in some),
        SETTING,
    )
