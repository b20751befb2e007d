"""A page that shows scene graphs in any browser: one file, nothing loaded from anywhere.

The image is embedded, its boxes and the graph are SVG. Pointing at a box, a node, an arrow or a
line of the list lights up what belongs to it everywhere, and lays the heat map of the relation, if
it has one, over the image; sliders choose how many relations show.
"""

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vrd_d2 import assets
from vrd_d2.visualization.canvas import Rectangle, entity_colour, on_paper, text_colour
from vrd_d2.visualization.heat_map import heat_layer
from vrd_d2.visualization.placement import (
    STATUS,
    GraphSpace,
    Placement,
    Row,
    arrow_colour,
    number_names,
    place_on_image,
)
from vrd_d2.visualization.view import GraphView

_LONGER_SIDE = 1280  # pixels of the embedded image
_VIEW = 900  # longer side of the image in the units in which a name is 13 high


@dataclass(frozen=True)
class GraphPage:
    """One image of a page.

    Attributes:
        view: entities and relations of the image.
        image: uint8 (H, W, 3) RGB.
        title: of the image, such as its file name.
        notes: facts to state beside the title.
        heat_maps: position of a relation -> (h, w) values in 0..1 that cover the image; shown
            when the relation is pointed at.
    """

    view: GraphView
    image: np.ndarray
    title: str
    notes: Sequence[str] = field(default_factory=list)
    heat_maps: Mapping[int, np.ndarray] = field(default_factory=dict)


def graph_page(images: Iterable[GraphPage], *, title: str | None = None) -> str:
    """Return the page as a string; with several images it has a picker.

    Args:
        images: one at least; of each only its part of the page stays in memory.
        title: of the document, default that of the image, or the number of several.

    Raises:
        ValueError: there is no image.
    """
    contents = [_content(image) for image in images]
    if not contents:
        raise ValueError("a page needs at least one image: none was given")
    if title is None:
        title = contents[0]["title"] if len(contents) == 1 else f"{len(contents)} images"
    data = json.dumps(
        {"images": contents},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    # Inside a script element nothing is decoded, but "</script" and "<!--" would end it.
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    template = assets.path("graph_page.html").read_text(encoding="utf-8")
    before, rest = template.split("{{TITLE}}")
    between, after = rest.split("{{DATA}}")
    return f"{before}{html.escape(title)}{between}{data}{after}"


def in_frame(page: str, height: int = 860) -> str:
    """Return a page within a page: its scripts run, and reach nothing outside their frame."""
    return (
        f'<iframe title="scene graph" sandbox="allow-scripts" style="width:100%;height:{height}px;'
        f'border:0;border-radius:8px" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def _content(page: GraphPage) -> dict[str, Any]:
    view, rows = page.view, page.view.rows
    height, width = page.image.shape[:2]
    names = number_names(view.labels)

    # Names and arrows over the image.
    scale = _VIEW / max(height, width)
    shown = (max(1.0, scale * width), max(1.0, scale * height))
    boxes = (scale * view.boxes).clip(0, shown * 2)
    # A very narrow image gets a margin, or its names would find no room.
    area = (0.0, 0.0, max(shown[0], 300.0), max(shown[1], 200.0))
    on_image = place_on_image(area, boxes, names, rows, 1.0, entities=range(len(names)))
    overlay = _drawing(on_image, area, rows, paper=False)
    overlay["shown"] = [round(side, 1) for side in shown]
    overlay["boxes"] = [_xywh(tuple(box)) for box in boxes.tolist()]

    # The graph beside it.
    space = GraphSpace(names, boxes, rows, 1.0)
    sheet = (0.0, 0.0, max(space.width, 560.0), max(space.height, 300.0))

    scores = [score for row in rows if (score := _finite(row[4])) is not None]
    facts = [f"{width} × {height} pixels", f"{len(names)} objects", *page.notes]
    return {
        "title": page.title,
        "facts": " · ".join(facts),
        "image": _photograph(page.image),
        "entities": _entities(view, names),
        "relations": _relations(rows, page.heat_maps),
        "greatest": max(scores, default=0.0),
        "overlay": overlay,
        "graph": _drawing(space.place(sheet), sheet, rows, paper=True) if space.nodes else None,
    }


def _finite(score: float | None) -> float | None:
    """Return the score; None for those that JSON cannot hold."""
    return score if score is not None and math.isfinite(score) else None


def _entities(view: GraphView, names: Sequence[str]) -> list[dict[str, Any]]:
    entities = []
    for i, (name, label) in enumerate(zip(names, view.labels, strict=True)):
        tip = name if len(name) > len(label) else label
        if view.entity_scores is not None:
            tip += f" ({view.entity_scores[i]:.2f})"
        colour = entity_colour(i)
        entities.append(
            {"name": name, "tip": tip, "colour": _hex(colour), "ink": _hex(text_colour(colour))}
        )
    return entities


def _relations(rows: Sequence[Row], heat_maps: Mapping[int, np.ndarray]) -> list[dict[str, Any]]:
    relations = []
    for i, (subject, obj, predicate, status, score) in enumerate(rows):
        relation = {"subject": subject, "object": obj, "predicate": predicate}
        relation["score"] = _finite(score)
        if i in heat_maps:
            relation["heat"] = _data_uri(heat_layer(heat_maps[i]), "PNG", optimize=True)
        if status:
            colour, text = STATUS[status]
            relation |= {"status": status, "statusColour": _hex(colour), "statusText": text}
        relations.append(relation)
    return relations


def _drawing(
    placement: Placement, area: Rectangle, rows: Sequence[Row], *, paper: bool
) -> dict[str, Any]:
    arrows = []
    for arrow, points in placement.arrows.items():
        colour = arrow_colour(arrow)
        arrows.append(
            {
                "relations": [j for j, row in enumerate(rows) if (row[0], row[1], row[3]) == arrow],
                "path": _path(points),
                "colour": _hex(on_paper(colour) if paper else colour),
                "label": _xywh(placement.labels[arrow]),
                "text": placement.texts[arrow],
            }
        )
    return {
        "width": round(area[2], 1),
        "height": round(area[3], 1),
        "chips": {str(entity): _xywh(chip) for entity, chip in placement.chips.items()},
        "arrows": arrows,
    }


def _path(points: np.ndarray) -> str:
    """Return an SVG path through about every fourth point, and the last."""
    corners = [*points[:-1:4].tolist(), points[-1].tolist()]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)


def _xywh(rectangle: Rectangle) -> list[float]:
    x1, y1, x2, y2 = rectangle
    return [round(value, 1) for value in (x1, y1, x2 - x1, y2 - y1)]


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _photograph(image: np.ndarray) -> str:
    photo = Image.fromarray(image)
    photo.thumbnail((_LONGER_SIDE, _LONGER_SIDE), Image.Resampling.LANCZOS)
    return _data_uri(photo, "JPEG", quality=88)


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"
