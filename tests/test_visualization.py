"""Pictures of scene graphs: which relation has which status, what is drawn, and where labels go."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vrd_d2 import drawing, visualization
from vrd_d2.drawing import LabelPlacer, curve, entity_colour, shorten
from vrd_d2.scene_graph import (
    SceneGraph,
    compare_relations,
    ground_truth_graph,
    predicted_graph,
    read_picture,
)
from vrd_d2.visualization import (
    STATUS,
    draw_ground_truth,
    draw_predictions,
    draw_scene_graph,
    save_image,
)

GREY = np.full((300, 400, 3), 90, np.uint8)
MAN_HORSE = np.array([[40.0, 60, 150, 280], [200, 80, 380, 290]])


class Names:
    objects = ("man", "horse", "hat")
    predicates = ("on", "riding", "wearing")


class CocoNames:  # Detectron2 metadata
    thing_classes = Names.objects
    predicate_classes = Names.predicates


def instances(boxes: np.ndarray, classes: list[int], scores: list[float]) -> Instances:
    return Instances(
        (300, 400),
        pred_boxes=Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes, dtype=torch.long),
        scores=torch.tensor(scores),
    )


def relations(pairs: list, predicate_scores: list) -> Instances:
    return Instances(
        (300, 400),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        predicate_scores=torch.tensor(predicate_scores, dtype=torch.float32).reshape(-1, 3),
    )


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(-1) <= 2).sum())


def overlapping(rectangles: list) -> list[tuple]:
    """Brute force: pairs of rectangles that share area."""
    return [
        (a, b)
        for i, a in enumerate(rectangles)
        for b in rectangles[:i]
        if min(a[2], b[2]) - max(a[0], b[0]) > 1e-6 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-6
    ]


# ---- which relation has which status ----


def test_compare_by_hand() -> None:
    truth = SceneGraph(
        np.array([[0, 0, 99, 99], [100, 0, 199, 99], [0, 0, 40, 40]]),
        ["man", "horse", "hat"],
        [(0, 1, "riding"), (0, 2, "wearing"), (1, 0, "under")],
    )
    predicted = SceneGraph(
        # The man is found, the horse half (IoU 0.5 exactly), the hat is called a man.
        np.array([[0, 0, 99, 90], [100, 0, 199, 49], [0, 0, 40, 40]]),
        ["man", "horse", "man"],
        [(0, 1, "riding"), (0, 2, "wearing"), (1, 0, "near")],
        [0.9, 0.5, 0.3],
    )
    result = compare_relations(predicted, truth)
    assert result.relations == [
        (0, 1, "riding", "correct"),
        (0, 2, "wearing", "extra"),
        (1, 0, "near", "extra"),
        (0, 3, "wearing", "missed"),  # the found man, and a hat that nobody found
        (1, 0, "under", "missed"),
    ]
    assert list(result.labels) == ["man", "horse", "man", "hat"]
    assert result.boxes[3].tolist() == [0, 0, 40, 40]
    assert result.scores == [0.9, 0.5, 0.3, None, None]

    strict = compare_relations(predicted, truth, iou_threshold=0.51)
    assert strict.relations[0] == (0, 1, "riding", "extra")
    assert (0, 3, "riding", "missed") in strict.relations


def test_compare_counts_both_border_pixels() -> None:
    # 10 of 20 pixels: an IoU of 0.5 only where both ends are counted (else 9 of 19).
    truth = SceneGraph(np.array([[0, 0, 19, 0]]), ["man"], [(0, 0, "on")])
    predicted = SceneGraph(np.array([[0, 0, 9, 0]]), ["man"], [(0, 0, "on")])
    assert compare_relations(predicted, truth).relations == [(0, 0, "on", "correct")]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_compare_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def graph(boxes: np.ndarray) -> SceneGraph:
        size = int(rng.integers(0, 8)) if len(boxes) else 0
        rows = [
            (*rng.integers(0, len(boxes), 2), ["on", "near"][rng.integers(2)])
            for _ in range(size)
        ]
        return SceneGraph(boxes, [Names.objects[rng.integers(2)] for _ in boxes], rows)

    corners = rng.integers(0, 20, (int(rng.integers(0, 6)), 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 20, corners.shape)], 1).astype(float)
    truth = graph(boxes)
    moved = boxes + rng.integers(-3, 4, boxes.shape)
    predicted = graph(moved[: int(rng.integers(0, len(boxes) + 1))])

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        def pixels(box: np.ndarray) -> float:
            return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)

        width = min(a[2], b[2]) - max(a[0], b[0]) + 1
        height = min(a[3], b[3]) - max(a[1], b[1]) + 1
        shared = max(width, 0) * max(height, 0)
        union = pixels(a) + pixels(b) - shared
        return shared / union if union else 0.0

    def meets(p: tuple, t: tuple) -> bool:
        return p[2] == t[2] and all(
            predicted.labels[i] == truth.labels[j]
            and iou(predicted.boxes[i], truth.boxes[j]) >= 0.5
            for i, j in zip(p[:2], t[:2], strict=True)
        )

    result = compare_relations(predicted, truth)
    statuses = [row[3] for row in result.relations]
    met = [any(meets(p, t) for p in predicted.relations) for t in truth.relations]
    expected = [
        "correct" if any(meets(p, t) for t in truth.relations) else "extra"
        for p in predicted.relations
    ]
    assert statuses == expected + ["missed"] * met.count(False)
    missed = [t for t, was_met in zip(truth.relations, met, strict=True) if not was_met]
    for row, true_row in zip(result.relations[len(expected) :], missed, strict=True):
        assert row[2] == true_row[2]
        for entity, true_entity in zip(row[:2], true_row[:2], strict=True):
            assert result.labels[entity] == truth.labels[true_entity]
            assert iou(result.boxes[entity], truth.boxes[true_entity]) >= 0.5


# ---- graphs of model outputs and of ground truth ----


def test_predicted_graph_ranks_as_brute_force() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(3).astype(np.float32).tolist()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    table = rng.random((6, 3)).astype(np.float32)
    output = {
        "instances": instances(np.zeros((3, 4)), [0, 1, 2], scores),
        "relations": relations(pairs, table.tolist()),
    }
    ranked = sorted(
        (
            (-float(row.max()) * scores[i] * scores[j], i, j, Names.predicates[int(row.argmax())])
            for (i, j), row in zip(pairs, table, strict=True)
        )
    )[:4]
    for vocabulary in (Names, CocoNames):
        graph = predicted_graph(output, vocabulary, top_k=4)
        assert graph.relations == [row[1:] for row in ranked]
        np.testing.assert_allclose(graph.scores, [-row[0] for row in ranked], rtol=1e-6)
        assert list(graph.labels) == list(Names.objects)


def test_predicted_graph_keeps_the_order_of_ties_and_takes_no_pair() -> None:
    pairs = [(1, 0), (0, 1), (1, 2)]
    output = {
        "instances": instances(np.zeros((3, 4)), [0, 1, 2], [1.0, 1.0, 1.0]),
        "relations": relations(pairs, [[0.5, 0.2, 0.1]] * 3),
    }
    assert [row[:2] for row in predicted_graph(output, Names).relations] == pairs
    output["relations"] = relations([], [])
    assert predicted_graph(output, Names).relations == []
    output["instances"] = instances(np.zeros((0, 4)), [], [])
    assert predicted_graph(output, Names).boxes.shape == (0, 4)


def test_ground_truth_of_a_dataset_dict_and_of_its_mapped_example_agree(tmp_path: Path) -> None:
    red = np.zeros((30, 40, 3), np.uint8)
    red[..., 0] = 200
    save_image(tmp_path / "deep" / "red.png", red)
    record = {
        "file_name": str(tmp_path / "deep" / "red.png"),
        "image_id": 7,
        "height": 30,
        "width": 40,
        "annotations": [
            {"bbox": [4, 6, 10, 12], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "id": 1},
            {"bbox": [20, 3, 36, 24], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "id": 2},
        ],
        "relations": np.array([[0, 1, 1]]),
    }
    resized = Instances(
        (60, 120),  # twice the height, three times the width
        gt_boxes=Boxes(torch.tensor([[12.0, 12, 42, 36], [60, 6, 108, 48]])),
        gt_classes=torch.tensor([0, 1]),
    )
    image = torch.zeros(3, 60, 120, dtype=torch.uint8)
    image[2] = 200  # BGR
    mapped = {
        **record,
        "image": image,
        "instances": resized,
        "relations": torch.tensor([[0, 1, 1]]),
    }
    del mapped["annotations"]
    for example in (record, mapped):
        graph = ground_truth_graph(example, Names)
        np.testing.assert_allclose(graph.boxes, [[4, 6, 14, 18], [20, 3, 36, 24]])
        assert list(graph.labels) == ["man", "horse"]
        assert graph.relations == [(0, 1, "riding")]
        np.testing.assert_array_equal(read_picture(example), red)
    np.testing.assert_array_equal(
        draw_ground_truth(record, Names), draw_ground_truth(mapped, CocoNames)
    )
    with pytest.raises(ValueError, match="picture 7 has no ground truth"):
        ground_truth_graph({"image_id": 7}, Names)
    with pytest.raises(ValueError, match="thing_classes"):
        ground_truth_graph(record, object())


# ---- what is drawn ----


@pytest.mark.parametrize("status", [*STATUS])
def test_status_decides_the_colour_on_the_picture(status: str) -> None:
    drawn = draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, "riding", status)])
    picture = drawn[:, :960]
    for name, (colour, _) in STATUS.items():
        assert (count(picture, colour) > 200) == (name == status), name
        # The legend names every status, also those that do not occur.
        assert count(drawn[:, 960:], colour) > 100


def test_colours_without_status_are_those_of_the_entities() -> None:
    drawn = draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, "riding")])
    assert drawn.dtype == np.uint8 and drawn.shape[0] == 720 and drawn.shape[2] == 3
    for colour, _ in STATUS.values():
        assert not count(drawn, colour)
    for entity in (0, 1):
        assert count(drawn[:, :960], entity_colour(entity)) > 1000  # box and name
        assert count(drawn[:, 960:], entity_colour(entity)) > 200  # list
    # The boxes are where they belong: 960 / 400 = 2.4 times as large.
    x1, y1, x2, y2 = (MAN_HORSE[1] * 2.4).round().astype(int)
    assert count(drawn[(y1 + y2) // 2, x1 - 3 : x1 + 4], entity_colour(1))
    assert count(drawn[y2 - 4 : y2 + 3, (x1 + x2) // 2], entity_colour(1))


def test_arrow_ends_in_a_head_at_the_object() -> None:
    """The head is wider than the line, so more of the subject's colour lies near the object."""
    boxes = np.array([[10.0, 120, 110, 280], [290, 120, 390, 280]])
    there, back = (
        draw_scene_graph(GREY, boxes, ["man", "horse"], [row])[:, :960]
        for row in [(0, 1, "on", "extra"), (1, 0, "on", "extra")]
    )
    colour = STATUS["extra"][0]
    left, right = slice(0, 300), slice(500, 960)
    assert count(there[:, right], colour) > count(back[:, right], colour)
    assert count(back[:, left], colour) > count(there[:, left], colour)


def test_drawing_is_deterministic_and_leaves_its_input_alone() -> None:
    image, boxes = GREY.copy(), MAN_HORSE.copy()
    rows = [(0, 1, "riding"), (1, 0, "under")]
    first = draw_scene_graph(image, boxes, ["man", "horse"], rows, scores=[0.9, None])
    second = draw_scene_graph(image, boxes, ["man", "horse"], rows, scores=[0.9, None])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, GREY)
    np.testing.assert_array_equal(boxes, MAN_HORSE)
    repeated = draw_scene_graph(
        image, boxes, ["man", "horse"], [*rows, rows[0]], scores=[0.9, None, 0.1]
    )
    np.testing.assert_array_equal(first, repeated)


def test_unrelated_entities_are_drawn_only_if_there_is_no_relation() -> None:
    boxes = np.concatenate([MAN_HORSE, [[5, 5, 35, 40]]])
    labels = ["man", "horse", "hat"]
    related = draw_scene_graph(GREY, boxes, labels, [(0, 1, "on")])
    assert not count(related, entity_colour(2))
    assert count(draw_scene_graph(GREY, boxes, labels, []), entity_colour(2)) > 200


def test_predictions_against_ground_truth() -> None:
    output = {
        "instances": instances(MAN_HORSE, [0, 1], [0.9, 0.8]),
        "relations": relations([(0, 1), (1, 0)], [[0.1, 0.8, 0.0], [0.6, 0.1, 0.0]]),
    }
    truth = SceneGraph(MAN_HORSE, ["man", "horse"], [(0, 1, "riding"), (0, 1, "on")])
    alone = draw_predictions(GREY, output, Names)
    against = draw_predictions(GREY, output, Names, ground_truth=truth)
    for colour, _ in STATUS.values():
        assert not count(alone, colour) and count(against[:, :960], colour) > 200
    # The best one alone is right, and the other prediction does not exist any more.
    best = draw_predictions(GREY, output, Names, ground_truth=truth, top_k=1)[:, :960]
    assert count(best, STATUS["correct"][0]) and not count(best, STATUS["extra"][0])


EDGE_CASES = {
    "nothing": ((300, 400), [], [], []),
    "no relation": ((300, 400), [[10, 10, 50, 60]], ["man"], []),
    "one pixel": (
        (1, 1),
        [[0, 0, 1, 1], [0, 0, 1, 1]],
        ["man", "horse"],
        [(0, 1, "on"), (1, 0, "on")],
    ),
    "very tall": ((900, 1), [[0, 0, 1, 90], [0, 300, 1, 800]], ["man", "horse"], [(0, 1, "on")]),
    "very wide": ((1, 900), [[0, 0, 90, 1], [300, 0, 800, 1]], ["man", "horse"], [(0, 1, "on")]),
    "outside": (
        (30, 40),
        [[-90, -90, -10, -10], [35, 20, 400, 300]],
        ["man", "horse"],
        [(0, 1, "on")],
    ),
    "no area": ((30, 40), [[5, 5, 5, 5], [9, 9, 9, 20]], ["man", "horse"], [(0, 1, "on")]),
    "corners exchanged": ((30, 40), [[20, 25, 5, 5], [9, 9, 12, 20]], ["a", "b"], [(0, 1, "on")]),
    "itself": ((300, 400), [[50, 50, 200, 200]], ["man"], [(0, 0, "in front of")]),
    "same box": ((300, 400), [[50, 50, 200, 200]] * 3, ["man"] * 3, [(0, 1, "on"), (1, 2, "on")]),
    "long names": (
        (30, 40),
        [[1, 1, 20, 20], [5, 5, 30, 20]],
        ["x" * 300, "y\nz " * 90],
        [(0, 1, "p " * 99)],
    ),
    "no names": ((30, 40), [[1, 1, 20, 20], [5, 5, 30, 20]], ["", ""], [(0, 1, "")]),
    "large": ((1000, 3000), [[1, 1, 20, 20], [5, 5, 2900, 900]], ["a", "b"], [(0, 1, "on")]),
}


@pytest.mark.parametrize("name", EDGE_CASES)
@pytest.mark.parametrize("status", [None, "missed"])
def test_edge_cases_are_drawn(name: str, status: str | None) -> None:
    (height, width), boxes, labels, rows = EDGE_CASES[name]
    image = np.full((height, width, 3), 90, np.uint8)
    rows = [(*row, status) for row in rows]
    drawn = draw_scene_graph(image, boxes, labels, rows, scores=[1e-9] * len(rows))
    assert drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3
    assert 200 <= drawn.shape[0] <= 1700 and 300 <= drawn.shape[1] <= 2600
    for entity in {entity for row in rows for entity in row[:2]}:
        assert count(drawn, entity_colour(entity)), "a related entity has no name"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_rgb": GREY.astype(float)}, "float64"),
        ({"image_rgb": GREY[..., 0]}, r"\(300, 400\)"),
        ({"image_rgb": GREY[:0]}, "no pixels"),
        ({"labels": ["man"]}, "2 boxes but 1 labels"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, np.nan, 1]]}, "box 1 is not finite"),
        ({"relations": [(0, 2, "on")]}, r"\(0, 2, 'on'\) refers to none of the 2 boxes"),
        ({"relations": [(0, -1, "on")]}, "refers to none"),
        ({"relations": [(0, 1, "on", "wrong")]}, "'wrong': choose one of correct, missed, extra"),
        ({"scores": [1.0, 2.0]}, "1 relations but 2 scores"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {
        "image_rgb": GREY,
        "boxes": MAN_HORSE,
        "labels": ["man", "horse"],
        "relations": [(0, 1, "on")],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        draw_scene_graph(**arguments)


# ---- where labels go ----


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_labels_do_not_overlap_where_there_is_room(seed: int, number: int) -> None:
    """60 labels of at most 60 x 15 take a tenth of 700 x 700, wherever they all want to be."""
    rng = np.random.default_rng(seed)
    placer = LabelPlacer((0, 0, 700, 700), gap=1)
    for _ in range(number):
        size = (float(rng.uniform(10, 60)), float(rng.uniform(5, 15)))
        wanted = rng.uniform(-50, 750, (3, 2)) * rng.integers(0, 2)  # half of them at one corner
        placer.place(size, wanted)
    assert not overlapping(placer.placed)
    placed = np.array(placer.placed)
    assert (placed >= 0).all() and (placed <= 700).all()


def test_labels_take_the_wanted_place_if_free_and_the_nearest_otherwise() -> None:
    placer = LabelPlacer((0, 0, 200, 100), gap=0)
    assert placer.place((40, 10), [(20, 20), (0, 0)])[:2] == (20, 20)
    assert placer.place((40, 10), [(30, 24), (100, 50)])[:2] == (100, 50)
    near = placer.place((40, 10), [(20, 20)])
    assert not overlapping(placer.placed) and abs(near[0] - 20) <= 8 and abs(near[1] - 20) <= 14
    # Full: it goes where it covers least, and never outside.
    full = LabelPlacer((0, 0, 50, 10))
    for _ in range(3):
        assert full.place((40, 10), [(-9, -9)])[2:] <= (50, 10)


def test_curve_bends_to_the_stated_side_by_the_stated_height() -> None:
    points = curve((0, 0), (100, 0), 12)
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [100, 0]
    assert points[:, 1].min() == pytest.approx(-12, abs=0.1)  # left of the way is up
    np.testing.assert_allclose(curve((0, 0), (100, 0), -12)[:, 1], -points[:, 1])
    circle = curve((5, 5), (5, 5), 10)
    np.testing.assert_allclose(np.hypot(*(circle - (5, -5)).T), 10)


def test_shorten() -> None:
    assert shorten("in front of", 11) == "in front of"
    assert shorten("in front of", 10) == "in front…"
    assert shorten(" two\nlines ", 20) == "two lines"


def test_entity_colours_differ() -> None:
    colours = [entity_colour(index) for index in range(100)]
    assert len(set(colours)) == 100
    neighbours = np.diff(np.array(colours, dtype=int), axis=0)
    assert np.abs(neighbours).sum(1).min() > 100


@pytest.mark.parametrize("picture", [1, 2, 4, 5])
def test_crowded_photographs(samples: Path, picture: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty annotated relations: every name and predicate has a place of its own."""
    folder = samples / "visual_genome"
    annotation = next(
        a
        for a in json.loads((folder / "relationships.json").read_text())
        if a["image_id"] == picture
    )
    entities: dict[int, dict] = {}
    rows = []
    for relation in annotation["relationships"][:20]:
        for end in ("subject", "object"):
            entities.setdefault(relation[end]["object_id"], relation[end])
        ends = [list(entities).index(relation[end]["object_id"]) for end in ("subject", "object")]
        rows.append((*ends, relation["predicate"].lower()))
    boxes = [[e["x"], e["y"], e["x"] + e["w"], e["y"] + e["h"]] for e in entities.values()]
    labels = [e.get("name") or e["names"][0] for e in entities.values()]
    image = np.asarray(Image.open(folder / f"images/{picture}.jpg").convert("RGB"))

    placers: list[LabelPlacer] = []

    class Recorder(drawing.LabelPlacer):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            placers.append(self)

    monkeypatch.setattr(visualization, "LabelPlacer", Recorder)
    drawn = draw_scene_graph(image, boxes, labels, rows)
    assert drawn.dtype == np.uint8 and drawn.shape[0] == 720
    (placer,) = placers
    pairs = {row[:2] for row in rows}
    assert len(placer.placed) == len(entities) + len(pairs)
    assert not overlapping(placer.placed)


def test_save_image_round_trip(tmp_path: Path) -> None:
    drawn = draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, "on")])
    save_image(tmp_path / "new" / "picture.png", drawn)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "picture.png")), drawn)
    with pytest.raises(ValueError, match=r"picture\.xyz: name it \.png or \.jpg"):
        save_image(tmp_path / "picture.xyz", drawn)
