"""What is drawn of a graph: every drawing checks it alike, and none loads what it does not need."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vrd_d2
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.scene_graph_image import draw_scene_graph
from vrd_d2.visualization.view import GraphView

GREY = np.full((300, 400, 3), 90, np.uint8)
MAN_HORSE = [[40.0, 60, 150, 280], [200, 80, 380, 290]]


def test_a_graph_gives_its_view_in_one_form() -> None:
    graph = SceneGraph(
        np.array([[40, 60, 150, 280], [380, 80, 200, 290]]),
        ["man", "horse"],
        [np.array([0, 1, 7]), (1, 0, "under", "missed"), (0, 1, "7")],
        [np.float32(0.5), None, 0.25],
        [1, 0],
    )
    view = graph.view()
    np.testing.assert_array_equal(view.boxes, MAN_HORSE)  # the corners of one are exchanged
    assert view.boxes.dtype == float and view.labels == ("man", "horse")
    assert view.rows == (
        (0, 1, "7", None, 0.5),
        (1, 0, "under", "missed", None),
        (0, 1, "7", None, 0.25),
    )
    assert {type(value) for row in view.rows for value in row} == {int, str, float, type(None)}
    assert view.entity_scores == (1.0, 0.0)
    # Relations keep their positions; a drawing lists the same one once, with its first score.
    assert view.distinct_rows() == list(view.rows[:2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": ["man"]}, r"\b2\b.*\b1\b"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, np.nan, 1]]}, "box 1 "),
        ({"boxes": [[0, 0, np.inf, 1], [0, 0, 1, 1]]}, "box 0 "),
        ({"relations": [(0, 2, "on")]}, r"\(0, 2, 'on'\)"),
        ({"relations": [(0, -1, "on")]}, r"\(0, -1, 'on'\)"),
        ({"relations": [(0, 1, "on", "wrong")]}, "'wrong'.*correct, missed, extra"),
        ({"scores": [1.0, 2.0]}, r"\b1 relations.*\b2 scores"),
    ],
)
def test_drawing_page_and_view_refuse_the_same(change: dict, message: str) -> None:
    content = {"boxes": MAN_HORSE, "labels": ["man", "horse"], "relations": [(0, 1, "on")]}
    content |= change
    graph = SceneGraph(**content)
    for draw in (
        lambda: GraphView.of(**content),
        lambda: draw_scene_graph(GREY, **content),
        lambda: graph.draw(GREY),
        lambda: graph.to_html(GREY),
    ):
        with pytest.raises(ValueError, match=message):
            draw()


def test_every_entity_has_a_score_or_none_has() -> None:
    with pytest.raises(ValueError, match=r"2 boxes.*1 entity_scores"):
        GraphView.of(MAN_HORSE, ["man", "horse"], [], entity_scores=[0.5])


def test_drawing_loads_no_framework() -> None:
    """Exported models draw where torch is not installed."""
    folder = Path(vrd_d2.__file__).parent
    modules = [f"visualization.{file.stem}" for file in (folder / "visualization").glob("*.py")]
    code = f"""
import importlib, sys, types
package = types.ModuleType("vrd_d2")  # in place of the real one: its parts by themselves
package.__path__ = [{str(folder)!r}]
sys.modules["vrd_d2"] = package
for name in {["scene_graph", *modules]!r}:
    importlib.import_module(f"vrd_d2.{{name}}")
print(sorted({{"torch", "detectron2", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 6 and done.stdout.strip() == "[]"
