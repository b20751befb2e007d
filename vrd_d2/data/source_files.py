"""Reading the annotation files of published datasets.

Whatever a file may have wrong is a ValueError that names the file, the record and the remedy:
readers and checks here say what, :func:`located` adds where.
"""

import contextlib
import csv
import gc
import json
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_FAR = 1e9  # pixels; no finite image is that large
_ABRIDGED = reprlib.Repr()
_ABRIDGED.maxstring = 80
_NUMBERS = frozenset((int, float))  # bool is an int to isinstance, not to type()


@contextlib.contextmanager
def located(place: object) -> Iterator[None]:
    """Put a place (a file, a record) before the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Millions of small objects are made and none is garbage: searching for it doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def require_file(name: str, path: Path, remedy: str) -> None:
    """Raise ValueError, with the remedy, unless a registered dataset's file exists."""
    if not path.is_file():
        raise ValueError(
            f"dataset {name!r} needs {path}, which does not exist: {remedy}. Other folders than "
            "./datasets are named by the variable DETECTRON2_DATASETS"
        )


def read_json(path: str | os.PathLike) -> Any:
    """Content of a JSON file; a key that an object has twice is an error.

    Raises:
        ValueError: there is no such file, or it is no complete JSON.
    """
    content = _read_bytes(path)
    try:
        with collector_paused():
            return json.loads(content, object_pairs_hook=_without_repeats)
    except _RepeatedKeyError as error:
        raise ValueError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no complete JSON file ({error}): get it again") from error


def read_csv(
    path: str | os.PathLike, columns: Sequence[tuple[str, ...]]
) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with a header, some columns of it.

    Args:
        path: the file.
        columns: for each wanted column, the names that it may have in the header.

    Yields:
        Number of the line in the file, and the values of the wanted columns, in their order.

    Raises:
        ValueError: there is no such file, it is no UTF-8 text, or a column or value is missing.
    """
    lines = _csv_lines(path)
    _, header = next(lines, (1, []))
    positions = []
    for names in columns:
        found = [header.index(name) for name in names if name in header]
        if not found:
            raise ValueError(
                f"{path}: line 1: no column {' or '.join(names)} among {', '.join(header)[:200]}: "
                "is this the right file, with its header?"
            )
        positions.append(found[0])
    for number, row in lines:
        if len(row) != len(header):
            raise ValueError(
                f"{path}: line {number}: {len(row)} values, but the header has {len(header)} "
                "columns: get the file again"
            )
        yield number, [row[position] for position in positions]


def read_csv_pairs(path: str | os.PathLike, headers: frozenset[str]) -> dict[str, str]:
    """First column -> second column of a CSV file of two columns.

    Args:
        path: the file.
        headers: first cells that make the first line a header; there may be none.

    Raises:
        ValueError: there is no such file, it is no UTF-8 text, a line has not two values, or the
            same first value stands for two others.
    """
    pairs: dict[str, str] = {}
    for number, row in _csv_lines(path):
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise ValueError(f"{path}: line {number}: {row[:5]} must be two values: get it again")
        key, value = row
        if number == 1 and key in headers:
            continue
        if pairs.setdefault(key, value) != value:
            raise ValueError(
                f"{path}: line {number}: {key!r} is {value!r} here and {pairs[key]!r} before: "
                "keep one of the two lines"
            )
    return pairs


def member(record: Any, key: str, *kinds: type) -> Any:
    """``record[key]``, of one of the types.

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
    """`value`, if it is an integer in 0, ..., count - 1.

    Raises:
        ValueError: it is not; `what` names it.
    """
    if type(value) is not int or not 0 <= value < count:
        allowed = f"it must be an integer from 0 to {count - 1}" if count else "there is none"
        raise ValueError(f"{what} is {short(value)}: {allowed}")
    return value


def checked_size(record: Mapping) -> tuple[int, int]:
    """Width and height of an image's record, both positive.

    Raises:
        ValueError: they are not.
    """
    width, height = member(record, "width", int), member(record, "height", int)
    if not (0 < width < _FAR and 0 < height < _FAR):
        raise ValueError(f"size {short(width)} x {short(height)}: both must be positive pixels")
    return width, height


def checked_box(box: Any, form: str, order: Sequence[int], *, extent: bool = False) -> list[float]:
    """A box as [x1, y1, x2, y2] in pixels.

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


def short(value: Any) -> str:
    """A value in a message, whatever its size and depth."""
    return _ABRIDGED.repr(value)


class _RepeatedKeyError(ValueError):
    """An object of a JSON file has a key twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _RepeatedKeyError(f"an object has the key {key!r} twice: keep one of the two")
    return content


def _read_bytes(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): check the path") from error


def _csv_lines(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and values of all lines that are not empty."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}: check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}): get it again") from error
