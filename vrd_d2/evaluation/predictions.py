"""Predictions as an evaluation reads them, whichever tool wrote them.

    predictions.jsonl.gz   TEST.RELATION.WRITE_PREDICTIONS of train_net.py, or any other model: the
                           lines of json_lines.py
    predictions-*.jsonl    a process of predict.py: a line for each image, with names
    predictions.json       predict.py, all processes: relations_json with scores
    a folder               that holds one of them

What predict.py writes has names in place of ids, and file names in place of image ids.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from vrd_d2.data.formats.relations_check import check_document
from vrd_d2.data.record_values import checked_box, checked_index, member
from vrd_d2.data.source_files import located, read_json
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.evaluation.ground_truth_files import GroundTruths
from vrd_d2.evaluation.json_lines import (
    LineError,
    read_json_lines,
    read_objects,
    starts_like_lines,
)
from vrd_d2.evaluation.records import GroundTruth
from vrd_d2.tasks import Task

logger = logging.getLogger(__name__)

_IN_FOLDER = ("predictions.json", "predictions.jsonl.gz", "predictions.jsonl")
SAME_BOX = 1.0  # pixels that a given box may be off by, as its digits are rounded
_XYWH = (0, 1, 2, 3)


def read_predictions(
    path: str | os.PathLike, truths: GroundTruths, task: Task, *, progress: bool = False
) -> Iterator[tuple[int, dict]]:
    """Yield (number, content) of each image, as a line of ``json_lines`` has it.

    Args:
        path: one of the files above, or a folder that holds one.
        truths: annotation of the same images: tells images by file name, classes and predicates by
            name, and the order of given boxes.
        task: where boxes and classes come from.
        progress: show a bar.

    Yields:
        The number of the line, or of the image, from 1; content with "image_id".

    Raises:
        ValueError: the file cannot be read, or has nothing to evaluate; LineError names the line.
    """
    path = predictions_file(path)
    if not starts_like_lines(path, "image_id", "file_name"):
        yield from _Graphs(path, truths, task).values(_documents_graphs(path))
    elif _has_names(path):
        yield from _Graphs(path, truths, task).values(_journal(path, progress=progress))
    else:
        yield from read_json_lines(path, progress=progress)


def predictions_file(path: str | os.PathLike) -> Path:
    """Return the file of predictions in a folder, or the file itself.

    Raises:
        ValueError: there is none in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in _IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise ValueError(
        f"{path} has none of {', '.join(_IN_FOLDER)}: tools/predict.py writes predictions.json at "
        "its end, TEST.RELATION.WRITE_PREDICTIONS predictions.jsonl.gz"
    )


def _has_names(path: Path) -> bool:
    """Return whether lines are predict.py's."""
    try:
        first = next((value for _, value in read_objects(path)), {})
    except LineError:  # the reader says it
        return False
    return "file_name" in first and "image_id" not in first


def _journal(path: Path, *, progress: bool) -> Iterator[tuple[int, dict]]:
    """Yield the graphs of predict.py's lines; of two about one image the later one counts."""
    last: dict[str, tuple[int, dict]] = {}
    for number, record in read_objects(path, progress=progress):
        with located(f"{path}, line {number}"):
            file_name = member(record, "file_name", str)
        if "error" not in record or file_name not in last:
            last[file_name] = number, record
    for number, record in last.values():
        if "error" not in record:
            yield number, record


def _documents_graphs(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the graphs in predict.py's relations_json, as its lines have them."""
    document = read_json(path, damaged="write it again", repeated_keys=True)
    if isinstance(document, list):
        raise ValueError(
            f"{path} is a list, such as COCO's results: boxes without relations, which "
            "DATASETS.DETECTIONS takes; give predictions of relations"
        )
    findings = check_document(document, str(path))
    if findings.errors:
        more = f" (and {len(findings.errors) - 1} more)" if findings.errors[1:] else ""
        raise ValueError(findings.errors[0] + more)
    names, predicates = (
        {record["id"]: record["name"] for record in document[section]}
        for section in ("categories", "predicates")
    )
    graphs: dict[int | str, dict] = {
        image["id"]: {**image, "entities": [], "relations": []} for image in document["images"]
    }
    position: dict[int | str, int] = {}
    for annotation in document["annotations"]:
        entities = graphs[annotation["image_id"]]["entities"]
        position[annotation["id"]] = len(entities)
        entities.append({**annotation, "label": names[annotation["category_id"]]})
    for relation in document["relations"]:
        graphs[relation["image_id"]]["relations"].append(
            {
                **relation,
                "subject": position[relation["subject_id"]],
                "object": position[relation["object_id"]],
                "predicate": predicates[relation["predicate_id"]],
            }
        )
    yield from enumerate(graphs.values(), 1)


class _Graphs:
    """Turns graphs by name into lines of ids."""

    def __init__(self, path: Path, truths: GroundTruths, task: Task) -> None:
        if truths.vocabulary is None:
            raise ValueError(
                f"{path} has names of classes, but {truths.name} has none: name them with "
                "--vocabulary, or give a relations_json or a registered dataset"
            )
        if not truths.file_names:
            raise ValueError(
                f"{path} tells images by their files, but {truths.name} names none: give a "
                "relations_json or a registered dataset"
            )
        self._path, self._truths, self._task = path, truths, task
        self._vocabulary: Vocabulary = truths.vocabulary
        self._images = ImageFiles(truths.file_names)

    def values(self, graphs: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict]]:
        """Yield (number, line) of the images that are annotated."""
        others: list[str] = []
        elsewhere: list[tuple[str, str]] = []
        known: dict[int | str, str] = {}
        for number, graph in graphs:
            with located(f"{self._path}, image {number}"):
                file_name = member(graph, "file_name", str)
                path = os.path.join(self._path.parent, file_name)
                image_id = self._images.find(path)
                if image_id is None:
                    others.append(file_name)
                    continue
                if known.setdefault(image_id, file_name) != file_name:
                    raise ValueError(
                        f"{file_name} and {known[image_id]} both are {image_id!r} of "
                        f"{self._truths.name} by their names: predict one folder at a time"
                    )
                self._check_size(graph, image_id)
                if not self._images.is_same(path, image_id):
                    elsewhere.append((file_name, self._truths.file_names[image_id]))
                yield number, self._value(graph, image_id)
        if not known:
            some = f", such as {others[0]}" if others else ""
            raise ValueError(f"{self._path}: none of its images{some}, is in {self._truths.name}")
        if others:
            logger.warning(
                "%s: %d images are not in %s and are left out, such as %s",
                self._path, len(others), self._truths.name, others[0],
            )  # fmt: skip
        if elsewhere:
            logger.warning(
                "%s: %d images are found by their names, in another folder, such as %s for %s",
                self._path, len(elsewhere), *elsewhere[0],
            )  # fmt: skip

    def _check_size(self, graph: Mapping[str, Any], image_id: int | str) -> None:
        size = graph.get("width"), graph.get("height")
        stated = self._truths.sizes.get(image_id, size)
        if None not in size and tuple(size) != tuple(stated):
            raise ValueError(
                f"{graph['file_name']} had {size[0]} x {size[1]} pixels, {image_id!r} of "
                f"{self._truths.name} has {stated[0]} x {stated[1]}: it is another image"
            )

    def _value(self, graph: Mapping[str, Any], image_id: int | str) -> dict:
        entities, relations = (member(graph, key, list) for key in ("entities", "relations"))
        boxes, classes, scores = [], [], []
        for index, entity in enumerate(entities):
            with located(f"entities[{index}]"):
                box = member(entity, "bbox", list)
                boxes.append(checked_box(box, "[x, y, width, height]", _XYWH, extent=True))
                classes.append(self._vocabulary.object_id(member(entity, "label", str)))
                scores.append(entity.get("score", 1.0))
        triplets = []
        for index, relation in enumerate(relations):
            with located(f"relations[{index}]"):
                predicate = self._vocabulary.predicate_id(member(relation, "predicate", str))
                ends = [
                    checked_index(member(relation, key, int), len(entities), key)
                    for key in ("subject", "object")
                ]
                if relation.get("score") is None:
                    raise ValueError(
                        "it has no score, so that nothing ranks it: this is no file of predictions"
                    )
                triplets.append([*ends, predicate, member(relation, "score", int, float)])
        value = {"image_id": image_id, "triplets": triplets}
        if not self._task.boxes_given:
            return {**value, "boxes": boxes, "classes": classes, "scores": scores}
        return {**value, **self._given(boxes, classes, triplets, self._truths.images[image_id])}

    def _given(
        self,
        boxes: Sequence[Sequence[float]],
        classes: Sequence[int],
        triplets: Sequence[Sequence],
        truth: GroundTruth,
    ) -> dict:
        """Return classes and triplets of the annotated boxes, whose order the task takes."""
        index = _annotated_boxes(np.reshape(boxes, (-1, 4)), classes, truth, self._task)
        of_boxes = truth.classes.copy()
        of_boxes[index] = classes
        rows = [[index[s], index[o], p, score] for s, o, p, score in triplets]
        return {"classes": of_boxes.tolist(), "triplets": rows}


def _annotated_boxes(
    boxes: np.ndarray, classes: Sequence[int], truth: GroundTruth, task: Task
) -> list[int]:
    """Return which annotated box each box is, no two the same one."""
    free = np.ones(len(truth.boxes), bool)
    found = []
    for box, category in zip(boxes, classes, strict=True):
        fits = free & (np.abs(truth.boxes - box).max(1, initial=0) <= SAME_BOX)
        if task.classes_given and (fits & (truth.classes == category)).any():
            fits &= truth.classes == category
        if not fits.any():
            raise ValueError(
                f"box {[round(side, 2) for side in box.tolist()]} is no annotated one: "
                f"{task.value} takes those (tools/predict.py --boxes); evaluate found ones as sgdet"
            )
        distance = np.abs(truth.boxes - box).max(1, initial=0)
        found.append(int(np.where(fits, distance, np.inf).argmin()))
        free[found[-1]] = False
    return found


class ImageFiles:
    """Images by the paths of their files, also where the files were moved.

    Args:
        file_names: path by image_id.
    """

    def __init__(self, file_names: Mapping[int | str, str]) -> None:
        self._file_names = file_names
        self._named: dict[str, list[int | str]] = {}
        for image_id, file_name in file_names.items():
            self._named.setdefault(PurePath(file_name).name, []).append(image_id)

    def find(self, path: str) -> int | str | None:
        """Return the image of a file: the very one, or that whose path has the same end.

        Raises:
            ValueError: several images have paths with the same end.
        """
        ids = self._named.get(PurePath(path).name, [])
        same = [image_id for image_id in ids if self.is_same(path, image_id)]
        if same or not ids:
            return same[0] if same else None
        shared = [_common_end(path, self._file_names[image_id]) for image_id in ids]
        best = [i for i, count in zip(ids, shared, strict=True) if count == max(shared)]
        if len(best) > 1:
            raise ValueError(
                f"{path} may be {self._file_names[best[0]]} or {self._file_names[best[1]]}: put "
                "the images where the dataset names them"
            )
        return best[0]

    def is_same(self, path: str, image_id: int | str) -> bool:
        """Return whether both paths lead to one file, whether it exists or not."""
        return os.path.realpath(path) == os.path.realpath(self._file_names[image_id])


def _common_end(a: str, b: str) -> int:
    """Return how many parts at the ends of two paths are the same."""
    ends = [PurePath(path).parts[::-1] for path in (a, b)]
    pairs = enumerate(zip(*ends, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(map(len, ends)))
