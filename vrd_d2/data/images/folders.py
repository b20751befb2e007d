"""Where the images of published datasets lie: in one of several folders."""

import os
from collections.abc import Iterable
from pathlib import PurePath

from vrd_d2.data.image_existence import list_folder

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"))


class ImageFolders:
    """Image files by name, wherever they lie below a dataset's folder.

    Args:
        root: of the dataset.
        folders: below it, searched in this order; the first is where an image that is nowhere
            should lie.
        any_suffix: an image may also have another suffix than its name says.
    """

    def __init__(
        self, root: str | os.PathLike, folders: Iterable[str], *, any_suffix: bool = False
    ):
        self._places = [os.path.join(os.fspath(root), folder) for folder in folders]
        self.found: dict[str, str] = {}
        for place in self._places:
            for name in sorted(list_folder(place)):
                self.found.setdefault(name, os.path.join(place, name))
        self._stems: dict[str, str] = {}
        if any_suffix:
            for name, path in self.found.items():
                if PurePath(name).suffix.lower() in _SUFFIXES:
                    self._stems.setdefault(PurePath(name).stem, path)

    def path(self, name: str) -> str:
        """Path of an image, or where it should lie."""
        found = self.found.get(name) or self._stems.get(PurePath(name).stem)
        return found or os.path.join(self._places[0], name)
