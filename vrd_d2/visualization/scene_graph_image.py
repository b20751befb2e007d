"""Scene graphs on images: ground truth, predictions, or the one compared with the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.canvas import Canvas, Rectangle, entity_colour
from vrd_d2.visualization.panels import Table, draw_graph
from vrd_d2.visualization.placement import (
    STATUS,
    GraphSpace,
    Row,
    number_names,
    place_on_image,
    related_entities,
)

__all__ = [
    "draw_ground_truth",
    "draw_predictions",
    "draw_scene_graph",
    "save_image",
]

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
    boxes, rows = _check(image_rgb, boxes, labels, relations, scores)
    total, order = len(rows), [None, *STATUS]
    rows = sorted(rows[:top_k], key=lambda row: order.index(row[3]))
    height, width = image_rgb.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, LONGER_SIDE[0]), LONGER_SIDE[1]) / longer
    unit = scale * longer / LONGER_SIDE[0]
    shown = (max(1.0, scale * width), max(1.0, scale * height))
    # A very narrow image gets a margin, or its labels would find no room.
    area = (0.0, 0.0, max(shown[0], 320 * unit), max(shown[1], 200 * unit))

    names = number_names(labels)
    font = 13.5 * unit
    if not graph:
        table = Table(names, rows, font, total=total, height=area[3])
        canvas = Canvas(area[2] + table.width, max(area[3], table.height))
        places = {"table": (area[2], 0.0)}
    else:
        space = GraphSpace(names, boxes, rows, unit)
        table = Table(names, rows, font, total=total, columns=_columns(len(rows)))
        canvas, places = _with_graph(area, space, table)
    canvas.paste(image_rgb, (0, 0, *shown))
    seen = (scale * boxes).clip(0, shown * 2)
    areas = (seen[:, 2:] - seen[:, :2]).prod(1)
    for i in sorted(related_entities(rows, len(boxes)), key=lambda i: (-areas[i], -i)):
        canvas.rectangle(tuple(seen[i]), outline=entity_colour(i), width=2 * unit)
    place_on_image(area, seen, names, rows, unit).draw(canvas, names, unit=unit, paper=False)
    table.draw(canvas, *places["table"])
    if graph:
        draw_graph(canvas, space, names, places["graph"])
    return canvas.array()


def _columns(rows: int) -> int:
    return 1 + sum(rows > limit for limit in (4, 30, 60))


def _with_graph(
    area: Rectangle, space: GraphSpace, table: Table
) -> tuple[Canvas, dict[str, tuple[float, ...]]]:
    """A canvas for image, graph and list, and where graph and list go: beside the image, or
    below it where it is much wider than high."""
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


def _check(
    image_rgb: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    relations: Sequence[tuple],
    scores: Sequence[float | None] | None,
) -> tuple[np.ndarray, list[Row]]:
    """The boxes as float (M, 4) and the distinct rows; errors as `draw_scene_graph` states."""
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(
            f"image_rgb is {image_rgb.dtype} {image_rgb.shape}: give a uint8 array (H, W, 3)"
        )
    if not image_rgb.size:
        raise ValueError(f"image_rgb has no pixels: its shape is {image_rgb.shape}")
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 2, 2)
    boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1)
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels: give one label a box")
    if not np.isfinite(boxes).all():
        raise ValueError(f"box {int((~np.isfinite(boxes)).any(1).argmax())} is not finite")
    if scores is None:
        scores = [None] * len(relations)
    if len(scores) != len(relations):
        raise ValueError(f"{len(relations)} relations but {len(scores)} scores: give one each")
    rows: dict[tuple, Row] = {}
    for relation, score in zip(relations, scores, strict=True):
        subject, object_, predicate, status = (*relation, None)[:4]
        if not (0 <= subject < len(boxes) and 0 <= object_ < len(boxes)):
            raise ValueError(f"relation {tuple(relation)} refers to none of the {len(boxes)} boxes")
        if status is not None and status not in STATUS:
            raise ValueError(f"relation status {status!r}: choose one of {', '.join(STATUS)}")
        key = (int(subject), int(object_), str(predicate), status)
        rows.setdefault(key, (*key, score))
    return boxes, list(rows.values())


def draw_predictions(
    example_or_image: Mapping[str, Any] | np.ndarray,
    output: Mapping[str, Any],
    vocabulary: Any,
    *,
    ground_truth: Mapping[str, Any] | SceneGraph | None = None,
    top_k: int = 20,
) -> np.ndarray:
    """Draw the best triplets of a model's output, compared with the ground truth if it is given.

    Args:
        example_or_image: a mapped example, a dataset dict (its file is read), or the original
            image itself, uint8 (H, W, 3) RGB.
        output: one image's output of the model: `instances` and `relations`.
        vocabulary: a `Vocabulary`, or Detectron2 metadata with `thing_classes` and
            `predicate_classes`.
        ground_truth: a mapped example, a dataset dict, or a `SceneGraph`.
        top_k: how many triplets to draw, under the graph constraint (one predicate a pair).

    Returns:
        uint8 (H', W', 3) RGB, as `draw_scene_graph`.
    """
    # Reading outputs needs torch, which drawing does not.
    from vrd_d2.inference.comparison import compare_relations
    from vrd_d2.inference.selection import ground_truth_graph, predicted_graph

    graph = predicted_graph(output, vocabulary, top_k=top_k)
    if ground_truth is not None:
        if not isinstance(ground_truth, SceneGraph):
            ground_truth = ground_truth_graph(ground_truth, vocabulary)
        graph = compare_relations(graph, ground_truth)
    return _draw_graph(example_or_image, graph)


def draw_ground_truth(example: Mapping[str, Any], vocabulary: Any) -> np.ndarray:
    """Draw the annotated relations of a mapped example or a dataset dict (`draw_predictions`)."""
    from vrd_d2.inference.selection import ground_truth_graph

    return _draw_graph(example, ground_truth_graph(example, vocabulary))


def _draw_graph(example_or_image: Mapping[str, Any] | np.ndarray, graph: SceneGraph) -> np.ndarray:
    image = example_or_image
    if isinstance(image, Mapping):
        from vrd_d2.inference.selection import read_image

        image = read_image(image)
    return draw_scene_graph(image, graph.boxes, graph.labels, graph.relations, scores=graph.scores)


def save_image(path: str | Path, rgb: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB array in the format its suffix names; folders are made."""
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"cannot write {path}: name it .png or .jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
