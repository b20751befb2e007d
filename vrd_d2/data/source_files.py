"""Files of datasets: reading, checking, and writing at once.

Whatever is wrong in a file is a ValueError that names the file, the record and the remedy. Readers
and checks say what is wrong, :func:`located` adds where.
"""

import contextlib
import errno
import gc
import json
import os
import re
import reprlib
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.addresses import refuse_address

try:
    import fcntl
except ImportError:  # not a POSIX system: what a killed process leaves there stays
    fcntl = None  # type: ignore[assignment]

_FAR = 1e9  # pixels; no finite image is that large
_ABRIDGED = reprlib.Repr()
_ABRIDGED.maxstring = 80
_DEEPEST = 100  # levels of a JSON text
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_CHUNK = 1 << 20  # characters
_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[list(b"[{")] = 1
_BRACKETS[list(b"]}")] = -1
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.unfinished")
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


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Give a file to write that becomes `path` when the block ends, and vanishes if it raises.

    The folder is made. Nobody sees a file that is half written, neither after a kill nor after a
    power cut. What killed processes left in the folder is removed before a process's first write
    to it.

    Args:
        path: the file. A link is replaced, and not followed. A device or a pipe, such as
            /dev/null, is written itself.
        sync: wait until the disk has the file. False for many small files that can be made again.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        with _unfinished_file(path.parent) as unfinished:
            yield unfinished
            if sync:
                _sync(unfinished)
            unfinished.replace(path)
        if sync:
            _sync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(path.parent)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        if _UNFINISHED.fullmatch(os.path.basename(str(error.filename))):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: str | os.PathLike, text: str, *, sync: bool = True) -> None:
    """Write a text file in UTF-8 at once, see :func:`atomic_write`."""
    with atomic_write(path, sync=sync) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike, content: bytes, *, sync: bool = True) -> None:
    """Write a file at once, see :func:`atomic_write`."""
    with atomic_write(path, sync=sync) as unfinished:
        unfinished.write_bytes(content)


@contextlib.contextmanager
def file_lock(path: str | os.PathLike, *, busy: str | None = None) -> Iterator[int]:
    """Hold the lock of a file, which is made, until the block or this process ends.

    Where files cannot be locked (Windows, file systems of some networks) there is no lock.

    Args:
        path: the file.
        busy: message of the error where another process has the lock; None waits for it.

    Yields:
        The open file's descriptor. A process that inherits it shares the lock.

    Raises:
        ValueError: another process has the lock.
        OSError: the file cannot be made.
    """
    with open(path, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
            except BlockingIOError:
                raise ValueError(busy) from None
            except OSError:
                pass
        yield file.fileno()


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


@contextlib.contextmanager
def _unfinished_file(folder: Path) -> Iterator[Path]:
    """Make a file that is locked while this process lives, and remove it at the end."""
    while True:
        # By chance: processes of other computers and containers may have this one's number.
        unfinished = folder / f".{secrets.token_hex(8)}.unfinished"
        # For all that the umask allows, as any new file.
        handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        locked = _lock(handle)
        # Between the two lines another process may have taken it for a leftover.
        if not locked or unfinished.exists():
            break
        os.close(handle)
    try:
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(handle)


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove files that processes left when they were killed: nobody holds their lock."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if _UNFINISHED.fullmatch(entry.name)]
    except OSError:  # a folder to write to may not be one to list
        return
    for path in found:
        with contextlib.suppress(OSError):  # another process is quicker, or it is not ours
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _lock(handle):
                    os.unlink(path)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file; False where another process has it, or files cannot be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    """Wait until the disk has a file or the names in a folder."""
    with contextlib.suppress(PermissionError):  # folders of some systems cannot be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # there is nothing to wait for
                raise
        finally:
            os.close(handle)


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
