"""Images and videos found by file, folder and pattern."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vrd_d2.addresses import refuse_address

IMAGE_SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm"}
IMAGE_SUFFIXES |= {".ppm", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


def is_video(path: str | os.PathLike) -> bool:
    """Whether the suffix is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class FoundMedia:
    """What :func:`find_media` found.

    Attributes:
        files: images and videos, each once, in the order of the inputs, folders sorted by path.
        passed_over: files in folders that by their suffix are neither.
        unreadable: folders that could not be searched, each with the reason.
    """

    files: list[Path]
    passed_over: list[Path]
    unreadable: list[str]


def find_media(
    inputs: Sequence[str | os.PathLike], *, exclude: str | os.PathLike | None = None
) -> FoundMedia:
    """Find the files that inputs stand for.

    Args:
        inputs: files, taken whatever their suffix; folders, searched with all that is below them,
            links followed, for files with a suffix of an image or a video; or patterns as
            "photos/**/*.jpg". What is hidden (a name that begins with a dot) is found only by its
            name itself.
        exclude: a folder into which no search goes, such as that of the results.

    Raises:
        ValueError: an input does not exist or holds no image.
    """
    search = _Search(None if exclude is None else os.path.realpath(exclude))
    files: dict[str, Path] = {}
    passed_over: dict[str, Path] = {}
    for text in map(os.fspath, inputs):
        found = []
        for path, named in search.candidates(text):
            if named or path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                found.append(path)
            else:
                passed_over[os.path.realpath(path)] = path
        if not found:
            raise ValueError(
                f"no image and no video in {text}: looked for the suffixes "
                f"{' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}"
                + (f", and not in {exclude}, the folder of the results" if search.excluded else "")
                + "".join(f"; {reason}" for reason in search.unreadable)
            )
        for path in found:
            files.setdefault(os.path.realpath(path), path)
    others = [path for real, path in passed_over.items() if real not in files]
    return FoundMedia(list(files.values()), others, search.unreadable)


class _Search:
    def __init__(self, excluded: str | None) -> None:
        self.excluded = excluded
        self.unreadable: list[str] = []

    def candidates(self, text: str) -> Iterator[tuple[Path, bool]]:
        """Files of an input, and whether it named this very file."""
        # A name may contain what means something in a pattern.
        if os.path.isdir(text):
            yield from ((path, False) for path in self._walk(Path(text)))
        elif os.path.lexists(text):
            yield Path(text), True
        else:
            refuse_address(text)
            matches = sorted(map(Path, glob.glob(text, recursive=True)))
            if not matches:
                raise ValueError(f"there is no file, no folder and no match of {text}")
            for path in matches:
                if path.is_dir():
                    yield from ((below, False) for below in self._walk(path))
                elif not self._is_excluded(path):
                    yield path, False

    def _walk(self, folder: Path) -> list[Path]:
        found = []
        seen = set()
        for root, folders, names in os.walk(folder, onerror=self._note, followlinks=True):
            real = os.path.realpath(root)
            # A link may lead back to a folder above it.
            if real in seen or self._is_excluded(real):
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(root, name) for name in names if not name.startswith(".")]
        return sorted(found)

    def _is_excluded(self, path: str | Path) -> bool:
        if self.excluded is None:
            return False
        return Path(os.path.realpath(path)).is_relative_to(self.excluded)

    def _note(self, error: OSError) -> None:
        self.unreadable.append(f"the folder {error.filename} cannot be read: {error.strerror}")
