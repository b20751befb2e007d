"""Primitives of drawn scene graphs: a canvas with text, chips and arrows; label placement.

All coordinates are pixels of the finished image. `Canvas` draws at twice that size and halves it
at the end, which smooths every line. Rectangles are (x1, y1, x2, y2).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vrd_d2.visualization.fonts import load_font, runs

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
Point = tuple[float, float]

SUPERSAMPLING = 2
_PALETTE = 256  # colours
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_LMS_TO_OKLAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)


def entity_colour(index: int) -> Colour:
    """Return a colour for the entity of this index.

    The first 256 all differ, and the first of them most.
    """
    return _palette()[index % _PALETTE]


@lru_cache(maxsize=1)
def _palette() -> list[Colour]:
    """Return colours neither pale, dark nor glaring, each as far from those before as possible.

    They are chosen in Oklab, in which equal steps look equal (Ottosson, 2020).
    """
    hues = 2 * np.pi * (np.arange(36) + 1) / 36
    candidates = np.array(
        [
            (lightness, chroma * np.cos(hue), chroma * np.sin(hue))
            for lightness in (0.5, 0.6, 0.7, 0.8)
            for chroma in (0.10, 0.14, 0.18)
            for hue in hues
        ]
    )
    linear = (candidates @ np.linalg.inv(_LMS_TO_OKLAB)) ** 3 @ np.linalg.inv(_RGB_TO_LMS)
    exists = ((linear >= 0) & (linear <= 1)).all(1)  # on a screen
    candidates, linear = candidates[exists], linear[exists]
    colours = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red = (0.62, 0.16, 0.07)
    chosen = [int(np.linalg.norm(candidates - red, axis=1).argmin())]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < _PALETTE:
        distance = np.minimum(distance, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return [tuple(map(int, colour)) for colour in np.rint(255 * colours[chosen])]


def _luma(colour: Colour) -> float:
    """Return the brightness from 0 to 255 (ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on the background."""
    return (20, 20, 20) if _luma(background) > 140 else (255, 255, 255)


def on_paper(colour: Colour) -> Colour:
    """Return the colour, darkened where a thin line of it would not show on white."""
    factor = min(1.0, 150 / max(_luma(colour), 1.0))
    return round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor)


def shorten(text: str, length: int) -> str:
    """Return the text on one line, cut with an ellipsis after `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def text_size(text: str, size: float, *, bold: bool = False) -> tuple[float, float]:
    """Return the width of the text and the height of a line, in pixels of the finished image."""
    parts = runs(text, round(size * SUPERSAMPLING), bold)
    return sum(font.getlength(part) for part, font in parts) / SUPERSAMPLING, 1.2 * size


def chip_size(text: str, size: float) -> tuple[float, float]:
    """Return width and height of a chip: bold text on a coloured background."""
    width, height = text_size(text, size, bold=True)
    return width + 0.7 * size, height + 0.25 * size


class Canvas:
    """An RGB image to draw on, smoothed by supersampling."""

    def __init__(self, width: float, height: float, background: Colour = (255, 255, 255)) -> None:
        self.width, self.height = math.ceil(width), math.ceil(height)
        size = (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING)
        self._image = Image.new("RGB", size, background)
        # Mode RGBA on an RGB image: colours with an alpha are blended.
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def paste(self, image: np.ndarray, rectangle: Rectangle) -> None:
        """Put an RGB uint8 array (H, W, 3) into the rectangle, resized to fill it."""
        x1, y1, x2, y2 = (round(v * SUPERSAMPLING) for v in rectangle)
        resized = Image.fromarray(image).resize((x2 - x1, y2 - y1), Image.Resampling.BICUBIC)
        self._image.paste(resized, (x1, y1))

    def rectangle(
        self,
        rectangle: Rectangle,
        *,
        outline: tuple[int, ...] | None = None,
        fill: tuple[int, ...] | None = None,
        width: float = 0,
        radius: float = 0,
    ) -> None:
        """Draw a rectangle, rounded by the radius, outlined inwards."""
        self._draw.rounded_rectangle(
            [v * SUPERSAMPLING for v in rectangle],
            radius=radius * SUPERSAMPLING,
            outline=outline,
            fill=fill,
            width=round(width * SUPERSAMPLING),
        )

    def arrow(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Draw a line through the points (N, 2) that ends in a head, edged in white."""
        tip = points[-1]
        along = (tip - points[-2]) / (np.hypot(*(tip - points[-2])) or 1.0)
        across = np.array([-along[1], along[0]])
        for edge, shade in ((0.45 * width, (255, 255, 255)), (0.0, colour)):
            head = 4.2 * width + 3 * edge
            sharp = tip + edge * along
            corners = [
                sharp,
                *(sharp - head * along + side * head * across for side in (0.45, -0.45)),
            ]
            # The line ends inside the head: its blunt end would stick out at the tip.
            line = np.concatenate([points[:-1], [tip - 2 * width * along]])
            self._draw.line(
                self._pixels(line),
                fill=shade,
                width=round((width + 2 * edge) * SUPERSAMPLING),
                joint="curve",
            )
            self._draw.polygon(self._pixels(np.array(corners)), fill=shade)

    def text(
        self, position: Point, text: str, size: float, colour: Colour, *, bold: bool = False
    ) -> None:
        """Write a line of text; the position is its left end at half its height."""
        pixels = round(size * SUPERSAMPLING)
        ((x, y),) = self._pixels(np.array([position]))
        parts = runs(text, pixels, bold)
        if len(parts) == 1:
            self._draw.text((x, y), text, fill=colour, font=parts[0][1], anchor="lm")
            return
        # Of several fonts, on one line.
        above, below = load_font(pixels, bold).getmetrics()
        for part, font in parts:
            self._draw.text((x, y + (above - below) / 2), part, fill=colour, font=font, anchor="ls")
            x += font.getlength(part)

    def chip(self, rectangle: Rectangle, text: str, size: float, colour: Colour) -> None:
        """Write bold text on a coloured background of the size that `chip_size` returns."""
        self.rectangle(rectangle, fill=colour, radius=0.25 * size)
        x1, y1, _, y2 = rectangle
        self.text((x1 + 0.35 * size, (y1 + y2) / 2), text, size, text_colour(colour), bold=True)

    def array(self) -> np.ndarray:
        """Return the finished image, uint8 (height, width, 3) RGB."""
        return np.array(self._image.reduce(SUPERSAMPLING))

    @staticmethod
    def _pixels(points: np.ndarray) -> list[Point]:
        return [(x, y) for x, y in (SUPERSAMPLING * points).tolist()]


def curve(start: Point, end: Point, bend: float) -> np.ndarray:
    """Return points (N, 2), some 4 pixels apart, of an arc `bend` pixels left of the straight line.

    A negative bend goes right. Where start and end coincide, the curve is a circle of that radius,
    above them or, for a negative bend, below.
    """
    (x1, y1), (x2, y2) = start, end
    length = math.hypot(x2 - x1, y2 - y1)
    t = np.linspace(0, 1, 9 + int((length + 4 * abs(bend)) / 4))[:, None]
    if length < 1:
        angle = 2 * np.pi * t
        return np.array(start) + bend * np.concatenate([np.sin(angle), np.cos(angle) - 1], 1)
    # A quadratic Bezier curve comes half way to its control point.
    left = np.array([y2 - y1, x1 - x2]) / length
    control = (np.array(start) + end) / 2 + 2 * bend * left
    return (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * control + t**2 * np.array(end)


def outside(points: np.ndarray, rectangle: Rectangle) -> np.ndarray:
    """Return a mask (N,) of the points (N, 2) that are not in the rectangle."""
    low, high = rectangle[:2], rectangle[2:]
    return ((points < low) | (points > high)).any(1)


def route(
    area: Rectangle,
    start: Rectangle,
    end: Rectangle,
    nth: int,
    unit: float,
    *,
    avoid: Sequence[Rectangle] = (),
) -> np.ndarray:
    """Return points (N, 2) of the nth arrow from one name to another, bent to stay in the area.

    There and back again bend to different sides of the straight line, so that both can be seen.
    The arrow goes around the rectangles to avoid if another bend is free.
    """
    middles = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in (start, end)]
    length = np.hypot(*np.subtract(*middles))
    bend = (1 + nth) * max(0.12 * length, (30 if start == end else 14) * unit)
    bends = [bend, -1.5 * bend]
    if avoid:
        bends += [2 * bend, 0.4 * bend, -2.5 * bend]

    def cost(points: np.ndarray) -> int:
        hidden = sum(int((~outside(points, rectangle)).sum()) for rectangle in avoid)
        return 4 * int(outside(points, area).sum()) + hidden

    points = min((curve(*middles, bend) for bend in bends), key=cost)
    visible = points[outside(points, start) & outside(points, end)]
    return visible if len(visible) > 1 else points


class LabelPlacer:
    """Places rectangles inside bounds, one after the other, so that they do not overlap."""

    def __init__(self, bounds: Rectangle, *, gap: float = 1.0) -> None:
        self.bounds = bounds
        self.gap = gap
        self.placed: list[Rectangle] = []

    def _shared_area(self, rectangles: np.ndarray) -> np.ndarray:
        """Return the area (N,) that each rectangle (N, 4) shares with those placed, gap counted."""
        placed = np.array(self.placed).reshape(1, -1, 4)
        low = np.maximum(rectangles[:, None, :2], placed[..., :2] - self.gap)
        high = np.minimum(rectangles[:, None, 2:], placed[..., 2:] + self.gap)
        return (high - low).clip(0).prod(-1).sum(-1)

    def place(self, size: tuple[float, float], corners: Sequence[Point]) -> Rectangle:
        """Place a rectangle of the size at the first of the upper left corners where it is free.

        If it is free at none, it goes to the free position nearest to the first corner, searched
        on a grid; and if there is no such position, to the one that covers least.
        """
        x1, y1, x2, y2 = self.bounds
        last = np.array([max(x1, x2 - size[0]), max(y1, y2 - size[1])])
        candidates = np.asarray(corners, dtype=float).clip((x1, y1), last)
        shared = self._shared_area(np.concatenate([candidates, candidates + size], 1))
        if shared.min() > 0:
            columns = np.append(np.arange(x1, last[0], 8.0), last[0])
            rows = np.append(np.arange(y1, last[1], 4.0), last[1])
            grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
            distance = np.hypot(*(grid - candidates[0]).T)
            candidates = grid[np.argsort(distance, kind="stable")]
            shared = self._shared_area(np.concatenate([candidates, candidates + size], 1))
        x, y = candidates[shared.argmin()].tolist()  # the first of the smallest
        self.placed.append((x, y, x + size[0], y + size[1]))
        return self.placed[-1]
