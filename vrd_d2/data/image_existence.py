"""Which image files exist, cheaply, and what to do about those that do not."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

logger = logging.getLogger(__name__)

POLICIES = ("error", "skip", "keep")


def missing_files(paths: Iterable[str]) -> list[str]:
    """The paths at which there is no file, in their order.

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
    """Names in a folder; none if there is no such folder, or no folder can have that name."""
    try:
        with os.scandir(os.fspath(folder) or ".") as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError, ValueError):
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


def drop_missing_images(
    dataset_dicts: Sequence[dict], *, missing_images: str, source: str
) -> Sequence[dict]:
    """Dataset dicts whose image exists, without those that
    :func:`leaving_out` names.

    Args:
        dataset_dicts: Detectron2's, with "file_name".
        missing_images: "error" raises when an image is missing; "skip" leaves it out and logs a
            warning with the names; "keep" does not look, for what needs no images.
        source: what the dicts were read from, for the message.

    Raises:
        ValueError: an image is missing and that is an error.
    """
    check_policy(missing_images)
    names = image_names(dataset_dicts)
    left_out = _LEFT_OUT.get()
    kept = [left_out is None or left_out.keep(name) for name in names]
    if missing_images != "keep":
        missing = missing_files(compress(names, kept))
        if missing:
            _report_missing(missing, sum(kept), missing_images, source)
            gone = set(missing)
            kept = [keep and name not in gone for keep, name in zip(kept, names, strict=True)]
    if all(kept):
        return dataset_dicts
    if hasattr(dataset_dicts, "select"):  # PackedRecords stay packed
        return dataset_dicts.select(np.array(kept, np.bool_))
    return list(compress(dataset_dicts, kept))


def image_names(dataset_dicts: Sequence[dict]) -> list[str]:
    """The file name of every dataset dict."""
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


@dataclass
class LeftOut:
    """Images that are left out by name.

    Attributes:
        names: file names, or ends of paths ("images/1.jpg" is also "/data/images/1.jpg").
        found: those of them that an image had.
        count: images that were left out.
    """

    names: frozenset[str]
    found: set[str] = field(default_factory=set)
    count: int = 0

    def keep(self, file_name: str) -> bool:
        """Whether an image stays."""
        met = self.names.intersection(_ends(file_name))
        self.found |= met
        self.count += bool(met)
        return not met


_LEFT_OUT: ContextVar[LeftOut | None] = ContextVar("left_out", default=None)


@contextlib.contextmanager
def leaving_out(names: Iterable[str]) -> Iterator[LeftOut]:
    """Within, :func:`drop_missing_images` leaves out these images, whether they exist or not.

    Every loader hands its dicts to that function.
    """
    left_out = LeftOut(frozenset(os.path.normpath(name) for name in names))
    token = _LEFT_OUT.set(left_out)
    try:
        yield left_out
    finally:
        _LEFT_OUT.reset(token)


def _ends(file_name: str) -> Iterator[str]:
    """1.jpg, images/1.jpg, data/images/1.jpg, ... and the whole path."""
    path = os.path.normpath(file_name)
    at = len(path)
    while (at := path.rfind(os.sep, 0, at)) >= 0:
        yield path[at + 1 :]
    yield path
