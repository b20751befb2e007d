"""Heat maps as images: their colours, and the image that shows through."""

import matplotlib
import numpy as np

from vrd_d2.scene_graph import SceneGraph, draw_heat_map
from vrd_d2.visualization.heat_map import blend_heat, heat_layer
from vrd_d2.visualization.scene_graph_image import draw_scene_graph

TURBO = matplotlib.colormaps["turbo"]


def test_colours_are_those_of_matplotlib() -> None:
    layer = heat_layer(np.arange(256)[None] / 255)
    expected = (255 * TURBO(np.arange(256))[:, :3]).round()
    np.testing.assert_array_equal(np.asarray(layer.convert("RGBA"))[0, :, :3], expected)


def test_the_image_shows_where_there_is_little_heat() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    heat = rng.integers(0, 256, (6, 8)) / 255
    heat[0, 0] = 0
    blended = blend_heat(image, heat)
    opacity = 0.65 * heat[..., None]
    expected = image * (1 - opacity) + 255 * TURBO(heat)[..., :3] * opacity
    assert np.abs(blended - expected).max() < 1 and blended.dtype == np.uint8
    np.testing.assert_array_equal(blended[0, 0], image[0, 0])
    # A coarse map is stretched over the image; values beyond 0 and 1 are cut.
    assert blend_heat(image, np.zeros((2, 3)) - 1).tolist() == image.tolist()
    coarse = blend_heat(np.zeros((60, 80, 3), np.uint8), np.array([[0.0, 9.0]]))
    assert not coarse[:, :10].any() and coarse[:, -10:, 0].min() > 50


def test_a_heat_map_is_drawn_with_its_relation_alone() -> None:
    image = np.full((300, 400, 3), 90, np.uint8)
    boxes = np.array([[40.0, 60, 150, 280], [200, 80, 380, 290], [60, 50, 110, 90]])
    labels = ["man", "horse", "hat"]
    rows = [(0, 2, "wearing"), (0, 1, "riding")]
    heat = np.random.default_rng(1).random((7, 9))
    for scores, score in (([0.5, 0.25], [0.25]), (None, None)):
        graph = SceneGraph(boxes, labels, rows, scores)
        np.testing.assert_array_equal(
            draw_heat_map(image, graph, 1, heat),
            draw_scene_graph(blend_heat(image, heat), boxes, labels, rows[1:], scores=score),
        )
