"""Frames of videos: which are read, and why others are refused."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from vrd_d2.media.video import read_frames

needs_opencv = pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed"
)


def make_video(path: Path, count: int) -> None:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), (0, 0, 10 * number), np.uint8))  # BGR: red grows
    writer.release()


@needs_opencv
def test_every_nth_frame_and_its_time(tmp_path):
    make_video(tmp_path / "clip.avi", 10)
    frames = list(read_frames(tmp_path / "clip.avi", every=3))
    assert [frame.number for frame in frames] == [0, 3, 6, 9]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.3, 0.6, 0.9])
    for frame in frames:
        assert frame.image.shape == (48, 64, 3)
        assert np.abs(frame.image.mean((0, 1)) - [10 * frame.number, 0, 0]).max() < 6
    shards = [
        [f.number for f in read_frames(tmp_path / "clip.avi", every=2, shard=i, shards=3)]
        for i in range(3)
    ]
    assert shards == [[0, 6], [2, 8], [4]]


@needs_opencv
def test_videos_that_are_none(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video at all")
    (tmp_path / "zero.mp4").write_bytes(b"")
    for name in ("text.mp4", "zero.mp4"):
        with pytest.raises(ValueError, match=name):
            list(read_frames(tmp_path / name))
    with pytest.raises(ValueError, match=r"every.*0"):
        list(read_frames(tmp_path / "text.mp4", every=0))


@needs_opencv
def test_the_limit_of_pixels_names_the_video(tmp_path):
    make_video(tmp_path / "clip.avi", 2)
    assert len(list(read_frames(tmp_path / "clip.avi", every=1, max_pixels=64 * 48))) == 2
    with pytest.raises(ValueError, match=r"clip\.avi.*64 x 48"):
        list(read_frames(tmp_path / "clip.avi", max_pixels=64 * 48 - 1))


@needs_opencv
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match=r"pipe\.mp4"):
        list(read_frames(tmp_path / "pipe.mp4"))


@needs_opencv
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_what_opencv_says_of_broken_videos(tmp_path, monkeypatch, value):
    """Sides and rates may be anything, and a decoder may fail in its own way."""
    import cv2

    (tmp_path / "clip.avi").write_bytes(b"RIFF")
    fails = [False]

    class Video:
        frames = 2

        def __init__(self, path):
            pass

        def isOpened(self):
            return True

        def get(self, what):
            return value

        def grab(self):
            self.frames -= 1
            return self.frames >= 0

        def retrieve(self):
            if fails[0]:
                raise cv2.error("(-215:Assertion failed)")
            return True, np.zeros((4, 5, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Video)
    seconds = [frame.seconds for frame in read_frames(tmp_path / "clip.avi", every=1)]
    assert seconds == pytest.approx([0, 0], abs=1e-9)
    fails[0] = True
    with pytest.raises(ValueError, match=r"clip\.avi.*Assertion"):
        list(read_frames(tmp_path / "clip.avi"))
