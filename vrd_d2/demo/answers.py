"""What the demo does with an image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vrd_d2.data.record_values import is_finite_number
from vrd_d2.demo.models import DemoModel
from vrd_d2.inference.batch_records import printable
from vrd_d2.media.images import read_image
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.html_page import GraphPage, graph_page

MAX_BOXES = 50  # their pairs are what takes time
MAX_TEXTS = 50_000  # triplets of words, each of which is encoded when it first comes up

# A row of the table of boxes: x, y, width, height in pixels, and the label.
BoxRow = Sequence


@dataclass(frozen=True)
class Answer:
    """What the demo shows for an image: the page as a string, and files to download."""

    graph: SceneGraph
    page: str
    files: list[Path]


@dataclass(frozen=True)
class Example:
    """An image to begin with, and rows of the table of boxes, where they are known."""

    file: Path
    rows: list[list]


def names_of(text: str) -> list[str]:
    """Return names that were typed one a line, without empty lines and spaces around them."""
    return [name for line in (text or "").splitlines() if (name := " ".join(line.split()))]


def boxes_of(rows: Sequence[BoxRow]) -> tuple[list[list[float]], list[str]]:
    """Return boxes XYXY and labels of the table; rows without any entry are left out.

    Raises:
        ValueError: names the row that is not complete, or is no box.
    """
    boxes, labels = [], []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, (list, tuple)) or len(row) != 5:
            raise ValueError(f"box {number} is no row of x, y, width, height and label")
        *numbers, label = row
        if not any(str(value).strip() for value in row if value is not None):
            continue
        try:
            x, y, width, height = (float(value) for value in numbers)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"box {number}: x, y, width and height must be numbers") from error
        if not (width > 0 and height > 0):
            raise ValueError(f"box {number}: width and height must be greater than 0")
        if not all(map(math.isfinite, (x, y, width, height))):
            raise ValueError(f"box {number}: its numbers must be finite")
        boxes.append([x, y, x + width, y + height])
        labels.append(" ".join(str(label or "").split()))
        if printable(labels[-1]) != labels[-1]:
            raise ValueError(f"box {number}: its label {labels[-1]!r} has characters of no text")
    if len(boxes) > MAX_BOXES:
        raise ValueError(f"{len(boxes)} boxes: at most {MAX_BOXES}")
    return boxes, labels


def answer(
    model: DemoModel,
    image: str | Path,
    folder: Path,
    *,
    rows: Sequence[BoxRow] = (),
    objects: Sequence[str] = (),
    predicates: Sequence[str] = (),
    top_k: int = 20,
    min_score: float = 0.0,
    min_entity_score: float = 0.0,
    heat_maps: bool = False,
    max_pixels: int = 50_000_000,
) -> Answer:
    """Predict one image.

    Args:
        model: whose task says what of the rest it needs.
        image: the file.
        folder: an empty one, for the files.
        rows: of the table of boxes; none: the model finds its own.
        objects, predicates: names that replace those of the model, if it takes other words; in
            PredCls the objects are those of the table.
        top_k, min_score, min_entity_score: see :class:`~vrd_d2.inference.predictor.Predictor`.
        heat_maps: one for each relation, where the model has them.
        max_pixels: a larger image is refused.

    Raises:
        ValueError: with a message for the user.
    """
    for name, value in (("min_score", min_score), ("min_entity_score", min_entity_score)):
        if not is_finite_number(value):
            raise ValueError(f"{name} is {value!r}: it must be a number")
    pixels, notes = _read(image, max_pixels)
    boxes, labels = boxes_of(rows)
    with model.lock:
        predictor = model.predictor
        if predictor.needs_boxes and not boxes:
            raise ValueError(
                "this task needs boxes: fill in the table, or let the detector find some"
            )
        needs_labels = bool(boxes) and predictor.needs_labels
        if needs_labels and not all(labels):
            raise ValueError(f"box {labels.index('') + 1} has no label, which this task needs")
        if model.takes_words:
            if model.task.classes_given:
                objects = list(dict.fromkeys(labels))
            own = model.vocabulary
            objects, predicates = objects or own.objects, predicates or own.predicates
            names = min(len(objects), len(boxes))
            if names**2 * len(predicates) > MAX_TEXTS:
                raise ValueError(
                    f"boxes of up to {names} names and {len(predicates)} predicates are "
                    f"{names**2 * len(predicates)} triplets: at most {MAX_TEXTS}; take fewer"
                )
            predictor = model.with_words(objects, predicates)
        options = {
            "boxes": boxes or None,
            "labels": labels if needs_labels else None,
            "top_k": top_k,
            "min_score": min_score,
            "min_entity_score": 0.0 if boxes else min_entity_score,
        }
        if heat_maps and model.explains:
            graph, maps = predictor.explain(pixels, choose=top_k, **options)
        else:
            graph, maps = predictor(pixels, **options), {}
    name = Path(image).name
    facts = [*notes, f"{model.name}, {model.task.title}"]
    page = graph_page([GraphPage(graph.view(), pixels, name, facts, maps)])
    files = [folder / "scene_graph.json", folder / "scene_graph.png", folder / "scene_graph.html"]
    files[0].write_text(graph.to_json(indent=1), encoding="utf-8")
    Image.fromarray(graph.draw(pixels)).save(files[1])
    files[2].write_text(page, encoding="utf-8")
    return Answer(graph, page, files)


def _read(image: str | Path, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    """Read an image; a message has the name of the upload as the user knows it."""
    try:
        return read_image(image, max_pixels=max_pixels)
    except ValueError as error:
        raise ValueError(str(error).replace(str(image), Path(image).name)) from error


def table_rows(graph: SceneGraph) -> list[list]:
    """Return the entities of a graph as rows of the table, in whole pixels."""
    return [
        [round(x1), round(y1), round(x2 - x1), round(y2 - y1), label]
        for (x1, y1, x2, y2), label in zip(graph.boxes.tolist(), graph.labels, strict=True)
    ]


def found_boxes(
    detector: DemoModel,
    image: str | Path,
    *,
    min_entity_score: float = 0.3,
    max_pixels: int = 50_000_000,
) -> list[list]:
    """Return what a model of SGDet finds, as rows of the table.

    Raises:
        ValueError: the image cannot be read, or nothing is found in it.
    """
    pixels, _ = _read(image, max_pixels)
    with detector.lock:
        graph = detector.predictor(pixels, min_entity_score=min_entity_score, max_overlap=0.5)
    if not len(graph.labels):
        raise ValueError("the detector finds nothing in this image: fill in the table yourself")
    return table_rows(graph)[:MAX_BOXES]
