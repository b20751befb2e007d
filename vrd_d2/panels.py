"""What stands beside the picture: the graph of its relations, and the list of them."""

import math
from typing import Any

import numpy as np

from vrd_d2.drawing import (
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
from vrd_d2.graph_layout import layout_graph

# Colours and meaning are those of Figure 5 of RelCLIP, in the order of the list.
STATUS: dict[str, tuple[Colour, str]] = {
    "correct": ((20, 135, 60), "predicted and annotated"),
    "missed": ((225, 105, 0), "annotated, not predicted"),
    "extra": ((30, 95, 215), "predicted, not annotated"),
}
INK: Colour = (40, 40, 40)
FAINT: Colour = (140, 140, 140)
PAPER: Colour = (248, 248, 246)
ENTITY_LENGTH, PREDICATE_LENGTH = 22, 26  # characters after which a name is cut

# (subject, object, predicate, status or None, score or None)
Row = tuple[int, int, str, str | None, float | None]


def row_colour(subject: int, status: str | None) -> Colour:
    """Colour of a relation: that of its status, else of its subject."""
    return STATUS[status][0] if status else entity_colour(subject)


def arrows_of(rows: list[Row]) -> dict[tuple[int, int, str | None], list[str]]:
    """(subject, object, status) -> predicates: one arrow for all that share it."""
    arrows: dict[tuple[int, int, str | None], list[str]] = {}
    for subject, object_, predicate, status, _ in rows:
        arrows.setdefault((subject, object_, status), []).append(predicate)
    return arrows


def draw_predicate(
    canvas: Canvas,
    placer: LabelPlacer,
    points: np.ndarray,
    predicates: list[str],
    colour: Colour,
    *,
    filled: bool,
    unit: float,
) -> None:
    """Write the predicates of an arrow at its middle, or as near to it as there is room."""
    font = 11 * unit
    text = shorten(", ".join(predicates), PREDICATE_LENGTH)
    size = np.add(text_size(text, font), (8 * unit, 2 * unit))
    from_middle = np.argsort(np.abs(np.arange(len(points)) - len(points) / 2), kind="stable")
    label = placer.place(tuple(size), points[from_middle] - size / 2)
    fill = colour if filled else (255, 255, 255, 230)
    canvas.rectangle(label, fill=fill, outline=colour, width=unit, radius=4 * unit)
    ink = (255, 255, 255) if filled else INK
    canvas.text((label[0] + 4 * unit, (label[1] + label[3]) / 2), text, font, ink)


class GraphPanel:
    """The related entities as nodes, the relations as arrows between them.

    Args:
        names: of all entities.
        boxes: (M, 4) of all entities; nodes lie to each other about as the boxes do.
        rows: relations.
        unit: pixels of a line's width.
    """

    def __init__(self, names: list[str], boxes: np.ndarray, rows: list[Row], unit: float) -> None:
        self.names, self.boxes, self.rows, self.unit = names, boxes, rows, unit
        related = {entity for row in rows for entity in row[:2]}
        self.nodes = sorted(related or range(len(names)))
        self.font = 13 * unit
        self.sizes = np.array([chip_size(names[i], self.font) for i in self.nodes]).reshape(-1, 2)
        # Room for the nodes, their predicates and the arrows between them.
        area = 3.2 * self.sizes.prod(1).sum() + 5200 * unit**2 * len(arrows_of(rows))
        widest = float(self.sizes[:, 0].max(initial=0)) + 40 * unit
        self.width = max(420 * unit, widest, math.sqrt(1.2 * area))
        self.height = max(110 * unit if len(self.nodes) < 3 else 240 * unit, area / self.width)

    def draw(self, canvas: Canvas, rectangle: Rectangle) -> None:
        """Draw into a rectangle of the canvas."""
        canvas.rectangle(rectangle, fill=PAPER)
        x1, y1, x2, y2 = rectangle
        if not self.nodes:
            text = "no objects"
            width, _ = text_size(text, self.font)
            canvas.text(((x1 + x2 - width) / 2, (y1 + y2) / 2), text, self.font, FAINT)
            return
        position = {entity: i for i, entity in enumerate(self.nodes)}
        centres = np.array([x1, y1]) + layout_graph(
            self.sizes,
            [(position[s], position[o]) for s, o, *_ in self.rows],
            (x2 - x1, y2 - y1),
            start=(self.boxes[self.nodes, :2] + self.boxes[self.nodes, 2:]) / 2,
            gap=14 * self.unit,
        )
        chips = {
            entity: (*(centres[i] - self.sizes[i] / 2), *(centres[i] + self.sizes[i] / 2))
            for entity, i in position.items()
        }
        placer = LabelPlacer(rectangle, gap=0)
        placer.placed += chips.values()
        arrows: dict[tuple, np.ndarray] = {}
        predicates = arrows_of(self.rows)
        for key in predicates:
            subject, object_, status = key
            nth = sum(other[:2] == key[:2] for other in arrows)
            avoid = [chip for entity, chip in chips.items() if entity not in (subject, object_)]
            arrows[key] = route(
                rectangle, chips[subject], chips[object_], nth, self.unit, avoid=avoid
            )
            colour = on_paper(row_colour(subject, status))
            canvas.arrow(arrows[key], colour, 1.6 * self.unit)
        for entity, chip in chips.items():
            canvas.chip(chip, self.names[entity], self.font, entity_colour(entity))
        for (subject, object_, status), points in arrows.items():
            draw_predicate(
                canvas,
                placer,
                points,
                predicates[subject, object_, status],
                on_paper(row_colour(subject, status)),
                filled=status is not None,
                unit=self.unit,
            )


class Table:
    """The list of relations; with statuses, its headings are the legend.

    Args:
        names: of all entities.
        rows: relations.
        font: size of the text in pixels.
        height: pixels into which the list moves together, as far as it stays legible.
        columns: columns side by side, filled one after the other.
    """

    def __init__(
        self, names: list[str], rows: list[Row], font: float, *, height: float, columns: int = 1
    ) -> None:
        self.names, self.font = names, font
        statuses: list[str | None] = [None]
        if any(row[3] for row in rows):
            statuses = [*STATUS] if all(row[3] for row in rows) else [None, *STATUS]
        groups = [(status, [r for r in rows if r[3] == status]) for status in statuses]

        def widest(sizes: Any) -> float:
            return max((width for width, _ in sizes), default=0.0)

        self.cells = (
            widest(chip_size(names[row[0]], font) for row in rows),
            widest(text_size(shorten(row[2], PREDICATE_LENGTH), font) for row in rows) + 1.2 * font,
            widest(chip_size(names[row[1]], font) for row in rows) + font,
            widest(text_size(_number_text(row[4]), font) for row in rows),
        )
        headings = widest(text_size(self._heading(*group), font, bold=True) for group in groups)
        self.column_width = max(sum(self.cells), headings + 1.5 * font)
        # (height in lines, status, row or None for a heading)
        self.entries: list[tuple[float, str | None, Row | None, str]] = []
        for i, (status, group) in enumerate(groups):
            if i:
                self.entries.append((0.4, None, None, ""))
            self.entries.append((1, status, None, self._heading(status, group)))
            self.entries += [(1, status, row, "") for row in group]
        self.columns = self._split(columns)
        self.width = 2 * font + len(self.columns) * (self.column_width + 1.6 * font) - 1.6 * font
        lines = max(sum(entry[0] for entry in column) for column in self.columns)
        # A long list moves together before it grows beyond the picture.
        self.line = min(max((height - 2 * font) / lines, 1.55 * font), 1.75 * font)
        self.height = 2 * font + self.line * lines

    def _split(self, columns: int) -> list[list[tuple]]:
        """Consecutive entries in columns of about the same number."""
        length = math.ceil(len(self.entries) / columns)
        return [self.entries[i : i + length] for i in range(0, len(self.entries), length)]

    @staticmethod
    def _heading(status: str | None, rows: list[Row]) -> str:
        if status is None:
            return f"{len(rows)} relation{'' if len(rows) == 1 else 's'}"
        return f"{STATUS[status][1]}: {len(rows)}"

    def draw(self, canvas: Canvas, left: float, top: float = 0.0) -> None:
        """Draw with the upper left corner there, white to the edges of the canvas."""
        font, line = self.font, self.line
        # Covers the arrows that left the picture.
        canvas.rectangle((left, top, canvas.width, canvas.height), fill=(255, 255, 255))
        for number, column in enumerate(self.columns):
            x = left + font + number * (self.column_width + 1.6 * font)
            y = top + font + line / 2
            for height, status, row, heading in column:
                colour = STATUS[status][0] if status else INK
                if row is not None:
                    self._draw_row(canvas, x, y, row, colour)
                else:
                    self._draw_heading(canvas, x, y, heading, status, colour)
                y += height * line

    def _draw_heading(
        self, canvas: Canvas, x: float, y: float, text: str, status: str | None, colour: Colour
    ) -> None:
        font = self.font
        if status:
            square = (x, y - font / 2, x + font, y + font / 2)
            canvas.rectangle(square, fill=colour, radius=font / 5)
            x += 1.5 * font
        canvas.text((x, y), text, font, colour, bold=True)

    def _draw_row(self, canvas: Canvas, left: float, y: float, row: Row, colour: Colour) -> None:
        subject, object_, predicate, _, score = row
        middle = left + self.cells[0]
        right = middle + self.cells[1]
        for entity, side in ((subject, -1), (object_, 0)):
            width, height = chip_size(self.names[entity], self.font)
            x = middle - width if side else right
            rectangle = (x, y - height / 2, x + width, y + height / 2)
            canvas.chip(rectangle, self.names[entity], self.font, entity_colour(entity))
        text = shorten(predicate, PREDICATE_LENGTH)
        indent = (self.cells[1] - text_size(text, self.font)[0]) / 2
        canvas.text((middle + indent, y), text, self.font, colour)
        canvas.text((right + self.cells[2], y), _number_text(score), self.font, FAINT)


def _number_text(score: float | None) -> str:
    if score is None:
        return ""
    # "0.10", but "0.097": two digits that differ.
    return f"{score:.2f}" if abs(score) >= 0.095 else f"{score:.1g}"
