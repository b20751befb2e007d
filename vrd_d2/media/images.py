"""Images as they come: read whatever their kind, or refused with the reason.

This is the one reader of datasets, prediction, export, drawing and checks. What it does to the
pixels is in :func:`vrd_d2.onnx_runtime.to_rgb`, which exported models bring along.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vrd_d2.addresses import refuse_address
from vrd_d2.media.search import is_video
from vrd_d2.onnx_runtime import MAX_PIXELS, TooManyPixels, open_image, to_rgb, upright_size

__all__ = ["MAX_PIXELS", "check_file", "read_image", "read_size", "read_stored", "to_rgb"]

# Pillow warns of broken metadata in files whose pixels are in order. A filter that is set once, not
# around each image: that would make Python repeat warnings that it shows once.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, list[str]]:
    """Read an image, upright, of any mode that Pillow knows.

    Args:
        path: the file; its content decides what it is, not its suffix.
        max_pixels: an image with more is refused before it is decoded.

    Returns:
        uint8 (H, W, 3) RGB, and notes on what was done to it: see
        :func:`vrd_d2.onnx_runtime.to_rgb`. H and W are those of the upright image: boxes refer to
        it.

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    with _opened(path, max_pixels) as image:
        return to_rgb(image)


def read_stored(path: str | os.PathLike, mode: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read numbers that are stored as an image, such as a map of labels: neither scaled nor turned.

    Args:
        path: the file.
        mode: of Pillow, "L" or "RGB".
        max_pixels: an image with more is refused before it is decoded.

    Returns:
        uint8 (H, W), or (H, W, 3).

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    with _opened(path, max_pixels) as image:
        return np.array(image.convert(mode))


def read_size(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return width and height of what :func:`read_image` reads. Pixels are not decoded.

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    with _opened(path, max_pixels) as image:
        return upright_size(image)


def check_file(path: str | os.PathLike) -> int:
    """Return the bytes of a file that may be an image or a video.

    Raises:
        ValueError: there is none, it is no regular file, or nothing is in it.
    """
    refuse_address(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
        raise ValueError(f"{path} is a folder, a pipe or a device, and no file of an image")
    if not status.st_size:
        raise ValueError(f"{path} is empty (0 bytes): get it again")
    return status.st_size


@contextlib.contextmanager
def _opened(path: str | os.PathLike, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image; what goes wrong with it within becomes a ValueError that names the file."""
    size = check_file(path)
    path = Path(path)
    try:
        with open_image(path, max_pixels=max_pixels) as image:
            yield image
    except TooManyPixels as error:
        raise ValueError(f"{path} {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}, {size} bytes, is no image: {_kind(path)}") from error
    except MemoryError as error:
        raise ValueError(f"{path}, {size} bytes, needs more memory than there is") from error
    # Pillow's decoders raise nearly anything on what is broken: SyntaxError, IndexError.
    except Exception as error:
        if getattr(error, "errno", None):  # of the system, such as a missing permission
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        raise ValueError(
            f"{path}, {size} bytes, is broken ({type(error).__name__}: {error}): get it again"
        ) from error


def _kind(path: Path) -> str:
    """Say what a file is that Pillow does not know."""
    with path.open("rb") as file:
        head = file.read(64)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and path.suffix.lower() == ".svg"):
        return "it is an SVG, a drawing without pixels; save it as PNG"
    if is_video(path):
        return "by its name it is a video, which tools/predict.py takes apart into frames"
    if head[4:8] == b"ftyp":
        return "it may be a video or a HEIC image; name a video .mp4, save an image as JPEG"
    return f"it begins with {head[:16]!r}, which is no known format: get it again"
