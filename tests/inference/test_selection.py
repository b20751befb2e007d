"""The choice of triplets against a loop over all of them, and overlaps against torchvision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import nms

from vrd_d2.inference.selection import predicted_graph, select_triplets
from vrd_d2.onnx_runtime import select, without_overlap

NAMES = ("on", "riding", "wearing", "near", "under")


def random_boxes(rng: np.random.Generator, count: int, *, whole: bool) -> np.ndarray:
    """XYXY boxes that overlap a lot; whole numbers bring equal overlaps and boxes without area."""
    if whole:
        corners = np.sort(rng.integers(0, 5, (count, 2, 2)), axis=1)
    else:
        middle = rng.integers(0, 2, (count, 1, 2)) * 40
        corners = middle + [[[0, 0], [30, 20]]] + rng.random((count, 2, 2)) * rng.choice([1, 10])
    return corners.reshape(count, 4).astype(np.float32)


def random_arrays(seed: int) -> dict[str, np.ndarray]:
    """Outputs of a model for one image, most of them with ties."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 9))
    pairs = np.argwhere(~np.eye(count, dtype=bool)).reshape(-1, 2)
    pairs = rng.permutation(pairs)[: rng.integers(0, len(pairs) + 1)]
    steps = int(rng.integers(2, 6))
    return {
        "boxes": random_boxes(rng, count, whole=bool(seed % 2)),
        "classes": rng.integers(0, 3, count),
        "scores": (rng.integers(0, steps, count) / steps).astype(np.float32),
        "pairs": pairs,
        "predicate_scores": (rng.integers(0, steps, (len(pairs), 5)) / steps).astype(np.float32),
    }


def random_options(seed: int) -> dict:
    rng = np.random.default_rng(1000 + seed)
    wanted = [None, None, None, "riding", ["near", "on", "near"], []][rng.integers(6)]
    return {
        "top_k": int(rng.integers(1, 12)),
        "min_score": float(rng.choice([0.0, 0.0, 0.2, 0.25])),
        "min_entity_score": float(rng.choice([0.0, 0.0, 0.2, 0.5])),
        "predicates": wanted,
        "max_overlap": float(rng.choice([1.0, 1.0, 0.7, 0.5, 0.3])),
    }


def by_hand(found: dict, options: dict) -> tuple[list[int], list[tuple]]:
    """Entities, and rows (pair, subject, object, predicate, score), by loops over Python numbers.

    The entities that remain are torchvision's.
    """
    count = len(found["boxes"])
    remaining = set(range(count))
    if options["max_overlap"] < 1:
        boxes, scores = (torch.from_numpy(found[key]) for key in ("boxes", "scores"))
        remaining = set(nms(boxes, scores, options["max_overlap"]).tolist())
    least = np.float32(options["min_entity_score"])
    entities = [i for i in range(count) if i in remaining and found["scores"][i] >= least]
    wanted = options["predicates"]
    wanted = NAMES if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    rows = []
    for index, (subject, obj) in enumerate(found["pairs"].tolist()):
        if subject not in entities or obj not in entities:
            continue
        best = None
        for predicate, name in enumerate(NAMES):
            value = float(found["predicate_scores"][index, predicate])
            if name in wanted and (best is None or value > best[1]):
                best = predicate, value
        if best is not None:
            score = best[1] * (float(found["scores"][subject]) * float(found["scores"][obj]))
            rows.append((index, entities.index(subject), entities.index(obj), best[0], score))
    rows.sort(key=lambda row: -row[-1])  # which leaves ties in their order
    rows = rows[: options["top_k"]]
    return entities, [row for row in rows if row[-1] >= options["min_score"]]


@pytest.mark.parametrize("part", range(8))
def test_selections_are_those_of_a_loop(part):
    shown = 0
    for seed in range(100 * part, 100 * part + 100):
        found, options = random_arrays(seed), random_options(seed)
        entities, rows = by_hand(found, options)
        chosen = select(found, NAMES, **options)
        assert chosen.entities.tolist() == entities, seed
        columns = zip(
            chosen.rows.tolist(),
            *chosen.pairs.reshape(-1, 2).T.tolist(),
            chosen.predicates.tolist(),
            chosen.scores.tolist(),
            strict=True,
        )
        assert list(columns) == rows, seed
        assert chosen.scores.dtype == np.float64
        shown += len(rows)
    assert shown > 100


def test_graphs_of_torch_are_selections_of_its_arrays():
    names = SimpleNamespace(objects=("man", "horse", "hat"), predicates=NAMES)
    for seed in range(50):
        found, options = random_arrays(seed), random_options(seed)
        tensors = {name: torch.from_numpy(array) for name, array in found.items()}
        instances = Instances(
            (50, 60),
            pred_boxes=Boxes(tensors["boxes"]),
            pred_classes=tensors["classes"],
            scores=tensors["scores"].clone().requires_grad_(),
        )
        pairs = {key: tensors[key] for key in ("pairs", "predicate_scores")}
        output = {"instances": instances, "relations": Instances((50, 60), **pairs)}
        entities, rows = by_hand(found, options)
        chosen = select_triplets(output, names, **options)
        assert chosen.rows.tolist() == [row[0] for row in rows]
        graph = predicted_graph(output, names, **options)
        assert graph.relations == [(s, o, NAMES[p]) for _, s, o, p, _ in rows]
        assert graph.scores == [row[-1] for row in rows]
        assert graph.labels == [names.objects[found["classes"][i]] for i in entities]
        assert graph.entity_scores == [float(found["scores"][i]) for i in entities]
        assert graph.boxes.dtype == np.float64
        np.testing.assert_array_equal(graph.boxes, found["boxes"][entities])
        assert graph.size == (60, 50)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.25, 1 / 3, 0.3, 0.5, 0.7, 0.9])
def test_overlaps_are_those_of_torchvision(whole, threshold):
    """Also where an overlap equals the threshold, scores are equal, or a box has no area."""
    rng = np.random.default_rng(int(100 * threshold))
    removed = 0
    for count in (0, 1, 2, 5, 40, 100):
        for _ in range(10):
            boxes = random_boxes(rng, count, whole=whole)
            scores = (rng.integers(0, 10, count) / 10).astype(np.float32)
            expected = np.zeros(count, bool)
            expected[nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)] = True
            np.testing.assert_array_equal(without_overlap(boxes, scores, threshold), expected)
            removed += (~expected).sum()
    assert removed > 50


def test_an_overlap_that_equals_the_threshold_remains():
    boxes = np.array([[0, 0, 4, 1], [0, 0, 2, 1], [0, 0, 1.9, 1]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert without_overlap(boxes[:2], scores[:2], 0.5).tolist() == [True, True]
    assert without_overlap(boxes[:2], scores[:2], 0.4999).tolist() == [True, False]
    # Of three, the third overlaps the second, which is removed and removes nothing itself.
    assert without_overlap(boxes, scores, 0.48).tolist() == [True, False, True]


def test_thresholds_are_in_the_precision_of_the_scores():
    """0.7 in single precision is less than 0.7: an entity with this very score remains."""
    found = random_arrays(2) | {
        "boxes": np.zeros((2, 4), np.float32),
        "scores": np.array([0.7, 0.6999], np.float32),
        "pairs": np.zeros((0, 2), np.int64),
        "predicate_scores": np.zeros((0, 5), np.float32),
    }
    assert select(found, NAMES, min_entity_score=0.7).entities.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_k": 0}, "top_k.*0"), ({"predicates": ["on", "eats"]}, "'eats'.*riding")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        select(random_arrays(3), NAMES, **options)
