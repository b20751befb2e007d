"""Predicted and annotated scene graphs: compared, relation by relation, and drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vrd_d2.data.boxes import annotation_xyxy
from vrd_d2.evaluation.matching import compatible_boxes
from vrd_d2.evaluation.ranking import rank_triplets
from vrd_d2.evaluation.records import Prediction
from vrd_d2.inference.selection import class_names, predicted_graph
from vrd_d2.media import images
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.tasks import Task
from vrd_d2.visualization.scene_graph_image import draw_view


def compare_relations(
    predicted: SceneGraph, truth: SceneGraph, *, iou_threshold: float = 0.5
) -> SceneGraph:
    """Sort relations into "correct", "missed" and "extra", as Figure 5 of RelCLIP does.

    A predicted relation is correct if an annotated one has the same predicate and the same classes
    of subject and object, and both boxes overlap by the IoU threshold at least. Annotated relations
    that match no prediction are missed. As in the metrics, several predictions may match one.

    Returns:
        One graph for `draw_scene_graph`: the predicted entities and relations, followed by the
        missed relations. Where an entity of these was found, it is the predicted one; otherwise the
        annotated one is added.
    """
    labels = np.array([*predicted.labels, *truth.labels], dtype=object)
    of_predicted, of_truth = labels[: len(predicted.labels)], labels[len(predicted.labels) :]
    boxes = np.asarray(predicted.boxes, dtype=float).reshape(-1, 4)
    true_boxes = np.asarray(truth.boxes, dtype=float).reshape(-1, 4)
    same, iou = compatible_boxes(boxes, of_predicted, true_boxes, of_truth, threshold=iou_threshold)

    # Predictions, with the annotated relations that they match.
    matched: set[int] = set()
    rows = []
    for subject, obj, predicate, *_ in predicted.relations:
        hits = [
            index
            for index, (s, o, p, *_) in enumerate(truth.relations)
            if p == predicate and same[subject, s] and same[obj, o]
        ]
        matched.update(hits)
        rows.append((subject, obj, predicate, "correct" if hits else "extra"))

    # The other annotated relations, between predicted entities where these were found.
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
        if index not in matched:
            rows.append((merged(subject), merged(obj), predicate, "missed"))
    scores = [None] * len(predicted.relations) if predicted.scores is None else predicted.scores
    return SceneGraph(
        np.concatenate([boxes, true_boxes[added]]),
        [*of_predicted, *of_truth[added]],
        rows,
        [*scores, *[None] * (len(rows) - len(scores))],
    )


def prediction_graph(
    prediction: Prediction, vocabulary: Any, *, task: Task, top_k: int
) -> SceneGraph:
    """Return the best triplets of a prediction as it is evaluated, one predicate a pair.

    Args:
        prediction: of one image; it has passed its ``check``.
        vocabulary: a `Vocabulary`, or Detectron2 metadata.
        task: PredCls ranks by predicate scores alone.
        top_k: how many triplets.
    """
    objects, predicates = class_names(vocabulary)
    rows = np.zeros((0, 3), np.int64)
    if len(prediction.pairs):
        ranking = rank_triplets(prediction, limit=top_k, unit_scores=task.classes_given)
        rows = ranking.constrained[:top_k]
    return SceneGraph(
        prediction.boxes.astype(float),
        [objects[category] for category in prediction.classes],
        [(s, o, predicates[p]) for s, o, p in rows.tolist()],
    )


def ground_truth_graph(example: Mapping[str, Any], vocabulary: Any) -> SceneGraph:
    """Return the annotated graph of a dataset dict or of a mapped example, in original pixels.

    Raises:
        ValueError: it has no ground truth, or `vocabulary` names no classes.
    """
    objects, predicates = class_names(vocabulary)
    if "annotations" in example:
        annotations = example["annotations"]
        boxes = [annotation_xyxy(annotation) for annotation in annotations]
        classes = [annotation["category_id"] for annotation in annotations]
    elif "instances" in example:
        instances = example["instances"].to("cpu")
        height, width = instances.image_size
        scale = np.array([example["width"] / width, example["height"] / height] * 2)
        boxes = instances.gt_boxes.tensor.double().numpy() * scale
        classes = instances.gt_classes.tolist()
    else:
        raise ValueError(
            f"image {example.get('image_id')!r} has no ground truth: neither 'annotations' (a "
            "dataset dict) nor 'instances' (a mapped example)"
        )
    rows = [(s, o, predicates[p]) for s, o, p in np.asarray(example["relations"]).tolist()]
    return SceneGraph(
        np.asarray(boxes, dtype=float).reshape(-1, 4), [objects[c] for c in classes], rows
    )


def read_image(example: Mapping[str, Any]) -> np.ndarray:
    """Return the image of a dataset dict or a mapped example: uint8 (height, width, 3) RGB.

    The file of a dataset dict is read. A mapped example brings its image, resized and BGR, which is
    brought back to the original size.

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    if "image" not in example:
        return images.read_image(example["file_name"])[0]
    image = example["image"].cpu().numpy()[::-1].transpose(1, 2, 0).astype(np.uint8)
    size = (int(example["width"]), int(example["height"]))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


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
