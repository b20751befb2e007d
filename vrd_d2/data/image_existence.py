"""Which image files exist, found cheaply, and which of a dataset are loaded."""

import errno
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from vrd_d2.data.source_files import read_text

logger = logging.getLogger(__name__)

POLICIES = ("error", "skip", "keep")  # what to do about missing images


def missing_files(paths: Iterable[str]) -> list[str]:
    """Return the paths at which there is no file, in their order.

    Every folder is listed once, instead of asking for each of maybe a hundred thousand files.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = list_folder(folder)
        if name not in listed[folder]:
            missing.append(path)
    return missing


def list_folder(folder: str | os.PathLike) -> set[str]:
    """Return the names in a folder; none where there is no such folder."""
    try:
        with os.scandir(os.fspath(folder) or ".") as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no folder's name
        return set()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return set()
        raise


def check_policy(missing_images: str) -> None:
    """Raise ValueError unless `missing_images` is one of POLICIES."""
    if missing_images not in POLICIES:
        raise ValueError(
            f"missing_images is {missing_images!r}: choose one of {', '.join(POLICIES)}"
        )


@dataclass
class Exclusion:
    """Images of one dataset that are left out by name.

    Attributes:
        names: file names, or ends of paths ("images/1.jpg" is also "/data/images/1.jpg").
        matched: those of the names that match an image, normalised.
        count: images that were left out.
    """

    names: Iterable[str]
    matched: set[str] = field(default_factory=set)
    count: int = 0

    def __post_init__(self) -> None:
        self.names = frozenset(os.path.normpath(name) for name in self.names)

    def excludes(self, file_name: str) -> bool:
        """Return whether an image is left out, and count it."""
        found = self.names.intersection(_ends(file_name))
        self.matched |= found
        self.count += bool(found)
        return bool(found)


def read_name_list(path: str | os.PathLike) -> list[str]:
    """Read file names from a text file, one a line.

    Empty lines and lines that begin with # do not count.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    remedy = (
        "it must be a text file with an image's file name a line, as `tools/dataset.py check "
        "--bad-list` writes it"
    )
    lines = read_text(path, missing=remedy, damaged=remedy).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def drop_missing_images(
    dataset_dicts: Sequence[dict],
    *,
    missing_images: str,
    source: str,
    exclusion: Exclusion | None = None,
) -> Sequence[dict]:
    """Return the dataset dicts whose image exists, without those that are excluded.

    Args:
        dataset_dicts: Detectron2's, with "file_name".
        missing_images: "error" raises when an image is missing; "skip" leaves it out and logs a
            warning with the names; "keep" does not look, for uses without images.
        source: what the dicts were read from, for the message.
        exclusion: images to leave out whether they exist or not; it counts them.

    Raises:
        ValueError: an image is missing and that is an error.
    """
    check_policy(missing_images)
    names = image_names(dataset_dicts)
    chosen = [exclusion is None or not exclusion.excludes(name) for name in names]
    if missing_images != "keep":
        missing = missing_files(compress(names, chosen))
        if missing:
            _report_missing(missing, sum(chosen), missing_images, source)
            gone = set(missing)
            chosen = [ok and name not in gone for ok, name in zip(chosen, names, strict=True)]
    if all(chosen):
        return dataset_dicts
    if hasattr(dataset_dicts, "select"):  # PackedRecords stay packed
        return dataset_dicts.select(np.array(chosen, np.bool_))
    return list(compress(dataset_dicts, chosen))


def image_names(dataset_dicts: Sequence[dict]) -> list[str]:
    """Return the file name of every dataset dict."""
    if hasattr(dataset_dicts, "file_names"):
        return dataset_dicts.file_names
    return [record["file_name"] for record in dataset_dicts]


def _report_missing(missing: list[str], total: int, missing_images: str, source: str) -> None:
    shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if missing[10:] else "")
    summary = f"{source}: {len(missing)} of {total} images are missing: {shown}"
    if missing_images == "error":
        raise ValueError(
            f"{summary}. Put them there or correct the image folder; "
            'missing_images="skip" goes on without them'
        )
    logger.warning("%s. They are skipped.", summary)


def _ends(file_name: str) -> Iterator[str]:
    """Yield 1.jpg, images/1.jpg, data/images/1.jpg, ... and the whole path."""
    path = os.path.normpath(file_name)
    at = len(path)
    while (at := path.rfind(os.sep, 0, at)) >= 0:
        yield path[at + 1 :]
    yield path
