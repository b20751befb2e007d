"""Files of datasets: reading, checking, and writing at once.

Whatever is wrong in a file is a ValueError that names the file, the record and the remedy. Readers
and checks say what is wrong, :func:`located` adds where.
"""

import contextlib
import gc
import json
import os
import reprlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

_FAR = 1e9  # pixels; no finite image is that large
_ABRIDGED = reprlib.Repr()
_ABRIDGED.maxstring = 80
_NUMBERS = frozenset((int, float))  # bool is an int to isinstance, not to type()


@contextlib.contextmanager
def located(where: object) -> Iterator[None]:
    """Put a file or a record before the message of a ValueError that is raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the search for garbage.

    Where millions of small objects are made and none is garbage, it doubles the time.
    """
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


def read_json(
    path: str | os.PathLike,
    *,
    missing: str = "check the path",
    damaged: str = "get it again",
    repeated_keys: bool = False,
) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        missing: what to do about a file that cannot be opened, for the message.
        damaged: what to do about a file that is no complete JSON.
        repeated_keys: accept an object that has a key twice, which takes half the time; the last
            one counts.

    Raises:
        ValueError: there is no such file, it is no complete JSON, or an object has a key twice.
    """
    content = _read_bytes(path, missing)
    hook = None if repeated_keys else _without_repeats
    try:
        # As text: json.loads(bytes) would hold the bytes beside the text while it parses.
        content = content.decode(json.detect_encoding(content))
        with collector_paused():
            return json.loads(content, object_pairs_hook=hook)
    except _RepeatedKeyError as error:
        raise ValueError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise ValueError(f"{path} is no complete JSON file ({error}): {damaged}") from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Give a file to write that becomes `path` when the block ends, and vanishes if it raises.

    The folder is made. Nobody sees a file that is half written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of other computers and containers may have the same number as this one.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file at once, see :func:`atomic_write`."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def file_stamp(path: str | os.PathLike) -> tuple[int, int]:
    """Return what changes when the file does; (0, 0) where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def until_changed(maxsize: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function of files remember its results until one of the files changes.

    The function's first argument is a tuple of paths; all others must be hashable.

    Args:
        maxsize: results to remember.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @lru_cache(maxsize)
        def remembered(paths: tuple, stamps: tuple, *args: Any) -> Any:
            return function(paths, *args)

        @wraps(function)
        def call(paths: tuple, *args: Any) -> Any:
            return remembered(paths, tuple(map(file_stamp, paths)), *args)

        return call

    return decorate


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


def short(value: Any) -> str:
    """Abridge a value for a message, whatever its size and depth."""
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


def _read_bytes(path: str | os.PathLike, remedy: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}: {remedy}") from error
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from error
