"""What is drawn beside the image: the graph of its relations, and the list of them."""

import math
from collections.abc import Sequence
from typing import Any

from vrd_d2.visualization.canvas import (
    Canvas,
    Colour,
    Rectangle,
    chip_size,
    entity_colour,
    shorten,
    text_size,
)
from vrd_d2.visualization.placement import INK, PREDICATE_LENGTH, STATUS, GraphSpace, Row

FAINT: Colour = (140, 140, 140)
PAPER: Colour = (248, 248, 246)


def draw_graph(
    canvas: Canvas, space: GraphSpace, names: Sequence[str], rectangle: Rectangle
) -> None:
    """Draw the graph into a rectangle of the canvas."""
    canvas.rectangle(rectangle, fill=PAPER)
    if space.nodes:
        space.place(rectangle).draw(canvas, names, unit=space.unit, paper=True)
        return
    text, font = "no objects", 13 * space.unit
    x1, y1, x2, y2 = rectangle
    start = (x1 + x2 - text_size(text, font)[0]) / 2
    canvas.text((start, (y1 + y2) / 2), text, font, FAINT)


class Table:
    """The list of relations; with statuses, its headings are the legend.

    Args:
        names: of all entities.
        rows: relations.
        font: size of the text in pixels.
        total: number of relations of which these are the first.
        height: pixels into which the list moves together, as far as it stays legible.
        columns: columns side by side, filled one after the other.
    """

    def __init__(
        self,
        names: list[str],
        rows: list[Row],
        font: float,
        *,
        total: int,
        height: float = 0,
        columns: int = 1,
    ) -> None:
        self.names, self.font = names, font
        self._of = f" of {total}" if len(rows) < total else ""
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
        # A long list moves together before it grows beyond the image.
        self.line = min(max((height - 2 * font) / lines, 1.55 * font), 1.75 * font)
        self.height = 2 * font + self.line * lines

    def _split(self, columns: int) -> list[list[tuple]]:
        """Split the entries into columns of about the same number."""
        length = math.ceil(len(self.entries) / columns)
        return [self.entries[i : i + length] for i in range(0, len(self.entries), length)]

    def _heading(self, status: str | None, rows: list[Row]) -> str:
        if status is None:
            count = f"{len(rows)}{self._of}"
            return f"{count} relation{'' if count == '1' else 's'}"
        return f"{STATUS[status][1]}: {len(rows)}"

    def draw(self, canvas: Canvas, left: float, top: float = 0.0) -> None:
        """Draw with the upper left corner there, white to the edges of the canvas."""
        font, line = self.font, self.line
        # Covers the arrows that left the image.
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
        subject, obj, predicate, _, score = row
        middle = left + self.cells[0]
        right = middle + self.cells[1]
        for entity, side in ((subject, -1), (obj, 0)):
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
