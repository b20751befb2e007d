"""Scene graphs out of the outputs of models of torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrd_d2.onnx_runtime import Selection, select
from vrd_d2.scene_graph import SceneGraph


def class_names(vocabulary: Any) -> tuple[Sequence[str], Sequence[str]]:
    """Return object and predicate names of a `Vocabulary` or of Detectron2 metadata.

    Raises:
        ValueError: it names no classes.
    """
    for names in (("objects", "predicates"), ("thing_classes", "predicate_classes")):
        if all(hasattr(vocabulary, name) for name in names):
            return getattr(vocabulary, names[0]), getattr(vocabulary, names[1])
    raise ValueError(
        f"{vocabulary!r} names no classes: give a Vocabulary, or the metadata of a registered "
        "relation dataset (thing_classes and predicate_classes)"
    )


def select_triplets(output: Mapping[str, Any], vocabulary: Any, **options: Any) -> Selection:
    """Choose the best triplets of a model's output.

    Args:
        output: one image's output of a model: "instances" and "relations".
        vocabulary: a `Vocabulary`, or Detectron2 metadata.
        options: those of :func:`vrd_d2.onnx_runtime.select`.

    Raises:
        ValueError: as :func:`vrd_d2.onnx_runtime.select`.
    """
    return select(_arrays(output), class_names(vocabulary)[1], **options)


def selected_graph(output: Mapping[str, Any], vocabulary: Any, selection: Selection) -> SceneGraph:
    """Return the scene graph of a selection of one image's output."""
    objects, names = class_names(vocabulary)
    arrays = _arrays(output)
    height, width = output["instances"].image_size
    return SceneGraph(
        boxes=arrays["boxes"][selection.entities].astype(np.float64),
        labels=[objects[c] for c in arrays["classes"][selection.entities]],
        relations=[
            (subject, obj, names[predicate])
            for (subject, obj), predicate in zip(
                selection.pairs.tolist(), selection.predicates, strict=True
            )
        ],
        scores=selection.scores.tolist(),
        entity_scores=arrays["scores"][selection.entities].astype(np.float64).tolist(),
        size=(width, height),
    )


def predicted_graph(output: Mapping[str, Any], vocabulary: Any, **options: Any) -> SceneGraph:
    """Return the best triplets of a model's output as a graph; see :func:`select_triplets`."""
    return selected_graph(output, vocabulary, select_triplets(output, vocabulary, **options))


def _arrays(output: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what a selection needs of an output, by the names that exported models use."""
    instances, relations = output["instances"], output["relations"]
    tensors = {
        "boxes": instances.pred_boxes.tensor,
        "classes": instances.pred_classes,
        "scores": instances.scores,
        "pairs": relations.pairs,
        "predicate_scores": relations.predicate_scores,
    }
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
