"""Sizes of images whose annotation does not state them: out of their headers, or of a file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from vrd_d2.data.source_files import checked_size, located, read_json, short

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = frozenset((5, 6, 7, 8))  # orientations that swap width and height


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height of an image, turned upright as its EXIF says. Pixels are not decoded.

    Raises:
        ValueError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be read ({error}): get it again") from error
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def read_sizes(json_file: str | os.PathLike | None) -> dict[str, tuple[int, int]]:
    """File name -> (width, height), as :func:`write_sizes` stored them; None has none.

    Raises:
        ValueError: the file is missing, or is no JSON object {file name: [width, height]}.
    """
    if json_file is None:
        return {}
    content = read_json(json_file)
    sizes = {}
    with located(json_file):
        if type(content) is not dict:
            raise ValueError("it must be an object {file name: [width, height]}")
        for name, size in content.items():
            with located(f"{name!r}"):
                if type(size) is not list or len(size) != 2:
                    raise ValueError(f"size {short(size)}: it must be [width, height]")
                sizes[name] = checked_size({"width": size[0], "height": size[1]})
    return sizes


def write_sizes(images: Mapping[str, str], json_file: str | os.PathLike) -> None:
    """Store the sizes of images, {file name: path}, so that their headers are read only once."""
    sizes = {name: read_size(path) for name, path in images.items()}
    Path(json_file).write_text(json.dumps(sizes), encoding="utf-8")
