"""The folder of a demo: its own as long as it runs, of a limited size, and gone afterwards."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vrd_d2.data.atomic_files import try_lock

PREFIX = "vrd_d2_demo_"


class Storage:
    """Uploads and results of a demo.

    Args:
        folder: with `uploads` and the files of answers.
        max_bytes: of all of it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @property
    def uploads(self) -> Path:
        """Where uploads go, each to a folder below."""
        return self.folder / "uploads"

    def has_room(self, size: int = 0) -> bool:
        """Return whether so many bytes more are within the limit."""
        used = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):  # it has just gone
                    used += os.lstat(os.path.join(root, name)).st_size
        return used + size <= self.max_bytes

    def remove_unfinished(self) -> None:
        """Remove what uploads that broke off left beside the finished ones."""
        with contextlib.suppress(OSError), os.scandir(self.uploads) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """Make the folder of a demo, and remove those that killed ones left; it goes at the end.

    A lock on the folder tells running demos from killed ones, also those of other containers.
    """
    remove_leftovers()
    folder, handle = Path(), None
    while handle is None:  # another start may take it for a leftover, as long as it has no lock
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        handle = _locked(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_leftovers() -> None:
    """Remove the folders of this user's demos that no process holds."""
    if os.name != "posix":  # what a killed demo leaves there stays
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            handle = _locked(folder, required=True)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _locked(folder: Path, *, required: bool = False) -> int | None:
    """Open and lock a folder; None where another process has it, or has removed it.

    Args:
        folder: of a demo.
        required: None also where folders cannot be locked: on some networks' file systems.
    """
    if os.name != "posix":  # folders cannot be opened there
        return os.open(os.devnull, os.O_RDONLY)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    locked = try_lock(handle)
    try:
        same = os.path.samestat(os.fstat(handle), os.lstat(folder))
    except OSError:
        same = False
    if locked is False or (required and not locked) or not same:
        os.close(handle)
        return None
    return handle
