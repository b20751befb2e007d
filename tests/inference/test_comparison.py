"""Predictions compared with annotations: which relation has which status, and how it is drawn."""

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vrd_d2.inference.comparison import compare_relations, draw_ground_truth, draw_predictions
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.placement import STATUS
from vrd_d2.visualization.scene_graph_image import draw_scene_graph

GREY = np.full((300, 400, 3), 90, np.uint8)
MAN_HORSE = np.array([[40.0, 60, 150, 280], [200, 80, 380, 290]])


class Names:
    objects = ("man", "horse", "hat")
    predicates = ("on", "riding", "wearing")


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - colour).max(-1) <= 2).sum())


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


def test_one_prediction_meets_every_repetition_of_a_triplet() -> None:
    box = np.array([[0.0, 0, 50, 50]])
    truth = SceneGraph(box.repeat(2, 0), ["man", "man"], [(0, 0, "on"), (0, 0, "on"), (1, 1, "on")])
    result = compare_relations(SceneGraph(box, ["man"], [(0, 0, "on")]), truth)
    assert result.relations == [(0, 0, "on", "correct")] and len(result.boxes) == 1


def test_missed_relation_is_drawn_at_the_best_prediction_of_its_class() -> None:
    truth = SceneGraph(np.array([[0.0, 0, 50, 50]]), ["hat"], [(0, 0, "on")])
    boxes = np.array([[0.0, 0, 50, 50], [0, 0, 50, 30], [0, 0, 50, 40]])
    result = compare_relations(SceneGraph(boxes, ["man", "hat", "hat"], []), truth)
    assert result.relations == [(2, 2, "on", "missed")] and len(result.boxes) == 3


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_compare_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def graph(boxes: np.ndarray) -> SceneGraph:
        size = int(rng.integers(0, 8)) if len(boxes) else 0
        rows = [
            (*rng.integers(0, len(boxes), 2), ["on", "near"][rng.integers(2)]) for _ in range(size)
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


def test_predictions_against_ground_truth() -> None:
    output = {
        "instances": Instances(
            (300, 400),
            pred_boxes=Boxes(torch.tensor(MAN_HORSE)),
            pred_classes=torch.tensor([0, 1]),
            scores=torch.tensor([0.9, 0.8]),
        ),
        "relations": Instances(
            (300, 400),
            pairs=torch.tensor([[0, 1], [1, 0]]),
            predicate_scores=torch.tensor([[0.1, 0.8, 0.0], [0.6, 0.1, 0.0]]),
        ),
    }
    truth = SceneGraph(MAN_HORSE, ["man", "horse"], [(0, 1, "riding"), (0, 1, "on")])
    alone = draw_predictions(GREY, output, Names)
    against = draw_predictions(GREY, output, Names, ground_truth=truth)
    for colour, _ in STATUS.values():
        assert not count(alone, colour) and count(against[:, :960], colour) > 200
    # The best one alone is right, and the other prediction does not exist any more.
    best = draw_predictions(GREY, output, Names, ground_truth=truth, top_k=1)[:, :960]
    assert count(best, STATUS["correct"][0]) and not count(best, STATUS["extra"][0])


def test_ground_truth_of_a_file_and_of_a_tensor(tmp_path: Path) -> None:
    record = {
        "file_name": str(tmp_path / "image.png"),
        "height": 300,
        "width": 400,
        "annotations": [
            {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": c}
            for c, box in enumerate(MAN_HORSE)
        ],
        "relations": np.array([[0, 1, 1]]),
    }
    Image.fromarray(GREY).save(record["file_name"])
    expected = draw_scene_graph(GREY, MAN_HORSE, ["man", "horse"], [(0, 1, "riding")])
    np.testing.assert_array_equal(draw_ground_truth(record, Names), expected)
    record["image"] = torch.as_tensor(GREY).permute(2, 0, 1)
    record["file_name"] = "the tensor is enough"
    np.testing.assert_array_equal(draw_ground_truth(record, Names), expected)
