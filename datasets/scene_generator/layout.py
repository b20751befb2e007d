"""Layout of groups in an image, painting them, and the exact rules of the relations.

`prepare_scenes.py` states the rules in words.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scene_generator.drawing import ANIMALS, PEOPLE, Shape, shade, vivid
from scene_generator.groups import Contact, Group, choose, compose

OCCLUSION = 0.12  # share of the smaller whole shape that the other must cover or be covered by
NEXT, NEAR = 0.06, 0.09  # largest horizontal gap of boxes, of the image's width
LEVEL = 0.07  # largest difference of foot lines of "next to", "under", of the image's height
STEP = 0.09  # the same of "near"
LOOK = 0.25  # length of an animal's look, of the image's width
VISIBLE = 0.35  # least visible share of a shape (0.2 for what is worn, held or rested)


@dataclass
class Placed:
    """A figure in pixels; `box` XYXY of the whole shape, not clipped."""

    name: str
    shapes: list[Shape]
    box: tuple[float, float, float, float]
    base: float
    attached: bool
    eye: tuple | None
    canopy: tuple | None


def place(group: Group, x: float, base: float, scale: float, flip: bool) -> list[Placed]:
    """Return the group in pixels: its origin at (x, base), `scale` pixels a unit."""
    sign, placed = -1.0 if flip else 1.0, []
    scales, origin = np.array([sign * scale, -scale]), np.array([x, base])
    for index, figure in enumerate(group.figures):
        shapes = [
            Shape(s.points * scales + origin, s.colour, s.layer, s.width * scale, s.closed)
            for s in figure.shapes
        ]
        reach = [(s.points, max(s.width / 2, 0.5)) for s in shapes]
        low = np.min([p.min(0) - w for p, w in reach], 0)
        high = np.max([p.max(0) + w for p, w in reach], 0)
        eye = canopy = None
        if figure.eye:
            (ex, ey), (dx, dy) = figure.eye
            eye = ((ex * scales[0] + x, base - ey * scale), (sign * dx, -dy))
        if figure.canopy:
            left, right, bottom = figure.canopy
            ends = sorted((left * scales[0] + x, right * scales[0] + x))
            canopy = (*ends, base - bottom * scale)
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        attached = index in group.attached
        placed.append(Placed(figure.name, shapes, box, base, attached, eye, canopy))
    return placed


def mask(figure: Placed, height: int, width: int) -> np.ndarray:
    """Return the whole shape of a figure, bool (height, width)."""
    canvas = np.zeros((height, width), np.uint8)
    for shape in figure.shapes:
        stroke(canvas, shape, 1, cv2.LINE_8)
    return canvas.astype(bool)


def stroke(canvas: np.ndarray, shape: Shape, colour, kind: int, grow: float = 0.0) -> None:
    """Draw a shape with OpenCV's type of line; `grow` widens a stroke or outlines a polygon."""
    points = np.round(shape.points * 8 - 4).astype(np.int32)[None]  # centres of pixels, 3 bits
    if shape.width:
        thick = max(1, round(shape.width + grow))
        cv2.polylines(canvas, points, shape.closed, colour, thick, kind, 3)
    else:
        cv2.fillPoly(canvas, points, colour, kind, 3)
        if grow:
            cv2.polylines(canvas, points, True, shade(colour, 0.55), 1, kind, 3)


def ordered(figures: list[Placed]) -> list[tuple[int, Shape]]:
    """Return all shapes from back to front: by foot line, then layer."""
    shapes = [(f.base, s.layer, i, s) for i, f in enumerate(figures) for s in f.shapes]
    return [(i, s) for _, _, i, s in sorted(shapes, key=lambda r: r[:2])]


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Paint a room, field, street or beach with distractors and soft noise; float (H, W, 3)."""
    horizon = int(height * rng.uniform(0.35, 0.55))
    upper, lower = {
        "room": (vivid(rng), (170, 140, 110)),
        "field": ((150, 195, 235), (120, 165, 85)),
        "street": ((190, 205, 220), (140, 140, 145)),
        "beach": ((140, 200, 235), (225, 205, 160)),
    }[choose(rng, {"room": 1, "field": 1, "street": 1, "beach": 1})]
    upper = shade(tuple(0.35 * c + 160 for c in upper), rng.uniform(0.85, 1.1))
    ramp = np.linspace(0.88, 1.1, height)[:, None, None]
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:horizon], canvas[horizon:] = upper, shade(lower, rng.uniform(0.8, 1.15))
    canvas *= ramp
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(0, width), rng.uniform(0, horizon)
        axes = (int(rng.uniform(8, 50)), int(rng.uniform(4, 14)))
        tone = tuple(float(c * rng.uniform(0.9, 1.1)) for c in canvas[min(int(y), height - 1), 0])
        cv2.ellipse(canvas, (int(x), int(y)), axes, 0, 0, 360, tone, -1)
    for _ in range(rng.integers(0, 6)):
        y = int(rng.uniform(horizon, height))
        tone = tuple(float(c * rng.uniform(0.9, 1.08)) for c in canvas[y, 0])
        cv2.line(
            canvas, (0, y), (width, y + int(rng.integers(-8, 9))), tone, int(rng.integers(1, 7))
        )
    coarse = rng.normal(0, 5, (height // 12, width // 12, 1)).astype(np.float32)
    return canvas + cv2.resize(coarse, (width, height))[..., None]


def render(rng: np.random.Generator, figures: list[Placed], height: int, width: int) -> np.ndarray:
    """Paint the image, RGB uint8 (height, width, 3)."""
    canvas = np.clip(background(rng, height, width), 0, 255).astype(np.uint8)
    for _, shape in ordered(figures):
        if shape.width:
            if shape.width > 2.0:
                stroke(canvas, shape, shade(shape.colour, 0.6), cv2.LINE_AA, 1.6)
            stroke(canvas, shape, shape.colour, cv2.LINE_AA)
        else:
            outlined = (shape.points.max(0) - shape.points.min(0)).min() > 4.0
            stroke(canvas, shape, shape.colour, cv2.LINE_AA, float(outlined))
    noise = 3.0 * rng.standard_normal((height, width, 1), np.float32)
    light = np.float32(rng.uniform(0.85, 1.1))
    return np.clip(canvas * light + noise, 0, 255).astype(np.uint8)


def visible(figures: list[Placed], masks: list[np.ndarray]) -> np.ndarray:
    """Return the visible share of each whole shape."""
    ids = np.zeros(masks[0].shape, np.uint8)
    for index, shape in ordered(figures):
        stroke(ids, shape, index + 1, cv2.LINE_8)
    seen = np.bincount(ids.ravel(), minlength=len(figures) + 1)[1:]
    return seen / np.maximum([m.sum() for m in masks], 1)


def subject_first(figures: list[Placed], i: int, j: int) -> tuple[int, int]:
    """Return subject and object: people before animals before things, else the left one first."""

    def key(index: int) -> tuple[int, float]:
        name, box = figures[index].name, figures[index].box
        return 0 if name in PEOPLE else 1 if name in ANIMALS else 2, box[0] + box[2]

    return (i, j) if key(i) <= key(j) else (j, i)


def first_seen(figures: list[Placed], viewer: int, others: list[int], width: int) -> int | None:
    """Return the first of `others` on an animal's line of sight; boxes count without their rim."""
    (x, y), (dx, dy) = figures[viewer].eye
    boxes = np.array([figures[i].box for i in others]).reshape(-1, 4)
    inset = 0.1 * (boxes[:, 2:] - boxes[:, :2])
    low, high = boxes[:, :2] + inset, boxes[:, 2:] - inset
    for step in np.arange(0.0, LOOK * width, 3.0):
        point = np.array([x + step * dx, y + step * dy])
        hit = np.flatnonzero(((low < point) & (point < high)).all(1))
        if len(hit):
            return others[hit[0]]
    return None


def relations(
    figures: list[Placed], contacts: list[Contact], masks: list[np.ndarray]
) -> list[Contact]:
    """Return every true situation (subject, situation, object): contacts, then geometry."""
    height, width = masks[0].shape
    found = list(contacts)
    touching = {frozenset((s, o)) for s, how, o in contacts if how != "look"}
    looked = {s for s, how, _ in contacts if how == "look"}
    free = [i for i, f in enumerate(figures) if not f.attached]
    areas = [max(int(m.sum()), 1) for m in masks]
    for i in free:
        a = figures[i]
        others = [
            j
            for j in free
            if i != j
            and frozenset((i, j)) not in touching
            and abs(a.base - figures[j].base) <= LEVEL * height
        ]
        target = None
        if a.name in ANIMALS and i not in looked:
            target = first_seen(figures, i, others, width)
        if target is not None:
            found.append((i, "look", target))
        for j in free:
            b = figures[j]
            if j <= i or frozenset((i, j)) in touching:
                continue
            level = abs(a.base - b.base) <= LEVEL * height
            sheltered = False
            for s, o in ((i, j), (j, i)):
                if shelters(figures[o], figures[s]) and level:
                    sheltered = True
                    found.append((s, "under", o))
                    if figures[o].name == "umbrella":
                        found.append((o, "above", s))
            if (masks[i] & masks[j]).sum() >= OCCLUSION * min(areas[i], areas[j]):
                s, o = subject_first(figures, i, j)
                in_front = (figures[s].base, s) > (figures[o].base, o)
                found.append((s, "front" if in_front else "behind", o))
            elif not sheltered:
                gap = max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])
                apart = abs(a.base - b.base)
                how = "beside" if level and gap <= NEXT * width else "near"
                if gap <= NEAR * width and apart <= STEP * height:
                    s, o = subject_first(figures, i, j)
                    found.append((s, how, o))
    found += shelf(figures, contacts, width)
    return found


def shelters(roof: Placed, figure: Placed) -> bool:
    """Return whether the figure is below the roof, such as that of a tree."""
    if roof.canopy is None:
        return False
    left, right, bottom = roof.canopy
    x1, y1, x2, y2 = figure.box
    return left < (x1 + x2) / 2 < right and y1 > bottom - 0.15 * (y2 - y1)


def shelf(figures: list[Placed], contacts: list[Contact], width: int) -> list[Contact]:
    """Return which things on one surface are side by side."""
    found = []
    resting = [(s, o) for s, how, o in contacts if how == "rest"]
    for s, support in resting:
        for t, other in resting:
            gap = max(figures[s].box[0], figures[t].box[0]) - min(
                figures[s].box[2], figures[t].box[2]
            )
            if (
                subject_first(figures, s, t) == (s, t)
                and s != t
                and support == other
                and gap <= NEXT * width
            ):
                found.append((s, "beside", t))
    return found


def arrange(
    rng: np.random.Generator, height: int, width: int
) -> tuple[list[Placed], list[Contact], list[np.ndarray]]:
    """Put groups on the ground: free, side by side with an earlier one, or overlapping it.

    Returns:
        The figures, the contacts and the masks of the whole shapes.
    """
    figures: list[Placed] = []
    contacts: list[Contact] = []
    masks: list[np.ndarray] = []
    anchors: list[tuple[float, float, float, float]] = []  # left, right, base, scale
    wanted = int(rng.choice([1, 2, 3, 4, 5], p=[0.05, 0.25, 0.35, 0.24, 0.11]))
    least = 3 if rng.random() < 0.97 else 1
    while len(anchors) < wanted or len(figures) < least:
        group, flip = compose(rng), rng.random() < 0.5
        if len(figures) + len(group.figures) > 12:
            wanted -= 1
            continue
        for _ in range(4):
            mode = (
                choose(rng, {"beside": 0.5, "overlap": 0.25, "free": 0.25}) if anchors else "free"
            )
            base = height * rng.uniform(0.76, 0.97)
            x = width * rng.uniform(0.12, 0.88)
            if mode != "free":
                left, right, base, _ = anchors[rng.integers(len(anchors))]
                base += height * rng.uniform(-0.02, 0.05)
            scale = height * (0.14 + 0.4 * base / height) * rng.uniform(0.88, 1.12)
            new = place(group, 0.0, base, scale, flip)
            low, high = min(f.box[0] for f in new), max(f.box[2] for f in new)
            if mode == "beside":
                gap = width * rng.uniform(-0.01, NEXT)
                x = right + gap - low if rng.random() < 0.5 else left - gap - high
            elif mode == "overlap":
                x = (left + right) / 2 + rng.uniform(-0.45, 0.45) * (right - left + high - low) / 2
            new = place(group, x, base, scale, flip)
            x1, y1 = min(f.box[0] for f in new), min(f.box[1] for f in new)
            x2, y2 = max(f.box[2] for f in new), max(f.box[3] for f in new)
            if x1 < 1 or x2 > width - 1 or y1 < 1 or y2 > height - 1:
                continue
            trial = masks + [mask(f, height, width) for f in new]
            shares = visible(figures + new, trial)
            floor = [0.2 if f.attached else VISIBLE for f in figures + new]
            if not np.all(shares >= floor):
                continue
            offset = len(figures)
            contacts += [(s + offset, how, o + offset) for s, how, o in group.contacts]
            figures, masks = figures + new, trial
            anchors.append((x1, x2, base, scale))
            break
        else:
            wanted = max(wanted - 1, 1)  # a crowded image takes no more
    return figures, contacts, masks
