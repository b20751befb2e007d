"""Names in scripts that the usual font lacks: another font, or one line that says so."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from vrd_d2.data.images.saving import save_figure
from vrd_d2.visualization import fonts
from vrd_d2.visualization.canvas import Canvas, text_size
from vrd_d2.visualization.scene_graph_image import draw_scene_graph

RIDING = "\u9a91"
HORSE = "\u9a6c"


def make_font(path: Path, characters: str) -> Path:
    """Write a font in which each character is a full block, as wide as high."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, -200), (0, 800), (1000, 800), (1000, -200)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "block"])
    builder.setupCharacterMap({ord(c): "block" for c in characters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "block": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "block": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def system(monkeypatch):
    """Fonts of the system, none at first; nothing is remembered."""
    files = []
    monkeypatch.delenv(fonts.SETTING, raising=False)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, files)))
    cached = [f for f in vars(fonts).values() if hasattr(f, "cache_clear")]
    for function in cached:
        function.cache_clear()
    yield files
    for function in cached:
        function.cache_clear()


def drawn(text):
    canvas = Canvas(160, 40)
    canvas.text((10, 20), text, 20, (0, 0, 0))
    return canvas.array()


def black(text):
    """Return the share of a square of the size of the text that is black."""
    return (drawn(text)[12:28, 12:28] < 60).mean()


def test_a_font_of_the_system_is_taken(system, tmp_path, caplog):
    assert black(RIDING) < 0.6  # the outline of a square
    assert len(caplog.records) == 1
    for function in (fonts.runs, fonts.fonts_for, fonts._best, fonts._system_fonts):
        function.cache_clear()
    system += [make_font(tmp_path / "Other.ttf", "ab"), make_font(tmp_path / "Han.ttf", RIDING)]
    assert black(RIDING) == 1
    assert len(caplog.records) == 1


def test_the_setting_comes_before_the_system(system, tmp_path, monkeypatch):
    system.append(make_font(tmp_path / "System.ttf", RIDING + HORSE))
    setting = make_font(tmp_path / "Mine.ttf", RIDING + HORSE)
    monkeypatch.setenv(fonts.SETTING, str(setting))
    chosen = fonts.fonts_for(frozenset("man" + RIDING + HORSE), True)
    assert chosen == {RIDING: str(setting), HORSE: str(setting)}


def test_the_usual_font_stays_where_it_has_the_character(system, tmp_path):
    usual = drawn("man-1 \u2026")
    system.append(make_font(tmp_path / "Han.ttf", "man-1" + RIDING))
    assert np.array_equal(drawn("man-1 \u2026"), usual)
    parts = fonts.runs(f"man {RIDING}{HORSE} 1", 40, False)
    assert [part for part, _ in parts] == ["man ", RIDING, f"{HORSE} 1"]
    width, _ = text_size(f"man {RIDING}", 20)
    assert width == pytest.approx(text_size("man ", 20)[0] + 20, abs=0.6)


def test_several_fonts_share_a_text(system, tmp_path):
    files = [make_font(tmp_path / f"{i}.ttf", c) for i, c in enumerate(RIDING + HORSE)]
    system += files
    chosen = fonts.fonts_for(frozenset(RIDING + HORSE), False)
    assert chosen == {RIDING: str(files[0]), HORSE: str(files[1])}


def test_what_no_font_has_is_told_once(caplog):
    boxes = np.array([[5, 10, 100, 190], [90, 80, 290, 195]], float)
    image = np.full((200, 300, 3), 180, np.uint8)
    for _ in range(2):
        draw_scene_graph(image, boxes, ["\u4eba", HORSE], [(0, 1, RIDING)], graph=True)
    (line,) = [record.getMessage() for record in caplog.records]
    assert fonts.SETTING in line and "U+4EBA" in line and "\n" not in line
    drawn("\u0644")  # Arabic, which the usual font has
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["LastResortHE-Regular.ttf", "NotoColorEmoji.ttf"])
def test_stand_ins_are_no_fonts(name, system, tmp_path, caplog):
    system.append(make_font(tmp_path / name, RIDING))
    assert not fonts.fonts_for(frozenset(RIDING), False) and len(caplog.records) == 1


def test_broken_fonts_are_passed_over(system, tmp_path, monkeypatch, caplog):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    good = make_font(tmp_path / "good.ttf", RIDING)
    system += [broken, tmp_path / "gone.ttf", good]
    assert fonts.fonts_for(frozenset(RIDING), False) == {RIDING: str(good)}
    monkeypatch.setenv(fonts.SETTING, str(tmp_path / "none.ttf"))
    assert fonts.fonts_for(frozenset(HORSE + RIDING), False) == {RIDING: str(good)}
    assert any("none.ttf" in record.getMessage() for record in caplog.records)


def test_blanks_and_marks_need_no_font(caplog):
    assert not fonts.fonts_for(frozenset(" \u200b\u0301\ufe0f\n"), False) and not caplog.records


@pytest.mark.parametrize("with_font", [True, False])
def test_figures_too(with_font, system, tmp_path, caplog):
    if with_font:
        system.append(make_font(tmp_path / "Han.ttf", RIDING))
    figure = Figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.bar([0], [1])
    axes.set_xticks([0], [RIDING], fontsize=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.png", dpi=60)
    assert len(caplog.records) == (0 if with_font else 1)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    below = pixels[round(0.9 * len(pixels)) :]
    # A block is black throughout, a square is not.
    rows = [(row < 60).sum() for row in below]
    assert (sorted(rows)[len(rows) // 2] > 15) == with_font
