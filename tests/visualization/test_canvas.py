"""Primitives of the images: label placement, arrows, text; and labels of crowded photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vrd_d2.visualization import placement
from vrd_d2.visualization.canvas import LabelPlacer, curve, entity_colour, shorten
from vrd_d2.visualization.scene_graph_image import draw_scene_graph


def overlapping(rectangles: list) -> list[tuple]:
    """Brute force: pairs of rectangles that share area."""
    return [
        (a, b)
        for i, a in enumerate(rectangles)
        for b in rectangles[:i]
        if min(a[2], b[2]) - max(a[0], b[0]) > 1e-6 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-6
    ]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_labels_do_not_overlap_where_there_is_room(seed: int, number: int) -> None:
    """60 labels of at most 60 x 15 take a tenth of 700 x 700, wherever they all want to be."""
    rng = np.random.default_rng(seed)
    placer = LabelPlacer((0, 0, 700, 700), gap=1)
    for _ in range(number):
        size = (float(rng.uniform(10, 60)), float(rng.uniform(5, 15)))
        wanted = rng.uniform(-50, 750, (3, 2)) * rng.integers(0, 2)  # half of them at one corner
        placer.place(size, wanted)
    assert not overlapping(placer.placed)
    placed = np.array(placer.placed)
    assert (placed >= 0).all() and (placed <= 700).all()


def test_labels_take_the_wanted_position_if_free_and_the_nearest_otherwise() -> None:
    placer = LabelPlacer((0, 0, 200, 100), gap=0)
    assert placer.place((40, 10), [(20, 20), (0, 0)])[:2] == (20, 20)
    assert placer.place((40, 10), [(30, 24), (100, 50)])[:2] == (100, 50)
    near = placer.place((40, 10), [(20, 20)])
    assert not overlapping(placer.placed) and abs(near[0] - 20) <= 8 and abs(near[1] - 20) <= 14
    # Full: it goes where it covers least, and never outside.
    full = LabelPlacer((0, 0, 50, 10))
    for _ in range(3):
        assert full.place((40, 10), [(-9, -9)])[2:] <= (50, 10)


def test_curve_bends_to_the_stated_side_by_the_stated_height() -> None:
    points = curve((0, 0), (100, 0), 12)
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [100, 0]
    assert points[:, 1].min() == pytest.approx(-12, abs=0.1)  # left of the way is up
    np.testing.assert_allclose(curve((0, 0), (100, 0), -12)[:, 1], -points[:, 1])
    circle = curve((5, 5), (5, 5), 10)
    np.testing.assert_allclose(np.hypot(*(circle - (5, -5)).T), 10)


def test_shorten() -> None:
    assert shorten("in front of", 11) == "in front of"
    assert shorten("in front of", 10) == "in front…"
    assert shorten(" two\nlines ", 20) == "two lines"


def test_entity_colours_differ() -> None:
    colours = [entity_colour(index) for index in range(256)]
    assert len(set(colours)) == 256
    assert entity_colour(256) == colours[0]


def test_entity_colours_look_different() -> None:
    """By another measure of what people see than the one that chose them."""
    color = pytest.importorskip("skimage.color", reason="scikit-image, of the extra demo")
    for count, least in ((12, 15), (30, 9)):
        lab = color.rgb2lab(np.array([[entity_colour(i) for i in range(count)]]) / 255)[0]
        distance = color.deltaE_ciede2000(lab[:, None], lab[None])
        assert distance[~np.eye(count, dtype=bool)].min() > least


@pytest.mark.parametrize("image", [1, 2, 4, 5])
def test_crowded_photographs(samples: Path, image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty annotated relations: no name and no predicate covers another."""
    folder = samples / "visual_genome"
    annotation = next(
        a for a in json.loads((folder / "relationships.json").read_text()) if a["image_id"] == image
    )
    entities: dict[int, dict] = {}
    rows = []
    for relation in annotation["relationships"][:20]:
        for end in ("subject", "object"):
            entities.setdefault(relation[end]["object_id"], relation[end])
        ends = [list(entities).index(relation[end]["object_id"]) for end in ("subject", "object")]
        rows.append((*ends, relation["predicate"].lower()))
    boxes = [[e["x"], e["y"], e["x"] + e["w"], e["y"] + e["h"]] for e in entities.values()]
    labels = [e.get("name") or e["names"][0] for e in entities.values()]
    pixels = np.asarray(Image.open(folder / f"images/{image}.jpg").convert("RGB"))

    placers: list[LabelPlacer] = []

    class Recorder(LabelPlacer):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            placers.append(self)

    monkeypatch.setattr(placement, "LabelPlacer", Recorder)
    drawn = draw_scene_graph(pixels, boxes, labels, rows)
    assert drawn.dtype == np.uint8 and drawn.shape[0] == 720
    (placer,) = placers
    pairs = {row[:2] for row in rows}
    assert len(placer.placed) == len(entities) + len(pairs)
    assert not overlapping(placer.placed)
