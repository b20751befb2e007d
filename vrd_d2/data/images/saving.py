"""Drawings as files: PNG, JPEG, or another format that the name says."""

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vrd_d2.data.atomic_files import atomic_write
from vrd_d2.visualization.fonts import families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DRAWING_FORMATS", "encode_image", "save_figure", "save_image"]

DRAWING_FORMATS = ("png", "jpg")
# Text and thin lines stay sharp: no half resolution of the colours.
_JPEG = {"quality": 90, "subsampling": 0}


def encode_image(pixels: np.ndarray, suffix: str) -> bytes:
    """Return the content of an image file.

    Args:
        pixels: uint8 (H, W, 3) RGB, or (H, W) grey.
        suffix: of the file's name, such as ".png" or "jpg".

    Raises:
        ValueError: there is no format of that suffix.
    """
    suffix = f".{suffix.removeprefix('.').lower()}"
    kind = Image.registered_extensions().get(suffix)
    if kind not in Image.SAVE:
        raise ValueError(f"an image cannot be written as {suffix!r}: name it .png or .jpg")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **(_JPEG if kind == "JPEG" else {}))
    return file.getvalue()


def save_image(path: str | os.PathLike, rgb: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB array in the format its suffix names; folders are made.

    Raises:
        ValueError: there is no format of that suffix.
    """
    try:
        content = encode_image(rgb, Path(path).suffix)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content)


def save_figure(figure: "Figure", path: str | os.PathLike, *, dpi: int) -> None:
    """Write a figure of matplotlib as PNG, with fonts that have the characters of its texts."""
    for axes in figure.axes:  # else their labels have no text yet
        axes.get_xticklabels(), axes.get_yticklabels()
    texts = figure.findobj(lambda artist: hasattr(artist, "set_fontfamily"))
    others = families(text.get_text() for text in texts)
    for text in texts if others else ():
        text.set_fontfamily([*text.get_fontfamily(), *others])
    with atomic_write(path) as unfinished, warnings.catch_warnings():
        # For each character that no font has; it is told once.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(unfinished, dpi=dpi, format="png")
