"""Images of scene graphs: what is drawn in which colour, and that nothing breaks them."""

import numpy as np
import pytest

from vrd_d2.visualization.canvas import Canvas, entity_colour
from vrd_d2.visualization.placement import STATUS
from vrd_d2.visualization.scene_graph_image import draw_scene_graph

GREY = np.full((300, 400, 3), 90, np.uint8)
MAN_HORSE = np.array([[40.0, 60, 150, 280], [200, 80, 380, 290]])


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - colour).max(-1) <= 2).sum())


def test_the_first_relations_are_drawn_and_the_list_says_of_how_many(monkeypatch) -> None:
    boxes = np.concatenate([MAN_HORSE, [[5, 5, 60, 60]]])
    rows = [(0, 1, "riding"), (1, 0, "under"), (0, 2, "wearing"), (0, 1, "riding")]
    texts = []
    draw_text = Canvas.text
    monkeypatch.setattr(
        Canvas, "text", lambda *args, **kw: (texts.append(args[2]), draw_text(*args, **kw))
    )
    labels = ["man", "horse", "hat"]
    two = draw_scene_graph(GREY, boxes, labels, rows, graph=True, top_k=2)
    assert "2 of 3 relations" in texts and "hat" not in texts
    same = draw_scene_graph(GREY, boxes, labels, rows[:2], graph=True)
    np.testing.assert_array_equal(two[:, :960], same[:, :960])
    texts.clear()
    draw_scene_graph(GREY, boxes, labels, rows, graph=True, top_k=3)
    assert "3 relations" in texts and "hat" in texts


@pytest.mark.parametrize("status", [*STATUS])
def test_status_decides_the_colour_on_the_image(status: str) -> None:
    drawn = draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, "riding", status)])
    image = drawn[:, :960]
    for name, (colour, _) in STATUS.items():
        assert (count(image, colour) > 200) == (name == status), name
        # The legend names every status, also those that do not occur.
        assert count(drawn[:, 960:], colour) > 100


def test_predicates_are_filled_with_the_colour_of_the_status() -> None:
    short, long = (
        draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, text, "correct")])[:, :960]
        for text in ("on", "walking in front of")
    )
    assert count(long, STATUS["correct"][0]) > count(short, STATUS["correct"][0]) + 500


def test_colours_without_status_are_those_of_the_entities() -> None:
    drawn = draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, "riding")])
    assert drawn.dtype == np.uint8 and drawn.shape[0] == 720 and drawn.shape[2] == 3
    for colour, _ in STATUS.values():
        assert not count(drawn, colour)
    for entity in (0, 1):
        assert count(drawn[:, :960], entity_colour(entity)) > 1000  # box and name
        assert count(drawn[:, 960:], entity_colour(entity)) > 200  # list
    # The boxes are where they belong: 960 / 400 = 2.4 times as large.
    x1, y1, x2, y2 = (MAN_HORSE[1] * 2.4).round().astype(int)
    assert count(drawn[(y1 + y2) // 2, x1 - 3 : x1 + 4], entity_colour(1))
    assert count(drawn[y2 - 4 : y2 + 3, (x1 + x2) // 2], entity_colour(1))


def test_arrow_ends_in_a_head_at_the_object() -> None:
    """The head is wider than the line, so more of the subject's colour lies near the object."""
    boxes = np.array([[10.0, 120, 110, 280], [290, 120, 390, 280]])
    there, back = (
        draw_scene_graph(GREY, boxes, ["man", "horse"], [row])[:, :960]
        for row in [(0, 1, "on", "extra"), (1, 0, "on", "extra")]
    )
    colour = STATUS["extra"][0]
    left, right = slice(0, 300), slice(500, 960)
    assert count(there[:, right], colour) > count(back[:, right], colour)
    assert count(back[:, left], colour) > count(there[:, left], colour)


def test_drawing_is_deterministic_and_leaves_its_input_alone() -> None:
    image, boxes = GREY.copy(), MAN_HORSE.copy()
    rows = [(0, 1, "riding"), (1, 0, "under")]
    first = draw_scene_graph(image, boxes, ["man", "horse"], rows, scores=[0.9, None])
    second = draw_scene_graph(image, boxes, ["man", "horse"], rows, scores=[0.9, None])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, GREY)
    np.testing.assert_array_equal(boxes, MAN_HORSE)
    repeated = draw_scene_graph(
        image, boxes, ["man", "horse"], [*rows, rows[0]], scores=[0.9, None, 0.1]
    )
    np.testing.assert_array_equal(first, repeated)


def test_unrelated_entities_are_drawn_only_if_there_is_no_relation() -> None:
    boxes = np.concatenate([MAN_HORSE, [[5, 5, 35, 40]]])
    labels = ["man", "horse", "hat"]
    related = draw_scene_graph(GREY, boxes, labels, [(0, 1, "on")])
    assert not count(related, entity_colour(2))
    assert count(draw_scene_graph(GREY, boxes, labels, []), entity_colour(2)) > 200


EDGE_CASES = {
    "nothing": ((300, 400), [], [], []),
    "no relation": ((300, 400), [[10, 10, 50, 60]], ["man"], []),
    "one pixel": (
        (1, 1),
        [[0, 0, 1, 1], [0, 0, 1, 1]],
        ["man", "horse"],
        [(0, 1, "on"), (1, 0, "on")],
    ),
    "very tall": ((900, 1), [[0, 0, 1, 90], [0, 300, 1, 800]], ["man", "horse"], [(0, 1, "on")]),
    "very wide": ((1, 900), [[0, 0, 90, 1], [300, 0, 800, 1]], ["man", "horse"], [(0, 1, "on")]),
    "outside": (
        (30, 40),
        [[-90, -90, -10, -10], [35, 20, 400, 300]],
        ["man", "horse"],
        [(0, 1, "on")],
    ),
    "no area": ((30, 40), [[5, 5, 5, 5], [9, 9, 9, 20]], ["man", "horse"], [(0, 1, "on")]),
    "corners exchanged": ((30, 40), [[20, 25, 5, 5], [9, 9, 12, 20]], ["a", "b"], [(0, 1, "on")]),
    "itself": ((300, 400), [[50, 50, 200, 200]], ["man"], [(0, 0, "in front of")]),
    "same box": ((300, 400), [[50, 50, 200, 200]] * 3, ["man"] * 3, [(0, 1, "on"), (1, 2, "on")]),
    "long names": (
        (30, 40),
        [[1, 1, 20, 20], [5, 5, 30, 20]],
        ["x" * 300, "y\nz " * 90],
        [(0, 1, "p " * 99)],
    ),
    "no names": ((30, 40), [[1, 1, 20, 20], [5, 5, 30, 20]], ["", ""], [(0, 1, "")]),
    "large": ((1000, 3000), [[1, 1, 20, 20], [5, 5, 2900, 900]], ["a", "b"], [(0, 1, "on")]),
}


@pytest.mark.parametrize("name", EDGE_CASES)
@pytest.mark.parametrize("status", [None, "missed"])
def test_edge_cases_are_drawn(name: str, status: str | None) -> None:
    (height, width), boxes, labels, rows = EDGE_CASES[name]
    image = np.full((height, width, 3), 90, np.uint8)
    rows = [(*row, status) for row in rows]
    drawn = draw_scene_graph(image, boxes, labels, rows, scores=[1e-9] * len(rows))
    assert drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3
    assert 200 <= drawn.shape[0] <= 1700 and 300 <= drawn.shape[1] <= 2600
    for entity in {entity for row in rows for entity in row[:2]}:
        assert count(drawn, entity_colour(entity)), "a related entity has no name"


@pytest.mark.parametrize(
    "image, message",
    [
        (GREY.astype(float), "float64"),
        (GREY[..., 0], r"\(300, 400\)"),
        (GREY[:0], r"\(0, 400, 3\)"),
    ],
)
def test_wrong_images_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"image_rgb.*{message}"):
        draw_scene_graph(image, MAN_HORSE, ["man", "horse"], [(0, 1, "on")])
