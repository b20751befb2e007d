"""Sizes of images: compared with the annotation, or found where it states none."""

import json
import os
from collections.abc import Mapping
from typing import Any

from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.record_values import checked_size, short
from vrd_d2.data.source_files import located, read_json
from vrd_d2.media.images import read_size

__all__ = ["read_size", "read_sizes", "size_problem", "write_sizes"]


def size_problem(record: Mapping[str, Any], width: int, height: int) -> str | None:
    """Return how the size that a dataset dict states differs from the image's; None if it does not.

    Args:
        record: with "width" and "height" where they are annotated.
        width, height: of the upright image.
    """
    stated = [
        found if record.get(key) is None else record[key]
        for key, found in (("width", width), ("height", height))
    ]
    if stated == [width, height]:
        return None
    return (
        f"has {width} x {height} pixels, turned upright as its EXIF says, but the dataset states "
        f"{stated[0]} x {stated[1]}: correct the dataset, or use the image that its boxes were "
        "drawn on"
    )


def read_sizes(json_file: str | os.PathLike | None) -> dict[str, tuple[int, int]]:
    """Read {file name: (width, height)} as :func:`write_sizes` stored it; None is an empty one.

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
    write_text(json_file, json.dumps(sizes))
