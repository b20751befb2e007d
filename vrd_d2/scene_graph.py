"""Scene graphs by name: read off ground truth or model outputs, and compared with each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from PIL import Image

from vrd_d2.evaluation.matching import compatible_boxes


@dataclass(frozen=True)
class SceneGraph:
    """Entities and relations of one picture, by name.

    boxes: float (M, 4), absolute XYXY pixels of the original picture. labels: M class names.
    relations: rows (subject, object, predicate name) or (subject, object, predicate name, status),
    where subject and object index the boxes. scores: a number or None for each relation; or None.
    """

    boxes: np.ndarray
    labels: Sequence[str]
    relations: Sequence[tuple]
    scores: Sequence[float | None] | None = None


def class_names(vocabulary: Any) -> tuple[Sequence[str], Sequence[str]]:
    """Object and predicate names of a `Vocabulary` or of Detectron2 metadata."""
    for names in (("objects", "predicates"), ("thing_classes", "predicate_classes")):
        if all(hasattr(vocabulary, name) for name in names):
            return getattr(vocabulary, names[0]), getattr(vocabulary, names[1])
    raise ValueError(
        f"{vocabulary!r} names no classes: give a Vocabulary, or the metadata of a registered "
        "relation data set (thing_classes and predicate_classes)"
    )


def predicted_graph(output: Mapping[str, Any], vocabulary: Any, *, top_k: int = 20) -> SceneGraph:
    """The `top_k` best triplets of a model's output, best first, under the graph constraint.

    Each pair has one predicate, its best. The score of a triplet is the ranking score of the
    predicate times the scores of subject and object. Ties keep the order of the pairs.
    """
    objects, predicates = class_names(vocabulary)
    instances, relations = output["instances"].to("cpu"), output["relations"].to("cpu")
    boxes = instances.pred_boxes.tensor.double().numpy()
    labels = [objects[c] for c in instances.pred_classes.tolist()]
    if not len(relations):
        return SceneGraph(boxes, labels, [], [])
    best, predicate = relations.predicate_scores.detach().double().max(1)
    scores = best * instances.scores.detach().double()[relations.pairs].prod(1)
    order = torch.argsort(scores, descending=True, stable=True)[:top_k]
    rows = [
        (subject, object_, predicates[p])
        for (subject, object_), p in zip(
            relations.pairs[order].tolist(), predicate[order].tolist(), strict=True
        )
    ]
    return SceneGraph(boxes, labels, rows, scores[order].tolist())


def ground_truth_graph(example: Mapping[str, Any], vocabulary: Any) -> SceneGraph:
    """The annotated graph of a dataset dict or of a mapped example, in original pixels."""
    objects, predicates = class_names(vocabulary)
    if "annotations" in example:
        annotations = example["annotations"]
        boxes = [
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
        ]
        classes = [a["category_id"] for a in annotations]
    elif "instances" in example:
        instances = example["instances"].to("cpu")
        height, width = instances.image_size
        scale = np.array([example["width"] / width, example["height"] / height] * 2)
        boxes = instances.gt_boxes.tensor.double().numpy() * scale
        classes = instances.gt_classes.tolist()
    else:
        raise ValueError(
            f"picture {example.get('image_id')!r} has no ground truth: neither 'annotations' (a "
            "dataset dict) nor 'instances' (a mapped example)"
        )
    rows = [(s, o, predicates[p]) for s, o, p in np.asarray(example["relations"]).tolist()]
    return SceneGraph(
        np.asarray(boxes, dtype=float).reshape(-1, 4), [objects[c] for c in classes], rows
    )


def read_picture(example: Mapping[str, Any]) -> np.ndarray:
    """The picture of a mapped example or a dataset dict: uint8 (height, width, 3) RGB, as original.

    A mapped example brings its picture, resized and BGR; otherwise the file is read.
    """
    if "image" not in example:
        return read_image(example["file_name"], format="RGB")
    image = example["image"].cpu().numpy()[::-1].transpose(1, 2, 0).astype(np.uint8)
    size = (int(example["width"]), int(example["height"]))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


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
