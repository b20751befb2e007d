"""Checks of values in records of files: what is wrong is a ValueError that names the value."""

import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FAR = 1e9  # pixels; no finite image is that large
_ABRIDGED = reprlib.Repr()
_ABRIDGED.maxstring = 80
_NUMBERS = frozenset((int, float))  # bool is an int to isinstance, not to type()


def member(record: Any, key: str, *kinds: type) -> Any:
    """Return ``record[key]``, which must be of one of the types.

    Raises:
        ValueError: `record` is no object, has no such key, or a value of another type.
    """
    if type(record) is not dict:
        raise ValueError(f"{short(record)} must be an object with the key {key!r}")
    if key not in record:
        raise ValueError(f"the key {key!r} is missing: add it")
    value = record[key]
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{key} is {short(value)}: it must be of type {wanted}")
    return value


def checked_index(value: Any, count: int, what: str) -> int:
    """Return `value` if it is an integer in 0, ..., count - 1.

    Raises:
        ValueError: it is not; `what` names it.
    """
    if type(value) is not int or not 0 <= value < count:
        allowed = f"it must be an integer from 0 to {count - 1}" if count else "there is none"
        raise ValueError(f"{what} is {short(value)}: {allowed}")
    return value


def checked_size(record: Mapping) -> tuple[int, int]:
    """Return width and height of an image's record, both positive.

    Raises:
        ValueError: they are not.
    """
    width, height = member(record, "width", int), member(record, "height", int)
    if not (0 < width < _FAR and 0 < height < _FAR):
        raise ValueError(f"size {short(width)} x {short(height)}: both must be positive pixels")
    return width, height


def checked_box(box: Any, form: str, order: Sequence[int], *, extent: bool = False) -> list[float]:
    """Return a box as [x1, y1, x2, y2] in pixels.

    Args:
        box: four numbers.
        form: what they are, for the message, such as "[y1, y2, x1, x2]".
        order: positions in `box` of x1, y1, x2, y2.
        extent: instead of x2 and y2 there are width and height.

    Raises:
        ValueError: `box` is no list of four finite numbers, or ends before it begins.
    """
    if type(box) is list and len(box) == 4 and _NUMBERS.issuperset(map(type, box)):
        x1, y1, x2, y2 = (box[position] for position in order)
        # NaN fails every comparison.
        if all(-_FAR < value < _FAR for value in box):
            if extent:
                x2, y2 = x1 + x2, y1 + y2
            if x1 <= x2 and y1 <= y2:
                return [float(x1), float(y1), float(x2), float(y2)]
    raise ValueError(
        f"box {short(box)}: it must be {form}, four finite numbers in pixels, not ending before "
        "it begins"
    )


def is_finite_number(value: Any) -> bool:
    """Return whether a value of a file is a number that fits into a float."""
    return type(value) in _NUMBERS and abs(value) <= sys.float_info.max  # NaN never is


def text_of(array: np.ndarray) -> str:
    """Return the text that a numpy array of a file holds.

    Raises:
        ValueError: it holds something else, or code points that no text has.
    """
    if array.shape != () or array.dtype.kind != "U":
        raise ValueError(f"an array {array.dtype} {array.shape}, and no text")
    # Python's own functions fail on what numpy lets through.
    points = np.atleast_1d(array).astype(array.dtype.newbyteorder("=")).view(np.uint32)
    if points.size and points.max() > sys.maxunicode:
        raise ValueError("a text with characters that do not exist")
    return str(array)


def short(value: Any) -> str:
    """Abridge a value for a message, whatever its size and depth."""
    return _ABRIDGED.repr(value)
