"""Predicted scene graphs compared with annotated ones, relation by relation, and drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vrd_d2.evaluation.matching import compatible_boxes
from vrd_d2.inference.selection import ground_truth_graph, predicted_graph, read_image
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.scene_graph_image import draw_view


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
    for subject, obj, predicate, *_ in predicted.relations:
        hits = [
            index
            for index, (s, o, p, *_) in enumerate(truth.relations)
            if p == predicate and same[subject, s] and same[obj, o]
        ]
        met.update(hits)
        rows.append((subject, obj, predicate, "correct" if hits else "extra"))

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

    for index, (subject, obj, predicate, *_) in enumerate(truth.relations):
        if index not in met:
            rows.append((merged(subject), merged(obj), predicate, "missed"))
    scores = [None] * len(predicted.relations) if predicted.scores is None else predicted.scores
    return SceneGraph(
        np.concatenate([boxes, true_boxes[added]]),
        [*of_predicted, *of_truth[added]],
        rows,
        [*scores, *[None] * (len(rows) - len(scores))],
    )


def draw_predictions(
    example_or_image: Mapping[str, Any] | np.ndarray,
    output: Mapping[str, Any],
    vocabulary: Any,
    *,
    ground_truth: Mapping[str, Any] | SceneGraph | None = None,
    top_k: int = 20,
) -> np.ndarray:
    """Draw the best triplets of a model's output, compared with the ground truth if it is given.

    Args:
        example_or_image: a mapped example, a dataset dict (its file is read), or the original
            image itself, uint8 (H, W, 3) RGB.
        output: one image's output of the model: `instances` and `relations`.
        vocabulary: a `Vocabulary`, or Detectron2 metadata with `thing_classes` and
            `predicate_classes`.
        ground_truth: a mapped example, a dataset dict, or a `SceneGraph`.
        top_k: how many triplets to draw, under the graph constraint (one predicate a pair).

    Returns:
        uint8 (H', W', 3) RGB, as `draw_scene_graph`.
    """
    graph = predicted_graph(output, vocabulary, top_k=top_k)
    if ground_truth is not None:
        if not isinstance(ground_truth, SceneGraph):
            ground_truth = ground_truth_graph(ground_truth, vocabulary)
        graph = compare_relations(graph, ground_truth)
    return _draw_graph(example_or_image, graph)


def draw_ground_truth(example: Mapping[str, Any], vocabulary: Any) -> np.ndarray:
    """Draw the annotated relations of a mapped example or a dataset dict (`draw_predictions`)."""
    return _draw_graph(example, ground_truth_graph(example, vocabulary))


def _draw_graph(example_or_image: Mapping[str, Any] | np.ndarray, graph: SceneGraph) -> np.ndarray:
    image = example_or_image
    if isinstance(image, Mapping):
        image = read_image(image)
    return draw_view(image, graph.view())
