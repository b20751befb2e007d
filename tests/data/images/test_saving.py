"""Drawings as files: lossless or JPEG, by the name; complete or not there."""

import errno
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vrd_d2.data.images.saving import DRAWING_FORMATS, encode_image, save_figure, save_image
from vrd_d2.visualization.scene_graph_image import draw_scene_graph


@pytest.fixture(scope="module")
def drawn():
    boxes = np.array([[5, 10, 100, 190], [90, 80, 290, 195]], float)
    image = np.full((200, 300, 3), 180, np.uint8)
    return draw_scene_graph(image, boxes, ["man", "horse"], [(0, 1, "on")])


def test_png_is_what_was_drawn(drawn, tmp_path):
    path = tmp_path / "new" / "image.png"
    save_image(path, drawn)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), drawn)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(encode_image(drawn, "png")))), drawn
    )


@pytest.mark.parametrize("name", ["image.jpg", "image.JPEG"])
def test_jpeg_is_close_to_it(name, drawn, tmp_path):
    save_image(tmp_path / name, drawn)
    found = Image.open(tmp_path / name)
    assert found.format == "JPEG" and found.size == drawn.shape[1::-1]
    difference = np.abs(np.asarray(found).astype(int) - drawn)
    assert difference.mean() < 1 and np.quantile(difference, 0.999) < 60


def test_jpeg_of_a_photograph_is_a_fraction_as_large():
    noise = np.random.default_rng(0).normal(128, 12, (400, 600, 3)).clip(0, 255).astype(np.uint8)
    sizes = [len(encode_image(noise, suffix)) for suffix in DRAWING_FORMATS]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("name", ["image.xyz", "image", "image.svg"])
def test_an_unknown_format_is_named(name, drawn, tmp_path):
    with pytest.raises(ValueError, match=name):
        save_image(tmp_path / name, drawn)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_the_old_file(drawn, tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr(Figure, "savefig", full)
    for write in (lambda: save_image(path, drawn), lambda: save_figure(Figure(), path, dpi=50)):
        with pytest.raises(OSError, match="No space left") as error:
            write()
        assert error.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["image.png"] and path.read_bytes() == b"old"
