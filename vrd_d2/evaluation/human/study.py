"""A study, which people judge: sampled images, and of each the best relations of the models.

RelCLIP (Table 2) asks people which of the 10 and 20 best relations of an image are right, because
annotations leave out too much for that. A *study* has images drawn by a seed, and of each image the
relations of all models in one shuffled list, each once. Raters see neither models nor ranks; those
are in the study's *manifest*, from which ``report`` computes.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vrd_d2.data.boxes import BoxLayout, known_sizes, require_layout
from vrd_d2.data.images.sizes import read_size
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.evaluation.ground_truth_files import GroundTruths
from vrd_d2.evaluation.json_lines import LineError, prediction_from_json
from vrd_d2.evaluation.predictions import predictions_file, read_predictions
from vrd_d2.evaluation.ranking import rank_triplets
from vrd_d2.evaluation.records import Prediction
from vrd_d2.tasks import Task

logger = logging.getLogger(__name__)

MANIFEST_FORMAT = "vrd_d2 human evaluation 1"
RATINGS_FORMAT = "vrd_d2 human ratings 1"
# Pixels by which boxes of one class may differ and still be taken for one.
SAME_BOX = 1.0

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Entity:
    """A box, XYXY pixels of the original image, and the name of its class."""

    label: str
    box: Box


@dataclass(frozen=True)
class Item:
    """One relation to judge: its id in the study, and subject and object among the entities."""

    id: str
    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class StudyImage:
    """An image of a study.

    Attributes:
        image_id, file_name, width, height: of the dataset's record.
        entities: those that an item names, in an order that does not depend on models or ranks.
        items: in the order in which they are shown.
        ranked: ids of the items that each model proposes, best first. Where two of its boxes
            were taken for one, an item may come twice.
    """

    image_id: int | str
    file_name: str
    width: int
    height: int
    entities: list[Entity]
    items: list[Item]
    ranked: dict[str, list[str]]


@dataclass(frozen=True)
class Study:
    """The images and relations that raters judge.

    Attributes:
        id: a digest of what is shown, so that ratings find their study. It depends neither on the
            names of the models nor on their order.
        models: the file of predictions of each model.
        eligible: number of images that were drawn from.
    """

    id: str
    models: dict[str, str]
    images: list[StudyImage]
    task: Task
    top: int
    seed: int
    eligible: int

    def manifest(self, dataset: str) -> dict:
        """Return everything but the images, as JSON: which model proposed what at which rank."""
        return {
            "format": MANIFEST_FORMAT,
            "study": self.id,
            "dataset": dataset,
            "task": self.task.value,
            "top": self.top,
            "seed": self.seed,
            "eligible_pictures": self.eligible,
            "models": self.models,
            "pictures": [asdict(image) for image in self.images],
        }


def make_study(
    records: Sequence[dict],
    *,
    classes: Sequence[str],
    predicates: Sequence[str],
    predictions: Mapping[str, str | Path],
    task: Task | str,
    images: int = 50,
    top: int = 20,
    seed: int = 0,
    min_relations: int = 0,
    progress: bool = False,
) -> Study:
    """Draw images and pool the best relations that the models predict on them.

    Args:
        records: dataset dicts (see ``datasets/README.md``).
        classes, predicates: names of the dataset's ids.
        predictions: file or folder of each model, by its name (see ``evaluation.predictions``).
        task: PredCls ranks by predicate scores alone, the others multiply with both entity scores.
        images: how many to draw from those that every file has; all of them if there are fewer.
        top: relations of each model and image, under the graph constraint: one predicate a pair,
            ranked as for Recall@K.
        seed: of the drawing and of every order.
        min_relations: draw only images for which every model has so many relations. With 0,
            those for which any model has one.

    Returns:
        The study. Two models' relations are one item if their predicates are the same, and their
        subjects and objects are: same class, no side further apart than ``SAME_BOX``.

    Raises:
        ValueError: an argument is out of range, or no image can be drawn; LineError names the
            line of a file that cannot be used.
    """
    task = Task(task)
    for name, value, least in (
        ("images", images, 1),
        ("top", top, 1),
        ("seed", seed, 0),
        ("min_relations", min_relations, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")
    if min_relations > top:
        raise ValueError(f"min_relations is {min_relations}: only the top {top} are looked at")
    if not predictions:
        raise ValueError("give the predictions of at least one model")
    position = {record["image_id"]: index for index, record in enumerate(records)}
    vocabulary = Vocabulary(tuple(classes), tuple(predicates))
    truths = GroundTruths.of_dataset("the dataset", records, vocabulary)
    best = [
        _best_relations(path, truths, task, top, progress=progress) for path in predictions.values()
    ]
    eligible = _eligible(position, dict(zip(predictions, best, strict=True)), min_relations)
    generator = np.random.default_rng(seed)
    if images > len(eligible):
        logger.warning("only %d images to draw from: all of them are taken", len(eligible))
    drawn = generator.choice(len(eligible), min(images, len(eligible)), replace=False)
    pooled: list[StudyImage] = []
    count = 0
    for image_id in (eligible[index] for index in drawn.tolist()):
        of_models = {model: found[image_id] for model, found in zip(predictions, best, strict=True)}
        record = records[position[image_id]]
        pooled.append(_pool(record, of_models, classes, predicates, generator, count))
        count += len(pooled[-1].items)
    models = {name: str(path) for name, path in predictions.items()}
    return Study(_digest(pooled), models, pooled, task, top, seed, len(eligible))


# Best relations of an image: labels of the entities (M,), their boxes (M, 4), rows (T, 3).
_Ranked = tuple[np.ndarray, np.ndarray, np.ndarray]


def _best_relations(
    path: str | Path,
    truths: GroundTruths,
    task: Task,
    top: int,
    *,
    progress: bool,
) -> dict[int | str, _Ranked]:
    """Return the best relations of every image in a file; of a repeated image, the first."""
    found: dict[int | str, _Ranked] = {}
    layout = BoxLayout()
    path, names = predictions_file(path), truths.vocabulary
    for number, value in read_predictions(path, truths, task, progress=progress):
        image_id = value["image_id"]
        if image_id in found:
            continue
        try:
            if image_id not in truths.images:
                raise ValueError(f"image_id {image_id!r} is not in {truths.name}")
            prediction = prediction_from_json(value, truths.images[image_id], task)
            prediction.check(len(names.predicates), len(names.objects))
            rows = _rank(prediction, top, task)
        except ValueError as error:
            raise LineError(path, number, error) from error
        layout.add(prediction.boxes, known_sizes(truths.sizes.get(image_id, (0, 0))))
        # Only boxes that the rows name are stored: the others would fill the memory.
        used, indices = np.unique(rows[:, :2], return_inverse=True)
        rows = np.column_stack([indices.reshape(-1, 2), rows[:, 2]])
        found[image_id] = prediction.classes[used], prediction.boxes[used], rows
    require_layout(layout, f"{path}: boxes")
    return found


def _rank(prediction: Prediction, top: int, task: Task) -> np.ndarray:
    if not len(prediction.pairs):
        return np.zeros((0, 3), np.int64)
    ranking = rank_triplets(prediction, limit=top, unit_scores=task.classes_given)
    return ranking.constrained


def _eligible(
    position: Mapping[int | str, int],
    best: Mapping[str, Mapping[int | str, _Ranked]],
    min_relations: int,
) -> list[int | str]:
    """Return the images to draw from, in the order of the dataset."""
    eligible = []
    for image_id in position:
        if all(image_id in found for found in best.values()):
            counts = [len(found[image_id][2]) for found in best.values()]
            if min(counts) >= min_relations and max(counts) > 0:
                eligible.append(image_id)
    if not eligible:
        sizes = ", ".join(f"{name} has {len(found)} images" for name, found in best.items())
        raise ValueError(
            f"there is no image for which every model has predictions and at least "
            f"{max(min_relations, 1)} relations ({sizes}): predict on the same dataset, or ask "
            "for fewer relations"
        )
    return eligible


def _pool(
    record: Mapping,
    of_models: Mapping[str, _Ranked],
    classes: Sequence[str],
    predicates: Sequence[str],
    generator: np.random.Generator,
    start: int,
) -> StudyImage:
    """Return one list of the models' relations, in an order independent of ranks and models."""
    merged: list[tuple[int, np.ndarray]] = []

    def merge(category: int, box: np.ndarray) -> int:
        for index, (known, other) in enumerate(merged):
            if known == category and np.abs(other - box).max() <= SAME_BOX:
                return index
        merged.append((category, box))
        return len(merged) - 1

    proposed = {}
    for model, (categories, boxes, rows) in of_models.items():
        index = [merge(*entity) for entity in zip(categories.tolist(), boxes, strict=True)]
        proposed[model] = [(index[s], index[o], p) for s, o, p in rows.tolist()]
    entities = [
        Entity(str(classes[category]), tuple(round(x, 2) for x in box.tolist()))
        for category, box in merged
    ]
    # Sorted by content before they are shuffled: so far the order is that of models and ranks.
    order = sorted(range(len(entities)), key=lambda i: (entities[i].label, entities[i].box))
    rank = {old: new for new, old in enumerate(order)}
    found = {key for keys in proposed.values() for key in keys}
    keys = sorted(found, key=lambda key: (rank[key[0]], rank[key[1]], key[2]))
    shuffled = [keys[i] for i in generator.permutation(len(keys)).tolist()]
    ids = {key: f"r{start + number}" for number, key in enumerate(shuffled, 1)}
    return StudyImage(
        record["image_id"],
        str(record["file_name"]),
        *_size(record),
        [entities[i] for i in order],
        [Item(ids[s, o, p], rank[s], str(predicates[p]), rank[o]) for s, o, p in shuffled],
        {model: [ids[key] for key in rows] for model, rows in proposed.items()},
    )


def _size(record: Mapping) -> tuple[int, int]:
    """Return width and height of an image, which is opened if the dataset does not state them."""
    if "width" in record and "height" in record:
        return int(record["width"]), int(record["height"])
    return read_size(record["file_name"])


def _digest(images: Sequence[StudyImage]) -> str:
    shown = [
        [p.image_id, [asdict(e) for e in p.entities], [asdict(item) for item in p.items]]
        for p in images
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:12]
