"""Files of datasets: the one reader of text and JSON.

Whatever is wrong in a file is a ValueError that names the file, the record and the remedy. Readers
and checks say what is wrong, :func:`located` adds where.
"""

import contextlib
import gc
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.addresses import refuse_address

_DEEPEST = 100  # levels of a JSON text
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_CHUNK = 1 << 20  # characters
_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[list(b"[{")] = 1
_BRACKETS[list(b"]}")] = -1
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


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


def require_regular(path: str | os.PathLike, remedy: str = "name a file") -> None:
    """Raise ValueError if a path is something else than a file; one that does not exist passes.

    To open a pipe would wait for ever, and a device has no end.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # whoever opens it says why
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise ValueError(f"{path} cannot be read, as it is {kind}: {remedy}")


def read_text(
    path: str | os.PathLike, *, missing: str = "check the path", damaged: str = "save it as UTF-8"
) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        missing: what to do about a file that cannot be opened, for the message.
        damaged: what to do about one that is no such text.

    Raises:
        ValueError: names the file and the remedy.
    """
    content = _read_bytes(path, missing)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error}): {damaged}") from error


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
    try:
        return parse_json(content, repeated_keys=repeated_keys)
    except _RepeatedKeyError as error:
        raise ValueError(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no complete JSON file ({error}): {damaged}") from error


def parse_json(content: str | bytes, *, repeated_keys: bool = False) -> Any:
    """Parse a JSON text, in UTF-8 (also with a byte order mark), UTF-16 or UTF-32.

    Args:
        content: the text.
        repeated_keys: see :func:`read_json`.

    Raises:
        ValueError: it is no JSON, is nested deeper than 100 levels, or an object has a key twice.
    """
    if isinstance(content, bytes):
        # As text: json.loads(bytes) would hold the bytes beside the text while it parses.
        content = content.decode(json.detect_encoding(content))
    content = content.removeprefix("\ufeff")
    # What is read must also be written, copied and shown; all of these are recursive.
    if _depth(content) > _DEEPEST and _depth(_JSON_STRING.sub("", content)) > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    try:
        with collector_paused():
            return json.loads(
                content, object_pairs_hook=None if repeated_keys else _without_repeats
            )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


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


def _depth(text: str) -> int:
    """Return how many brackets are open at most, those in strings among them."""
    depth = deepest = 0
    for start in range(0, len(text), _CHUNK):
        part = text[start : start + _CHUNK].encode("ascii", "replace")
        part = part.translate(None, _NO_BRACKETS)
        if not part:
            continue
        open_now = _BRACKETS[np.frombuffer(part, np.uint8)].cumsum(dtype=np.int32)
        deepest = max(deepest, depth + int(open_now.max()))
        depth += int(open_now[-1])
    return deepest


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
    refuse_address(path)
    require_regular(path, remedy)
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}: {remedy}") from error
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from error
