"""How often every pair of classes has every predicate: out of datasets, bases and files.

Shapes: C object classes, K predicates. Background, no relation, is the last of K + 1.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.names import normalise_name
from vrd_d2.data.records.columns import flat_ranges
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import located, read_json
from vrd_d2.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 2000  # some hundred thousand pairs of boxes
_FORMAT = (
    'it must be {"subject|predicate|object": count, ...}, alone or as "train" of a larger object'
)


def training_counts(
    path: str,
    datasets: Iterable[Sequence[dict]],
    vocabulary: Vocabulary,
    *,
    require_overlap: bool,
) -> np.ndarray:
    """Return the counts in a file, or without one those of labelled training sets.

    Args:
        path: MODEL.PREDICATE_PRIOR.COUNTS: a knowledge base, a JSON of
            :func:`load_triplet_counts`, or "".
        datasets: dataset dicts whose relations are annotated; read only where there is no file.
        vocabulary: gives C and K.
        require_overlap: see :func:`count_relations`.

    Returns:
        (C, C, K + 1) float32, background last.

    Raises:
        ValueError: there is neither a file nor a dataset, or one of them is wrong.
    """
    if path.endswith(".npz"):
        return knowledge_counts(KnowledgeBase.load(path), vocabulary)
    if path:
        return load_triplet_counts(path, vocabulary)
    counts = None
    for dicts in datasets:
        found = count_relations(dicts, vocabulary, require_overlap=require_overlap)
        counts = found if counts is None else counts + found
    if counts is None:
        raise ValueError(
            "DATASETS.DISTANT leaves no training set whose relations may be counted: set "
            "MODEL.PREDICATE_PRIOR.COUNTS, to the knowledge base for example"
        )
    return counts


def count_relations(
    dataset_dicts: Sequence[dict], vocabulary: Vocabulary, *, require_overlap: bool
) -> np.ndarray:
    """Count predicates, and no relation, for every ordered pair of classes.

    Args:
        dataset_dicts: a list, or PackedRecords (quicker), with "relations" (R, 3).
        vocabulary: gives C and K.
        require_overlap: candidate pairs without a relation count only if their boxes overlap.

    Returns:
        (C, C, K + 1) float32, background last.

    Raises:
        ValueError: names the image that has an id beyond the vocabulary.
    """
    num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    counts = np.zeros((num_classes**2, num_predicates + 1), dtype=np.int64)
    for start in range(0, len(dataset_dicts), _IMAGES_AT_ONCE):
        part = dataset_dicts[start : start + _IMAGES_AT_ONCE]
        if not isinstance(part, PackedRecords):
            part = PackedRecords.pack(part, drop_other_keys=True)
        _check_ids(part, num_classes, num_predicates)
        _add_counts(counts, part, num_classes, require_overlap)
    return counts.astype(np.float32).reshape(num_classes, num_classes, -1)


def _add_counts(
    counts: np.ndarray, records: PackedRecords, num_classes: int, require_overlap: bool
) -> None:
    """Add the counts of all images at once; boxes are numbered through them."""
    boxes, classes = records.boxes, records.categories.astype(np.int64)
    starts = records.box_offsets[:-1]

    def class_pairs(subjects: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return classes[subjects] * num_classes + classes[objects]

    def candidates(subjects: np.ndarray, objects: np.ndarray) -> np.ndarray:
        chosen = subjects != objects  # no candidate pair is of one box with itself
        if require_overlap:
            chosen = chosen & overlapping(boxes[subjects], boxes[objects])
        return chosen

    relations = records.relations.astype(np.int64)
    first = np.repeat(starts, records.relation_counts)
    subjects, objects = first + relations[:, 0], first + relations[:, 1]
    other = subjects != objects
    np.add.at(counts, (class_pairs(subjects, objects)[other], relations[other, 2]), 1)
    # Background: the candidate pairs without the related ones among them.
    related = np.unique(np.column_stack([subjects, objects]), axis=0).T
    related = related[:, candidates(*related)]
    pairs = all_pairs(starts, records.box_counts)
    pairs = pairs[:, candidates(*pairs)]
    for sign, found in ((1, pairs), (-1, related)):
        counts[:, -1] += sign * np.bincount(class_pairs(*found), minlength=len(counts))


def overlapping(subjects: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return whether boxes (P, 4) and (P, 4) intersect in an area > 0: (P,) bool."""
    low = np.maximum(subjects[:, :2], objects[:, :2])
    return (np.minimum(subjects[:, 2:], objects[:, 2:]) - low > 0).all(1)


def all_pairs(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return for each image every ordered pair of its boxes, also of one with itself: (2, P).

    Args:
        starts: (N,) number of each image's first box.
        sizes: (N,) boxes of each image.
    """
    subjects = flat_ranges(starts, sizes)
    partners = np.repeat(sizes, sizes)
    objects = flat_ranges(np.repeat(starts, sizes), partners)
    return np.stack([np.repeat(subjects, partners), objects])


def _check_ids(records: PackedRecords, num_classes: int, num_predicates: int) -> None:
    for ids, offsets, limit in (
        (records.categories, records.box_offsets, num_classes),
        (records.relations[:, 2], records.relation_offsets, num_predicates),
    ):
        wrong = (ids < 0) | (ids >= limit)
        if wrong.any():
            image = int(np.searchsorted(offsets, wrong.argmax(), side="right")) - 1
            raise ValueError(
                f"image {records[image]['file_name']} has a class or predicate id beyond the "
                f"{num_classes} classes and {num_predicates} predicates of MODEL.VOCABULARY: set "
                "it to the dataset's own"
            )


def knowledge_counts(base: KnowledgeBase, vocabulary: Vocabulary) -> np.ndarray:
    """Return the counts of a knowledge base, (C, C, K + 1) float32, those of background 0."""
    base.require(vocabulary)
    num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    counts = np.zeros((num_classes, num_classes, num_predicates + 1), np.float32)
    subject, predicate, obj = base.triplets.T
    counts[subject, obj, predicate] = base.triplet_counts
    return counts


def load_triplet_counts(path: str | os.PathLike, vocabulary: Vocabulary) -> np.ndarray:
    """Read counts of predicates for every ordered pair of classes.

    Names are compared in lower case and without punctuation. A triplet with a name that is not in
    the vocabulary is left out; the log says how many, and which names.

    Args:
        path: JSON of {"subject|predicate|object": count}, or an object with such a one as "train".
        vocabulary: gives C and K.

    Returns:
        (C, C, K + 1) float32, background last and 0: the file knows of no unrelated pairs.

    Raises:
        ValueError: names the file, the entry and the remedy.
    """
    counts = _read(path)
    objects = {normalise_name(name): i for i, name in enumerate(vocabulary.objects)}
    predicates = {normalise_name(name): i for i, name in enumerate(vocabulary.predicates)}
    table = np.zeros((len(objects), len(objects), len(predicates) + 1), np.float32)
    used, unknown = 0, Counter()
    for triplet, count in counts.items():
        names = [normalise_name(name) for name in triplet.split("|")]
        if len(names) != 3 or type(count) is not int or count < 0:
            raise ValueError(f"{path}: entry {triplet!r}: {count!r}: {_FORMAT}")
        ids = (objects.get(names[0]), objects.get(names[2]), predicates.get(names[1]))
        if None in ids:
            absent = zip(names, (ids[0], ids[2], ids[1]), strict=True)
            unknown.update(name for name, number in absent if number is None)
        else:
            table[ids] += count
            used += 1
    if not used:
        raise ValueError(
            f"{path}: the vocabulary knows none of its {len(counts)} triplets, such as "
            f"{next(iter(counts), None)!r}: set MODEL.VOCABULARY to the names it was counted with"
        )
    logger.info(
        "%s: %d of %d triplets, %d relations; %d names are not in the vocabulary%s",
        path, used, len(counts), int(table.sum(dtype=np.float64)), len(unknown),
        "".join(f", {name!r}" for name, _ in unknown.most_common(5)),
    )  # fmt: skip
    return table


def _read(path: str | os.PathLike) -> dict:
    with located("MODEL.PREDICATE_PRIOR.COUNTS"):
        content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("train"), dict):
        content = content["train"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no object: {_FORMAT}")
    return content
