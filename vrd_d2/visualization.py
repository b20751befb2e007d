"""Scene graphs on pictures: ground truth, predictions, or the one compared with the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vrd_d2.drawing import (
    Canvas,
    Colour,
    LabelPlacer,
    Rectangle,
    chip_size,
    curve,
    entity_colour,
    outside,
    shorten,
    text_size,
)
from vrd_d2.scene_graph import (
    SceneGraph,
    compare_relations,
    ground_truth_graph,
    predicted_graph,
    read_picture,
)

__all__ = [
    "compare_relations",
    "draw_ground_truth",
    "draw_predictions",
    "draw_scene_graph",
    "save_image",
]

# Colours and meaning are those of Figure 5 of RelCLIP, in the order of the list.
STATUS: dict[str, tuple[Colour, str]] = {
    "correct": ((20, 135, 60), "predicted and annotated"),
    "missed": ((225, 105, 0), "annotated, not predicted"),
    "extra": ((30, 95, 215), "predicted, not annotated"),
}
INK: Colour = (40, 40, 40)
FAINT: Colour = (140, 140, 140)
# The longer side of the picture is brought into this range of pixels. Text and lines have a fixed
# proportion to it, so that they are legible on a thumbnail and not tiny on a large photograph.
LONGER_SIDE = (960, 1600)
ENTITY_LENGTH, PREDICATE_LENGTH = 22, 26  # characters after which a name is cut

# (subject, object, predicate, status or None, score or None)
Row = tuple[int, int, str, str | None, float | None]


def draw_scene_graph(
    image_rgb: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    relations: Sequence[tuple],
    *,
    scores: Sequence[float | None] | None = None,
) -> np.ndarray:
    """Draw entities and relations on the picture, and list the relations beside it.

    Args:
        image_rgb: uint8 (H, W, 3), RGB. A small picture is enlarged.
        boxes: (M, 4) absolute XYXY pixels of the picture; what lies outside of it is cut off, and
            corners in the wrong order are exchanged, so that annotation errors can be seen.
        labels: M class names. Repeated ones are numbered: "man-1", "man-2".
        relations: rows (subject, object, predicate name) or (subject, object, predicate name,
            status); subject and object index the boxes, status is "correct", "missed" or "extra".
            Repeated rows are drawn once. All rows are drawn: choose the best few beforehand.
        scores: one number (or None) a relation, for the list.

    Only entities with a relation are drawn, or all of them if there is no relation. An arrow goes
    from the name of the subject to the name of the object, in the colour of the subject, or of the
    status if there is one.

    Returns:
        uint8 (H', W', 3) RGB.

    Raises:
        ValueError: an argument has another shape, or refers to what does not exist.
    """
    boxes, rows = _check(image_rgb, boxes, labels, relations, scores)
    height, width = image_rgb.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, LONGER_SIDE[0]), LONGER_SIDE[1]) / longer
    unit = scale * longer / LONGER_SIDE[0]
    shown = (max(1.0, scale * width), max(1.0, scale * height))
    # A very narrow picture gets a margin, or its labels would find no room.
    area = (0.0, 0.0, max(shown[0], 320 * unit), max(shown[1], 200 * unit))

    names = [shorten(name, ENTITY_LENGTH) for name in _number(labels)]
    table = _Table(names, rows, 13.5 * unit, height=area[3])
    canvas = Canvas(area[2] + table.width, max(area[3], table.height))
    canvas.paste(image_rgb, (0, 0, *shown))
    _draw_entities_and_arrows(canvas, area, (scale * boxes).clip(0, shown * 2), names, rows, unit)
    table.draw(canvas, area[2])
    return canvas.array()


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
    order = [None, *STATUS]
    return boxes, sorted(rows.values(), key=lambda row: order.index(row[3]))


def _number(labels: Sequence[str]) -> list[str]:
    """Names that tell entities of the same class apart."""
    count: dict[str, int] = {}
    names = []
    for label in labels:
        count[label] = count.get(label, 0) + 1
        names.append((label, count[label]))
    return [f"{label}-{n}" if count[label] > 1 else label for label, n in names]


def _draw_entities_and_arrows(
    canvas: Canvas,
    area: Rectangle,
    boxes: np.ndarray,
    names: list[str],
    rows: list[Row],
    unit: float,
) -> None:
    """Boxes, arrows, names of the entities and predicates, each over what came before."""
    font = 13 * unit
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    related = {entity for row in rows for entity in row[:2]}
    shown = sorted(related or range(len(boxes)), key=lambda i: (areas[i], i))
    for i in reversed(shown):
        canvas.rectangle(tuple(boxes[i]), outline=entity_colour(i), width=2 * unit)

    # Small boxes choose first: the name of a large one is understood wherever it goes.
    placer = LabelPlacer(area, gap=1.5 * unit)
    chips = {i: _place_name(placer, boxes[i], chip_size(names[i], font)) for i in shown}
    # One arrow for all predicates of a pair that share a status.
    predicates: dict[tuple, list[str]] = {}
    for subject, object_, predicate, status, _ in rows:
        predicates.setdefault((subject, object_, status), []).append(predicate)
    arrows = {}
    for key in predicates:
        subject, object_, status = key
        nth = sum(other[:2] == key[:2] for other in arrows)
        arrows[key] = _route(area, chips[subject], chips[object_], nth, unit)
        canvas.arrow(arrows[key], STATUS[status][0] if status else entity_colour(subject), 2 * unit)
    for i, chip in chips.items():
        canvas.chip(chip, names[i], font, entity_colour(i))

    font = 11 * unit
    placer.gap = 0
    for (subject, _, status), points in arrows.items():
        text = shorten(", ".join(predicates[subject, _, status]), PREDICATE_LENGTH)
        size = np.add(text_size(text, font), (8 * unit, 2 * unit))
        from_middle = np.argsort(np.abs(np.arange(len(points)) - len(points) / 2), kind="stable")
        label = placer.place(tuple(size), points[from_middle] - size / 2)
        colour = STATUS[status][0] if status else entity_colour(subject)
        fill = colour if status else (255, 255, 255, 230)
        canvas.rectangle(label, fill=fill, outline=colour, width=unit, radius=4 * unit)
        ink = (255, 255, 255) if status else INK
        canvas.text((label[0] + 4 * unit, (label[1] + label[3]) / 2), text, font, ink)


def _place_name(placer: LabelPlacer, box: np.ndarray, size: tuple[float, float]) -> Rectangle:
    """Place a name in a corner of its box, or beside it if it would cover much of the box."""
    (x1, y1, x2, y2), (width, height) = box.tolist(), size
    within = [(x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]
    beside = [(x1, y1 - height), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2)]
    covers = x2 - x1 < 1.5 * width or y2 - y1 < 3 * height
    return placer.place(size, beside + within if covers else within + beside)


def _route(area: Rectangle, start: Rectangle, end: Rectangle, nth: int, unit: float) -> np.ndarray:
    """Points (N, 2) of the nth arrow from one name to another, bent so that it stays in the area.

    There and back again bend to different sides of the straight way, so that both can be seen.
    """
    middles = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in (start, end)]
    length = np.hypot(*np.subtract(*middles))
    bend = (1 + nth) * max(0.12 * length, (30 if start == end else 14) * unit)
    points = min(
        (curve(*middles, bend), curve(*middles, -1.5 * bend)),
        key=lambda points: outside(points, area).sum(),
    )
    visible = points[outside(points, start) & outside(points, end)]
    return visible if len(visible) > 1 else points


class _Table:
    """The list of relations beside the picture; with statuses, its headings are the legend."""

    def __init__(self, names: list[str], rows: list[Row], font: float, *, height: float) -> None:
        self.names, self.font = names, font
        statuses: list[str | None] = [None]
        if any(row[3] for row in rows):
            statuses = [*STATUS] if all(row[3] for row in rows) else [None, *STATUS]
        self.groups = [(status, [r for r in rows if r[3] == status]) for status in statuses]

        def widest(sizes: Any) -> float:
            return max((width for width, _ in sizes), default=0.0)

        self.columns = (
            widest(chip_size(names[row[0]], font) for row in rows),
            widest(text_size(shorten(row[2], PREDICATE_LENGTH), font) for row in rows) + 1.2 * font,
            widest(chip_size(names[row[1]], font) for row in rows) + font,
            widest(text_size(_number_text(row[4]), font) for row in rows),
        )
        headings = widest(
            text_size(self._heading(*group), font, bold=True) for group in self.groups
        )
        self.width = 2 * font + max(sum(self.columns), headings + 1.5 * font)
        lines = len(rows) + 1.4 * len(self.groups) - 0.4
        # A long list moves together before it grows beyond the picture.
        self.line = min(max((height - 2 * font) / lines, 1.55 * font), 1.75 * font)
        self.height = 2 * font + self.line * lines

    @staticmethod
    def _heading(status: str | None, rows: list[Row]) -> str:
        if status is None:
            return f"{len(rows)} relation{'' if len(rows) == 1 else 's'}"
        return f"{STATUS[status][1]}: {len(rows)}"

    def draw(self, canvas: Canvas, left: float) -> None:
        """Draw at this distance from the left edge of the canvas."""
        font, line = self.font, self.line
        # Covers the arrows that left the picture.
        canvas.rectangle((left, 0, canvas.width, canvas.height), fill=(255, 255, 255))
        left, y = left + font, font + line / 2
        for status, rows in self.groups:
            colour = STATUS[status][0] if status else INK
            x = left
            if status:
                square = (x, y - font / 2, x + font, y + font / 2)
                canvas.rectangle(square, fill=colour, radius=font / 5)
                x += 1.5 * font
            canvas.text((x, y), self._heading(status, rows), font, colour, bold=True)
            y += line
            for row in rows:
                self._draw_row(canvas, left, y, row, colour)
                y += line
            y += 0.4 * line

    def _draw_row(self, canvas: Canvas, left: float, y: float, row: Row, colour: Colour) -> None:
        subject, object_, predicate, _, score = row
        middle = left + self.columns[0]
        right = middle + self.columns[1]
        for entity, side in ((subject, -1), (object_, 0)):
            width, height = chip_size(self.names[entity], self.font)
            x = middle - width if side else right
            rectangle = (x, y - height / 2, x + width, y + height / 2)
            canvas.chip(rectangle, self.names[entity], self.font, entity_colour(entity))
        text = shorten(predicate, PREDICATE_LENGTH)
        indent = (self.columns[1] - text_size(text, self.font)[0]) / 2
        canvas.text((middle + indent, y), text, self.font, colour)
        canvas.text((right + self.columns[2], y), _number_text(score), self.font, FAINT)


def _number_text(score: float | None) -> str:
    if score is None:
        return ""
    return f"{score:.2f}" if abs(score) >= 0.1 else f"{score:.1g}"


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
            picture itself, uint8 (H, W, 3) RGB.
        output: one picture's output of the model: `instances` and `relations`.
        vocabulary: a `Vocabulary`, or Detectron2 metadata with `thing_classes` and
            `predicate_classes`.
        ground_truth: a mapped example, a dataset dict, or a `SceneGraph`.
        top_k: how many triplets to draw, under the graph constraint (one predicate a pair).

    Returns:
        uint8 (H', W', 3) RGB, as `draw_scene_graph`.
    """
    graph = predicted_graph(output, vocabulary, top_k=top_k)
    if ground_truth is not None:
        if not isinstance(ground_truth, SceneGraph):
            ground_truth = ground_truth_graph(ground_truth, vocabulary)
        graph = compare_relations(graph, ground_truth)
    return _draw_graph(example_or_image, graph)


def draw_ground_truth(example: Mapping[str, Any], vocabulary: Any) -> np.ndarray:
    """Draw the annotated relations of a mapped example or a dataset dict (`draw_predictions`)."""
    return _draw_graph(example, ground_truth_graph(example, vocabulary))


def _draw_graph(example_or_image: Mapping[str, Any] | np.ndarray, graph: SceneGraph) -> np.ndarray:
    image = example_or_image
    if isinstance(image, Mapping):
        image = read_picture(image)
    return draw_scene_graph(image, graph.boxes, graph.labels, graph.relations, scores=graph.scores)


def save_image(path: str | Path, rgb: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB array in the format its suffix names; folders are made."""
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"cannot write {path}: name it .png or .jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
