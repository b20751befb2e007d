"""Scene graphs read off ground truth or model outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image as decode
from detectron2.structures import BoxMode
from PIL import Image
from torch import Tensor
from torchvision.ops import nms

from vrd_d2.onnx_runtime import check_top_k
from vrd_d2.scene_graph import SceneGraph


def class_names(vocabulary: Any) -> tuple[Sequence[str], Sequence[str]]:
    """Object and predicate names of a `Vocabulary` or of Detectron2 metadata."""
    for names in (("objects", "predicates"), ("thing_classes", "predicate_classes")):
        if all(hasattr(vocabulary, name) for name in names):
            return getattr(vocabulary, names[0]), getattr(vocabulary, names[1])
    raise ValueError(
        f"{vocabulary!r} names no classes: give a Vocabulary, or the metadata of a registered "
        "relation dataset (thing_classes and predicate_classes)"
    )


@dataclass(frozen=True)
class Selection:
    """What of a model's output a scene graph shows, best first.

    Attributes:
        entities: (M,) long, positions in the output's instances, ascending.
        rows: (R,) long, positions in the output's relations.
        predicates: (R,) long, predicate ids.
        scores: (R,) float64.
    """

    entities: Tensor
    rows: Tensor
    predicates: Tensor
    scores: Tensor


def select_triplets(
    output: Mapping[str, Any],
    vocabulary: Any,
    *,
    top_k: int = 20,
    min_score: float = 0.0,
    min_entity_score: float = 0.0,
    predicates: str | Sequence[str] | None = None,
    max_overlap: float = 1.0,
) -> Selection:
    """The `top_k` best triplets of a model's output, best first, under the graph constraint.

    Each pair has one predicate, its best. The score of a triplet is the ranking score of the
    predicate times the scores of subject and object. Ties keep the order of the pairs.

    Args:
        output: one image's output of a model.
        vocabulary: a `Vocabulary`, or Detectron2 metadata.
        top_k: relations to keep.
        min_score: relations with a lower score are left out.
        min_entity_score: entities with a lower score are left out, and their relations with them.
        predicates: a name, or names among which the best of each pair is chosen; None for all.
        max_overlap: of entities that overlap by a larger IoU, whatever their classes, only the one
            with the best score stays: a detector may find one thing as man and as person.

    Raises:
        ValueError: a predicate is not in the vocabulary.
    """
    check_top_k(top_k)
    columns = torch.tensor(_predicate_columns(predicates, class_names(vocabulary)[1]))
    instances, relations = output["instances"].to("cpu"), output["relations"].to("cpu")
    entity_scores = instances.scores.detach()
    keep = entity_scores >= min_entity_score
    if max_overlap < 1:
        boxes = instances.pred_boxes.tensor.detach().float()
        best_of_overlapping = torch.zeros_like(keep)
        best_of_overlapping[nms(boxes, entity_scores.float(), max_overlap)] = True
        keep &= best_of_overlapping
    rows = keep[relations.pairs].all(1).nonzero()[:, 0]
    entities = keep.nonzero()[:, 0]
    if not len(rows) or not len(columns):
        none = rows[:0]
        return Selection(entities, none, none, none.double())
    best, column = relations.predicate_scores.detach().double()[rows][:, columns].max(1)
    scores = best * entity_scores.double()[relations.pairs[rows]].prod(1)
    order = torch.argsort(scores, descending=True, stable=True)[:top_k]
    order = order[scores[order] >= min_score]
    return Selection(entities, rows[order], columns[column[order]], scores[order])


def selected_graph(output: Mapping[str, Any], vocabulary: Any, selection: Selection) -> SceneGraph:
    """The scene graph of a selection of one image's output."""
    objects, names = class_names(vocabulary)
    instances, relations = output["instances"].to("cpu"), output["relations"].to("cpu")
    # Pairs refer to entities by position.
    position = torch.full((len(instances),), -1)
    position[selection.entities] = torch.arange(len(selection.entities))
    instances = instances[selection.entities]
    pairs = position[relations.pairs[selection.rows]]
    height, width = instances.image_size
    return SceneGraph(
        boxes=instances.pred_boxes.tensor.detach().double().numpy(),
        labels=[objects[c] for c in instances.pred_classes.tolist()],
        relations=[
            (subject, object_, names[predicate])
            for (subject, object_), predicate in zip(
                pairs.tolist(), selection.predicates.tolist(), strict=True
            )
        ],
        scores=selection.scores.tolist(),
        entity_scores=instances.scores.detach().double().tolist(),
        size=(width, height),
    )


def predicted_graph(output: Mapping[str, Any], vocabulary: Any, **options: Any) -> SceneGraph:
    """The best triplets of a model's output as a graph; options of :func:`select_triplets`."""
    return selected_graph(output, vocabulary, select_triplets(output, vocabulary, **options))


def _predicate_columns(predicates: str | Sequence[str] | None, names: Sequence[str]) -> list[int]:
    if predicates is None:
        return list(range(len(names)))
    predicates = [predicates] if isinstance(predicates, str) else predicates
    unknown = [name for name in predicates if name not in names]
    if unknown:
        raise ValueError(f"unknown predicate {unknown[0]!r}: choose of {', '.join(names)}")
    return sorted({list(names).index(name) for name in predicates})


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
            f"image {example.get('image_id')!r} has no ground truth: neither 'annotations' (a "
            "dataset dict) nor 'instances' (a mapped example)"
        )
    rows = [(s, o, predicates[p]) for s, o, p in np.asarray(example["relations"]).tolist()]
    return SceneGraph(
        np.asarray(boxes, dtype=float).reshape(-1, 4), [objects[c] for c in classes], rows
    )


def read_image(example: Mapping[str, Any]) -> np.ndarray:
    """The image of a mapped example or a dataset dict: uint8 (height, width, 3) RGB, as original.

    A mapped example brings its image, resized and BGR; otherwise the file is read.
    """
    if "image" not in example:
        return decode(example["file_name"], format="RGB")
    image = example["image"].cpu().numpy()[::-1].transpose(1, 2, 0).astype(np.uint8)
    size = (int(example["width"]), int(example["height"]))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
