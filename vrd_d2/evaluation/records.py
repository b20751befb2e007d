"""Ground truth and predictions of one image as arrays, and what can be wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

# detectron2.structures.BoxMode
_XYXY_ABS, _XYWH_ABS = 0, 1


@dataclass
class GroundTruth:
    """The annotation of one image.

    Attributes:
        boxes: (G, 4) XYXY pixels of the original image.
        classes: (G,) 0-based.
        relations: (R, 3) rows (subject index, object index, predicate).
        longer_side: of the image in pixels; None where unknown.
    """

    boxes: np.ndarray
    classes: np.ndarray
    relations: np.ndarray
    longer_side: float | None = None

    def __post_init__(self) -> None:
        self.boxes = _boxes(self.boxes, "gt_boxes")
        self.classes = _whole(_table(self.classes, None, "gt_classes"), "gt_classes")
        self.relations = _whole(_table(self.relations, 3, "gt_relations"), "gt_relations")

    def check(self, num_predicates: int | None = None, num_classes: int | None = None) -> None:
        """Check indices, classes and predicates; raise ValueError where one is out of range."""
        if len(self.boxes) != len(self.classes):
            raise ValueError(f"{len(self.boxes)} gt_boxes but {len(self.classes)} gt_classes")
        if not np.isfinite(self.boxes).all():
            raise ValueError("gt_boxes hold NaN or infinite coordinates")
        _check_range(self.classes, num_classes, "gt_classes: class")
        _check_range(self.relations[:, :2], len(self.boxes), "gt_relations: index of a box")
        _check_range(self.relations[:, 2], num_predicates, "gt_relations: predicate")


@dataclass
class Prediction:
    """Predictions of one image, either scored pairs or a list of triplets.

    Attributes:
        boxes: (M, 4) XYXY pixels of the original image.
        classes: (M,) 0-based.
        scores: (M,) not negative; PredCls does not use them.
        pairs: (P, 2) indices (subject, object).
        predicate_scores: (P, K), foreground predicates only. The product with both entity scores
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
        self.boxes = _boxes(self.boxes, "boxes")
        self.classes = _whole(_table(self.classes, None, "classes"), "classes")
        self.scores = _scores(_table(self.scores, None, "scores"), "scores")
        if self.triplets is not None:
            self.triplets = _whole(_table(self.triplets, 3, "triplets"), "triplets")
            scores = _table(self.triplet_scores, None, "scores of triplets")
            self.triplet_scores = _scores(scores, "scores of triplets")
            self.pairs = self.triplets[:, :2]
        else:
            self.pairs = _whole(_table(self.pairs, 2, "pairs"), "pairs")
            self.predicate_scores = _scores(self.predicate_scores, "predicate_scores")

    @cached_property
    def best(self) -> np.ndarray:
        """Highest predicate score (P,) of each pair; NaN where one of them is NaN."""
        return self.predicate_scores.max(1) if len(self.pairs) else np.zeros(0, np.float32)

    def chosen(self, which: np.ndarray) -> "Prediction":
        """Return the prediction with some of its pairs or triplets alone, which (P,) bool says."""
        if self.triplets is None:
            scores = self.predicate_scores[which]
            return replace(self, pairs=self.pairs[which], predicate_scores=scores)
        scores = self.triplet_scores[which]
        return replace(self, triplets=self.triplets[which], triplet_scores=scores)

    def check(self, num_predicates: int | None = None, num_classes: int | None = None) -> None:
        """Check shapes, indices, classes and scores; raise ValueError where one is wrong or NaN."""
        count = len(self.boxes)
        if len(self.classes) != count or len(self.scores) != count:
            raise ValueError(
                f"{count} boxes, {len(self.classes)} classes and {len(self.scores)} scores: "
                "every box needs one of each"
            )
        if not np.isfinite(self.boxes).all():
            raise ValueError("boxes hold NaN or infinite coordinates")
        if not (np.isfinite(self.scores).all() and (self.scores >= 0).all()):
            raise ValueError("scores must be finite and not negative: they are factors")
        _check_range(self.classes, num_classes, "classes: class")
        listed = self.triplets is not None
        _check_range(self.pairs, count, f"{'triplets' if listed else 'pairs'}: index of a box")
        if listed:
            self._check_triplets(num_predicates)
        else:
            self._check_predicate_scores(num_predicates)

    def _check_triplets(self, num_predicates: int | None) -> None:
        _check_range(self.triplets[:, 2], num_predicates, "triplets: predicate")
        if len(self.triplet_scores) != len(self.triplets):
            raise ValueError(f"{len(self.triplets)} triplets but {len(self.triplet_scores)} scores")
        if not np.isfinite(self.triplet_scores).all():
            raise ValueError("scores of triplets must be finite")

    def _check_predicate_scores(self, num_predicates: int | None) -> None:
        shape = self.predicate_scores.shape
        if not len(self.pairs) and not self.predicate_scores.size:
            return
        wanted = shape[1] if num_predicates is None and len(shape) == 2 else num_predicates
        if shape != (len(self.pairs), wanted) or not wanted:
            hint = ""
            if num_predicates is not None and len(shape) == 2 and shape[1] == num_predicates + 1:
                hint = " (is the background among them? only foreground predicates are ranked)"
            raise ValueError(
                f"predicate_scores have shape {list(shape)}, not [pairs, predicates] = "
                f"[{len(self.pairs)}, {wanted or 'K'}]{hint}"
            )
        if (np.isnan(self.best) | (self.best == np.inf)).any():
            raise ValueError("predicate_scores hold NaN or infinity: they must be finite")


def ground_truth_from_dict(record: Mapping[str, Any]) -> GroundTruth:
    """Return the ground truth of a dataset dict: its annotations and relations (R, 3)."""
    annotations = record.get("annotations", [])
    size = (record.get("height"), record.get("width"))
    return GroundTruth(
        np.array([_xyxy(a["bbox"], a["bbox_mode"]) for a in annotations], np.float32),
        np.array([a["category_id"] for a in annotations], np.int64),
        record["relations"],
        longer_side=None if None in size else max(size),
    )


def _xyxy(box: Sequence[float], mode: int) -> Sequence[float]:
    """Return a box as XYXY, by Detectron2's number of its mode."""
    if mode == _XYXY_ABS:
        return box
    if mode == _XYWH_ABS:
        x, y, width, height = np.asarray(box, np.float32)
        return x, y, x + width, y + height
    from detectron2.structures import BoxMode  # for rotated boxes alone: it loads torch

    return BoxMode.convert(list(box), BoxMode(mode), BoxMode.XYXY_ABS)


def _array(values: object, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must have rows of one length") from error
    if array.size and array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold numbers only")
    return array


def _boxes(values: object, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity, which the check refuses
        return _table(values, 4, name).astype(np.float32, copy=False)


def _scores(values: object, name: str) -> np.ndarray:
    """Return floating point of the precision given, at least single."""
    array = _array(values, name)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _table(values: object, columns: int | None, name: str) -> np.ndarray:
    """Return an (N,) or (N, columns) array; an empty list of any shape has no rows."""
    array = _array(values, name)
    if array.size == 0:
        return array.reshape((0,) if columns is None else (0, columns))
    if array.ndim != (1 if columns is None else 2) or (columns and array.shape[1] != columns):
        wanted = "a list of numbers" if columns is None else f"rows of {columns} numbers"
        raise ValueError(f"{name} must be {wanted}, not of shape {list(array.shape)}")
    return array


def _whole(array: np.ndarray, name: str) -> np.ndarray:
    # Larger ones are no int64, and infinity is among them.
    if array.dtype.kind == "f" and not ((array == np.floor(array)) & (abs(array) < 2.0**63)).all():
        raise ValueError(f"{name} must be whole numbers")
    return array.astype(np.int64, copy=False)


def _check_range(values: np.ndarray, end: int | None, name: str) -> None:
    if values.size == 0:
        return
    least, most = int(values.min()), int(values.max())
    if least < 0 or (end is not None and most >= end):
        limit = "it must not be negative" if end is None else f"{end} exist, counted from 0"
        if most == end and least > 0:
            limit += " (are these counted from 1?)"
        raise ValueError(f"{name} {least if least < 0 else most} is out of range: {limit}")
