"""Evaluation of prediction files, whoever made them."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vrd_d2.data.boxes import BoxLayout
from vrd_d2.evaluation.ground_truth_files import read_ground_truth
from vrd_d2.evaluation.image import evaluate_image, ground_truth_rows
from vrd_d2.evaluation.json_lines import (
    LineError,
    ground_truth_from_json,
    prediction_from_json,
    read_json_lines,
)
from vrd_d2.evaluation.protocols import Protocol, get_protocol
from vrd_d2.evaluation.recall import DEFAULT_KS, RowStore, Summary, checked_ks, summarize
from vrd_d2.evaluation.records import GroundTruth, Prediction
from vrd_d2.tasks import Task

logger = logging.getLogger(__name__)


@dataclass
class FileResults:
    """Results of ``evaluate_files``: the summary, and predicate names where they are known."""

    summary: Summary
    predicate_names: list[str] | None


def evaluate_files(
    ground_truth: str | Path,
    predictions: str | Path,
    *,
    task: Task | str,
    protocol: Protocol | str = "sgb",
    annotated_pairs: bool | None = None,
    zero_shot: Iterable[Sequence[int]] | None = None,
    num_predicates: int | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    training_counts: Sequence[int] | None = None,
    bootstrap: int = 0,
    progress: bool = False,
) -> FileResults:
    """Evaluate a file of predictions of any model, one image in memory at a time.

    Args:
        ground_truth: a relations_json file, or JSON Lines (see ``json_lines``).
        predictions: JSON Lines; may be the same file as ``ground_truth``, each line both.
        protocol: a name in PROTOCOLS, or a Protocol.
        annotated_pairs: rank the annotated pairs alone, where the task gives boxes; None as the
            protocol has it.
        zero_shot: (subject class, object class, predicate) triplets unseen in training.
        num_predicates: K; by default that of the relations_json file, else the length of the
            first predicate_scores.

    Raises:
        ValueError: the files do not fit, or K is not known; LineError names the line.
    """
    task, ks = Task(task), checked_ks(ks)
    protocol = get_protocol(protocol, annotated_pairs=annotated_pairs, task=task)
    unseen = frozenset(tuple(int(i) for i in triplet) for triplet in zero_shot or ())
    names, num_classes, annotated = None, None, None
    if not os.path.samefile(ground_truth, predictions):
        names, num_classes, annotated = read_ground_truth(ground_truth)
    if names is not None:
        if num_predicates not in (None, len(names)):
            raise ValueError(
                f"num_predicates is {num_predicates}, but {ground_truth} has {len(names)} of them"
            )
        num_predicates = len(names)
    num_predicates = num_predicates or _width(predictions)

    store = RowStore()
    repeated = differing = 0
    keys: dict[int | str, int] = {}
    layouts = {"gt_boxes": BoxLayout(), "boxes": BoxLayout()}
    lowest = _LowestIds()
    if annotated is not None:
        keys = {image_id: key for key, image_id in enumerate(annotated)}
    for number, value in read_json_lines(predictions, progress=progress):
        try:
            image_id = value["image_id"]
            if annotated is None:
                truth = ground_truth_from_json(value)
                keys.setdefault(image_id, len(keys))
            elif image_id in annotated:
                truth = annotated[image_id]
            else:
                raise ValueError(f"image_id {image_id!r} is not in {ground_truth}")
            if keys[image_id] in store:
                repeated += 1
                continue
            truth.check(num_predicates, num_classes)
            prediction = prediction_from_json(value, truth, task)
            prediction.check(num_predicates, num_classes)
            size = [truth.longer_side or np.inf] * 2
            if annotated is None:
                layouts["gt_boxes"].add(truth.boxes, size)
            if value.get("boxes") is not None:
                layouts["boxes"].add(prediction.boxes, size)
            lowest.add(value, truth, prediction)
            rows, pairs = evaluate_image(
                truth, prediction, protocol=protocol, task=task, limit=ks[-1], zero_shot=unseen
            )
        except ValueError as error:
            raise LineError(predictions, number, error) from error
        if task.classes_given and not np.array_equal(truth.classes, prediction.classes):
            differing += 1
        store.add(keys[image_id], rows, pairs)

    for name, layout in layouts.items():
        if problem := layout.problem():
            raise ValueError(f"{predictions}: {name}: {problem}")
    for hint in lowest.hints():
        logger.warning("%s: %s", predictions, hint)
    missing = [image_id for image_id, key in keys.items() if key not in store]
    for image_id in missing:
        annotated[image_id].check(num_predicates, num_classes)
        store.add(keys[image_id], ground_truth_rows(annotated[image_id], protocol, unseen), 0)
    _warn(repeated, "images come twice: the first line counts")
    _warn(differing, "images name other classes than the ground truth, which PredCls gives")
    _warn(len(missing), "images have no prediction: they count as without predicted pairs")
    summary = summarize(
        *RowStore.merge([store.state()]),
        num_predicates=num_predicates,
        protocol=protocol,
        task=task,
        ks=ks,
        with_zero_shot=zero_shot is not None,
        training_counts=training_counts,
        bootstrap=bootstrap,
    )
    return FileResults(summary, names)


class _LowestIds:
    """The lowest ids of the predictions and of the ground truth: those must count from 0."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {
            "class": [np.inf, np.inf], "predicate": [np.inf, np.inf]
        }  # fmt: skip

    def add(self, value: dict, truth: GroundTruth, prediction: Prediction) -> None:
        """Look at one image; `value` is its line."""
        if value.get("classes") is not None:
            self._add("class", prediction.classes, truth.classes)
        if prediction.triplets is not None:
            self._add("predicate", prediction.triplets[:, 2], truth.relations[:, 2])

    def _add(self, what: str, *ids: np.ndarray) -> None:
        lowest = self._found[what]
        for side, values in enumerate(ids):
            lowest[side] = min(lowest[side], values.min(initial=np.iinfo(np.int64).max))

    def hints(self) -> list[str]:
        """Return a sentence on each kind of ids that counts from 1 instead of from 0."""
        return [
            f"no prediction has the {what} 0, though the ground truth has: ids count from 0; if "
            f"those of the predictions count from 1, every {what} is wrong by one"
            for what, (predicted, annotated) in self._found.items()
            if predicted == 1 and annotated == 0
        ]


def _warn(count: int, what: str) -> None:
    if count:
        logger.warning("%d %s", count, what)


def _width(path: str | Path) -> int:
    """Return the number of predicates of the first image that has scores."""
    for _, value in read_json_lines(path):
        scores = value.get("predicate_scores")
        if isinstance(scores, list) and scores and isinstance(scores[0], list) and scores[0]:
            return len(scores[0])
    raise ValueError(f"{path} has no predicate_scores: give the number of predicates")
