"""Matching, labelling and sampling of pairs."""

import pytest
import torch

from vrd_d2.modeling.geometry import candidate_pairs
from vrd_d2.modeling.pairs import label_pairs, match_entities, sample_pairs


def slow_labels(pairs, gt_index, relations, num_predicates):
    table = torch.zeros(len(pairs), num_predicates)
    for row, (i, j) in enumerate(pairs.tolist()):
        for subject, obj, predicate in relations.tolist():
            same = gt_index[i] == subject and gt_index[j] == obj
            if same and subject != obj:
                table[row, predicate] = 1
    return table


def test_match_entities():
    gt = torch.tensor([[0.0, 0, 10, 10], [100, 100, 120, 120]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [101, 101, 120, 120], [50, 50, 60, 60], [0, 0, 10, 5]])
    assert match_entities(boxes, gt, iou_threshold=0.5).tolist() == [0, 1, -1, 0]
    assert match_entities(boxes, gt, iou_threshold=0.6).tolist() == [0, 1, -1, -1]


def test_match_without_objects_or_boxes():
    none = torch.zeros((0, 4))
    assert match_entities(torch.rand(3, 4), none, iou_threshold=0.5).tolist() == [-1, -1, -1]
    assert match_entities(none, torch.rand(3, 4), iou_threshold=0.5).tolist() == []


def test_labels_with_several_predicates_repeated_rows_and_self_relations():
    pairs = candidate_pairs(torch.tensor([[0.0, 0, 9, 9]] * 3), require_overlap=False)
    relations = torch.tensor([[0, 1, 2], [0, 1, 4], [0, 1, 2], [2, 2, 1], [2, 0, 0]])
    got = label_pairs(pairs, torch.arange(3), relations, 3, 5)
    assert got[pairs.tolist().index([0, 1])].tolist() == [0, 0, 1, 0, 1]
    assert got[pairs.tolist().index([2, 0])].tolist() == [1, 0, 0, 0, 0]
    assert got.sum() == 3  # the self-relation belongs to no pair


def test_labels_equal_loops_for_detections():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        boxes = torch.zeros((9, 4))
        pairs = candidate_pairs(boxes, require_overlap=False)
        gt_index = torch.randint(-1, 4, (9,), generator=generator)
        relations = torch.randint(4, (6, 3), generator=generator)
        got = label_pairs(pairs, gt_index, relations, 4, 4)
        torch.testing.assert_close(got, slow_labels(pairs, gt_index, relations, 4))


def test_two_detections_of_one_object_are_not_related_to_each_other():
    pairs = torch.tensor([[0, 1], [1, 0]])
    relations = torch.tensor([[0, 0, 1]])
    assert not label_pairs(pairs, torch.tensor([0, 0]), relations, 1, 2).any()


def test_no_relations_and_no_pairs():
    empty = torch.zeros((0, 3), dtype=torch.int64)
    assert label_pairs(torch.tensor([[0, 1]]), torch.arange(2), empty, 2, 4).shape == (1, 4)
    no_pairs = torch.zeros((0, 2), dtype=torch.int64)
    assert label_pairs(no_pairs, torch.arange(2), torch.tensor([[0, 1, 2]]), 2, 4).shape == (0, 4)


@pytest.mark.parametrize(
    "positives, negatives, expected",
    [(100, 1000, (8, 24)), (3, 1000, (3, 29)), (100, 5, (8, 5)), (0, 10, (0, 10)), (0, 0, (0, 0))],
)
def test_sample_counts(positives, negatives, expected):
    targets = torch.zeros(positives + negatives, 3)
    targets[:positives, 1] = 0.5
    chosen = sample_pairs(targets, batch_size=32, positive_fraction=0.25)
    assert len(set(chosen.tolist())) == len(chosen)
    is_positive = targets[chosen].sum(1) > 0
    assert (int(is_positive.sum()), int((~is_positive).sum())) == expected


def test_sampling_is_random_and_seeded():
    targets = torch.zeros(1000, 3)
    draws = [
        sample_pairs(
            targets,
            batch_size=10,
            positive_fraction=0.25,
            generator=torch.Generator().manual_seed(seed),
        ).tolist()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
