"""Which picture files exist, cheaply, and what to do about those that do not."""

import logging
import os
from collections.abc import Iterable

logger = logging.getLogger(__name__)


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
    """Names in a folder; none if there is no such folder."""
    try:
        with os.scandir(os.fspath(folder) or ".") as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def check_policy(missing_images: str) -> None:
    """Raise ValueError unless `missing_images` is "error" or "skip"."""
    if missing_images not in ("error", "skip"):
        raise ValueError(f'missing_images is {missing_images!r}: choose "error" or "skip"')


def drop_missing_pictures(
    dataset_dicts: list[dict], *, missing_images: str, source: str
) -> list[dict]:
    """Data set dicts whose picture exists.

    Args:
        dataset_dicts: Detectron2's, with "file_name".
        missing_images: "error" raises when a picture is missing; "skip" leaves it out and logs a
            warning with the names.
        source: what the dicts were read from, for the message.

    Raises:
        ValueError: a picture is missing and that is an error.
    """
    check_policy(missing_images)
    missing = missing_files(record["file_name"] for record in dataset_dicts)
    if not missing:
        return dataset_dicts
    shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if missing[10:] else "")
    summary = f"{source}: {len(missing)} of {len(dataset_dicts)} pictures are missing: {shown}"
    if missing_images == "error":
        raise ValueError(
            f"{summary}. Put them there or correct the image folder; "
            'missing_images="skip" goes on without them'
        )
    logger.warning("%s. They are skipped.", summary)
    gone = set(missing)
    return [record for record in dataset_dicts if record["file_name"] not in gone]
