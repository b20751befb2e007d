"""Pairs, union boxes and position features."""

import itertools

import pytest
import torch

from vrd_d2.modeling.geometry import (
    ENTITY_GEOMETRY,
    PAIR_GEOMETRY,
    candidate_pairs,
    entity_geometry,
    pair_geometry,
    union_boxes,
)

BOXES = torch.tensor(
    [
        [0.0, 0, 10, 10],
        [5, 5, 20, 20],
        [10, 10, 30, 30],  # touches the first one at a corner only
        [40, 40, 50, 50],
        [6, 6, 6, 9],  # zero area, inside the first two
    ]
)


def slow_pairs(boxes, require_overlap):
    pairs = []
    for i, j in itertools.permutations(range(len(boxes)), 2):
        width = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
        height = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
        if not require_overlap or (width > 0 and height > 0):
            pairs.append([i, j])
    return pairs


@pytest.mark.parametrize("require_overlap", [True, False])
def test_candidate_pairs_equal_loops(require_overlap):
    got = candidate_pairs(BOXES, require_overlap=require_overlap).tolist()
    assert got == slow_pairs(BOXES.tolist(), require_overlap)
    torch.manual_seed(0)
    corners = torch.rand(15, 2) * 80
    boxes = torch.cat([corners, corners + torch.rand(15, 2) * 40], 1)
    got = candidate_pairs(boxes, require_overlap=require_overlap).tolist()
    assert got == slow_pairs(boxes.tolist(), require_overlap)


def test_touching_boxes_do_not_overlap():
    assert [0, 2] not in candidate_pairs(BOXES, require_overlap=True).tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_among_fewer_than_two_boxes(count):
    for require_overlap in (True, False):
        pairs = candidate_pairs(BOXES[:count], require_overlap=require_overlap)
        assert pairs.shape == (0, 2) and pairs.dtype == torch.int64


def test_union_box():
    assert union_boxes(BOXES[0], BOXES[3]).tolist() == [0, 0, 50, 50]


def test_entity_geometry_by_hand():
    got = entity_geometry(torch.tensor([[10.0, 20, 30, 60]]), (100, 200))
    expected = [0.05, 0.2, 0.15, 0.6, 0.1, 0.4, 0.1, 0.4, 0.04]
    assert got.shape == (1, ENTITY_GEOMETRY)
    assert got[0].tolist() == pytest.approx(expected)


def test_pair_geometry_by_hand():
    subject, obj = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[10.0, 10, 20, 30]])
    got = pair_geometry(subject, obj, (100, 100))[0]
    assert got.shape == (PAIR_GEOMETRY,)
    torch.testing.assert_close(got[:9], entity_geometry(torch.tensor([0.0, 0, 20, 30]), (100, 100)))
    torch.testing.assert_close(got[9:18], entity_geometry(subject[0], (100, 100)))
    torch.testing.assert_close(got[18:27], entity_geometry(obj[0], (100, 100)))
    # centres (10, 10) and (15, 20); intersection 100, areas 400 and 200
    log = torch.log(torch.tensor([1.5, 1.5, 2.0, 1.0]))
    expected = [-log[0], -log[1], log[2], log[3], 100 / 500, 0.25, 0.5]
    assert got[27:].tolist() == pytest.approx([float(x) for x in expected])


def test_pair_geometry_is_finite_for_boxes_without_area():
    pairs = candidate_pairs(BOXES, require_overlap=False)
    got = pair_geometry(BOXES[pairs[:, 0]], BOXES[pairs[:, 1]], (50, 50))
    assert got.isfinite().all() and got.abs().max() < 10
