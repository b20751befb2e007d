"""The one way to write files: complete or as they were, whoever else writes, whatever is killed."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: what a killed process leaves there stays
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.unfinished")


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


def try_lock(handle: int) -> bool | None:
    """Lock an open file or folder for as long as it is open, without waiting.

    Returns:
        False where another process has it; None where there are no locks, on Windows and on file
        systems of some networks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def _unfinished_file(folder: Path) -> Iterator[Path]:
    """Make a file that is locked while this process lives, and remove it at the end."""
    while True:
        # By chance: processes of other computers and containers may have this one's number.
        unfinished = folder / f".{secrets.token_hex(8)}.unfinished"
        # For all that the umask allows, as any new file.
        handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        locked = try_lock(handle)
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
                if try_lock(handle):
                    os.unlink(path)
            finally:
                os.close(handle)


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
