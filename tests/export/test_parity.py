"""What an export's answer is compared by: hand-made answers, and the runner of a real model."""

import numpy as np
import pytest
import torch
from exported_models import build, own_answer, random_boxes

from vrd_d2.export.parity import best_triplets, compare, model_runner


def answer(**changes) -> dict[str, np.ndarray]:
    """Three entities, two pairs, two predicates."""
    return {
        "boxes": np.array([[0, 0, 9, 9], [5, 5, 20, 20], [1, 2, 3, 4]], np.float32),
        "classes": np.array([3, 1, 2]),
        "scores": np.array([1, 0.5, 0.8], np.float32),
        "pairs": np.array([[0, 1], [2, 0]]),
        "predicate_probs": np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]], np.float32),
        "predicate_scores": np.array([[0.6, 0.3], [0.2, 0.7]], np.float32),
        **changes,
    }


def test_best_triplets_by_hand():
    # Pair (0, 1) weighs 0.5, pair (2, 0) weighs 0.8: 0.3, 0.15 and 0.16, 0.56.
    order = [(2, 0, 1), (0, 1, 0), (2, 0, 0), (0, 1, 1)]
    assert best_triplets(answer()) == order
    assert best_triplets(answer(), 2) == order[:2]
    assert best_triplets({"boxes": np.zeros((0, 4))}) == []


def test_same_answers():
    found = compare(answer(), answer())
    assert (found.probabilities, found.scores, found.boxes) == (0, 0, 0) and found.same_best


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("predicate_probs", [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], ("probabilities", 0.2)),
        ("predicate_scores", [[0.6, 0.3], [0.2, 0.4]], ("probabilities", 0.3)),
        ("scores", [1, 0.5, 0.7], ("scores", 0.1)),
        ("boxes", [[0, 0, 9, 9], [5, 7, 20, 20], [1, 2, 3, 4]], ("boxes", 2)),
    ],
)
def test_the_greatest_difference_counts(name, value, expected):
    found = compare(answer(**{name: np.array(value, np.float32)}), answer())
    numbers = {"probabilities": 0.0, "scores": 0.0, "boxes": 0.0} | dict([expected])
    assert {key: getattr(found, key) for key in numbers} == pytest.approx(numbers, abs=1e-6)


def test_another_order_of_the_best_is_the_same_list():
    """The list of the 100 best decides, not the order in it."""
    rng = np.random.default_rng(0)
    pairs = np.array([(i, j) for i in range(12) for j in range(12) if i != j])
    scores = rng.random((132, 1)).astype(np.float32)
    many = answer(
        scores=np.ones(12, np.float32),
        classes=np.zeros(12, np.int64),
        boxes=np.zeros((12, 4), np.float32),
        pairs=pairs,
        predicate_scores=scores,
        predicate_probs=scores,
    )
    first, _, *_, last, after = np.argsort(-scores[:, 0])[:101]
    for swapped, same in (((first, last), True), ((last, after), False)):
        other = scores.copy()
        other[list(swapped)] = scores[list(swapped[::-1])]
        found = compare({**many, "predicate_scores": other}, many)
        assert found.same_best == same and found.probabilities > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": np.array([3, 1, 1])},
        {"pairs": np.array([[0, 1], [0, 2]])},
        {"pairs": np.array([[0, 1]]), "predicate_scores": np.ones((1, 2), np.float32)},
    ],
)
def test_other_entities_or_pairs_cannot_be_subtracted(changes):
    found = compare(answer(**changes), answer())
    assert np.isnan([found.probabilities, found.scores, found.boxes]).all()
    assert not found.same_best


def test_an_export_without_boxes_is_compared_in_what_it_has():
    part = {name: answer()[name] for name in ("pairs", "predicate_probs", "predicate_scores")}
    found = compare(part, answer())
    assert found.same_best and found.boxes == 0


def test_the_runner_says_what_the_model_says():
    """The image at the model's size, so that boxes need no mapping back."""
    cfg, model = build("relclip_predcls.yaml", "INPUT.MIN_SIZE_TEST", 0)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes, classes = random_boxes(90, 120, 5), np.arange(5)
    bgr = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
    inputs = {"image": bgr, "boxes": torch.from_numpy(boxes).float()}
    found = model_runner(model, "relations")({**inputs, "classes": torch.from_numpy(classes)})
    own = own_answer(cfg, model, image, boxes, classes)
    for name, values in own.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
