"""Where names, arrows and predicates of a scene graph go, on the image and as a graph.

Drawings and the page in HTML share these positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vrd_d2.visualization.canvas import (
    Canvas,
    Colour,
    LabelPlacer,
    Rectangle,
    chip_size,
    entity_colour,
    on_paper,
    route,
    shorten,
    text_size,
)
from vrd_d2.visualization.graph_layout import layout_graph

# Colours and meaning are those of Figure 5 of RelCLIP, in the order of the list.
STATUS: dict[str, tuple[Colour, str]] = {
    "correct": ((20, 135, 60), "predicted and annotated"),
    "missed": ((225, 105, 0), "annotated, not predicted"),
    "extra": ((30, 95, 215), "predicted, not annotated"),
}
INK: Colour = (40, 40, 40)
ENTITY_LENGTH, PREDICATE_LENGTH = 22, 26  # characters after which a name is cut

# (subject, object, predicate, status or None, score or None)
Row = tuple[int, int, str, str | None, float | None]
# One arrow for all predicates of a pair that share a status: (subject, object, status or None)
Arrow = tuple[int, int, str | None]


def number_names(labels: Sequence[str]) -> list[str]:
    """Return names that tell entities of the same class apart, cut where they are long."""
    count: dict[str, int] = {}
    names = []
    for label in labels:
        count[label] = count.get(label, 0) + 1
        names.append((label, count[label]))
    return [
        shorten(f"{label}-{n}" if count[label] > 1 else label, ENTITY_LENGTH) for label, n in names
    ]


def related_entities(rows: Sequence[Row], count: int) -> list[int]:
    """Return the entities with a relation, or all of them if there is no relation."""
    return sorted({entity for row in rows for entity in row[:2]} or range(count))


def arrows_of(rows: Sequence[Row]) -> dict[Arrow, list[str]]:
    """Return the arrows and their predicates."""
    arrows: dict[Arrow, list[str]] = {}
    for subject, obj, predicate, status, _ in rows:
        arrows.setdefault((subject, obj, status), []).append(predicate)
    return arrows


def arrow_colour(arrow: Arrow) -> Colour:
    """Return the colour of the status, else that of the subject."""
    return STATUS[arrow[2]][0] if arrow[2] else entity_colour(arrow[0])


@dataclass(frozen=True)
class Placement:
    """Positions in pixels.

    Attributes:
        chips: entity -> rectangle of its name.
        arrows: arrow -> points (N, 2) from name to name.
        labels: arrow -> rectangle of its predicates.
        texts: arrow -> predicates, joined.
    """

    chips: dict[int, Rectangle]
    arrows: dict[Arrow, np.ndarray]
    labels: dict[Arrow, Rectangle]
    texts: dict[Arrow, str]

    def draw(self, canvas: Canvas, names: Sequence[str], *, unit: float, paper: bool) -> None:
        """Draw arrows, names and predicates, each over what came before.

        Args:
            canvas: to draw on.
            names: of all entities.
            unit: pixels of half a line's width.
            paper: whether the background is light, so that light lines must be darkened.
        """
        colours = {
            arrow: on_paper(arrow_colour(arrow)) if paper else arrow_colour(arrow)
            for arrow in self.arrows
        }
        for arrow, points in self.arrows.items():
            canvas.arrow(points, colours[arrow], (1.6 if paper else 2) * unit)
        for entity, chip in self.chips.items():
            canvas.chip(chip, names[entity], 13 * unit, entity_colour(entity))
        for arrow, label in self.labels.items():
            filled = arrow[2] is not None
            fill = colours[arrow] if filled else (255, 255, 255, 230)
            canvas.rectangle(label, fill=fill, outline=colours[arrow], width=unit, radius=4 * unit)
            start = (label[0] + 4 * unit, (label[1] + label[3]) / 2)
            ink = (255, 255, 255) if filled else INK
            canvas.text(start, self.texts[arrow], 11 * unit, ink)


def place_on_image(
    area: Rectangle,
    boxes: np.ndarray,
    names: Sequence[str],
    rows: Sequence[Row],
    unit: float,
    *,
    entities: Sequence[int] | None = None,
) -> Placement:
    """Place names in or at their boxes and arrows from name to name, without overlap of texts.

    Args:
        area: of the image.
        boxes: (M, 4) in pixels of the area.
        names: of all entities.
        rows: relations.
        unit: pixels of half a line's width.
        entities: which get a name, default :func:`related_entities`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    related = set(related_entities(rows, len(boxes)))
    shown = related if entities is None else entities
    placer = LabelPlacer(area, gap=1.5 * unit)
    # Small boxes choose first: the name of a large one is understood wherever it goes.
    chips = {
        i: _place_name(placer, boxes[i], chip_size(names[i], 13 * unit))
        for i in sorted(shown, key=lambda i: (i not in related, areas[i], i))
    }
    return _with_arrows(area, chips, rows, placer, unit, avoid=False)


def _place_name(placer: LabelPlacer, box: np.ndarray, size: tuple[float, float]) -> Rectangle:
    """Place a name in a corner of its box, or beside it if it would cover much of the box."""
    (x1, y1, x2, y2), (width, height) = box.tolist(), size
    within = [(x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]
    beside = [(x1, y1 - height), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2)]
    covers = x2 - x1 < 1.5 * width or y2 - y1 < 3 * height
    return placer.place(size, beside + within if covers else within + beside)


class GraphSpace:
    """The related entities as nodes, and how much room they and their arrows need.

    Args:
        names: of all entities.
        boxes: (M, 4) of all entities; nodes lie to each other about as the boxes do.
        rows: relations.
        unit: pixels of half a line's width.

    Attributes:
        nodes: the entities.
        width, height: the least that the graph needs, in pixels.
    """

    def __init__(
        self, names: Sequence[str], boxes: np.ndarray, rows: Sequence[Row], unit: float
    ) -> None:
        self.rows, self.unit = rows, unit
        self.nodes = related_entities(rows, len(names))
        self._start = (boxes[self.nodes, :2] + boxes[self.nodes, 2:]) / 2
        self._sizes = np.array([chip_size(names[i], 13 * unit) for i in self.nodes]).reshape(-1, 2)
        arrows = arrows_of(rows)
        labels = [text_size(_joined(predicates), 11 * unit)[0] for predicates in arrows.values()]
        area = 3.2 * self._sizes.prod(1).sum() + 6500 * unit**2 * len(arrows)
        chip = float(self._sizes[:, 0].max(initial=0))
        self._edge_length = max(150 * unit, chip + max(labels, default=0) + 50 * unit)
        self.width = max(420 * unit, chip + self._edge_length, math.sqrt(1.2 * area))
        self.height = max(150 * unit if len(self.nodes) < 3 else 240 * unit, area / self.width)

    def place(self, rectangle: Rectangle) -> Placement:
        """Lay the graph out in a rectangle."""
        x1, y1, x2, y2 = rectangle
        position = {entity: i for i, entity in enumerate(self.nodes)}
        centres = np.array([x1, y1]) + layout_graph(
            self._sizes,
            [(position[row[0]], position[row[1]]) for row in self.rows],
            (x2 - x1, y2 - y1),
            start=self._start,
            gap=18 * self.unit,
            edge_length=self._edge_length,
        )
        corners = np.concatenate([centres - self._sizes / 2, centres + self._sizes / 2], 1)
        chips = {entity: tuple(corners[i].tolist()) for entity, i in position.items()}
        placer = LabelPlacer(rectangle)
        placer.placed += chips.values()
        return _with_arrows(rectangle, chips, self.rows, placer, self.unit, avoid=True)


def _with_arrows(
    area: Rectangle,
    chips: dict[int, Rectangle],
    rows: Sequence[Row],
    placer: LabelPlacer,
    unit: float,
    *,
    avoid: bool,
) -> Placement:
    """Draw arrows between the chips; predicates lie at their middle, or as near as is free."""
    texts = {arrow: _joined(predicates) for arrow, predicates in arrows_of(rows).items()}
    arrows: dict[Arrow, np.ndarray] = {}
    for arrow in texts:
        subject, obj, _ = arrow
        others = [chip for i, chip in chips.items() if i not in arrow[:2]] if avoid else []
        nth = sum(other[:2] == arrow[:2] for other in arrows)
        arrows[arrow] = route(area, chips[subject], chips[obj], nth, unit, avoid=others)
    placer.gap = 0
    labels = {}
    for arrow, points in arrows.items():
        size = np.add(text_size(texts[arrow], 11 * unit), (8 * unit, 2 * unit))
        from_middle = np.argsort(np.abs(np.arange(len(points)) - len(points) / 2), kind="stable")
        labels[arrow] = placer.place(tuple(size), points[from_middle] - size / 2)
    return Placement(chips, arrows, labels, texts)


def _joined(predicates: Sequence[str]) -> str:
    return shorten(", ".join(predicates), PREDICATE_LENGTH)
