"""Predicted scene graphs compared with annotated ones, relation by relation."""

import numpy as np

from vrd_d2.evaluation.matching import compatible_boxes
from vrd_d2.scene_graph import SceneGraph


def compare_relations(
    predicted: SceneGraph, truth: SceneGraph, *, iou_threshold: float = 0.5
) -> SceneGraph:
    """Sort relations into "correct", "missed" and "extra", as Figure 5 of RelCLIP does.

    A predicted relation is correct if an annotated one has the same predicate and the same classes
    of subject and object, and both boxes overlap by the IoU threshold at least. Annotated relations
    that no prediction meets are missed. As in the metrics, several predictions may meet one.

    Returns one graph for `draw_scene_graph`: the predicted entities and relations, followed by the
    missed relations. Where an entity of these was found, it is the predicted one; otherwise the
    annotated one is added.
    """
    labels = np.array([*predicted.labels, *truth.labels], dtype=object)
    of_predicted, of_truth = labels[: len(predicted.labels)], labels[len(predicted.labels) :]
    boxes = np.asarray(predicted.boxes, dtype=float).reshape(-1, 4)
    true_boxes = np.asarray(truth.boxes, dtype=float).reshape(-1, 4)
    same, iou = compatible_boxes(boxes, of_predicted, true_boxes, of_truth, threshold=iou_threshold)

    met: set[int] = set()
    rows = []
    for subject, object_, predicate, *_ in predicted.relations:
        hits = [
            index
            for index, (s, o, p, *_) in enumerate(truth.relations)
            if p == predicate and same[subject, s] and same[object_, o]
        ]
        met.update(hits)
        rows.append((subject, object_, predicate, "correct" if hits else "extra"))

    entity: dict[int, int] = {}
    added: list[int] = []

    def merged(index: int) -> int:
        if index not in entity:
            if same[:, index].any():
                entity[index] = int(np.where(same[:, index], iou[:, index], -1).argmax())
            else:
                entity[index] = len(boxes) + len(added)
                added.append(index)
        return entity[index]

    for index, (subject, object_, predicate, *_) in enumerate(truth.relations):
        if index not in met:
            rows.append((merged(subject), merged(object_), predicate, "missed"))
    scores = [None] * len(predicted.relations) if predicted.scores is None else predicted.scores
    return SceneGraph(
        np.concatenate([boxes, true_boxes[added]]),
        [*of_predicted, *of_truth[added]],
        rows,
        [*scores, *[None] * (len(rows) - len(scores))],
    )
