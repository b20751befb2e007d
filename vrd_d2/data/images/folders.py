"""Images of published datasets, which lie in one of several folders."""

import os
from collections.abc import Iterable
from pathlib import PurePath

from vrd_d2.data.image_existence import list_folder

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"))


class ImageFolders:
    """Find image files by name, wherever they lie below a dataset's folder.

    Args:
        root: of the dataset.
        folders: below it, searched in this order; the first is where an image that is nowhere
            should lie.
        any_suffix: an image may also have another suffix than its name says.
    """

    def __init__(
        self, root: str | os.PathLike, folders: Iterable[str], *, any_suffix: bool = False
    ):
        self._folders = [os.path.join(os.fspath(root), name) for name in folders]
        self.found: dict[str, str] = {}
        for folder in self._folders:
            for name in sorted(list_folder(folder)):
                self.found.setdefault(name, os.path.join(folder, name))
        self._stems: dict[str, str] = {}
        if any_suffix:
            for name, path in self.found.items():
                if PurePath(name).suffix.lower() in _SUFFIXES:
                    self._stems.setdefault(PurePath(name).stem, path)

    def path(self, name: str) -> str:
        """Return the path of an image, or where it should lie."""
        found = self.found.get(name) or self._stems.get(PurePath(name).stem)
        return found or os.path.join(self._folders[0], name)
