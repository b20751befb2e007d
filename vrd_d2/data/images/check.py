"""Image files decoded whole: which are missing, broken, rotated or not of the stated size."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import Image
from tqdm import tqdm

_ORIENTATION = 0x0112  # of EXIF
_UPRIGHT = 1
_IN_PROCESS = 64  # images for which starting other processes takes longer than decoding


@dataclass(frozen=True)
class ImageProblem:
    """What is wrong with an image file.

    Attributes:
        file_name: of the dataset dict.
        kind: "missing", "unreadable", "other size" or "rotated". Only the last one is no error:
            models and boxes see the image upright.
        message: with the file's name and the remedy.
    """

    file_name: str
    kind: str
    message: str

    @property
    def is_error(self) -> bool:
        """Whether training or evaluation would stop at this image."""
        return self.kind != "rotated"


def check_images(
    dataset_dicts: Sequence[Mapping], *, workers: int | None = None, progress: bool = False
) -> list[ImageProblem]:
    """Decode every image whole and compare its size with the annotated one.

    Args:
        dataset_dicts: Detectron2's, with "file_name" and, where annotated, "width" and "height".
        workers: processes; None is one a CPU core, up to 8; 0 is this process alone.
        progress: show a bar.

    Returns:
        The problems, in the order of the dicts.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers is {workers}: it must be a number of processes, or 0")
    rows = [(r["file_name"], r.get("width"), r.get("height")) for r in dataset_dicts]
    if workers is None:
        workers = 0 if len(rows) < _IN_PROCESS else min(os.cpu_count() or 1, 8)
    bar = partial(tqdm, total=len(rows), desc="images", unit="", disable=not progress)
    if workers == 0:
        return [problem for problem in bar(map(_check_image, rows)) if problem is not None]
    # Forking spares the processes the import of all libraries; they only decode.
    forking = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if forking else None)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        found = pool.map(_check_image, rows, chunksize=16)
        return [problem for problem in bar(found) if problem is not None]


def _check_image(row: tuple[str, int | None, int | None]) -> ImageProblem | None:
    file_name, width, height = row
    try:
        with Image.open(file_name) as image:
            image.load()
            size = image.size
            turned = image.getexif().get(_ORIENTATION, _UPRIGHT)
    except FileNotFoundError:
        message = f"there is no image {file_name}: put it there or correct the image folder"
        return ImageProblem(file_name, "missing", message)
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error
        amount = os.path.getsize(file_name) if os.path.isfile(file_name) else 0
        message = f"{file_name}, {amount} bytes, cannot be decoded ({error}): get it again"
        return ImageProblem(file_name, "unreadable", message)
    upright = size[::-1] if turned in (5, 6, 7, 8) else size  # a quarter turn
    stated = (upright[0] if width is None else width, upright[1] if height is None else height)
    if stated != upright:
        message = (
            f"{file_name} has {upright[0]} x {upright[1]} pixels, turned upright as its EXIF says, "
            f"but the dataset states {stated[0]} x {stated[1]}: correct the dataset, or use the "
            "image that its boxes were drawn on"
        )
        return ImageProblem(file_name, "other size", message)
    if turned not in (0, _UPRIGHT):
        message = (
            f"{file_name} is stored rotated (EXIF orientation {turned}) and read upright: its "
            "boxes must be those of the upright image"
        )
        return ImageProblem(file_name, "rotated", message)
    return None
