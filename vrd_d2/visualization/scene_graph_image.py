"""Scene graphs drawn on images, with the graph and the list of relations beside them."""

from collections.abc import Sequence

import numpy as np

from vrd_d2.visualization.canvas import Canvas, Rectangle, entity_colour
from vrd_d2.visualization.panels import Table, draw_graph
from vrd_d2.visualization.placement import (
    STATUS,
    GraphSpace,
    number_names,
    place_on_image,
    related_entities,
)
from vrd_d2.visualization.view import GraphView

__all__ = ["draw_scene_graph", "draw_view"]

# The longer side of the image is brought into this range of pixels. Text and lines have a fixed
# proportion to it, so that they are legible on a thumbnail and not tiny on a large photograph.
LONGER_SIDE = (960, 1600)


def draw_scene_graph(
    image_rgb: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    relations: Sequence[tuple],
    *,
    scores: Sequence[float | None] | None = None,
    graph: bool = False,
    top_k: int | None = None,
) -> np.ndarray:
    """Draw entities and relations on the image, and list the relations beside it.

    Args:
        image_rgb: uint8 (H, W, 3), RGB. A small image is enlarged.
        boxes: (M, 4) absolute XYXY pixels of the image; what lies outside of it is cut off, and
            corners in the wrong order are exchanged, so that annotation errors can be seen.
        labels: M class names. Repeated ones are numbered: "man-1", "man-2".
        relations: rows (subject, object, predicate name) or (subject, object, predicate name,
            status); subject and object index the boxes, status is "correct", "missed" or "extra".
            Repeated rows are drawn once.
        scores: one number (or None) a relation, for the list.
        graph: whether to draw the relations as a graph, too, above the list.
        top_k: draw the first so many relations only, and say of how many; None draws all.

    Only entities with a relation are drawn, or all of them if there is no relation. An arrow goes
    from the name of the subject to the name of the object, in the colour of the subject, or of the
    status if there is one.

    Returns:
        uint8 (H', W', 3) RGB.

    Raises:
        ValueError: an argument has another shape, or refers to what does not exist.
    """
    view = GraphView.of(boxes, labels, relations, scores=scores)
    return draw_view(image_rgb, view, graph=graph, top_k=top_k)


def draw_view(
    image_rgb: np.ndarray, view: GraphView, *, graph: bool = False, top_k: int | None = None
) -> np.ndarray:
    """Draw a scene graph as :func:`draw_scene_graph` does, of which these are the arguments."""
    _check_image(image_rgb)
    boxes, rows = view.boxes, view.distinct_rows()
    total, order = len(rows), [None, *STATUS]
    rows = sorted(rows[:top_k], key=lambda row: order.index(row[3]))

    # The size of the drawn image, and the unit of which everything else is a multiple.
    height, width = image_rgb.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, LONGER_SIDE[0]), LONGER_SIDE[1]) / longer
    unit = scale * longer / LONGER_SIDE[0]
    shown = (max(1.0, scale * width), max(1.0, scale * height))
    # A very narrow image gets a margin, or its labels would find no room.
    area = (0.0, 0.0, max(shown[0], 320 * unit), max(shown[1], 200 * unit))

    # A canvas for the image, the list and, where it is wanted, the graph.
    names = number_names(view.labels)
    font = 13.5 * unit
    if not graph:
        table = Table(names, rows, font, total=total, height=area[3])
        canvas = Canvas(area[2] + table.width, max(area[3], table.height))
        corners = {"table": (area[2], 0.0)}
    else:
        space = GraphSpace(names, boxes, rows, unit)
        table = Table(names, rows, font, total=total, columns=_columns(len(rows)))
        canvas, corners = _with_graph(area, space, table)

    # The image with its boxes, large ones first, then names and arrows; the list hides what
    # leaves the image.
    canvas.paste(image_rgb, (0, 0, *shown))
    seen = (scale * boxes).clip(0, shown * 2)
    areas = (seen[:, 2:] - seen[:, :2]).prod(1)
    for i in sorted(related_entities(rows, len(boxes)), key=lambda i: (-areas[i], -i)):
        canvas.rectangle(tuple(seen[i]), outline=entity_colour(i), width=2 * unit)
    place_on_image(area, seen, names, rows, unit).draw(canvas, names, unit=unit, paper=False)
    table.draw(canvas, *corners["table"])
    if graph:
        draw_graph(canvas, space, names, corners["graph"])
    return canvas.array()


def _columns(rows: int) -> int:
    return 1 + sum(rows > limit for limit in (4, 30, 60))


def _with_graph(
    area: Rectangle, space: GraphSpace, table: Table
) -> tuple[Canvas, dict[str, tuple[float, ...]]]:
    """Return a canvas for image, graph and list, and where graph and list go on it.

    They go beside the image, or below it where it is much wider than high.
    """
    _, _, width, height = area
    if width > 2.2 * height:
        across = max(width, space.width + table.width)
        below = max(space.height, table.height)
        canvas = Canvas(across, height + below)
        left = canvas.width - table.width
        return canvas, {"graph": (0, height, left, canvas.height), "table": (left, height)}
    canvas = Canvas(width + max(space.width, table.width), max(height, space.height + table.height))
    bottom = min(canvas.height - table.height, 1.6 * space.height)
    return canvas, {"graph": (width, 0, canvas.width, bottom), "table": (width, bottom)}


def _check_image(image_rgb: np.ndarray) -> None:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(
            f"image_rgb is {image_rgb.dtype} {image_rgb.shape}: give a uint8 array (H, W, 3)"
        )
    if not image_rgb.size:
        raise ValueError(f"image_rgb has no pixels: its shape is {image_rgb.shape}")
