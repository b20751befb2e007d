"""Drawn figures of the scenes: people in poses, animals, vehicles, furniture and small things.

A figure is a list of polygons and strokes in *units*: the height of a standing person is about 1,
x points right, y points **up** and 0 is the ground. `place` turns a group of figures into pixels;
`render` draws pixels with anti-aliasing. Layers order the shapes of figures which stand at the same
depth (far limbs -2, bodies 0, clothes 1, worn things 3, held things 4, near arms 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

PEOPLE = ("man", "woman", "person")
ANIMALS = ("dog", "horse")
BIKES = ("bike", "bicycle")
BOARDS = ("surfboard", "board")
HATS = ("hat", "cap")

SKIN = ((247, 214, 185), (231, 186, 148), (198, 144, 105), (141, 96, 66), (97, 65, 46))
HAIR = ((42, 32, 26), (88, 58, 36), (150, 104, 58), (214, 178, 112), (120, 120, 122), (140, 62, 34))
FUR = ((140, 92, 56), (92, 62, 44), (205, 170, 125), (70, 66, 66), (222, 214, 204), (176, 112, 70))
WOOD = ((150, 104, 64), (118, 80, 52), (182, 136, 88), (96, 70, 56), (200, 168, 122))
DARK = (38, 38, 42)

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass
class Shape:
    """A filled polygon, or a stroke of some width (`width` > 0); points (N, 2)."""

    points: np.ndarray
    colour: Colour
    layer: float
    width: float = 0.0
    closed: bool = False


@dataclass
class Figure:
    """One object; `x`, `y`, `size`, `angle` (radians) put its local drawing into the group."""

    name: str
    x: float = 0.0
    y: float = 0.0
    size: float = 1.0
    angle: float = 0.0
    layer: float = 0.0
    shapes: list[Shape] = field(default_factory=list)
    top: float = 0.0  # height of the surface that carries others
    half: float = 0.0  # half the width of that surface
    canopy: tuple[float, float, float] | None = None  # left, right, underside of a roof
    eye: tuple[Point, Point] | None = None  # position and direction of the look
    body: dict[str, tuple] = field(default_factory=dict)  # joints and looks of a person

    def _group(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        points = np.asarray(points, float) * self.size
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return points @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y)

    def poly(self, points: Sequence[Point] | np.ndarray, colour: Colour, layer: float = 0) -> None:
        self.shapes.append(Shape(self._group(points), colour, self.layer + layer))

    def line(
        self,
        points: Sequence[Point] | np.ndarray,
        width: float,
        colour: Colour,
        layer: float = 0,
        closed: bool = False,
    ) -> None:
        width *= self.size
        shape = Shape(self._group(points), colour, self.layer + layer, width, closed)
        self.shapes.append(shape)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, layer=0.0):
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, layer)

    def ellipse(self, x, y, rx, ry, colour: Colour, layer=0.0, angle=0.0, arc=(0.0, 2 * math.pi)):
        self.poly(curve(x, y, rx, ry, angle, arc), colour, layer)


def curve(x, y, rx, ry, angle=0.0, arc=(0.0, 2 * math.pi)) -> np.ndarray:
    """Return points (20, 2) of an arc of an ellipse."""
    t = np.linspace(arc[0], arc[1], 20)
    a, b = rx * np.cos(t), ry * np.sin(t)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + a * cos - b * sin, y + a * sin + b * cos], 1)


def shade(colour: Colour, factor: float) -> Colour:
    """Return a darker (factor below 1) or lighter colour."""
    return tuple(int(min(255, c * factor)) for c in colour)


def vivid(rng: np.random.Generator) -> Colour:
    """Return a saturated random colour, RGB."""
    hsv = np.uint8([[[rng.integers(180), rng.integers(110, 240), rng.integers(110, 250)]]])
    return tuple(int(c) for c in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def pick(rng: np.random.Generator, options: Sequence) -> Colour:
    """Return one of the colours, all equally likely."""
    return options[rng.integers(len(options))]


def bend(start: Point, end: Point, upper: float, lower: float, side: float) -> tuple[Point, Point]:
    """Return elbow or knee of a limb and its end within reach; `side` +1 or -1 bends it."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    distance = max(math.hypot(dx, dy), 1e-6)
    reach = min(distance, 0.98 * (upper + lower))
    end = (start[0] + dx / distance * reach, start[1] + dy / distance * reach)
    along = (upper**2 - lower**2 + reach**2) / (2 * reach)
    off = side * math.sqrt(max(upper**2 - along**2, 0.0))
    ux, uy = dx / distance, dy / distance
    return (start[0] + ux * along - uy * off, start[1] + uy * along + ux * off), end


def person(
    name: str,
    rng: np.random.Generator,
    *,
    x: float = 0.0,
    y: float = 0.0,
    hip: Point = (0.0, 0.465),
    lean: float = 0.0,
    feet: Sequence[Point] = ((0.08, 0.02), (-0.08, 0.02)),
    hands: Sequence[Point] | None = None,
    gaze: float | None = None,
    layer: float = 0.0,
    near_leg: float = 0.5,
    far_leg: float = -0.5,
    far_arm: float = -1.0,
    knees: tuple[float, float] = (1.0, -1.0),
) -> Figure:
    """Draw a person by joints; `hands`, `feet`: near, far one; `gaze`: angle of a profile head."""
    figure = Figure(name, x, y, layer=layer)
    female = name == "woman" or (name == "person" and rng.random() < 0.5)
    skin, hair = pick(rng, SKIN), pick(rng, HAIR)
    shirt, trousers = vivid(rng), shade(vivid(rng), 0.6)
    neck = (hip[0] + lean, hip[1] + 0.34 - 0.5 * abs(lean))
    head = (neck[0] + 0.25 * lean, neck[1] + 0.105)
    swing = rng.uniform(0.11, 0.17)
    hands = hands or ((neck[0] + swing, 0.45), (neck[0] - swing, 0.45 + rng.uniform(-0.02, 0.02)))
    skirt = female and layer == 0 and rng.random() < 0.6
    for foot, leg_layer, knee, offset in zip(
        feet, (near_leg, far_leg), knees, (0.04, -0.04), strict=True
    ):
        joint, end = bend((hip[0] + offset, hip[1]), foot, 0.227, 0.227, knee)
        colour = skin if skirt else shade(trousers, 1.0 if leg_layer >= 0 else 0.8)
        figure.line([(hip[0] + offset, hip[1]), joint, end], 0.075, colour, leg_layer)
        figure.line(
            [(end[0] - 0.01, end[1] + 0.01), (end[0] + 0.05, end[1])], 0.05, DARK, leg_layer
        )
    torso = [
        (hip[0] - 0.085, hip[1] - 0.02),
        (hip[0] + 0.085, hip[1] - 0.02),
        (neck[0] + 0.1, neck[1] - 0.02),
        (neck[0] - 0.1, neck[1] - 0.02),
    ]
    figure.poly(torso, shirt)
    if skirt:
        hem = hip[1] - 0.2
        figure.poly([torso[0], torso[1], (hip[0] + 0.15, hem), (hip[0] - 0.15, hem)], trousers, 0.6)
    elbows = []
    for hand, arm_layer, side in zip(hands, (5.0, far_arm), (1.0, -1.0), strict=True):
        shoulder = (neck[0] + 0.085 * side, neck[1] - 0.045)
        elbow, end = bend(shoulder, hand, 0.175, 0.175, -side)
        elbows.append((shoulder, elbow, arm_layer))
        figure.line([shoulder, elbow, end], 0.055, skin, arm_layer)
        figure.line([shoulder, elbow], 0.065, shirt, arm_layer)
        figure.ellipse(*end, 0.034, 0.034, skin, arm_layer)
    figure.line([neck, head], 0.06, skin)
    if female:
        figure.ellipse(head[0], head[1] - 0.05, 0.105, 0.13, hair, -0.2)
    figure.ellipse(*head, 0.083, 0.09, skin, 0.7)
    if gaze is None:
        figure.ellipse(head[0], head[1] + 0.025, 0.086, 0.075, hair, 0.8, arc=(0, math.pi))
        for eye in (-0.032, 0.032):
            figure.ellipse(head[0] + eye, head[1] - 0.005, 0.011, 0.014, DARK, 0.8)
        figure.line(
            [(head[0] - 0.02, head[1] - 0.05), (head[0] + 0.02, head[1] - 0.05)], 0.012, DARK, 0.8
        )
    else:
        cos, sin = math.cos(gaze), math.sin(gaze)
        figure.ellipse(*head, 0.088, 0.094, hair, 0.8, gaze, (0.45 * math.pi, 1.5 * math.pi))
        nose = [(0.075, 0.03), (0.135, -0.02), (0.07, -0.03)]
        turned = [(head[0] + a * cos - b * sin, head[1] + a * sin + b * cos) for a, b in nose]
        figure.poly(turned, skin, 0.75)
        eye = (head[0] + 0.045 * cos - 0.02 * sin, head[1] + 0.045 * sin + 0.02 * cos)
        figure.ellipse(*eye, 0.015, 0.015, DARK, 0.8)
        figure.eye = ((head[0] + x, head[1] + y), (cos, sin))
    figure.body = {"head": head, "neck": neck, "torso": torso, "elbows": elbows, "skin": skin}
    return figure


def worn_shirt(rng: np.random.Generator, wearer: Figure) -> Figure:
    """Draw a shirt on the torso and arms of its wearer."""
    figure = Figure("shirt", wearer.x, wearer.y, layer=wearer.layer)
    colour, torso = vivid(rng), wearer.body["torso"]
    figure.poly([(p[0] * 1.0, p[1]) for p in torso], colour, 1)
    (a, b, c, d), stripe = np.asarray(torso), shade(colour, rng.choice([0.55, 1.5]))
    for t in (0.3, 0.6):
        figure.line([a + (d - a) * t + (0.01, 0), b + (c - b) * t - (0.01, 0)], 0.03, stripe, 1)
    for shoulder, elbow, layer in wearer.body["elbows"]:
        figure.line([shoulder, elbow], 0.08, colour, layer)
    return figure
