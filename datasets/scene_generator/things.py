"""Drawn animals, vehicles, furniture and small things of the scenes, one function a class.

Units and layers as in `scene_generator.drawing`; the origin is the lowest middle point unless
stated.
"""

from __future__ import annotations

import math

import numpy as np

from scene_generator.drawing import (
    BIKES,
    BOARDS,
    DARK,
    FUR,
    WOOD,
    Figure,
    Point,
    curve,
    pick,
    shade,
    vivid,
)


def shirt(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a shirt that hangs from its origin."""
    colour = vivid(rng)
    outline = [(-0.06, 0), (0.06, 0), (0.19, -0.09), (0.14, -0.15), (0.1, -0.11), (0.1, -0.34)]
    outline += [(-x, y) for x, y in reversed(outline[2:])]
    figure.poly(outline, colour)
    for y in (-0.18, -0.27):
        figure.line([(-0.085, y), (0.085, y)], 0.025, shade(colour, 0.6))


def hat(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a hat: a crown with a band on a brim."""
    colour = vivid(rng)
    figure.poly([(-0.085, 0), (0.085, 0), (0.07, 0.12), (-0.07, 0.12)], colour)
    figure.rectangle(-0.083, 0.005, 0.083, 0.035, shade(colour, 0.55))
    figure.ellipse(0, 0, 0.16, 0.03, shade(colour, 0.9))


def cap(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a cap whose peak points right."""
    colour = vivid(rng)
    figure.ellipse(0, -0.005, 0.095, 0.1, colour, arc=(0, math.pi))
    figure.ellipse(0.11, 0.005, 0.09, 0.018, shade(colour, 0.6))


def bag(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a bag; its origin is the grip."""
    colour = vivid(rng)
    figure.line(curve(0, -0.09, 0.06, 0.09, arc=(0, math.pi)), 0.022, shade(colour, 0.6))
    figure.poly([(-0.13, -0.3), (0.13, -0.3), (0.11, -0.08), (-0.11, -0.08)], colour)
    figure.poly([(-0.11, -0.08), (0.11, -0.08), (0.0, -0.17)], shade(colour, 0.75))


def umbrella(rng: np.random.Generator, figure: Figure, *, opened: bool = True, pole=0.72) -> None:
    """Draw an umbrella; its origin is the lower end of the pole, or the grip of a closed one."""
    colour = vivid(rng)
    if not opened:
        figure.line([(0, 0.0), (0, -0.06)], 0.03, DARK)
        figure.poly([(-0.055, -0.08), (0.055, -0.08), (0.0, -0.5)], colour)
        figure.line([(0, -0.08), (0, -0.48)], 0.014, shade(colour, 0.6))
        return
    figure.line([(0, 0), (0, pole)], 0.025, DARK)
    figure.ellipse(0, pole - 0.05, 0.44, 0.27, colour, 0.1, arc=(0, math.pi))
    for a, b in ((-0.26, -0.09), (0.09, 0.26)):
        figure.poly([(a, pole - 0.05), (b, pole - 0.05), (0, pole + 0.22)], shade(colour, 0.7), 0.1)
    figure.canopy = (figure.x - 0.44, figure.x + 0.44, figure.y + pole - 0.05)


def board(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a board; its origin is the centre, its long axis lies along x."""
    colour = vivid(rng)
    outline = np.concatenate(
        [
            curve(0.02, 0, 0.44, 0.075, arc=(-0.5 * math.pi, 0.5 * math.pi)),
            curve(0.02, 0, 0.36, 0.075, arc=(0.5 * math.pi, 1.5 * math.pi)),
        ]
    )
    figure.poly(outline, colour)
    figure.line([(-0.3, 0), (0.4, 0)], 0.03, shade(colour, rng.choice([0.5, 1.6])))


def ball(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a ball; its origin is the lowest point."""
    colour = vivid(rng)
    figure.ellipse(0, 0.11, 0.11, 0.11, colour)
    figure.ellipse(
        0, 0.11, 0.045, 0.108, shade(colour, rng.choice([0.5, 1.7])), angle=rng.uniform(0, 3)
    )
    figure.top, figure.half = figure.y + 0.22 * figure.size, 0.05


def cup(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a cup with its handle on the right."""
    colour = vivid(rng)
    figure.line(curve(0.06, 0.08, 0.055, 0.045, arc=(-1.6, 1.6)), 0.024, shade(colour, 0.8))
    figure.poly([(-0.055, 0), (0.055, 0), (0.075, 0.16), (-0.075, 0.16)], colour)
    figure.ellipse(0, 0.16, 0.075, 0.02, shade(colour, 0.5))


def box(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a box of wood, or painted."""
    colour = pick(rng, WOOD) if rng.random() < 0.6 else vivid(rng)
    wide, high = rng.uniform(0.15, 0.2), rng.uniform(0.22, 0.3)
    figure.rectangle(-wide, 0, wide, high, colour)
    figure.poly(
        [(-wide, high), (wide, high), (wide - 0.05, high + 0.05), (-wide + 0.05, high + 0.05)],
        shade(colour, 1.25),
    )
    figure.rectangle(-0.025, 0, 0.025, high, shade(colour, 0.7))
    figure.top, figure.half = figure.y + (high + 0.025) * figure.size, wide * 0.7 * figure.size


def table(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a table of random size."""
    colour, half, high = pick(rng, WOOD), rng.uniform(0.36, 0.46), rng.uniform(0.36, 0.42)
    for x in (-half + 0.05, half - 0.05):
        figure.rectangle(x - 0.025, 0, x + 0.025, high, shade(colour, 0.75))
    figure.poly(
        [(-half, high), (half, high), (half - 0.06, high + 0.07), (-half + 0.06, high + 0.07)],
        shade(colour, 1.2),
    )
    figure.rectangle(-half, high - 0.05, half, high, colour)
    figure.top, figure.half = figure.y + high + 0.03, half - 0.06


def chair(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a chair that faces right: its back is on the left."""
    colour = pick(rng, WOOD) if rng.random() < 0.6 else vivid(rng)
    for x in (-0.13, 0.13):
        figure.rectangle(x - 0.022, 0, x + 0.022, 0.27, shade(colour, 0.75))
    figure.poly([(-0.17, 0.27), (-0.11, 0.27), (-0.13, 0.64), (-0.19, 0.64)], shade(colour, 0.85))
    figure.rectangle(-0.16, 0.25, 0.17, 0.31, colour)
    figure.top, figure.half = figure.y + 0.31, 0.1


def bench(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a bench with a back."""
    colour, half = pick(rng, WOOD), rng.uniform(0.4, 0.52)
    for x in (-half + 0.06, half - 0.06):
        figure.rectangle(x - 0.03, 0, x + 0.03, 0.48, shade(colour, 0.6))
    for y in (0.34, 0.43):
        figure.rectangle(-half, y, half, y + 0.06, shade(colour, 0.9))
    figure.rectangle(-half, 0.21, half, 0.27, shade(colour, 1.15))
    figure.top, figure.half = figure.y + 0.26, half - 0.12


def tree(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a tree, whose crown is a roof."""
    leaf = (int(rng.integers(40, 110)), int(rng.integers(110, 170)), int(rng.integers(40, 80)))
    trunk, high = pick(rng, WOOD[:4]), rng.uniform(0.9, 1.05)
    figure.poly([(-0.09, 0), (0.09, 0), (0.06, high + 0.2), (-0.06, high + 0.2)], trunk, -3)
    half = rng.uniform(0.42, 0.52)
    for x, y, r in ((-half + 0.22, 0.16, 0.24), (half - 0.22, 0.16, 0.24), (0, 0.3, 0.32)):
        figure.ellipse(x, high + y, r, r * 0.85, shade(leaf, rng.uniform(0.9, 1.1)), -2.9)
    figure.canopy = (figure.x - half, figure.x + half, figure.y + high - 0.02)


def car(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a car that faces right."""
    colour = vivid(rng)
    cabin = [(-0.42, 0.3), (0.34, 0.3), (0.2, 0.5), (-0.3, 0.5)]
    figure.poly(cabin, shade(colour, 0.85))
    figure.poly([(-0.35, 0.32), (-0.06, 0.32), (-0.06, 0.47), (-0.27, 0.47)], (190, 220, 235))
    figure.poly([(-0.02, 0.32), (0.26, 0.32), (0.17, 0.47), (-0.02, 0.47)], (190, 220, 235))
    body = [(-0.64, 0.1), (0.64, 0.1), (0.64, 0.24), (0.56, 0.31), (-0.6, 0.32), (-0.64, 0.26)]
    figure.poly(body, colour)
    figure.ellipse(0.61, 0.23, 0.03, 0.03, (250, 240, 170))
    for x in (-0.38, 0.38):
        figure.ellipse(x, 0.1, 0.11, 0.11, DARK)
        figure.ellipse(x, 0.1, 0.05, 0.05, (190, 190, 195))
    figure.top, figure.half = figure.y + 0.5, 0.15


def bike(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a bike that faces right.

    Its saddle is at (-0.14, 0.42), the grips at (0.2, 0.53), the pedals at (-0.02, 0.15).
    """
    colour = vivid(rng)
    for x in (-0.3, 0.3):
        figure.line(curve(x, 0.18, 0.16, 0.16), 0.034, DARK, closed=True)
        for t in (0.3, 1.4, 2.4):
            spoke = np.array([math.cos(t), math.sin(t)]) * 0.15
            hub = np.array([x, 0.18])
            figure.line([hub - spoke, hub + spoke], 0.01, (150, 150, 155))
    frame = [(-0.3, 0.18), (-0.14, 0.38), (0.2, 0.4), (-0.02, 0.16), (-0.3, 0.18)]
    figure.line(frame, 0.035, colour, 0.1)
    figure.line([(-0.02, 0.16), (-0.14, 0.38)], 0.035, colour, 0.1)
    figure.line([(0.3, 0.18), (0.2, 0.4), (0.18, 0.5), (0.24, 0.53)], 0.032, colour, 0.1)
    figure.line([(-0.2, 0.42), (-0.08, 0.42)], 0.045, DARK, 0.1)


def dog(rng: np.random.Generator, figure: Figure, *, sits: bool = False, head: float = 0.0) -> None:
    """Draw a dog that faces right; `head`: angle of the head."""
    colour = pick(rng, FUR)
    dark = shade(colour, 0.7)
    if sits:
        figure.ellipse(-0.06, 0.13, 0.11, 0.13, colour)
        figure.line([(0.05, 0.2), (0.08, 0.02)], 0.06, dark)
        figure.poly([(-0.14, 0.14), (0.1, 0.1), (0.12, 0.34), (0.03, 0.34)], colour)
        figure.line([(-0.13, 0.04), (-0.24, 0.1)], 0.04, dark)
        neck = (0.1, 0.38)
    else:
        for x, layer in ((-0.11, -0.4), (0.17, -0.4), (-0.17, 0.2), (0.11, 0.2)):
            figure.line([(x, 0.18), (x, 0.02)], 0.055, dark if layer < 0 else colour, layer)
        figure.ellipse(-0.02, 0.21, 0.21, 0.09, colour)
        figure.line([(-0.2, 0.24), (-0.29, 0.36)], 0.04, dark)
        figure.line([(0.13, 0.24), (0.2, 0.33)], 0.09, colour)
        neck = (0.21, 0.37)
    cos, sin = math.cos(head), math.sin(head)

    def at(a: float, b: float) -> Point:
        return neck[0] + a * cos - b * sin, neck[1] + a * sin + b * cos

    figure.ellipse(*at(0, 0), 0.085, 0.075, colour, 0.3)
    figure.ellipse(*at(0.085, -0.02), 0.055, 0.036, colour, 0.3, head)
    figure.ellipse(*at(0.135, -0.01), 0.017, 0.017, DARK, 0.3)
    figure.ellipse(*at(-0.045, -0.005), 0.032, 0.07, dark, 0.3, head - 0.3)
    figure.ellipse(*at(0.03, 0.022), 0.014, 0.014, DARK, 0.3)
    eye = figure._group([at(0.1, 0)])[0]
    figure.eye = ((eye[0], eye[1]), (cos, sin))


def horse(rng: np.random.Generator, figure: Figure) -> None:
    """Draw a horse that faces right, its back at (0, 0.55)."""
    colour = pick(rng, FUR)
    dark, mane = shade(colour, 0.75), shade(colour, 0.45)
    for x, layer in ((-0.2, -0.4), (0.24, -0.4), (-0.28, 0.2), (0.17, 0.2)):
        figure.line(
            [(x, 0.36), (x + 0.01, 0.2), (x, 0.03)], 0.075, dark if layer < 0 else colour, layer
        )
        figure.line([(x, 0.025), (x + 0.03, 0.025)], 0.05, mane, layer)
    figure.line([(-0.33, 0.48), (-0.41, 0.36), (-0.4, 0.22)], 0.055, mane)
    figure.ellipse(-0.02, 0.42, 0.36, 0.15, colour)
    figure.poly([(0.13, 0.46), (0.3, 0.34), (0.47, 0.7), (0.33, 0.78)], colour, 0.1)
    figure.line([(0.17, 0.56), (0.34, 0.79)], 0.06, mane, 0.1)
    figure.ellipse(0.47, 0.69, 0.14, 0.068, colour, 0.2, -0.5)
    figure.poly([(0.34, 0.76), (0.36, 0.86), (0.41, 0.77)], dark, 0.2)
    figure.ellipse(0.44, 0.735, 0.015, 0.015, DARK, 0.2)
    figure.eye = ((figure.x + 0.6 * figure.size, figure.y + 0.62 * figure.size), (0.94, -0.34))


_DRAW = {"shirt": shirt, "hat": hat, "cap": cap, "bag": bag, "umbrella": umbrella, "ball": ball,
         "cup": cup, "box": box, "table": table, "chair": chair, "bench": bench, "tree": tree,
         "car": car, "dog": dog, "horse": horse, **dict.fromkeys(BIKES, bike),
         **dict.fromkeys(BOARDS, board)}  # fmt: skip


def thing(
    name: str, rng: np.random.Generator, x=0.0, y=0.0, *, size=1.0, angle=0.0, layer=0.0, **how
):
    """Draw a figure of any class but the people; `how` goes to its drawing function."""
    figure = Figure(name, x, y, size, angle, layer)
    _DRAW[name](rng, figure, **how)
    return figure
