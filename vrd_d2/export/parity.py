"""Comparison of an exported model with the model itself, both on the same input tensors.

Shapes: M entities, P pairs, K predicates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

# Named inputs (image, boxes, classes) to named outputs.
Runner = Callable[[Mapping[str, Tensor]], dict[str, np.ndarray]]


def model_runner(model: nn.Module, what: str) -> Runner:
    """Return the model as it is, for the inputs of the export of a part of it.

    Args:
        model: a detector or relation model, in eval mode.
        what: "detector", "relations" or "full".

    Returns:
        inputs -> boxes (M, 4), classes (M,), scores (M,) and, but for a detector, pairs (P, 2),
        predicate_probs (P, K + 1), predicate_scores (P, K); boxes in pixels of the given image.
    """

    @torch.no_grad()
    def run(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        image = inputs["image"]
        height, width = image.shape[-2:]
        example = {"image": image, "height": height, "width": width}
        if what == "detector":
            detector = getattr(model, "detector", model)
            entities = detector.inference([example], do_postprocess=False)[0]
        else:
            if what == "relations":
                example |= _given(model, inputs, (height, width))
            (output,) = model([example])
            entities = output["instances"]
        found = {
            "boxes": entities.pred_boxes.tensor,
            "classes": entities.pred_classes,
            "scores": entities.scores,
        }
        if what != "detector":
            for name in ("pairs", "predicate_probs", "predicate_scores"):
                found[name] = output["relations"].get(name)
        return {name: values.numpy() for name, values in found.items()}

    return run


def _given(
    model: nn.Module, inputs: Mapping[str, Tensor], size: tuple[int, int]
) -> dict[str, Instances]:
    boxes = Boxes(inputs["boxes"])
    classes = inputs.get("classes", torch.zeros(len(boxes), dtype=torch.int64))
    if model.task.boxes_given:
        return {"instances": Instances(size, gt_boxes=boxes, gt_classes=classes)}
    scores = torch.ones(len(boxes))
    found = Instances(size, pred_boxes=boxes, pred_classes=classes, scores=scores)
    return {"detections": found}


def export_runner(
    file: Path, file_format: str, outputs: Sequence[str], *, threads: int = 1
) -> Runner:
    """Return an exported file, in the format that :func:`~vrd_d2.export.write_model` wrote."""
    if file_format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda inputs: dict(
            zip(
                outputs,
                session.run(None, {name: values.numpy() for name, values in inputs.items()}),
                strict=True,
            )
        )
    if file_format == "torch_export":
        module = torch.export.load(file).module()
    else:
        module = torch.jit.load(file)

    @torch.no_grad()
    def run(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        found = module(*inputs.values())
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return run


@dataclass(frozen=True)
class Difference:
    """How far two answers are apart.

    Attributes:
        probabilities, scores, boxes: greatest absolute difference, of predicate probabilities and
            their ranking scores, of entities, and in pixels; NaN where the entities differ in
            number, class or pairs, so that there is nothing to subtract.
        same_best: whether the 100 best triplets are the same.
    """

    probabilities: float
    scores: float
    boxes: float
    same_best: bool


def compare(found: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> Difference:
    """Compare an export's answer with the model's; outputs that the export does not have agree."""
    found = {**own, **found}
    same = all(
        np.array_equal(found[name], own[name]) for name in ("classes", "pairs") if name in own
    )
    differences = [float("nan")] * 3
    if same:
        differences = [
            max((_greatest(found[name], own[name]) for name in names if name in own), default=0.0)
            for names in (("predicate_probs", "predicate_scores"), ("scores",), ("boxes",))
        ]
    best = [set(best_triplets(answer)) for answer in (found, own)]
    return Difference(*differences, same_best=same and best[0] == best[1])


def _greatest(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(np.float64) - second).max(initial=0))


def best_triplets(answer: Mapping[str, np.ndarray], count: int = 100) -> list[tuple[int, int, int]]:
    """Return the best (subject, object, predicate) without graph constraint, best first."""
    if "pairs" not in answer:
        return []
    pairs = answer["pairs"]
    scores = answer["predicate_scores"] * answer["scores"][pairs].prod(1, keepdims=True)
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    pair, predicate = np.unravel_index(order, scores.shape)
    return [(*pairs[i].tolist(), int(p)) for i, p in zip(pair, predicate, strict=True)]
