"""Image files decoded whole: which cannot be read or differ in size, and what reading changes."""

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tqdm import tqdm

from vrd_d2.data.images.sizes import size_problem
from vrd_d2.media.images import read_image

_IN_PROCESS = 64  # images for which starting other processes takes longer than decoding


@dataclass(frozen=True)
class ImageProblem:
    """Why training or evaluation would stop at an image file.

    Attributes:
        file_name: of the dataset dict.
        kind: "missing", "unreadable" or "other size".
        message: with the file's name and the remedy.
    """

    file_name: str
    kind: str
    message: str


@dataclass(frozen=True)
class ImageReport:
    """What :func:`check_images` found.

    Attributes:
        problems: in the order of the dicts.
        notes: what the reader does to images beyond decoding, such as "turned upright, as its EXIF
            says" -> the file names of these images, in the order of the dicts.
    """

    problems: list[ImageProblem] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)


def check_images(
    dataset_dicts: Sequence[Mapping], *, workers: int | None = None, progress: bool = False
) -> ImageReport:
    """Decode every image whole and compare its size with the annotated one.

    Args:
        dataset_dicts: Detectron2's, with "file_name" and, where annotated, "width" and "height".
        workers: processes; None is one a CPU core, up to 8; 0 is this process alone.
        progress: show a bar.

    Raises:
        ValueError: `workers` is negative.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers is {workers}: it must be a number of processes, or 0")
    keys = ("file_name", "width", "height")
    rows = [{key: record.get(key) for key in keys} for record in dataset_dicts]
    if workers is None:
        workers = 0 if len(rows) < _IN_PROCESS else min(os.cpu_count() or 1, 8)
    bar = partial(tqdm, total=len(rows), desc="images", unit="", disable=not progress)
    if workers == 0:
        return _report(rows, bar(map(_check_image, rows)))
    # Forking spares the processes the import of all libraries; they only decode.
    forking = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if forking else None)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return _report(rows, bar(pool.map(_check_image, rows, chunksize=16)))


def _report(
    rows: Sequence[Mapping], found: Iterable[tuple[ImageProblem | None, list[str]]]
) -> ImageReport:
    report = ImageReport()
    for row, (problem, notes) in zip(rows, found, strict=True):
        if problem is not None:
            report.problems.append(problem)
        # Details in brackets differ from image to image.
        for kind in dict.fromkeys(note.partition(" (")[0] for note in notes):
            report.notes.setdefault(kind, []).append(row["file_name"])
    return report


def _check_image(row: Mapping) -> tuple[ImageProblem | None, list[str]]:
    """Return what is wrong with an image, and the reader's notes on it."""
    file_name = row["file_name"]
    if not os.path.exists(file_name):
        message = f"there is no image {file_name}: put it there or correct the image folder"
        return ImageProblem(file_name, "missing", message), []
    try:
        pixels, notes = read_image(file_name)
    except ValueError as error:
        return ImageProblem(file_name, "unreadable", str(error)), []
    if problem := size_problem(row, pixels.shape[1], pixels.shape[0]):
        return ImageProblem(file_name, "other size", f"{file_name} {problem}"), notes
    return None, notes
