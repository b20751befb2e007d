"""Images and videos: what is found, what of each odd kind is read, why the rest is refused."""

import importlib.util
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_reads
from PIL import Image

from vrd_d2.media.images import read_frames, read_image
from vrd_d2.media.search import find_media

needs_opencv = pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed"
)
GRADIENT = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def test_folders_patterns_and_files_each_once(tmp_path, monkeypatch):
    names = [
        "b/2.JPG",
        "b/1.png",
        "a.mp4",
        "b/notes.txt",
        "b/.hidden.png",
        ".git/x.png",
        "c[1].gif",
    ]
    two, one, video, notes, hidden, _, bracket = touch(tmp_path, *names)
    found = find_media([tmp_path])
    assert found.files == [video, one, two, bracket] and found.passed_over == [notes]
    assert find_media([tmp_path / "b", two, tmp_path / "b/../b/1.png"]).files == [one, two]
    assert find_media([str(tmp_path / "**/*.png")]).files == [one]
    assert find_media([bracket, hidden]).files == [bracket, hidden]
    # A file that is named is tried, whatever its suffix; one that a pattern met is not.
    assert find_media([notes]).files == [notes]
    assert find_media([str(tmp_path / "b/*")]).files == [one, two]
    monkeypatch.chdir(tmp_path / "b")
    assert find_media(["../b", "."]).files == [Path("../b/1.png"), Path("../b/2.JPG")]


def test_results_are_not_searched(tmp_path):
    touch(tmp_path, "a.png", "out/drawings/a.png", "out/settings.json")
    found = find_media([tmp_path], exclude=tmp_path / "out")
    assert found.files == [tmp_path / "a.png"] and found.passed_over == []
    with pytest.raises(ValueError, match=r"and not in .*, the folder of the results"):
        find_media([tmp_path], exclude=tmp_path)


def test_links_are_followed_and_lead_nowhere_twice(tmp_path):
    (real,) = touch(tmp_path, "elsewhere/a.png")
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    (folder / "album").symlink_to(real.parent)
    (folder / "below/back").symlink_to(folder)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing")
    found = find_media([folder]).files
    assert found == [folder / "album/a.png", folder / "gone.png", folder / "loop.png"]
    for path in found[1:]:
        with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
            read_image(path)


def test_folders_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    (kept, _) = touch(tmp_path, "a.png", "locked/b.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_media([tmp_path])
    reason = f"the folder {tmp_path / 'locked'} cannot be read: Permission denied"
    assert found.files == [kept] and found.unreadable == [reason]
    with pytest.raises(ValueError, match="locked cannot be read: Permission denied"):
        find_media([tmp_path / "locked"])


def test_what_is_no_file_is_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes among its files")
    for name, read in (("pipe.png", read_image), ("pipe.mp4", lambda p: list(read_frames(p)))):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is a folder, a pipe or a device"):
            read(tmp_path / name)


def test_no_other_program_reads_a_image(tmp_path):
    """PIL would hand PostScript to Ghostscript, whatever the suffix says."""
    path = tmp_path / "holiday.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(ValueError, match="is no image"):
        read_image(path)


def test_the_limit_of_pil_comes_back_after_threads(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((400, 400), np.uint8)).save(path)
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [path] * 200))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "given, message",
    [
        ("missing.jpg", "there is no file, no folder and no match of .*missing.jpg"),
        ("*.tif", "no match of"),
        ("empty", r"no image and no video in .*empty: looked for the suffixes .*\.jpg"),
    ],
)
def test_an_input_without_images_is_an_error(tmp_path, given, message):
    touch(tmp_path, "empty/readme.txt")
    with pytest.raises(ValueError, match=message):
        find_media([str(tmp_path / given)])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_ordinary_images_are_what_detectron2_reads(tmp_path, suffix):
    path = tmp_path / f"ä image.{suffix}"
    Image.fromarray(GRADIENT).save(path)
    image, notes = read_image(path)
    np.testing.assert_array_equal(image, detectron2_reads(str(path), format="RGB"))
    assert image.dtype == np.uint8 and image.shape == (20, 30, 3) and notes == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_as_in_training(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(GRADIENT).save(path, exif=exif)
    image, notes = read_image(path)
    np.testing.assert_array_equal(image, detectron2_reads(str(path), format="RGB"))
    assert image.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))
    assert notes == (["turned upright, as its EXIF says"] if orientation > 1 else [])


def test_alpha_and_transparent_palettes_are_shown_on_white(tmp_path):
    rgba = np.dstack([GRADIENT, np.full((20, 30), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image, notes = read_image(tmp_path / "a.png")
    assert (image[:10] == 255).all() and notes == ["transparent parts shown on white"]
    np.testing.assert_array_equal(image[10:], GRADIENT[10:])
    palette = Image.fromarray(GRADIENT).quantize(8)
    palette.putpixel((0, 0), 3)
    palette.save(tmp_path / "p.png", transparency=3)
    assert read_image(tmp_path / "p.png")[0][0, 0].tolist() == [255, 255, 255]
    opaque = np.dstack([GRADIENT, np.full((20, 30), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "o.png")
    image, notes = read_image(tmp_path / "o.png")
    np.testing.assert_array_equal(image, GRADIENT)
    assert notes == []


def test_grey_of_8_16_and_32_bits(tmp_path):
    grey = np.arange(600, dtype=np.uint8).reshape(20, 30)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "f.tif")
    for name, note in (("8.png", None), ("16.png", "16 bits"), ("f.tif", "scaled to 8 bits")):
        image, notes = read_image(tmp_path / name)
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, 2))
        assert notes == [] if note is None else note in notes[0]
    Image.fromarray(grey > 100).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_image(tmp_path / "1.png")[0][..., 0] == 255, grey > 100)


def test_cmyk_and_animations_are_stated(tmp_path):
    Image.fromarray(GRADIENT).convert("CMYK").save(tmp_path / "c.jpg")
    image, notes = read_image(tmp_path / "c.jpg")
    assert image.shape == (20, 30, 3) and "CMYK" in notes[0]
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, notes = read_image(tmp_path / "a.gif")
    assert (image == [255, 0, 0]).all() and notes == ["the first of 3 images in the file"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("zero.jpg", b"", r"zero.jpg is empty \(0 bytes\)"),
        ("text.jpg", b"hello, this is text", "text.jpg is no image: it begins with b'hello"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", "a.svg is no image: it is an SVG"),
        ("b.png", b"\n <svg xmlns='x'/>", "it is an SVG, .* save it as PNG"),
        ("v.jpg", b"\0\0\0\x18ftypmp42" + bytes(50), "video or a HEIC"),
        ("bomb.png", png_of_size(60000, 50000), "60000 x 50000 pixels, 3000 million: the limit is"),
        ("hollow.png", png_of_size(60, 50), "hollow.png, .* bytes, is broken"),
        ("none.png", None, "none.png cannot be read: No such file"),
    ],
)
def test_what_is_refused_and_why(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_image(path)


def test_cut_off_images_are_broken_wherever_they_end(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "webp", "gif", "tif"):
        path = tmp_path / f"whole.{suffix}"
        Image.fromarray(noise).save(path)
        content = path.read_bytes()
        for share in (0.02, 0.3, 0.8):
            path.write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match="whole"):
                read_image(path)


def test_the_limit_of_pixels_is_the_callers(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(GRADIENT).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    assert read_image(path, max_pixels=600)[0].shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 7
    with pytest.raises(ValueError, match=r"0 million: the limit is 0\.000599 million"):
        read_image(path, max_pixels=599)


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
    for name, message in (("text.mp4", "is no video"), ("zero.mp4", "0 bytes")):
        with pytest.raises(ValueError, match=message):
            list(read_frames(tmp_path / name))
    with pytest.raises(ValueError, match="every is 0"):
        list(read_frames(tmp_path / "text.mp4", every=0))
