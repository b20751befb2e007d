"""Images decoded whole: each kind of trouble, what reading changes, and images in order."""

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from vrd_d2.data.images.check import ImageReport, check_images
from vrd_d2.data.images.sizes import size_problem

SIZE = (64, 48)


@pytest.fixture
def image(tmp_path):
    """(name, orientation) -> file of noise, which no codec makes small."""

    def make(name, orientation=None):
        noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        image, exif = Image.fromarray(noise), Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        image.save(tmp_path / name, exif=exif)
        return tmp_path / name

    return make


def check(path, size=SIZE, **options):
    record = {"file_name": str(path), "width": size[0], "height": size[1]}
    return [(p.kind, p.message) for p in check_images([record], **options).problems]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif"])
def test_images_in_order(image, name):
    assert check(image(name)) == []


def test_modes_other_than_rgb(tmp_path):
    for mode in ("L", "P", "CMYK", "1", "LA", "RGBA", "I;16"):
        path = tmp_path / f"{mode[:1]}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, SIZE).save(path)
        assert check(path) == [], mode


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_file_that_ends_early(image, name, share):
    """The header alone would do for the size: only decoding everything finds it."""
    path = image(name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    ((kind, message),) = check(path)
    assert kind == "unreadable"
    assert str(path) in message and f"{int(share * len(content))} bytes" in message


def test_what_is_no_image(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>Too many requests</html>")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("page.jpg", "folder.jpg"):
        assert [kind for kind, _ in check(tmp_path / name)] == ["unreadable"]
    ((kind, message),) = check(tmp_path / "none.jpg")
    assert kind == "missing" and "none.jpg" in message


def test_a_flipped_bit_in_a_png(image):
    path = image("a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert [kind for kind, _ in check(path)] == ["unreadable"]


def test_another_size_than_stated(image):
    ((kind, message),) = check(image("a.png"), (48, 64))
    assert kind == "other size"
    assert "64 x 48" in message and "48 x 64" in message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_by_exif_is_that_of_the_mapper(image, orientation):
    path = image("a.jpg", orientation)
    height, width, _ = detection_utils.read_image(str(path), format="BGR").shape
    report = check_images([{"file_name": str(path), "width": width, "height": height}])
    assert report.problems == []
    assert list(report.notes.values()) == ([] if orientation == 1 else [[str(path)]])
    if orientation > 4:  # a quarter turn: the size of the file as it lies there is the wrong one
        assert [kind for kind, _ in check(path, SIZE)] == ["other size"]


@pytest.mark.parametrize("workers", [0, 2])
def test_many_in_their_order(image, tmp_path, workers):
    good = str(image("good.png"))
    (tmp_path / "bad.png").write_bytes(b"")
    names = [good] * 70
    names[3], names[40] = str(tmp_path / "none.png"), str(tmp_path / "bad.png")
    names[5] = names[50] = str(image("turned.png", 3))
    report = check_images([{"file_name": name} for name in names], workers=workers)
    assert [(p.kind, p.file_name) for p in report.problems] == [
        ("missing", names[3]), ("unreadable", names[40]),
    ]  # fmt: skip
    assert list(report.notes.values()) == [[names[5], names[5]]]
    assert check_images([], workers=workers) == ImageReport()


def test_notes_of_one_kind_are_counted_together(tmp_path):
    """The range of grey values and the number of images in a file differ."""
    for number in range(3):
        grey = np.linspace(-1, number + 1, 12, dtype=np.float32).reshape(3, 4)
        Image.fromarray(grey).save(tmp_path / f"{number}.tif")
        frames = [Image.new("L", (4, 3), 80 * i) for i in range(2 + number)]
        frames[0].save(tmp_path / f"{number}.gif", save_all=True, append_images=frames[1:])
    files = [str(tmp_path / f"{n}.{suffix}") for n in range(3) for suffix in ("tif", "gif")]
    report = check_images([{"file_name": file} for file in files])
    assert list(report.notes.values()) == [files[::2], files[1::2]]


def test_sizes_are_stated_or_not():
    assert size_problem({}, 64, 48) is None
    assert size_problem({"width": 64, "height": None}, 64, 48) is None
    problem = size_problem({"width": 64, "height": 50}, 64, 48)
    assert "64 x 48" in problem and "64 x 50" in problem
