"""The frequency baseline on class pairs of which nothing was counted, worked out by hand."""

import pytest
import torch

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.frequency import FrequencyBaseline
from vrd_d2.modeling.structures import Entities
from vrd_d2.tasks import Task

MAN, HORSE, HAT = range(3)
NAMES = Vocabulary(["man", "horse", "hat"], ["on", "rides", "wears"])


def baseline(counts: torch.Tensor) -> FrequencyBaseline:
    return FrequencyBaseline(
        counts=counts,
        task=Task.PREDCLS,
        vocabulary=NAMES,
        detector=None,
        image_format="BGR",
        require_overlap=False,
        batch_size_per_image=1,
        positive_fraction=1.0,
        iou_threshold=0.5,
        add_gt_boxes=False,
    ).eval()


def predicted(counts: torch.Tensor, subject: int, obj: int) -> tuple[list, list]:
    """Probabilities (K + 1) and scores (K) of one pair of classes."""
    classes = torch.tensor([subject, obj])
    entities = Entities(boxes=torch.zeros(2, 4), classes=classes, scores=torch.ones(2))
    (found,) = baseline(counts).predict([{}], [entities], [torch.tensor([[0, 1]])])
    return found.predicate_probs[0].tolist(), found.predicate_scores[0].tolist()


def counted() -> torch.Tensor:
    counts = torch.zeros(3, 3, 4)
    counts[MAN, HORSE] = torch.tensor([1.0, 3.0, 0.0, 4.0])
    counts[HORSE, HORSE] = torch.tensor([0.0, 0.0, 5.0, 0.0])
    counts[HAT, HORSE] = torch.tensor([0.0, 0.0, 0.0, 3.0])  # seen, and never related
    return counts


def of_a_base() -> torch.Tensor:
    """A base knows of no unrelated pairs."""
    counts = counted()
    counts[..., -1] = 0
    return counts


@pytest.mark.parametrize(
    ("subject", "obj", "expected"),
    [
        (MAN, HORSE, [1 / 8, 3 / 8, 0, 4 / 8]),  # counted
        (MAN, HAT, [1 / 8, 3 / 8, 0, 4 / 8]),  # a man is the subject of nothing else
        (HORSE, MAN, [0, 0, 1, 0]),  # of a horse as subject: 5 times one predicate
        # A hat is the subject of nothing: what holds of a horse as object, 1, 3, 5 and 4 + 3 of
        # 16, as a fourth observation beside three without a relation.
        (HAT, HORSE, [1 / 64, 3 / 64, 5 / 64, (3 + 7 / 16) / 4]),
        # Neither a hat as subject nor a hat as object: all that was counted, 16 pairs.
        (HAT, HAT, [1 / 16, 3 / 16, 5 / 16, 7 / 16]),
        (HAT, MAN, [1 / 16, 3 / 16, 5 / 16, 7 / 16]),
    ],
)
def test_back_off_to_subject_object_and_all(subject: int, obj: int, expected: list) -> None:
    probs, scores = predicted(counted(), subject, obj)
    assert probs == pytest.approx(expected, abs=1e-7)
    assert scores == probs[:-1]


@pytest.mark.parametrize(
    ("subject", "obj", "expected"),
    [
        (MAN, HAT, [1 / 4, 3 / 4, 0]),
        (HAT, HORSE, [1 / 9, 3 / 9, 5 / 9]),
        (HAT, HAT, [1 / 9, 3 / 9, 5 / 9]),
    ],
)
def test_what_a_base_does_not_hold_ranks_after_what_it_holds(subject, obj, expected) -> None:
    probs, scores = predicted(of_a_base(), subject, obj)
    assert probs == pytest.approx([*expected, 0], abs=1e-7)
    assert scores == pytest.approx([1e-6 * share for share in expected], rel=1e-5)
    held, same = predicted(of_a_base(), MAN, HORSE)
    assert held == [1 / 4, 3 / 4, 0, 0] and same == held[:-1]


def test_without_counts_nothing_is_related() -> None:
    assert predicted(torch.zeros(3, 3, 4), MAN, HAT) == ([0, 0, 0, 1], [0, 0, 0])
