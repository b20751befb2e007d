"""Heat maps of relations as images: over the photograph, or as a layer to lay over it."""

import matplotlib
import numpy as np
from PIL import Image

from vrd_d2.scene_graph import SceneGraph

# Blue over green to red, as Figure 2 of RelCLIP has it; the weaker, the more of the image shows.
_COLOURS = (255 * matplotlib.colormaps["turbo"](np.arange(256))[:, :3]).round().astype(np.uint8)
_OPACITY = 0.65


def heat_layer(heat: np.ndarray) -> Image.Image:
    """An image with palette and transparency, to be stretched over the photograph.

    Args:
        heat: (h, w) in 0..1.
    """
    layer = Image.fromarray(_bytes(heat)).convert("P")
    layer.putpalette(_COLOURS.tobytes())
    layer.info["transparency"] = bytes(int(_OPACITY * value) for value in range(256))
    return layer


def draw_heat_map(
    image: np.ndarray, graph: SceneGraph, relation: int, heat: np.ndarray
) -> np.ndarray:
    """The image under the heat map of one relation, with its subject and its object.

    Args:
        image: uint8 (H, W, 3) RGB.
        graph: of the image.
        relation: position in the graph's relations.
        heat: (h, w) in 0..1.

    Returns:
        uint8 (H', W', 3) RGB.
    """
    from vrd_d2.visualization.scene_graph_image import draw_scene_graph

    height, width = image.shape[:2]
    values = Image.fromarray(_bytes(heat)).resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(values)
    opacity = (_OPACITY / 255 * values)[..., None]
    shown = np.rint(image * (1 - opacity) + _COLOURS[values] * opacity).astype(np.uint8)
    score = None if graph.scores is None else [graph.scores[relation]]
    return draw_scene_graph(
        shown, graph.boxes, graph.labels, [graph.relations[relation]], scores=score
    )


def _bytes(heat: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
