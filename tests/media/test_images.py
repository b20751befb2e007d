"""Images as they come: what of each odd kind is read, and why the rest is refused."""

import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_reads
from PIL import Image

from vrd_d2.media.images import read_image, read_size

GRADIENT = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "module", ["vrd_d2.media.images", "vrd_d2.media.search", "vrd_d2.onnx_runtime"]
)
def test_reading_loads_no_heavy_package(repository, module):
    """The package's own __init__ is left out: what it loads is its own matter."""
    heavy = ["torch", "detectron2", "open_clip", "transformers", "matplotlib", "cv2"]
    code = f"""
import importlib, sys, types
package = types.ModuleType("vrd_d2")
package.__path__ = [{str(repository / "vrd_d2")!r}]
sys.modules["vrd_d2"] = package
importlib.import_module({module!r})
print([name for name in {heavy!r} if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_size):
        with pytest.raises(ValueError, match=r"pipe\.png"):
            read(tmp_path / "pipe.png")


def test_no_other_program_reads_an_image(tmp_path):
    """PIL would hand PostScript to Ghostscript, whatever the suffix says."""
    path = tmp_path / "holiday.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(ValueError, match=r"holiday\.jpg"):
        read_image(path)


def test_the_limit_of_pil_comes_back_after_threads(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((400, 400), np.uint8)).save(path)
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [path] * 200))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_ordinary_images_are_what_detectron2_reads(tmp_path, suffix):
    path = tmp_path / f"ä image.{suffix}"
    Image.fromarray(GRADIENT).save(path)
    image, notes = read_image(path)
    np.testing.assert_array_equal(image, detectron2_reads(str(path), format="RGB"))
    assert image.dtype == np.uint8 and image.shape == (20, 30, 3) and notes == []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_turns_the_image_as_detectron2_does(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(GRADIENT).save(path, exif=exif)
    image, notes = read_image(path)
    np.testing.assert_array_equal(image, detectron2_reads(str(path), format="RGB"))
    assert image.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))
    assert notes == (["turned upright, as its EXIF says"] if orientation > 1 else [])
    assert read_size(path) == image.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation):
    """PIL itself turns it when it is loaded."""
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    path = tmp_path / "turned.tif"
    Image.fromarray(GRADIENT).save(path, tiffinfo={0x0112: orientation})
    image, notes = read_image(path)
    np.testing.assert_array_equal(image, turns[orientation](GRADIENT))
    assert read_size(path) == image.shape[1::-1]
    assert bool(notes) == (orientation > 1)


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


def test_one_colour_may_stand_for_transparent(tmp_path):
    grey = np.full((20, 30), 90, np.uint8)
    grey[3, 4] = 7
    coloured = np.repeat(grey[..., None], 3, 2)
    Image.fromarray(grey).save(tmp_path / "l.png", transparency=7)
    Image.fromarray(coloured).save(tmp_path / "rgb.png", transparency=(7, 7, 7))
    for name in ("l.png", "rgb.png"):
        image, notes = read_image(tmp_path / name)
        assert image[3, 4].tolist() == [255] * 3 and len(notes) == 1
        image[3, 4] = 7
        np.testing.assert_array_equal(image, coloured)


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


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_leave_the_others_as_they_are(tmp_path, odd):
    """As a map of depths has them where nothing was measured."""
    values = np.arange(600, dtype=np.float32).reshape(20, 30) - 1000
    Image.fromarray(values).save(tmp_path / "whole.tif")
    values[3, 4:6] = odd
    Image.fromarray(values).save(tmp_path / "odd.tif")
    whole, odd_one = (read_image(tmp_path / name)[0] for name in ("whole.tif", "odd.tif"))
    assert (odd_one[3, 4:6] == (255 if odd == np.inf else 0)).all()
    odd_one[3, 4:6] = whole[3, 4:6]
    np.testing.assert_array_equal(odd_one, whole)


def test_cmyk_and_animations_are_stated(tmp_path):
    Image.fromarray(GRADIENT).convert("CMYK").save(tmp_path / "c.jpg")
    image, notes = read_image(tmp_path / "c.jpg")
    assert image.shape == (20, 30, 3) and "CMYK" in notes[0]
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, notes = read_image(tmp_path / "a.gif")
    assert (image == [255, 0, 0]).all() and len(notes) == 1 and "3" in notes[0]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("zero.jpg", b"", r"zero\.jpg.*0 bytes"),
        ("text.jpg", b"hello, this is text", r"text\.jpg.*b'hello"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", r"a\.svg.*SVG"),
        ("b.png", b"\n <svg xmlns='x'/>", r"b\.png.*SVG"),
        ("v.jpg", b"\0\0\0\x18ftypmp42" + bytes(50), r"v\.jpg.*HEIC"),
        ("v.mp4", b"not even a video", r"v\.mp4.*video"),
        ("bomb.png", png_of_size(60000, 50000), r"bomb\.png.*60000 x 50000.*3000.*200 million"),
        ("hollow.png", png_of_size(60, 50), r"hollow\.png"),
        ("none.png", None, r"none\.png.*No such file"),
    ],
)
def test_what_is_refused_and_why(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_image(path)


def test_sizes_are_refused_alike(tmp_path):
    for name, content in (("bomb.png", png_of_size(60000, 50000)), ("text.jpg", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_size(tmp_path / name)
    (tmp_path / "large.png").write_bytes(png_of_size(14000, 13000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_size(tmp_path / "large.png") == (14000, 13000)  # more than PIL's own limit


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


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_flipped_bit_is_found(tmp_path, suffix):
    """Of files with a checksum: reading the EXIF must not load them unnoticed."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"flipped.{suffix}"
    Image.fromarray(noise).save(path, compression="tiff_adobe_deflate")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="flipped"):
        read_image(path)


def test_the_limit_of_pixels_is_the_callers(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(GRADIENT).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    assert read_image(path, max_pixels=600)[0].shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 7
    with pytest.raises(ValueError, match=r"a\.png.*0\.000599 million"):
        read_image(path, max_pixels=599)


def test_reading_does_not_repeat_warnings_of_others(tmp_path):
    """Python shows a warning of one line once, unless filters change in between."""
    path = tmp_path / "a.png"
    Image.fromarray(GRADIENT).save(path)

    def warn():
        warnings.warn("once", stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            warn()
            read_image(path)
    assert len(shown) == 1


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(GRADIENT).save(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match=r"a\.png.*Permission denied"):
        read_image(Path(path))
