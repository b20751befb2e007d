"""One picture: its ground truth, its predictions, and which rows the predictions hit."""

from dataclasses import dataclass

import numpy as np

from vrd_d2.evaluation.matching import (
    MISS,
    best_first,
    best_products,
    box_iou,
    compatible_boxes,
    first_hits,
    one_to_one_hits,
    union_boxes,
)
from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.tasks import Task

# All that is kept of a ground-truth row: everything else is counted from these.
# R, ngR, pair, A, phrase, ng_phrase: rank (from 0) of the first prediction that hits the row,
# with and without graph constraint; whatever its predicate; among the annotated pairs; by the
# union box. answer: the predicate that the picture's best prediction on this pair named.
ROW = np.dtype(
    [(name, np.uint16) for name in ("predicate", "R", "ngR", "pair", "A", "phrase", "ng_phrase")]
    + [("answer", np.uint16), ("top1", bool), ("zero_shot", bool), ("new_pair", bool)]
)
_UNHIT = np.array((0,) + (MISS,) * 7 + (False,) * 3, ROW)


@dataclass
class GroundTruth:
    """Annotation of one picture.

    Attributes:
        boxes: (G, 4) XYXY pixels of the original picture.
        classes: (G,) 0-based.
        relations: (R, 3) rows (subject index, object index, predicate).
        longer_side: of the picture in pixels; None where unknown.
    """

    boxes: np.ndarray
    classes: np.ndarray
    relations: np.ndarray
    longer_side: float | None = None

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        self.classes = _integers(self.classes, "gt_classes").reshape(-1)
        self.relations = _integers(self.relations, "gt_relations").reshape(-1, 3)

    def check(self, num_predicates: int, num_classes: int | None = None) -> None:
        """Raises ValueError where an index, a class or a predicate is out of range."""
        if len(self.boxes) != len(self.classes):
            raise ValueError(f"{len(self.boxes)} gt_boxes but {len(self.classes)} gt_classes")
        if not np.isfinite(self.boxes).all():
            raise ValueError("gt_boxes hold NaN or infinite coordinates")
        _check_range(self.classes, num_classes, "gt_classes")
        _check_range(self.relations[:, :2], len(self.boxes), "gt_relations: index of a box")
        _check_range(self.relations[:, 2], num_predicates, "gt_relations: predicate")


@dataclass
class Prediction:
    """Predictions of one picture, either scored pairs or a list of triplets.

    Attributes:
        boxes: (M, 4) XYXY pixels of the original picture.
        classes: (M,) 0-based.
        scores: (M,) not negative; PredCls does not use them.
        pairs: (P, 2) indices (subject, object).
        predicate_scores: (P, K), foreground predicates only. A product with both entity scores
            ranks the triplets.
        triplets: (T, 3) rows (subject index, object index, predicate), instead of
            ``predicate_scores``.
        triplet_scores: (T,) what ranks the triplets, entity scores included.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    pairs: np.ndarray | None = None
    predicate_scores: np.ndarray | None = None
    triplets: np.ndarray | None = None
    triplet_scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        self.classes = _integers(self.classes, "classes").reshape(-1)
        self.scores = _floats(self.scores).reshape(-1)
        if self.triplets is not None:
            self.triplets = _integers(self.triplets, "triplets").reshape(-1, 3)
            self.triplet_scores = _floats(self.triplet_scores).reshape(-1)
            self.pairs = self.triplets[:, :2]
        else:
            self.pairs = _integers(self.pairs, "pairs").reshape(-1, 2)
            self.predicate_scores = _floats(self.predicate_scores)

    def check(self, num_predicates: int, num_classes: int | None = None) -> None:
        """Raises ValueError where a shape, an index or a class is wrong or a score is NaN."""
        count = len(self.boxes)
        if len(self.classes) != count or len(self.scores) != count:
            raise ValueError(
                f"{count} boxes, {len(self.classes)} classes and {len(self.scores)} scores: "
                "one of each for every box is needed"
            )
        if not np.isfinite(self.boxes).all():
            raise ValueError("boxes hold NaN or infinite coordinates")
        if not (np.isfinite(self.scores).all() and (self.scores >= 0).all()):
            raise ValueError("scores of boxes must be finite and not negative: they are factors")
        _check_range(self.classes, num_classes, "classes")
        _check_range(self.pairs, count, "pairs" if self.triplets is None else "triplets")
        if self.triplets is not None:
            _check_range(self.triplets[:, 2], num_predicates, "triplets: predicate")
            if len(self.triplet_scores) != len(self.triplets):
                raise ValueError(
                    f"{len(self.triplets)} triplets but {len(self.triplet_scores)} scores"
                )
            if np.isnan(self.triplet_scores).any():
                raise ValueError("scores of triplets hold NaN")
            return
        found = self.predicate_scores.shape
        if len(self.pairs) == 0 and self.predicate_scores.size == 0:
            self.predicate_scores = self.predicate_scores.reshape(0, num_predicates)
        elif found != (len(self.pairs), num_predicates):
            hint = ""
            if len(found) == 2 and found[1] == num_predicates + 1:
                hint = " (is the background among them? Only foreground predicates are ranked)"
            raise ValueError(
                f"predicate_scores have shape {list(found)}, not [pairs, predicates] = "
                f"[{len(self.pairs)}, {num_predicates}]{hint}"
            )


@dataclass
class Ranking:
    """Triplets of one picture, best first: rows (subject index, object index, predicate).

    Attributes:
        constrained: (T, 3) at most one predicate a predicted pair.
        free: (T', 3) any number of predicates a pair.
        annotated: (A, 3) like ``constrained``, but only the pairs that are annotated.
    """

    constrained: np.ndarray
    free: np.ndarray
    annotated: np.ndarray


def _integers(values: object, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        whole = array.astype(np.float64)
        if not np.array_equal(whole, np.floor(whole)):
            raise ValueError(f"{name} must be whole numbers, not {array.dtype}")
    return array.astype(np.int64, copy=False)


def _floats(values: object) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _check_range(values: np.ndarray, end: int | None, name: str) -> None:
    if values.size == 0:
        return
    least, most = int(values.min()), int(values.max())
    if least < 0 or (end is not None and most >= end):
        value = least if least < 0 else most
        limit = "" if end is None else f": 0 to {end - 1} exist"
        raise ValueError(f"{name} {value} is out of range{limit}")


def rank_triplets(
    prediction: Prediction, annotated: np.ndarray | None, *, limit: int, unit_scores: bool
) -> Ranking:
    """The best triplets of a picture in the order of the public evaluators.

    Args:
        annotated: (M, M) bool, the annotated (subject, object) pairs; None to leave them out.
        limit: length of the first two lists.
        unit_scores: entity scores are 1 (PredCls).

    Raises:
        ValueError: a score is NaN.
    """
    pairs = prediction.pairs
    if prediction.triplets is not None:
        return _rank_listed(prediction, annotated, limit)
    scores = prediction.predicate_scores
    best = scores.max(1) if len(pairs) else np.zeros(0, scores.dtype)
    weights = None
    pair_scores = best
    if not unit_scores:
        subject, object_ = prediction.scores[pairs[:, 0]], prediction.scores[pairs[:, 1]]
        weights = subject * object_
        pair_scores = best * subject * object_
    if np.isnan(pair_scores).any():
        raise ValueError("predicate_scores hold NaN")

    def constrained(chosen: np.ndarray) -> np.ndarray:
        return np.column_stack([pairs[chosen], scores[chosen].argmax(1)])

    free_pairs, free_predicates = best_products(scores, best, weights, pair_scores, limit)
    of_annotated = np.zeros((0, 3), np.int64)
    if annotated is not None:
        chosen = np.flatnonzero(annotated[pairs[:, 0], pairs[:, 1]])
        chosen = chosen[np.argsort(-pair_scores[chosen], kind="stable")]
        of_annotated = constrained(chosen)
    return Ranking(
        constrained(best_first(pair_scores, limit)),
        np.column_stack([pairs[free_pairs], free_predicates]),
        of_annotated,
    )


def _rank_listed(prediction: Prediction, annotated: np.ndarray | None, limit: int) -> Ranking:
    """The same for a list of triplets: only the best of a pair under graph constraint."""
    order = np.argsort(-prediction.triplet_scores, kind="stable")
    ranked = prediction.triplets[order]
    codes = ranked[:, 0] * max(len(prediction.boxes), 1) + ranked[:, 1]
    first = np.sort(np.unique(codes, return_index=True)[1])
    constrained = ranked[first]
    of_annotated = np.zeros((0, 3), np.int64)
    if annotated is not None:
        of_annotated = constrained[annotated[constrained[:, 0], constrained[:, 1]]]
    return Ranking(constrained[:limit], ranked[:limit], of_annotated)


def evaluate_picture(
    ground_truth: GroundTruth,
    prediction: Prediction,
    *,
    protocol: Protocol,
    task: Task,
    limit: int = 100,
    zero_shot: frozenset[tuple[int, int, int]] = frozenset(),
) -> tuple[np.ndarray, int]:
    """Which ground-truth rows of a picture are hit, and by the prediction of which rank.

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
    if task.boxes_given and len(prediction.boxes) != len(ground_truth.boxes):
        raise ValueError(
            f"{len(prediction.boxes)} boxes, but {len(ground_truth.boxes)} in the ground truth: "
            f"{task.value} takes the ground-truth boxes in their order (boxes of zero area too)"
        )
    if not len(rows):
        return rows, len(prediction.pairs)

    boxes, classes = prediction.boxes, prediction.classes
    if task.classes_given:
        boxes, classes = ground_truth.boxes, ground_truth.classes
    gt_boxes = ground_truth.boxes
    if protocol.box_scale is not None and ground_truth.longer_side is not None:
        factor = np.float32(protocol.box_scale / ground_truth.longer_side)
        boxes, gt_boxes = boxes * factor, gt_boxes * factor
    prediction = _admitted(prediction, boxes, protocol, task)
    if not len(prediction.pairs):
        return rows, 0

    annotated = None
    if task.boxes_given:
        annotated = np.zeros((len(boxes), len(boxes)), bool)
        annotated[relations[:, 0], relations[:, 1]] = True
    ranking = rank_triplets(prediction, annotated, limit=limit, unit_scores=task.classes_given)
    compatible, iou = compatible_boxes(
        boxes,
        classes,
        gt_boxes,
        ground_truth.classes,
        threshold=protocol.iou_threshold,
        inclusive=protocol.inclusive_pixels,
        bind=protocol.bind_boxes,
    )
    of_subject, of_object = compatible[:, relations[:, 0]], compatible[:, relations[:, 1]]

    def pair_hits(ranked: np.ndarray) -> np.ndarray:  # T x R
        return of_subject[ranked[:, 0]] & of_object[ranked[:, 1]]

    def ranks(ranked: np.ndarray, hits: np.ndarray) -> np.ndarray:
        if not protocol.one_to_one or not hits.any():
            return first_hits(hits)
        overlap = np.minimum(
            iou[np.ix_(ranked[:, 0], relations[:, 0])], iou[np.ix_(ranked[:, 1], relations[:, 1])]
        )
        return one_to_one_hits(hits, overlap)

    on_pair = pair_hits(ranking.constrained)
    right = ranking.constrained[:, 2:] == relations[None, :, 2]
    rows["R"] = ranks(ranking.constrained, on_pair & right)
    rows["pair"] = first_hits(on_pair)
    answered = rows["pair"] != MISS
    rows["answer"][answered] = ranking.constrained[rows["pair"][answered], 2]
    rows["answer"][rows["R"] != MISS] = relations[rows["R"] != MISS, 2]
    free = ranking.free
    rows["ngR"] = ranks(free, pair_hits(free) & (free[:, 2:] == relations[None, :, 2]))
    if annotated is not None:
        of_annotated = ranking.annotated
        same = of_annotated[:, 2:] == relations[None, :, 2]
        rows["A"] = ranks(of_annotated, pair_hits(of_annotated) & same)
        rows["top1"] = _top1(of_annotated, relations)
    if protocol.phrase:
        for name, ranked in (("phrase", ranking.constrained), ("ng_phrase", ranking.free)):
            rows[name] = _phrase_ranks(
                ranked, boxes, classes, gt_boxes, ground_truth.classes, relations, protocol
            )
    return rows, len(prediction.pairs)


def ground_truth_rows(
    ground_truth: GroundTruth,
    protocol: Protocol,
    zero_shot: frozenset[tuple[int, int, int]] = frozenset(),
) -> np.ndarray:
    """Rows of a picture of which nothing is hit: (R,) of type ROW."""
    return _new_rows(ground_truth, protocol, zero_shot)[0]


def _new_rows(
    ground_truth: GroundTruth, protocol: Protocol, zero_shot: frozenset[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which nothing is hit, and the relations they stand for."""
    relations = ground_truth.relations
    if protocol.unique_triplets:
        relations = np.unique(relations, axis=0)
    rows = np.full(len(relations), _UNHIT, ROW)
    rows["predicate"] = relations[:, 2]
    seen: set[tuple[int, int]] = set()
    classes = ground_truth.classes.tolist()
    for row, (subject, object_, predicate) in enumerate(relations.tolist()):
        if (subject, object_) not in seen:
            seen.add((subject, object_))
            rows["new_pair"][row] = True
        if zero_shot and (classes[subject], classes[object_], predicate) in zero_shot:
            rows["zero_shot"][row] = True
    return rows, relations


def _admitted(
    prediction: Prediction, boxes: np.ndarray, protocol: Protocol, task: Task
) -> Prediction:
    """Only the pairs whose boxes overlap, where the protocol asks for it."""
    wanted = protocol.overlapping_pairs
    if wanted == "never" or (wanted == "detected" and task.boxes_given):
        return prediction
    overlap = box_iou(boxes, boxes, inclusive=protocol.inclusive_pixels) > 0
    keep = overlap[prediction.pairs[:, 0], prediction.pairs[:, 1]]
    listed = prediction.triplets is not None
    return Prediction(
        prediction.boxes,
        prediction.classes,
        prediction.scores,
        pairs=prediction.pairs[keep],
        predicate_scores=None if listed else prediction.predicate_scores[keep],
        triplets=prediction.triplets[keep] if listed else None,
        triplet_scores=prediction.triplet_scores[keep] if listed else None,
    )


def _top1(ranked: np.ndarray, relations: np.ndarray) -> np.ndarray:
    """Whether the best prediction on each row's own pair names the row's predicate."""
    answers: dict[tuple[int, int], int] = {}
    for subject, object_, predicate in ranked.tolist():
        answers.setdefault((subject, object_), predicate)
    return np.array([answers.get((s, o), -1) == p for s, o, p in relations.tolist()], bool)


def _phrase_ranks(
    ranked: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    gt_boxes: np.ndarray,
    gt_classes: np.ndarray,
    relations: np.ndarray,
    protocol: Protocol,
) -> np.ndarray:
    """Ranks where one box around subject and object is compared (Lu et al. 2016)."""
    triplets = np.column_stack([classes[ranked[:, :2]], ranked[:, 2]])
    gt_triplets = np.column_stack([gt_classes[relations[:, :2]], relations[:, 2]])
    overlap = box_iou(
        union_boxes(boxes, ranked),
        union_boxes(gt_boxes, relations),
        inclusive=protocol.inclusive_pixels,
    )
    hits = (triplets[:, None] == gt_triplets[None]).all(2)
    hits &= overlap >= np.float32(protocol.iou_threshold)
    return one_to_one_hits(hits, overlap) if protocol.one_to_one else first_hits(hits)
