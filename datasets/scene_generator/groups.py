"""Groups of figures of the scenes: people with things, riders, sitters, furniture, single figures.

Everything is in units (`scene_generator.drawing`); the contacts of a group are true by how it is
drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from scene_generator.drawing import BIKES, BOARDS, HATS, PEOPLE, Figure, person, worn_shirt
from scene_generator.things import thing

Contact = tuple[int, str, int]


@dataclass
class Group:
    """Figures in units which belong together, with the contacts drawn between them."""

    figures: list[Figure] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)
    attached: set[int] = field(default_factory=set)

    def add(self, figure: Figure, attached: bool = False) -> int:
        self.figures.append(figure)
        if attached:
            self.attached.add(len(self.figures) - 1)
        return len(self.figures) - 1


def choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Return one of the names, each with the probability of its share of the weights."""
    names = list(weights)
    p = np.fromiter(weights.values(), float)
    return names[rng.choice(len(names), p=p / p.sum())]


def someone(rng: np.random.Generator) -> str:
    """Return a class of people."""
    return choose(rng, {"man": 0.5, "woman": 0.28, "person": 0.22})


def synonym(rng: np.random.Generator, name: str) -> str:
    """Return one of the two names of classes that are drawn alike."""
    if name in BIKES:
        return choose(rng, {"bike": 0.65, "bicycle": 0.35})
    return choose(rng, {"surfboard": 0.6, "board": 0.4}) if name in BOARDS else name


def single(rng: np.random.Generator, name: str) -> Group:
    """Make a group of one figure that stands on the ground."""
    group = Group()
    if name in PEOPLE:
        dress(rng, group, group.add(person(name, rng)))
    elif name in BOARDS:
        angle = math.pi / 2 + rng.uniform(-0.12, 0.12)
        group.add(thing(name, rng, 0, 0.43, angle=angle))
    elif name == "bag":
        group.add(thing(name, rng, 0, 0.3))
    elif name == "umbrella":
        group.add(thing(name, rng, size=1.3, layer=-2))
    elif name == "dog":
        tilt = float(rng.choice([0.0, 0.0, 0.5]))
        group.add(thing(name, rng, sits=rng.random() < 0.3, head=tilt))
    else:
        size = {"box": rng.uniform(0.9, 1.5), "ball": rng.uniform(0.8, 1.4)}.get(name, 1.0)
        group.add(thing(name, rng, size=size))
    return group


def dress(rng: np.random.Generator, group: Group, wearer: int, *, busy: bool = False) -> None:
    """Add worn hats, shirts and backpacks; `busy`: the hands or the head are not free."""
    figure = group.figures[wearer]
    hx, hy = figure.body["head"]
    if rng.random() < 0.35:
        name = choose(rng, {"hat": 0.65, "cap": 0.35})
        at = (figure.x + hx, figure.y + hy + 0.04)
        new = thing(name, rng, *at, angle=rng.uniform(-0.1, 0.1), layer=figure.layer + 3)
        group.contacts.append((wearer, "wear", group.add(new, True)))
    if rng.random() < 0.5:
        new = worn_shirt(rng, figure)
        group.contacts.append((wearer, "wear", group.add(new, True)))
    elif not busy and rng.random() < 0.12:
        nx, ny = figure.body["neck"]
        at = (figure.x + nx - 0.12, figure.y + ny + 0.02)
        new = thing("bag", rng, *at, angle=-0.12, layer=figure.layer - 1.5)
        group.contacts.append((wearer, "wear", group.add(new, True)))


HELD = {"board": 3.0, "hat": 1.3, "cap": 0.7, "bag": 2.5, "umbrella": 2.5, "ball": 3.0, "box": 2.2,
        "cup": 2.0, "shirt": 1.0, "dog": 1.4, "bike": 1.6}  # fmt: skip


def hold(rng: np.random.Generator) -> Group:
    """Make a person who holds or carries something."""
    group, name = Group(), choose(rng, HELD)
    carry = rng.random() < {"board": 0.65, "bag": 0.75, "ball": 0.35, "umbrella": 0.35}.get(
        name, 0.5
    )
    name = synonym(rng, name)
    how, at, angle, size, layer, hands = "hold", (0.0, 0.0), 0.0, 1.0, 4.0, None
    far = -1.0
    options: dict = {}
    side = (-0.13, 0.45)
    if name in BOARDS:
        if carry:
            how, at, angle = "carry", (0.08, 0.56), rng.uniform(-0.15, 0.5)
            hands = ((0.14, 0.47), side)
        else:
            at, angle, hands = (
                (0.24, 0.43),
                math.pi / 2 + rng.uniform(-0.1, 0.1),
                ((0.25, 0.6), side),
            )
    elif name in HATS:
        if rng.random() < 0.5:
            at, hands, angle = (0.06, 1.1), ((0.17, 1.06), side), rng.uniform(0.1, 0.35)
        else:
            at, hands, angle = (0.3, 0.6), ((0.26, 0.58), side), rng.uniform(-0.3, 0.3)
    elif name == "bag":
        at = (0.17, 0.45) if carry else (0.36, 0.72)
        how, hands = ("carry" if carry else "hold"), (at, side)
    elif name == "umbrella":
        if carry:
            how, at, angle = "carry", (0.17, 0.47), rng.uniform(-0.2, 0.5)
            options, hands = {"opened": False}, (at, side)
        else:
            at, hands, layer = (0.13, 0.52), ((0.13, 0.64), side), -1.8
    elif name == "ball":
        size = rng.uniform(0.9, 1.2)
        spot = rng.random()
        if carry:
            how, at, hands = "carry", (0.17, 0.47), ((0.2, 0.48), side)
        elif spot < 0.5:
            at, hands = (0.33, 0.58), ((0.3, 0.58), (0.24, 0.62))
        else:
            at, hands = (0.0, 1.04), ((0.1, 1.1), (-0.1, 1.1))
    elif name == "box":
        if carry:
            how, at, hands, far = "carry", (0.0, 0.44), ((0.14, 0.47), (-0.14, 0.47)), 5.0
        else:
            at, hands, size = (0.0, 1.04), ((0.13, 1.07), (-0.13, 1.07)), 0.85
    elif name == "cup":
        at, size, hands = (0.26, rng.uniform(0.5, 0.75)), 1.1, None
        hands = ((at[0] - 0.04, at[1] + 0.08), side)
    elif name == "shirt":
        at = (0.32, 0.75)
        hands = (at, side)
    elif name == "dog":
        how, at, hands, far = "carry", (0.02, 0.42), ((0.12, 0.6), (-0.1, 0.57)), 5.0
        size = 0.85
    elif name in BIKES:
        at, layer, hands = (0.08, 0.0), 2.0, ((0.27, 0.54), side)
    looks = rng.random() < 0.15 and name not in ("umbrella", *HATS)
    gaze = None
    if looks:
        gaze = math.atan2(at[1] + 0.1 - 0.9, max(at[0], 0.15))
    holder = group.add(person(someone(rng), rng, hands=hands, far_arm=far, gaze=gaze))
    new = thing(name, rng, *at, size=size, angle=angle, layer=layer, **options)
    held = group.add(new, attached=True)
    group.contacts.append((holder, how, held))
    if looks:
        group.contacts.append((holder, "look", held))
    if name == "umbrella" and not carry:
        group.contacts += [(holder, "under", held), (held, "above", holder)]
    if name not in HATS and at[1] < 1:
        dress(rng, group, holder, busy=True)
    return group


def ride(rng: np.random.Generator) -> Group:
    """Make someone on a horse, a bicycle or a board."""
    group = Group()
    name = synonym(rng, choose(rng, {"horse": 1.2, "bike": 1.4, "board": 1.0}))
    crouch = dict(hip=(-0.04, 0.36), lean=0.14)
    if name == "horse":
        mount = group.add(thing(name, rng))
        pose = dict(hip=(-0.03, 0.57), hands=((0.2, 0.68), (0.22, 0.66)), layer=2.0, far_leg=-5.0)
        pose |= dict(feet=((0.06, 0.2), (0.1, 0.2)), knees=(1.0, 1.0), far_arm=-0.5)
    elif name in BIKES:
        mount = group.add(thing(name, rng))
        pose = dict(hip=(-0.14, 0.45), lean=0.15, hands=((0.22, 0.55), (0.2, 0.55)), layer=2.0)
        pose |= dict(feet=((0.0, 0.08), (-0.04, 0.24)), knees=(1.0, 1.0), far_leg=-3.0)
    else:
        mount = group.add(thing(name, rng, 0, 0.09, angle=rng.uniform(-0.02, 0.2)))
        pose = dict(**crouch, y=0.1, feet=((0.22, 0.04), (-0.22, 0.0)), layer=1.0)
        pose |= dict(hands=((0.36, 0.68), (-0.3, 0.72)), knees=(1.0, -1.0))
    rider = group.add(person(someone(rng), rng, **pose))
    group.contacts.append((rider, "ride", mount))
    dress(rng, group, rider)
    return group


SEATS = {
    "chair": 3.0,
    "bench": 3.0,
    "box": 1.5,
    "table": 1.2,
    "ball": 0.8,
    "car": 0.8,
    "horse": 0.4,
}
STANDS = {"board": 2.5, "box": 2.0, "bench": 1.5, "chair": 1.5, "table": 1.2, "car": 0.8,
          "horse": 0.8, "ball": 0.5}  # fmt: skip


def supported(rng: np.random.Generator) -> Group:
    """Make someone, or a dog, that sits or stands on something."""
    group, animal, sits = Group(), rng.random() < 0.22, rng.random() < 0.55
    name = synonym(rng, choose(rng, SEATS if sits else STANDS))
    if name == "horse" and animal:
        name = "chair"
    if name in BOARDS:
        support = group.add(thing(name, rng, 0, 0.07))
        top, half = 0.1, 0.05
    else:
        size = rng.uniform(1.1, 1.5) if name in ("box", "ball") else 1.0
        support = group.add(thing(name, rng, size=size))
        figure = group.figures[support]
        top, half = (figure.top, figure.half) if name != "horse" else (0.57, 0.05)
    x = rng.uniform(-1, 1) * max(half - 0.12, 0.0)
    if animal:
        new = thing("dog", rng, x, top - 0.02, sits=sits, size=rng.uniform(0.85, 1.1), layer=2.0)
        rider = group.add(new)
    elif sits:
        down = 0.24 if top < 0.4 else 0.4
        feet = ((x + 0.24, top - down), (x + 0.18, top - down))
        pose = dict(hip=(x - 0.02, top + 0.04), feet=feet, knees=(1.0, 1.0), far_leg=-0.5)
        hands = ((x + 0.2, top + 0.1), (x + 0.12, top + 0.12))
        rider = group.add(person(someone(rng), rng, **pose, hands=hands, layer=2.0))
    else:
        pose = dict(x=x, y=top - 0.01, layer=2.0)
        if name in ("ball", "chair", "box", "horse"):
            pose |= dict(feet=((0.05, 0.02), (-0.05, 0.02)))
        rider = group.add(person(someone(rng), rng, **pose))
    group.contacts.append((rider, "sit" if sits else "stand", support))
    if not animal:
        dress(rng, group, rider, busy=True)
    return group


SMALL = {"cup": 3.0, "ball": 1.5, "hat": 1.3, "cap": 0.7, "bag": 1.5, "box": 1.5, "shirt": 0.4}


def put(rng: np.random.Generator, name: str, x: float, y: float, layer: float) -> Figure:
    """Draw a small thing that lies on a surface at height y."""
    drop = {"bag": 0.24, "shirt": 0.3}.get(name, 0.0)
    size = {"box": 0.65, "ball": 0.85, "bag": 0.8, "cup": 1.15, "shirt": 0.9}.get(name, 1.0)
    return thing(name, rng, x, y + drop, size=size, layer=layer)


def furnished(rng: np.random.Generator) -> Group:
    """Make furniture with things on it and under it, or a ball or hat in the air above it."""
    group = Group()
    name = choose(rng, {"table": 5.0, "bench": 2.0, "chair": 2.0, "box": 1.0, "car": 0.7})
    surface = group.add(thing(name, rng, size=1.4 if name == "box" else 1.0))
    figure = group.figures[surface]
    count = 1 if name in ("chair", "box", "car") else int(rng.choice([1, 2, 2, 3]))
    slots = (np.arange(count) + 0.5) / count * 2 - 1
    for slot in slots * figure.half:
        if rng.random() < 0.8:
            new = put(rng, choose(rng, SMALL), float(slot), figure.top, 3.0)
            group.contacts.append((group.add(new, True), "rest", surface))
    if name in ("table", "bench", "chair") and rng.random() < 0.4:
        below = choose(rng, {"dog": 2.0, "ball": 2.0, "box": 1.5, "bag": 1.5, "hat": 0.5})
        x = 0.0 if name == "chair" else rng.uniform(-0.1, 0.1)
        size = {"dog": 0.75, "box": 0.75, "ball": 0.8, "bag": 0.75}.get(below, 0.9)
        if name != "table":
            size *= 0.8
        drop = 0.3 * size if below == "bag" else 0.0
        new = thing(below, rng, x, drop, size=size, layer=-1.0)
        group.contacts.append((group.add(new, True), "under", surface))
    elif not group.contacts or rng.random() < 0.12:
        aloft(rng, group, surface)
    return group


def aloft(rng: np.random.Generator, group: Group, below: int) -> None:
    """Add a ball, hat or cap in the air above a figure."""
    name = choose(rng, {"ball": 3.0, "hat": 1.0, "cap": 0.6})
    shapes = group.figures
    high = max(float(s.points[:, 1].max()) for f in shapes for s in f.shapes)
    new = thing(name, rng, group.figures[below].x, high + rng.uniform(0.07, 0.16), layer=3.0)
    group.contacts.append((group.add(new, True), "above", below))


def looking(rng: np.random.Generator) -> Group:
    """Make a person in profile who looks at something beside."""
    group = Group()
    weights = {"dog": 3.0, "ball": 2.0, "box": 1.0, "horse": 1.2, "bike": 1.0, "board": 1.0,
               "car": 1.0, "tree": 0.8, "man": 1.2, "woman": 1.0, "person": 0.6}  # fmt: skip
    name = synonym(rng, choose(rng, weights))
    other = single(rng, name).figures[0]
    width = float(np.ptp(np.concatenate([s.points[:, 0] for s in other.shapes])))
    height = float(np.concatenate([s.points[:, 1] for s in other.shapes]).max())
    distance = 0.22 + width / 2 + rng.uniform(0.0, 0.12)
    gaze = math.atan2(min(0.6 * height, 0.85) - 0.9, distance - 0.25 * width)
    viewer = group.add(person(someone(rng), rng, x=-distance, gaze=gaze))
    new = group.add(other)
    group.contacts.append((viewer, "look", new))
    dress(rng, group, viewer)
    return group


SINGLES = {"person": 5.0, "tree": 2.5, "car": 2.0, "dog": 2.5, "chair": 1.6, "bench": 1.4,
           "bike": 1.6, "horse": 1.6, "board": 1.6, "box": 1.6, "ball": 1.5, "bag": 1.2,
           "umbrella": 1.2, "table": 1.3, "cup": 0.15, "hat": 0.25}  # fmt: skip
KINDS = {"single": 2.4, "hold": 2.7, "ride": 1.5, "supported": 2.2, "furnished": 1.6,
         "looking": 0.6, "aloft": 0.25}  # fmt: skip


def compose(rng: np.random.Generator) -> Group:
    """Make a group of a random kind."""
    kind = choose(rng, KINDS)
    if kind in ("single", "aloft"):
        name = choose(rng, SINGLES) if kind == "single" else choose(rng, {"person": 2, "dog": 1})
        name = someone(rng) if name == "person" else synonym(rng, name)
        group = single(rng, name)
        if kind == "aloft":
            aloft(rng, group, 0)
        return group
    builders = {"hold": hold, "ride": ride, "supported": supported, "furnished": furnished}
    return {**builders, "looking": looking}[kind](rng)
