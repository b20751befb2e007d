"""Images and videos as they come: read whatever their kind, or refused.

An image is read as a person sees it: turned upright, transparent parts on white, 16 bits scaled.
Whatever was done beyond decoding is said in a note.
"""

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vrd_d2.media.search import is_video
from vrd_d2.onnx_runtime import image_formats, to_8_bits

# Six hundred megabytes as RGB; the largest cameras of telephones take so many.
MAX_PIXELS = 200_000_000

_ORIENTATION = 0x0112  # the tag of EXIF; its values and what undoes them:
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, list[str]]:
    """Read an image, upright, of any mode that PIL knows.

    Args:
        path: the file; its content decides what it is, not its suffix.
        max_pixels: an image with more is refused before it is decoded.

    Returns:
        uint8 (H, W, 3) RGB, and notes on what was done to it, such as "turned upright, as its EXIF
        says". H and W are those of the upright image: boxes refer to it.

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    path = Path(path)
    size = _size_of(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with _without_pil_limit(), Image.open(path, formats=image_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _TooLarge(_too_large(width, height, max_pixels))
            return to_rgb(image)
    except _TooLarge as error:
        raise ValueError(f"{path} {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image: {_what_it_is(path, head)}") from error
    except MemoryError as error:
        raise ValueError(f"{path}, {size} bytes, needs more memory than there is") from error
    # PIL's decoders raise nearly anything on what is broken: SyntaxError, IndexError, struct.error.
    except Exception as error:
        raise ValueError(
            f"{path}, {size} bytes, is broken ({type(error).__name__}: {error}): get it again"
        ) from error


class _TooLarge(Exception):
    """An image over the limit."""


def _too_large(width: int, height: int, max_pixels: int) -> str:
    return (
        f"has {width} x {height} pixels, {width * height / 1e6:.0f} million: the limit is "
        f"{max_pixels / 1e6:g} million; make it smaller or raise the limit"
    )


def _size_of(path: Path) -> int:
    """Bytes of a file. Raises ValueError: there is none, or nothing in it."""
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
        raise ValueError(f"{path} is a folder, a pipe or a device, and no file of an image")
    if not status.st_size:
        raise ValueError(f"{path} is empty (0 bytes): get it again")
    return status.st_size


_PIL_LIMIT = threading.RLock()


@contextlib.contextmanager
def _without_pil_limit() -> Iterator[None]:
    """PIL has a limit of its own, applied as soon as a file is opened; ours stands instead.

    Both the limit and the filter of warnings belong to the whole process: one thread at a time.
    """
    with _PIL_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # corrupt EXIF, transparency of palettes
                yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _what_it_is(path: Path, head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and path.suffix.lower() == ".svg"):
        return "it is an SVG, a drawing without pixels; save it as PNG"
    if is_video(path):
        return "by its name it is a video, which tools/predict.py takes apart into frames"
    if head[4:8] == b"ftyp":
        return "it may be a video or a HEIC image; name a video .mp4, save an image as JPEG"
    return f"it begins with {head[:16]!r}, which is no known format"


def to_rgb(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """What :func:`read_image` returns, of an image that PIL has opened or made."""
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} images in the file")
    image.load()
    orientation = _orientation(image)
    if image.mode == "P":
        transparent = "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    if image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("transparent parts shown on white")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode.startswith("I") or image.mode == "F":
        values, note = to_8_bits(np.asarray(image))
        image = Image.fromarray(values)
        notes += [note] if note else []
    if image.mode == "CMYK":
        notes.append("CMYK converted without its colour profile")
    image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
        notes.append("turned upright, as its EXIF says")
    return np.array(image), notes


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return None


@dataclass(frozen=True)
class Frame:
    """One frame of a video: its number from 0, its time in seconds, and uint8 (H, W, 3) RGB."""

    number: int
    seconds: float
    image: np.ndarray


class BrokenFrame(ValueError):
    """A frame that cannot be decoded, in a video that can be opened."""


def read_frames(
    path: str | os.PathLike,
    *,
    every: int = 30,
    shard: int = 0,
    shards: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Frame]:
    """Frames 0, every, 2 every, ... of a video, turned upright by OpenCV.

    Args:
        path: the file.
        every: distance of the frames, 1 for all.
        shard, shards: of these frames, take every `shards`-th, beginning with number `shard`; the
            others are passed without being decoded to pixels.
        max_pixels: a video of larger frames is refused.

    Raises:
        ValueError: the file cannot be read, has no frame or too large ones, or OpenCV is not
            installed.
    """
    if every < 1:
        raise ValueError(f"every is {every}: it must be 1 at least")
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: videos need OpenCV: pip install opencv-python-headless"
        ) from error
    path = Path(path)
    _size_of(path)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # OpenCV would crash
        raise ValueError(f"{path}: its name is no text, which OpenCV needs: rename it") from error
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ValueError(f"{path} is no video that OpenCV can read")
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        width, height = (round(video.get(side)) for side in sides)
        if width * height > max_pixels:
            raise ValueError(f"{path} {_too_large(width, height, max_pixels)}")
        rate = video.get(cv2.CAP_PROP_FPS)
        number = 0
        while video.grab():
            position, rest = divmod(number, every)
            if not rest and position % shards == shard:
                decoded, image = video.retrieve()
                if not decoded:
                    raise BrokenFrame(f"{path}: frame {number} is broken")
                seconds = number / rate if rate > 0 else 0.0
                yield Frame(number, seconds, np.ascontiguousarray(image[..., ::-1]))
            number += 1
        if not number:
            raise ValueError(f"{path} is a video without a frame: get it again")
    finally:
        video.release()
