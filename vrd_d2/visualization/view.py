"""What is drawn of a scene graph, checked once for every kind of drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vrd_d2.visualization.placement import STATUS, Row


@dataclass(frozen=True, eq=False)
class GraphView:
    """Entities and relations of one image, ready to draw; :meth:`of` makes and checks it.

    Attributes:
        boxes: float (M, 4), absolute XYXY pixels of the image, upper left corner first.
        labels: M class names.
        rows: (subject, object, predicate, status or None, score or None) of every relation, in
            the order of the relations.
        entity_scores: M numbers, or None.
    """

    boxes: np.ndarray
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    entity_scores: tuple[float, ...] | None

    @classmethod
    def of(
        cls,
        boxes: np.ndarray,
        labels: Sequence[str],
        relations: Sequence[tuple],
        *,
        scores: Sequence[float | None] | None = None,
        entity_scores: Sequence[float] | None = None,
    ) -> "GraphView":
        """Check a scene graph and bring it into the form that is drawn.

        Args:
            boxes: (M, 4) absolute XYXY pixels; corners in the wrong order are exchanged.
            labels: M class names.
            relations: rows (subject, object, predicate name) or (subject, object, predicate name,
                status); subject and object index the boxes, status is "correct", "missed",
                "extra" or None.
            scores: one number (or None) a relation.
            entity_scores: one number an entity.

        Raises:
            ValueError: names the box, relation or score that is wrong.
        """
        for index, box in enumerate(boxes):
            if not hasattr(box, "__len__") or len(box) != 4:
                raise ValueError(f"box {index} is {box!r}: it must be four numbers x1 y1 x2 y2")
        boxes = np.asarray(boxes, dtype=float).reshape(-1, 2, 2)
        boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1)
        if len(boxes) != len(labels):
            raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels: give one label a box")
        if not np.isfinite(boxes).all():
            raise ValueError(f"box {int((~np.isfinite(boxes)).any(1).argmax())} is not finite")
        if scores is None:
            scores = [None] * len(relations)
        if len(scores) != len(relations):
            raise ValueError(f"{len(relations)} relations but {len(scores)} scores: give one each")
        if entity_scores is not None:
            entity_scores = tuple(float(score) for score in entity_scores)
            if len(entity_scores) != len(boxes):
                raise ValueError(
                    f"{len(boxes)} boxes but {len(entity_scores)} entity_scores: give one each"
                )
        rows = [
            _row(relation, score, len(boxes))
            for relation, score in zip(relations, scores, strict=True)
        ]
        return cls(boxes, tuple(map(str, labels)), tuple(rows), entity_scores)

    def distinct_rows(self) -> list[Row]:
        """Return the rows without repetitions; the first of several has its score."""
        rows: dict[tuple, Row] = {}
        for row in self.rows:
            rows.setdefault(row[:4], row)
        return list(rows.values())


def _row(relation: tuple, score: float | None, entities: int) -> Row:
    subject, obj, predicate, status = (*relation, None)[:4]
    if not (0 <= subject < entities and 0 <= obj < entities):
        raise ValueError(f"relation {tuple(relation)} refers to none of the {entities} boxes")
    if status is not None and status not in STATUS:
        raise ValueError(f"relation status {status!r}: choose one of {', '.join(STATUS)}")
    value = None if score is None else float(score)
    return int(subject), int(obj), str(predicate), status, value
