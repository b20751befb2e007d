"""Frames of videos: read, or refused with the reason."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vrd_d2.media.images import MAX_PIXELS, check_file
from vrd_d2.onnx_runtime import TooManyPixels, check_pixels


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
    """Yield frames 0, every, 2 every, ... of a video, turned upright by OpenCV.

    Args:
        path: the file.
        every: distance of the frames, 1 for all.
        shard, shards: of these frames, take every `shards`-th, beginning with number `shard`; the
            others are skipped without being decoded to pixels.
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
    check_file(path)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # OpenCV would crash
        raise ValueError(f"{path}: its name is no text, which OpenCV needs: rename it") from error
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ValueError(f"{path} is no video that OpenCV can read")
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        width, height = (_pixels(video.get(side)) for side in sides)
        try:
            check_pixels(width, height, max_pixels)
        except TooManyPixels as error:
            raise ValueError(f"{path} {error}") from error
        rate = video.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < math.inf else 0.0
        number = 0
        while video.grab():
            position, rest = divmod(number, every)
            if not rest and position % shards == shard:
                decoded, image = video.retrieve()
                if not decoded:
                    raise BrokenFrame(f"{path}: frame {number} is broken")
                seconds = number / rate if rate else 0.0
                yield Frame(number, seconds, np.ascontiguousarray(image[..., ::-1]))
            number += 1
        if not number:
            raise ValueError(f"{path} is a video without a frame: get it again")
    except cv2.error as error:  # of a decoder, on what is broken
        raise BrokenFrame(f"{path} is broken ({error}): get it again") from error
    finally:
        video.release()


def _pixels(side: float) -> int:
    """Return a side as OpenCV tells it, which for broken files may be anything."""
    return round(side) if 0 < side < 1e9 else 0
