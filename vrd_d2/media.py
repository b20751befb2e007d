"""Pictures and videos as they come: found in folders, read whatever their kind, or refused.

A picture is read as a person sees it: turned upright, transparent parts on white, 16 bits scaled.
Whatever was done beyond decoding is said in a note.
"""

import contextlib
import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

PICTURE_SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm"}
PICTURE_SUFFIXES |= {".ppm", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
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
_MAX_16 = 65_535


def is_video(path: str | os.PathLike) -> bool:
    """Whether the suffix is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class FoundMedia:
    """What :func:`find_media` found.

    Attributes:
        files: pictures and videos, each once, in the order of the inputs, folders sorted by path.
        passed_over: files in folders that are neither by their suffix.
    """

    files: list[Path]
    passed_over: list[Path]


def find_media(
    inputs: Sequence[str | os.PathLike], *, exclude: str | os.PathLike | None = None
) -> FoundMedia:
    """The files that inputs stand for.

    Args:
        inputs: files, taken whatever their suffix; folders, searched with all that is below them
            for files with a suffix of a picture or a video; or patterns as "photos/**/*.jpg".
            What is hidden (a name that begins with a dot) is found only by its own name.
        exclude: a folder into which no search goes, such as that of the results.

    Raises:
        ValueError: an input does not exist or holds no picture.
    """
    excluded = None if exclude is None else Path(exclude).resolve()
    files: dict[Path, Path] = {}
    passed_over: dict[Path, Path] = {}
    for text in map(os.fspath, inputs):
        found = []
        for path, named in _candidates(text):
            if named or path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
                if named or excluded is None or not path.resolve().is_relative_to(excluded):
                    found.append(path)
            else:
                passed_over[path.resolve()] = path
        if not found:
            raise ValueError(
                f"no picture and no video in {text}: looked for the suffixes "
                f"{' '.join(sorted(PICTURE_SUFFIXES | VIDEO_SUFFIXES))}"
            )
        for path in found:
            files.setdefault(path.resolve(), path)
    others = [path for resolved, path in passed_over.items() if resolved not in files]
    return FoundMedia(list(files.values()), others)


def _candidates(text: str) -> Iterator[tuple[Path, bool]]:
    """Files of an input, and whether it named this very file."""
    # A name may contain what means something in a pattern.
    if os.path.isdir(text):
        yield from ((path, False) for path in _walk(Path(text)))
    elif os.path.exists(text):
        yield Path(text), True
    else:
        matches = sorted(map(Path, glob.glob(text, recursive=True)))
        if not matches:
            raise ValueError(f"there is no file, no folder and no match of {text}")
        for path in matches:
            yield from ((p, False) for p in (_walk(path) if path.is_dir() else [path]))


def _walk(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found)


def read_picture(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, list[str]]:
    """Read a picture, upright, of any mode that PIL knows.

    Args:
        path: the file; its content decides what it is, not its suffix.
        max_pixels: a picture with more is refused before it is decoded.

    Returns:
        uint8 (H, W, 3) RGB, and notes on what was done to it, such as "turned upright, as its EXIF
        says". H and W are those of the upright picture: boxes refer to it.

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not size:
        raise ValueError(f"{path} is empty (0 bytes): get it again")
    try:
        with _without_pil_limit(), Image.open(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _TooLarge(
                    f"has {width} x {height} pixels, {width * height / 1e6:.0f} million: the limit "
                    f"is {max_pixels / 1e6:g} million; make it smaller or raise the limit"
                )
            return _to_rgb(image)
    except _TooLarge as error:
        raise ValueError(f"{path} {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no picture: {_what_it_is(path, head)}") from error
    except MemoryError as error:
        raise ValueError(f"{path}, {size} bytes, needs more memory than there is") from error
    # PIL's decoders raise nearly anything on what is broken: SyntaxError, IndexError, struct.error.
    except Exception as error:
        raise ValueError(
            f"{path}, {size} bytes, is broken ({type(error).__name__}: {error}): get it again"
        ) from error


class _TooLarge(Exception):
    """A picture over the limit."""


@contextlib.contextmanager
def _without_pil_limit() -> Iterator[None]:
    """PIL has a limit of its own, applied as soon as a file is opened; ours stands instead."""
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
    if is_video(path) or head[4:8] == b"ftyp":
        return "it may be a video or a HEIC picture; name a video .mp4, save a picture as JPEG"
    return f"it begins with {head[:16]!r}, which is no known format"


def _to_rgb(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} pictures in the file")
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
        image = Image.fromarray(_to_8_bits(np.asarray(image), notes))
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
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return None


def _to_8_bits(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Grey values of 16 or 32 bits: the whole range of 16 bits, or that of the picture, to 8."""
    values = np.nan_to_num(values.astype(np.float64))
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low >= 0 and 255 < high <= _MAX_16:
        notes.append("16 bits scaled to 8")
        return np.rint(values / 257).astype(np.uint8)
    if low >= 0 and high <= 255 and (high > 1 or high == 0):
        return np.rint(values).astype(np.uint8)
    notes.append(f"grey values from {low:g} to {high:g} scaled to 8 bits")
    return np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """One frame of a video: its number from 0, its time in seconds, and uint8 (H, W, 3) RGB."""

    number: int
    seconds: float
    image: np.ndarray


class BrokenFrame(ValueError):
    """A frame that cannot be decoded, in a video that can be opened."""


def read_frames(
    path: str | os.PathLike, *, every: int = 30, shard: int = 0, shards: int = 1
) -> Iterator[Frame]:
    """Frames 0, every, 2 every, ... of a video, turned upright by OpenCV.

    Args:
        path: the file.
        every: distance of the frames, 1 for all.
        shard, shards: of these frames, take every `shards`-th, beginning with number `shard`; the
            others are passed without being decoded to pixels.

    Raises:
        ValueError: the file cannot be read, has no frame, or OpenCV is not installed.
    """
    if every < 1:
        raise ValueError(f"every is {every}: it must be 1 at least")
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: videos need OpenCV; install the extra: pip install 'vrd_d2[opencv]'"
        ) from error
    path = Path(path)
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes): get it again")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ValueError(f"{path} is no video that OpenCV can read")
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
