"""One image: which rows of its ground truth its predictions hit."""

import numpy as np

from vrd_d2.evaluation.matching import (
    MISS,
    box_iou,
    compatible_boxes,
    first_hits,
    one_to_one_hits,
    union_boxes,
)
from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.evaluation.ranking import rank_annotated, rank_triplets
from vrd_d2.evaluation.records import GroundTruth, Prediction
from vrd_d2.tasks import Task

# All that is stored of a ground-truth row: every metric is counted from these.
# R, ngR, pair, A, ngA, phrase, ng_phrase: rank (from 0) of the first prediction that hits the row,
# with and without graph constraint; whatever its predicate; among the annotated pairs (both); by
# the union box (both). answer: the predicate that the image's best prediction on this pair named.
_RANKS = ("R", "ngR", "pair", "A", "ngA", "phrase", "ng_phrase")
ROW = np.dtype(
    [(name, np.uint16) for name in ("predicate", *_RANKS, "answer")]
    + [(name, bool) for name in ("top1", "zero_shot", "new_pair")]
)
_UNHIT = np.array((0,) + (MISS,) * (len(_RANKS) + 1) + (False,) * 3, ROW)


def evaluate_image(
    ground_truth: GroundTruth,
    prediction: Prediction,
    *,
    protocol: Protocol,
    task: Task,
    limit: int = 100,
    zero_shot: frozenset[tuple[int, int, int]] = frozenset(),
) -> tuple[np.ndarray, int]:
    """Find which ground-truth rows of an image are hit, and by the prediction of which rank.

    Both records must have passed their ``check``.

    Args:
        limit: the largest K of any Recall@K.
        zero_shot: (subject class, object class, predicate) triplets unseen in training.

    Returns:
        (R,) array of type ROW, and the number of predicted pairs that the protocol admits.

    Raises:
        ValueError: boxes are given but their number differs, or a score is NaN.
    """
    rows, relations = _new_rows(ground_truth, protocol, zero_shot)
    if not len(prediction.pairs):
        return rows, 0
    if task.boxes_given and len(prediction.boxes) != len(ground_truth.boxes):
        raise ValueError(
            f"{len(prediction.boxes)} boxes, but {len(ground_truth.boxes)} in the ground truth: "
            f"{task.value} takes the ground-truth boxes in their order (boxes of zero area too)"
        )
    if not len(rows):
        return rows, len(prediction.pairs)

    given = ground_truth if task.classes_given else prediction
    boxes, gt_boxes = given.boxes, ground_truth.boxes
    if protocol.box_scale is not None and ground_truth.longer_side is not None:
        factor = np.float32(protocol.box_scale / ground_truth.longer_side)
        boxes, gt_boxes = boxes * factor, gt_boxes * factor
    prediction = _admitted(prediction, boxes, protocol, task)
    if not len(prediction.pairs):
        return rows, 0

    match = _Match((boxes, given.classes), (gt_boxes, ground_truth.classes), relations, protocol)
    options = {"limit": limit, "unit_scores": task.classes_given}
    if task.boxes_given:
        annotated = rank_annotated(prediction, relations, one_a_row=protocol.one_to_one, **options)
        rows["top1"] = _top1(annotated.constrained, relations)
        annotated = annotated.cut(limit)
        rows["A"] = match.ranks(annotated.constrained)
        rows["ngA"] = match.ranks(annotated.free)
    alone = protocol.ranks_annotated(task)
    ranking = annotated if alone else rank_triplets(prediction, **options)
    rows["R"] = match.ranks(ranking.constrained)
    rows["ngR"] = match.ranks(ranking.free)
    rows["pair"] = first_hits(match.pairs(ranking.constrained))
    answered = rows["pair"] != MISS
    rows["answer"][answered] = ranking.constrained[rows["pair"][answered], 2]
    right = rows["R"] != MISS
    rows["answer"][right] = rows["predicate"][right]
    if protocol.phrase:
        rows["phrase"] = match.phrase_ranks(ranking.constrained)
        rows["ng_phrase"] = match.phrase_ranks(ranking.free)
    return rows, len(prediction.pairs)


def ground_truth_rows(
    ground_truth: GroundTruth,
    protocol: Protocol,
    zero_shot: frozenset[tuple[int, int, int]] = frozenset(),
) -> np.ndarray:
    """Return the rows of an image of which nothing is hit: (R,) of type ROW."""
    return _new_rows(ground_truth, protocol, zero_shot)[0]


def _new_rows(
    ground_truth: GroundTruth, protocol: Protocol, zero_shot: frozenset[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of which nothing is hit, and the relations they stand for."""
    relations = ground_truth.relations
    if protocol.unique_triplets:
        relations = np.unique(relations, axis=0)
    rows = np.full(len(relations), _UNHIT, ROW)
    rows["predicate"] = relations[:, 2]
    seen: set[tuple[int, int]] = set()
    classes = ground_truth.classes.tolist()
    for row, (subject, obj, predicate) in enumerate(relations.tolist()):
        if (subject, obj) not in seen:
            seen.add((subject, obj))
            rows["new_pair"][row] = True
        if zero_shot and (classes[subject], classes[obj], predicate) in zero_shot:
            rows["zero_shot"][row] = True
    return rows, relations


def _admitted(
    prediction: Prediction, boxes: np.ndarray, protocol: Protocol, task: Task
) -> Prediction:
    """Drop the pairs whose boxes do not overlap, where the protocol does so."""
    wanted = protocol.overlapping_pairs
    if wanted == "never" or (wanted == "detected" and task.boxes_given):
        return prediction
    pairs = prediction.pairs
    overlap = box_iou(boxes, boxes, inclusive=protocol.inclusive_pixels) > 0
    return prediction.chosen(overlap[pairs[:, 0], pairs[:, 1]])


def _top1(ranked: np.ndarray, relations: np.ndarray) -> np.ndarray:
    """Return whether the best prediction on each row's own pair names the row's predicate."""
    answers: dict[tuple[int, int], int] = {}
    for subject, obj, predicate in ranked.tolist():
        answers.setdefault((subject, obj), predicate)
    return np.array([answers.get((s, o), -1) == p for s, o, p in relations.tolist()], bool)


class _Match:
    """Which ranked triplets (T, 3) hit which ground-truth rows (R)."""

    def __init__(
        self,
        predicted: tuple[np.ndarray, np.ndarray],
        annotated: tuple[np.ndarray, np.ndarray],
        relations: np.ndarray,
        protocol: Protocol,
    ) -> None:
        """``predicted`` and ``annotated`` are boxes and classes; ``relations`` (R, 3)."""
        self._predicted, self._annotated = predicted, annotated
        self._relations = relations
        self._protocol = protocol
        compatible, self._iou = compatible_boxes(
            *predicted,
            *annotated,
            threshold=protocol.iou_threshold,
            inclusive=protocol.inclusive_pixels,
            bind=protocol.bind_boxes,
        )
        self._subject = compatible[:, relations[:, 0]]  # M x R
        self._object = compatible[:, relations[:, 1]]

    def pairs(self, ranked: np.ndarray) -> np.ndarray:
        """Return (T, R) bool: both boxes and classes fit, whatever the predicate."""
        return self._subject[ranked[:, 0]] & self._object[ranked[:, 1]]

    def ranks(self, ranked: np.ndarray) -> np.ndarray:
        """Return the rank (R,) of the triplet that hits each row."""
        hits = self.pairs(ranked) & (ranked[:, 2:] == self._relations[None, :, 2])
        if not self._protocol.one_to_one:
            return first_hits(hits)
        of_subjects = self._iou[np.ix_(ranked[:, 0], self._relations[:, 0])]
        of_objects = self._iou[np.ix_(ranked[:, 1], self._relations[:, 1])]
        return one_to_one_hits(hits, np.minimum(of_subjects, of_objects))

    def phrase_ranks(self, ranked: np.ndarray) -> np.ndarray:
        """Return the ranks where one box around subject and object is compared (Lu et al. 2016)."""
        sides = ((self._predicted, ranked), (self._annotated, self._relations))
        unions = [union_boxes(boxes, rows) for (boxes, _), rows in sides]
        triplets, gt_triplets = (
            np.column_stack([classes[rows[:, :2]], rows[:, 2]]) for (_, classes), rows in sides
        )
        overlap = box_iou(*unions, inclusive=self._protocol.inclusive_pixels)
        hits = (triplets[:, None] == gt_triplets[None]).all(2)
        hits &= overlap >= np.float32(self._protocol.iou_threshold)
        return one_to_one_hits(hits, overlap) if self._protocol.one_to_one else first_hits(hits)
