#!/usr/bin/env python
"""Draw the figures of README.md: a scene and its graph, the three tasks, RelCLIP as a diagram.

    bash tools/quickstart.sh
    python tools/draw_readme_images.py

The scene is image SCENE of the test split of the drawn dataset, painted at four times its size. Its
boxes and names are given; the relations are the best that the quick start's PredCls model predicts
on the image at its own size.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "datasets"))
import prepare_scenes  # noqa: E402
from scene_generator import layout  # noqa: E402

from vrd_d2 import SceneGraph  # noqa: E402
from vrd_d2.commands.arguments import Parser  # noqa: E402
from vrd_d2.commands.run_tool import run_tool  # noqa: E402
from vrd_d2.visualization.canvas import (  # noqa: E402
    Canvas,
    Colour,
    Rectangle,
    chip_size,
    entity_colour,
    text_size,
)
from vrd_d2.visualization.placement import (  # noqa: E402
    GraphSpace,
    Row,
    number_names,
    place_on_image,
)

SCENE, RELATIONS = 426, 5
SEED = 0  # of datasets/prepare_scenes.py
ENLARGED = 4
WIDTH = 1600  # twice the width at which the figures are shown
INK: Colour = (36, 41, 47)
GREY: Colour = (110, 118, 129)
PAPER: Colour = (246, 248, 250)
LINE: Colour = (208, 215, 222)
BLUE: Colour = (9, 105, 218)


def paint_scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a test image of the drawn dataset, uint8 RGB, and the same scene ENLARGED times."""
    image = prepare_scenes.make_record(SEED, 1.0, "test", index)["image"]
    rng = np.random.default_rng([SEED, prepare_scenes.SPLITS.index("test"), index, 0])
    figures, _, height, width = prepare_scenes.draft(rng)
    canvas = np.clip(layout.background(rng, height, width), 0, 255).astype(np.uint8)
    canvas = cv2.resize(canvas, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    for _, shape in layout.ordered(figures):
        large = replace(shape, points=shape.points * ENLARGED, width=shape.width * ENLARGED)
        dark = layout.shade(shape.colour, 0.55)
        if shape.width > 2:
            layout.stroke(canvas, large, dark, cv2.LINE_AA, 1.6 * ENLARGED)
        layout.stroke(canvas, large, shape.colour, cv2.LINE_AA)
        if not shape.width and np.ptp(shape.points, axis=0).min() > 4:
            outline = replace(large, width=0.7 * ENLARGED, closed=True)
            layout.stroke(canvas, outline, dark, cv2.LINE_AA)
    return image, canvas


def given_objects(index: int) -> tuple[np.ndarray, list[str]]:
    """Return the boxes (M, 4) and the M names of the objects of a test image."""
    record = prepare_scenes.make_record(SEED, prepare_scenes.ANNOTATION_RATE, "test", index)
    boxes = np.array([entry["bbox"] for entry in record["objects"]])
    return boxes, [entry["name"] for entry in record["objects"]]


def related_part(graph: SceneGraph) -> SceneGraph:
    """Return the graph without the objects that have no relation."""
    used = sorted({entity for row in graph.relations for entity in row[:2]})
    rows = [(used.index(s), used.index(o), name) for s, o, name, *_ in graph.relations]
    return SceneGraph(np.asarray(graph.boxes)[used], [graph.labels[i] for i in used], rows)


def rows_of(graph: SceneGraph) -> list[Row]:
    """Return the relations as the placement of labels takes them."""
    return [(*row[:3], None, None) for row in graph.relations]


def heading(canvas: Canvas, rectangle: Rectangle, text: str, size: float = 25) -> None:
    """Write bold text in the middle above a rectangle."""
    x = (rectangle[0] + rectangle[2] - text_size(text, size, bold=True)[0]) / 2
    canvas.text((x, rectangle[1] - 1.05 * size), text, size, INK, bold=True)


def framed(canvas: Canvas, image: np.ndarray, rectangle: Rectangle) -> None:
    """Put an image into a rectangle, with a thin line around it."""
    canvas.paste(image, rectangle)
    canvas.rectangle(rectangle, outline=LINE, width=1.5)


def draw_boxes(
    canvas: Canvas, rectangle: Rectangle, boxes: np.ndarray, colours: list[Colour]
) -> None:
    """Draw boxes, (M, 4) in pixels of the rectangle's own image."""
    for box, colour in zip(boxes, colours, strict=True):
        low = np.maximum(box[:2] + rectangle[:2], rectangle[:2])
        high = np.minimum(box[2:] + rectangle[:2], rectangle[2:])
        canvas.rectangle((*low, *high), outline=(255, 255, 255), width=6)
        canvas.rectangle((*(low + 1), *(high - 1)), outline=colour, width=4)


def draw_on_image(
    canvas: Canvas,
    image: np.ndarray,
    graph: SceneGraph,
    rectangle: Rectangle,
    unit: float,
    boxes_given: bool = False,
    classes_given: bool = False,
) -> None:
    """Draw the image with boxes, names and arrows, in grey what is given; boxes are unscaled."""
    framed(canvas, image, rectangle)
    scale = (rectangle[2] - rectangle[0]) / image.shape[1] * ENLARGED
    boxes = scale * np.asarray(graph.boxes)
    names = number_names(graph.labels)
    colours = [GIVEN if boxes_given else entity_colour(i) for i in range(len(boxes))]
    draw_boxes(canvas, rectangle, boxes, colours)
    moved = boxes + np.tile(rectangle[:2], 2)
    placement = place_on_image(rectangle, moved, names, rows_of(graph), unit)
    placement.draw(canvas, names, unit=unit, paper=False)
    if classes_given:
        for entity, chip in placement.chips.items():
            canvas.chip(chip, names[entity], 13 * unit, GIVEN)


def draw_hero(image: np.ndarray, graph: SceneGraph) -> Canvas:
    """Draw scene, boxes with arrows, and graph side by side."""
    gap, top, unit = 46.0, 52.0, 1.62
    widths = (372.0, 620.0, WIDTH - 2 * gap - 992.0 - 2)
    height = widths[1] * image.shape[0] / image.shape[1]
    canvas = Canvas(WIDTH, top + height + 4)
    left, panels = 1.0, []
    for width in widths:
        panels.append((left, top, left + width, top + height))
        left += width + gap
    # The image itself is smaller, half way down.
    small = widths[0] * image.shape[0] / image.shape[1]
    middle = top + height / 2
    panels[0] = (panels[0][0], middle - small / 2, panels[0][2], middle + small / 2)
    for panel, text in zip(panels, ("image", "boxes and relations", "scene graph"), strict=True):
        heading(canvas, panel, text)
    framed(canvas, image, panels[0])
    draw_on_image(canvas, image, graph, panels[1], unit)
    canvas.rectangle(panels[2], fill=PAPER, outline=LINE, width=1.5)
    names = number_names(graph.labels)
    space = GraphSpace(names, np.asarray(graph.boxes), rows_of(graph), unit)
    space.place(panels[2]).draw(canvas, names, unit=unit, paper=True)
    for before, after in itertools.pairwise(panels):
        arrow(canvas, (before[2] + 5, middle), (after[0] - 5, middle))
    return canvas


# Title, what is given, what is predicted: of boxes, classes, predicates.
TASKS = (
    ("PredCls", "boxes and classes", "predicates", True, True),
    ("SGCls", "boxes", "classes and predicates", True, False),
    ("SGDet", "the image alone", "boxes, classes and predicates", False, False),
)
GIVEN: Colour = (66, 74, 83)


def draw_tasks(image: np.ndarray, graph: SceneGraph) -> Canvas:
    """Draw for each task what is given, above, and what is predicted, below."""
    gap, left, unit = 24.0, 152.0, 1.5
    side = (WIDTH - left - 2 * gap) / 3
    height = side * image.shape[0] / image.shape[1]
    first, second = 96.0, 96.0 + height + 66
    canvas = Canvas(WIDTH, second + height + 4)
    for y, text in ((first, "given"), (second, "predicted")):
        canvas.text((4, y + height / 2), text, 24, INK, bold=True)
    for number, (title, given, predicted, boxes_given, classes_given) in enumerate(TASKS):
        x = left + number * (side + gap)
        centred(canvas, (x, 4, x + side, 44), [(title, 28, INK, True)], 0)
        for y, text in ((first, given), (second, predicted)):
            centred(canvas, (x, y - 40, x + side, y), [(text, 22, INK, False)], 0)
        draw_given(
            canvas, image, graph, (x, first, x + side, first + height), boxes_given, classes_given
        )
        panel = (x, second, x + side, second + height)
        draw_on_image(canvas, image, graph, panel, unit, boxes_given, classes_given)
    return canvas


def draw_given(
    canvas: Canvas,
    image: np.ndarray,
    graph: SceneGraph,
    rectangle: Rectangle,
    boxes_given: bool,
    classes_given: bool,
) -> None:
    """Draw the image with what a task gives of the graph, in grey."""
    framed(canvas, image, rectangle)
    boxes = (rectangle[2] - rectangle[0]) / image.shape[1] * ENLARGED * np.asarray(graph.boxes)
    if boxes_given:
        draw_boxes(canvas, rectangle, boxes, [GIVEN] * len(boxes))
    if classes_given:
        names = number_names(graph.labels)
        moved = boxes + np.tile(rectangle[:2], 2)
        chips = place_on_image(rectangle, moved, names, rows_of(graph), 1.5).chips
        for entity, chip in chips.items():
            canvas.chip(chip, names[entity], 13 * 1.5, GIVEN)


# ---- RelCLIP as a diagram: every box names the files below vrd_d2/modeling that do it ----------
FROZEN, TRAINED, PLAIN = (221, 236, 250), (255, 233, 207), (255, 255, 255)
# name -> (left, top, width, height), fill, lines of text, files
DIAGRAM: dict[str, tuple[Rectangle, Colour, list[str], list[str]]] = {
    "map": ((322, 40, 290, 128), FROZEN, ["CLIP image encoder", "image to feature map"],
            ["encoders/clip.py"]),
    "entities": ((322, 236, 290, 128), FROZEN, ["Faster R-CNN", "or the boxes you give"],
                 ["relation_model.py"]),
    "pool": ((676, 40, 290, 128), PLAIN, ["ROI means", "of boxes and union boxes"],
             ["encoders/pooling.py"]),
    "pairs": ((676, 236, 290, 128), PLAIN, ["ordered pairs", "union boxes, positions"],
              ["pairs.py", "geometry.py"]),
    "adaptors": ((1030, 40, 240, 324), TRAINED,
                 ["adaptors", "1 linear layer and", "2 attention layers", "over all boxes,",
                  "over all pairs"],
                 ["relation_heads/features.py", "relation_heads/relclip.py"]),
    "classifiers": ((1334, 40, 256, 128), TRAINED, ["classifiers", "class, predicate"],
                    ["relation_heads/predictor.py"]),
    "text": ((676, 468, 290, 128), FROZEN, ["CLIP text encoder", "text to embedding"],
             ["text/language.py"]),
    "rcl": ((1030, 468, 240, 128), TRAINED, ["contrastive loss", "pair matches text"],
            ["relational_contrast.py"]),
    "words": ((1334, 468, 240, 128), FROZEN, ["word vectors", "choose negatives"],
              ["text/word_vectors.py"]),
}  # fmt: skip
# (from, to), each a box and where on it: 0 to 1 across and down
FLOW = [
    (("map", 1, 0.5), ("pool", 0, 0.5)),
    (("entities", 1, 0.5), ("pairs", 0, 0.5)),
    (("pairs", 0.5, 0), ("pool", 0.5, 1)),
    (("pool", 1, 0.5), ("adaptors", 0, 0.198)),
    (("pairs", 1, 0.5), ("adaptors", 0, 0.802)),
    (("adaptors", 1, 0.198), ("classifiers", 0, 0.5)),
    (("adaptors", 0.5, 1), ("rcl", 0.5, 0)),
    (("text", 1, 0.5), ("rcl", 0, 0.5)),
    (("words", 0, 0.5), ("rcl", 1, 0.5)),
]


def arrow(canvas: Canvas, *points: tuple[float, float]) -> None:
    canvas.arrow(np.array(points, dtype=float), GREY, 3.5)


def centred(canvas: Canvas, rectangle: Rectangle, lines: list[tuple], step: float) -> None:
    """Write lines, (text, size, colour, bold), in the middle of a rectangle."""
    x1, y1, x2, y2 = rectangle
    y = (y1 + y2) / 2 - step * (len(lines) - 1) / 2
    for text, size, colour, bold in lines:
        x = (x1 + x2 - text_size(text, size, bold=bold)[0]) / 2
        canvas.text((x, y), text, size, colour, bold=bold)
        y += step


def draw_diagram(image: np.ndarray) -> Canvas:
    """Draw the way of an image through RelCLIP, and what joins it in training."""
    canvas = Canvas(WIDTH, 690)
    canvas.rectangle((8, 420, 1592, 632), fill=PAPER, outline=LINE, width=1.5, radius=14)
    centred(canvas, (20, 468, 300, 596), [("in training only", 23, GREY, True)], 0)
    prompt = [(text, 21, INK, False) for text in ("“a photo of a man", "riding a horse.”")]
    centred(canvas, (322, 468, 612, 596), prompt, 31)
    # The image goes to the encoder and to the detector.
    area = (10.0, 102.0, 258.0, 102 + 248 * image.shape[0] / image.shape[1])
    heading(canvas, area, "image", 23)
    framed(canvas, image, area)
    arrow(canvas, (262, 140), (318, 104))
    arrow(canvas, (262, 264), (318, 300))
    arrow(canvas, (598, 532), (672, 532))
    for (x, y, width, height), fill, lines, files in DIAGRAM.values():
        rectangle = (x, y, x + width, y + height)
        canvas.rectangle(rectangle, fill=fill, outline=GREY, width=1.5, radius=10)
        # A long path breaks after its folder.
        names = "  ".join(files) if len("".join(files)) < 24 else "\n".join(files)
        names = names.replace("heads/", "heads/\n") if width < 270 else names
        texts = [(line, 21, INK, i == 0) for i, line in enumerate(lines)]
        texts += [(name, 19, BLUE, False) for name in dict.fromkeys(names.split("\n"))]
        centred(canvas, rectangle, texts, 29 if len(texts) < 5 else 38)
    for ends in FLOW:
        points = []
        for name, across, down in ends:
            x, y, width, height = DIAGRAM[name][0]
            points.append((x + across * width, y + down * height))
        # Four pixels of air at both ends.
        along = np.sign(np.subtract(points[1], points[0]).round())
        arrow(canvas, *(np.array(points) + np.array([[4], [-4]]) * along))
    arrow(canvas, (1462, 172), (1462, 226))
    draw_triplet(canvas, (1334, 232, 1590, 364))
    legend(canvas, 660)
    return canvas


def draw_triplet(canvas: Canvas, rectangle: Rectangle) -> None:
    """Draw an example of what comes out, as two chips and an arrow from the one to the other."""
    x1, y1, x2, y2 = rectangle
    for number, (text, y) in enumerate((("man", y1), ("horse", y2 - 36))):
        width, height = chip_size(text, 22)
        x = (x1 + x2 - width) / 2
        canvas.chip((x, y, x + width, y + height), text, 22, entity_colour((1, 3)[number]))
    middle = (x1 + x2) / 2
    arrow(canvas, (middle, y1 + 36), (middle, y2 - 40))
    canvas.text((middle + 14, (y1 + y2) / 2), "riding", 20, INK)


def legend(canvas: Canvas, y: float) -> None:
    """Say what the colours mean and where the files are."""
    x = 12.0
    for fill, text in ((FROZEN, "frozen"), (TRAINED, "trained"), (PLAIN, "no weights")):
        canvas.rectangle((x, y - 12, x + 34, y + 12), fill=fill, outline=GREY, width=1.5, radius=5)
        canvas.text((x + 44, y), text, 20, INK)
        x += 44 + text_size(text, 20)[0] + 34
    canvas.text((x + 10, y), "files in blue are below", 20, INK)
    x += 20 + text_size("files in blue are below", 20)[0]
    canvas.text((x, y), "vrd_d2/modeling/", 20, BLUE)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--config-file", default="configs/quickstart/relclip_predcls.yaml")
    parser.add_argument("--weights", default="output/quickstart/predcls/model_final.pth")
    parser.add_argument("--output", type=Path, default=ROOT / ".github/images")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Draw and write the figures."""
    from vrd_d2 import Predictor

    image, large = paint_scene(SCENE)
    boxes, labels = given_objects(SCENE)
    predictor = Predictor(args.config_file, args.weights)
    graph = predictor(image, boxes=boxes, labels=labels, top_k=RELATIONS)
    print(*(" ".join(triplet) for triplet in graph.triplets), sep="\n")
    graph = related_part(graph)
    Image.fromarray(image).save(args.output / "scene.png", optimize=True)
    for name, canvas in (
        ("scene_graph", draw_hero(large, graph)),
        ("tasks", draw_tasks(large, graph)),
        ("relclip", draw_diagram(large)),
    ):
        Image.fromarray(canvas.array()).save(args.output / f"{name}.png", optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
