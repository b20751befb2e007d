"""Evaluation of prediction files, whoever made them."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vrd_d2.data.boxes import BoxLayout, require_layout
from vrd_d2.data.datasets.loading import load_zero_shot
from vrd_d2.data.source_files import located
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.evaluation.ground_truth_files import GroundTruths, read_ground_truth
from vrd_d2.evaluation.image import evaluate_image, ground_truth_rows
from vrd_d2.evaluation.json_lines import (
    LineError,
    ground_truth_from_json,
    prediction_from_json,
    read_objects,
    starts_like_lines,
)
from vrd_d2.evaluation.matching import MISS
from vrd_d2.evaluation.predictions import SAME_BOX, predictions_file, read_predictions
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
    zero_shot: Iterable[Sequence[int]] | str | os.PathLike | None = None,
    vocabulary: Vocabulary | None = None,
    root: str | os.PathLike | None = None,
    images: str | None = None,
    num_predicates: int | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    training_counts: Sequence[int] | None = None,
    bootstrap: int = 0,
    progress: bool = False,
) -> FileResults:
    """Evaluate a file of predictions of any model, one image in memory at a time.

    Args:
        ground_truth: a relations_json file, the name of a registered dataset, or JSON Lines (see
            ``json_lines``).
        predictions: JSON Lines, what tools/predict.py wrote, or the folder of either (see
            ``predictions``); may be the same JSON Lines as ``ground_truth``, each line both.
        protocol: a name in PROTOCOLS, or a Protocol.
        annotated_pairs: rank the annotated pairs alone, where the task gives boxes; None as the
            protocol has it.
        zero_shot: (subject class, object class, predicate) triplets unseen in training, or the
            file of such a list (see :func:`~vrd_d2.data.datasets.loading.load_zero_shot`). By
            default that of the dataset: zero_shot.json beside a file.
        vocabulary: names of classes and predicates, for a ground truth that has none.
        root: folder of all registered datasets, see
            :func:`~vrd_d2.data.datasets.opening.open_dataset`.
        images: folder of the images of a ground-truth file; they need not be there.
        num_predicates: K; by default that of the relations_json file, else the length of the
            first predicate_scores.

    Raises:
        ValueError: the files do not fit, or K is not known; LineError names the line.
    """
    task, ks = Task(task), checked_ks(ks)
    if bootstrap < 0:
        raise ValueError(f"bootstrap is {bootstrap}: it is a number of resamples, 0 for none")
    protocol = get_protocol(protocol, annotated_pairs=annotated_pairs, task=task)
    both = os.path.isfile(ground_truth) and os.path.samefile(ground_truth, predictions)
    if both and starts_like_lines(ground_truth, "image_id"):
        truths = GroundTruths(os.fspath(ground_truth), {})
    else:
        both = False
        truths = read_ground_truth(ground_truth, images=images, root=root)
    names = num_classes = None
    if truths.vocabulary is not None:
        if vocabulary not in (None, truths.vocabulary):
            raise ValueError(
                f"{truths.name} has other classes or predicates than the vocabulary that is given, "
                "or in another order: leave the vocabulary out"
            )
        names = list(truths.vocabulary.predicates)
        num_classes = len(truths.vocabulary.objects)
        if num_predicates not in (None, len(names)):
            raise ValueError(
                f"num_predicates is {num_predicates}, but {truths.name} has {len(names)} of them"
            )
        num_predicates = len(names)
    elif vocabulary is not None:
        truths = replace(truths, vocabulary=vocabulary)
    predictions = predictions_file(predictions)
    num_predicates = num_predicates or _width(predictions, vocabulary)
    if num_predicates > MISS:
        raise ValueError(f"there are {num_predicates} predicates: {MISS} are the most")
    unseen = _zero_shot(zero_shot, truths, num_predicates)
    annotated = None if both else truths.images

    store = RowStore()
    repeated = others = moved = unsized = 0
    listed: set[int] = set()  # numbers of triplets of images that list them
    keys: dict[int | str, int] = {}
    layouts = {"gt_boxes": BoxLayout(), "boxes": BoxLayout()}
    lowest = _LowestIds()
    if annotated is not None:
        keys = {image_id: key for key, image_id in enumerate(annotated)}
    for number, value in read_predictions(predictions, truths, task, progress=progress):
        try:
            image_id = value["image_id"]
            if annotated is None:
                truth = ground_truth_from_json(value)
                truth.check(num_predicates, num_classes)
                keys.setdefault(image_id, len(keys))
            elif image_id in annotated:
                truth = _checked(truths, image_id, num_predicates, num_classes)
            else:
                raise ValueError(f"image_id {image_id!r} is not in {truths.name}")
            if keys[image_id] in store:
                repeated += 1
                continue
            prediction = prediction_from_json(value, truth, task)
            prediction.check(num_predicates, num_classes)
            size = [truth.longer_side or np.inf] * 2
            if annotated is None:
                layouts["gt_boxes"].add(truth.boxes, size)
            if value.get("boxes") is not None:
                layouts["boxes"].add(prediction.boxes, size)
            lowest.add(value, truth, prediction)
            rows, pairs = evaluate_image(
                truth,
                prediction,
                protocol=protocol,
                task=task,
                limit=ks[-1],
                zero_shot=unseen or frozenset(),
            )
        except ValueError as error:
            raise LineError(predictions, number, error) from error
        if task.classes_given:
            others += not np.array_equal(truth.classes, prediction.classes)
        if task.boxes_given and len(truth.boxes) == len(prediction.boxes):
            moved += np.abs(truth.boxes - prediction.boxes).max(initial=0) > SAME_BOX
        unsized += truth.longer_side is None
        if prediction.triplets is not None:
            listed.add(len(prediction.triplets))
        store.add(keys[image_id], rows, pairs)

    for name, layout in layouts.items():
        require_layout(layout, f"{predictions}: {name}")
    for hint in lowest.hints():
        logger.warning("%s: %s", predictions, hint)
    if protocol.box_scale is not None:
        _warn(unsized, f"images have no size: {protocol.name} could not scale their boxes")
    if listed and max(listed) < ks[-1]:
        logger.warning(
            "no image has more than %d triplets, so that recall at a larger K counts no more",
            max(listed),
        )
    missing = [image_id for image_id, key in keys.items() if key not in store]
    for image_id in missing:
        truth = _checked(truths, image_id, num_predicates, num_classes)
        store.add(keys[image_id], ground_truth_rows(truth, protocol, unseen or frozenset()), 0)
    _warn(repeated, "images come twice: the first line counts")
    _warn(others, "images name other classes than the ground truth, which PredCls gives")
    _warn(
        moved,
        f"images have other boxes than the ground truth, whose boxes, in their order, {task.value} "
        "takes",
    )
    _warn(len(missing), "images have no prediction: they count as without predicted pairs")
    summary = summarize(
        *RowStore.merge([store.state()]),
        num_predicates=num_predicates,
        protocol=protocol,
        task=task,
        ks=ks,
        with_zero_shot=unseen is not None,
        training_counts=training_counts,
        bootstrap=bootstrap,
    )
    if unseen and not summary.images["zeroshot_scored"]:
        logger.warning("none of the %d zero-shot triplets is in a scored image", len(unseen))
    return FileResults(summary, names)


def _checked(
    truths: GroundTruths, image_id: int | str, num_predicates: int, num_classes: int | None
) -> GroundTruth:
    """Return the annotation of an image; what is wrong in it is no fault of the predictions."""
    with located(f"{truths.name}: image {image_id!r}"):
        truth = truths.images[image_id]
        truth.check(num_predicates, num_classes)
    return truth


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


def _zero_shot(
    given: Iterable[Sequence[int]] | str | os.PathLike | None,
    truths: GroundTruths,
    num_predicates: int,
) -> frozenset[tuple[int, int, int]] | None:
    """Return the triplets that are given, or those of the dataset; None where there are none."""
    if given is None:
        given = truths.zero_shot()
        if given is not None:
            logger.info("%s: %d zero-shot triplets", truths.name, len(given))
    elif isinstance(given, (str, os.PathLike)):
        given = load_zero_shot(given, truths.vocabulary, num_predicates=num_predicates)
    return None if given is None else frozenset(tuple(map(int, row)) for row in given)


def _warn(count: int, what: str) -> None:
    if count:
        logger.warning("%d %s", count, what)


def _width(path: Path, vocabulary: Vocabulary | None) -> int:
    """Return the number of predicates of the first image that has scores."""
    if not starts_like_lines(path, "image_id"):
        lines: Iterable[tuple[int, dict]] = ()
    else:
        lines = read_objects(path)
    for _, value in lines:
        scores = value.get("predicate_scores")
        if isinstance(scores, list) and scores and isinstance(scores[0], list) and scores[0]:
            return len(scores[0])
    if vocabulary is not None:
        return len(vocabulary.predicates)
    raise ValueError(
        f"{path} has no predicate_scores: give the number of predicates, or a vocabulary"
    )
