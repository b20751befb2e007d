"""What a dataset of relations holds: counts, long tails, and oddities of its annotation.

Shapes: N images, C object classes, K predicates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vrd_d2.data.records.packed import PackedRecords

_TOLERANCE = 1e-2  # pixels; a box rebuilt from a rounded XYWH may stand out by that much


@dataclass(frozen=True)
class ClassPair:
    """Two classes that are related in some image.

    Attributes:
        subject, object: class ids.
        relations: annotated relations of a box of the one to a box of the other.
        predicate: the most frequent predicate among them (of several, the first).
        share: its share of them, in 0..1.
    """

    subject: int
    object: int
    relations: int
    predicate: int
    share: float


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts of a dataset. Pairs of boxes are ordered (subject, object).

    Attributes:
        images: N.
        images_without_objects, images_without_relations: how many of them.
        class_counts: (C,) boxes of each class.
        predicate_counts: (K,) relations of each predicate.
        objects_per_image, relations_per_image: (N,).
        images_without_size: whose width and height are not annotated.
        boxes_outside: boxes that reach outside their image, where its size is known.
        boxes_without_area: whose width or height is 0.
        self_relations: relations of a box to itself.
        repeated_relations: rows that repeat an earlier one of the same two boxes and predicate.
        related_pairs: pairs of different boxes with a relation.
        pairs_of_several_predicates: those with two different predicates or more.
        pairs_without_overlap: those whose boxes share no area, which no model finds that takes
            overlapping pairs only (MODEL.RELATION.REQUIRE_OVERLAP).
        triplets: different (subject class, predicate, object class).
        triplets_once: those that occur once.
        class_pairs: pairs of classes, those with most relations first.
    """

    images: int
    images_without_objects: int
    images_without_relations: int
    images_without_size: int
    class_counts: np.ndarray
    predicate_counts: np.ndarray
    objects_per_image: np.ndarray
    relations_per_image: np.ndarray
    boxes_outside: int
    boxes_without_area: int
    self_relations: int
    repeated_relations: int
    related_pairs: int
    pairs_of_several_predicates: int
    pairs_without_overlap: int
    triplets: int
    triplets_once: int
    class_pairs: tuple[ClassPair, ...]

    @property
    def dominant_share(self) -> float:
        """Return the share of relations with the most frequent predicate of their class pair.

        In 0..1, NaN without relations. It is what knowing the classes alone reaches: the top-1 of
        the frequency prior on the very data that it was counted on.
        """
        total = sum(pair.relations for pair in self.class_pairs)
        return sum(p.relations * p.share for p in self.class_pairs) / total if total else np.nan


def dataset_statistics(
    dataset_dicts: Sequence[dict], *, num_classes: int, num_predicates: int
) -> DatasetStatistics:
    """Count a dataset.

    Args:
        dataset_dicts: a list, or PackedRecords.
        num_classes: C.
        num_predicates: K; 0 for boxes only.

    Raises:
        ValueError: an id is beyond C or K.
    """
    records = dataset_dicts
    if not isinstance(records, PackedRecords):
        records = PackedRecords.pack(records, drop_other_keys=True)
    boxes, categories = records.boxes, records.categories.astype(np.int64)
    rows = records.relations.astype(np.int64)
    for ids, count, kind in (
        (categories, num_classes, "classes"),
        (rows[:, 2], num_predicates, "predicates"),
    ):
        if ids.size and not 0 <= ids.min() <= ids.max() < count:
            raise ValueError(
                f"ids of {kind} reach from {ids.min()} to {ids.max()}, but there are {count} "
                f"{kind}: give the vocabulary of this dataset"
            )
    owner = np.repeat(np.arange(len(records)), records.box_counts)
    sizes = records.sizes[owner][:, ::-1]  # width, height of each box's image
    inside = (boxes[:, :2] >= -_TOLERANCE).all(1) & (boxes[:, 2:] <= sizes + _TOLERANCE).all(1)
    sized = (records.sizes > 0).all(1)

    # Boxes are numbered through all images, so that a pair is two numbers.
    start = np.repeat(records.box_offsets[:-1], records.relation_counts)
    subjects, objects = start + rows[:, 0], start + rows[:, 1]
    distinct = np.unique(np.stack([subjects, objects, rows[:, 2]], 1), axis=0)
    distinct_pairs, predicates_of_pair = np.unique(distinct[:, :2], axis=0, return_counts=True)
    other = distinct_pairs[:, 0] != distinct_pairs[:, 1]
    first, second = boxes[distinct_pairs[other, 0]], boxes[distinct_pairs[other, 1]]
    side = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])

    triplets = np.stack([categories[subjects], categories[objects], rows[:, 2]], 1)
    different, times = np.unique(triplets, axis=0, return_counts=True)
    return DatasetStatistics(
        images=len(records),
        images_without_objects=int((records.box_counts == 0).sum()),
        images_without_relations=int((records.relation_counts == 0).sum()),
        class_counts=np.bincount(categories, minlength=num_classes),
        predicate_counts=np.bincount(rows[:, 2], minlength=num_predicates),
        objects_per_image=records.box_counts,
        relations_per_image=records.relation_counts,
        images_without_size=int((~sized).sum()),
        boxes_outside=int((~inside & sized[owner]).sum()),
        boxes_without_area=int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum()),
        self_relations=int((subjects == objects).sum()),
        repeated_relations=len(rows) - len(distinct),
        related_pairs=int(other.sum()),
        pairs_of_several_predicates=int((predicates_of_pair[other] > 1).sum()),
        pairs_without_overlap=int((side <= 0).any(1).sum()),
        triplets=len(different),
        triplets_once=int((times == 1).sum()),
        class_pairs=_class_pairs(different, times),
    )


def _class_pairs(triplets: np.ndarray, times: np.ndarray) -> tuple[ClassPair, ...]:
    """Return the class pairs of sorted distinct (subject, object, predicate) and their counts."""
    if not len(triplets):
        return ()
    pairs, starts = np.unique(triplets[:, :2], axis=0, return_index=True)
    totals = np.add.reduceat(times, starts)
    found = []
    for pair, start, stop, total in zip(
        pairs.tolist(), starts, [*starts[1:], len(times)], totals.tolist(), strict=True
    ):
        best = start + int(times[start:stop].argmax())
        found.append(ClassPair(*pair, total, int(triplets[best, 2]), float(times[best] / total)))
    return tuple(sorted(found, key=lambda pair: -pair.relations))


def statistics_json(
    statistics: DatasetStatistics, objects: Sequence[str], predicates: Sequence[str]
) -> dict[str, Any]:
    """Content of a JSON file, by name: ids become names, counts per image a histogram."""
    content: dict[str, Any] = {}
    for key, value in asdict(statistics).items():
        if key in ("class_counts", "predicate_counts"):
            names = objects if key == "class_counts" else predicates
            content[key] = dict(zip(names, value.tolist(), strict=True))
        elif key in ("objects_per_image", "relations_per_image"):
            numbers, images = np.unique(value, return_counts=True)
            content[key] = dict(zip(map(str, numbers.tolist()), images.tolist(), strict=True))
        elif key != "class_pairs":
            content[key] = value
    content["dominant_share"] = statistics.dominant_share if statistics.class_pairs else None
    content["class_pairs"] = [
        {
            "subject": objects[pair.subject],
            "object": objects[pair.object],
            "relations": pair.relations,
            "predicate": predicates[pair.predicate],
            "share": pair.share,
        }
        for pair in statistics.class_pairs
    ]
    return content


def statistics_table(
    statistics: DatasetStatistics, objects: Sequence[str], predicates: Sequence[str], *, title: str
) -> str:
    """Text of some twenty lines, shares in percent."""
    return "\n".join([title, *_lines(statistics, objects, predicates)])


def _lines(
    s: DatasetStatistics, objects: Sequence[str], predicates: Sequence[str]
) -> Iterator[str]:
    boxes, relations = int(s.objects_per_image.sum()), int(s.relations_per_image.sum())

    def line(text: str, count: int, total: int = 0) -> str:
        return f"  {text:<42} {count:>11,}" + (f" {count / total:8.2%}" if total else "")

    def most(counts: np.ndarray, names: Sequence[str]) -> str:
        order = np.argsort(-counts, kind="stable")[:8]
        return "    " + ", ".join(f"{names[i]} {counts[i]:,}" for i in order if counts[i])

    yield line("images", s.images)
    yield line("  without boxes", s.images_without_objects, s.images)
    yield line("  without relations", s.images_without_relations, s.images)
    yield line("boxes", boxes)
    yield line("  that reach outside the image", s.boxes_outside, boxes)
    if s.images_without_size:
        yield f"    (not counted in {s.images_without_size:,} images, whose size is not known)"
    yield line("  without area", s.boxes_without_area, boxes)
    yield line("classes that occur", int((s.class_counts > 0).sum()), len(s.class_counts))
    yield most(s.class_counts, objects)
    yield line("relations", relations)
    if not relations:
        return
    yield line("  of a box to itself", s.self_relations, relations)
    yield line("  repeated", s.repeated_relations, relations)
    yield line("predicates that occur", int((s.predicate_counts > 0).sum()), len(predicates))
    yield most(s.predicate_counts, predicates)
    yield line("related pairs of boxes", s.related_pairs)
    yield line("  with several predicates", s.pairs_of_several_predicates, s.related_pairs)
    yield line("  whose boxes do not overlap", s.pairs_without_overlap, s.related_pairs)
    yield line("triplets of classes and predicate", s.triplets)
    yield line("  that occur once", s.triplets_once, s.triplets)
    yield line("related pairs of classes", len(s.class_pairs))
    share = "  most frequent predicate of each, its share"
    yield f"{share:<44} {'':>11} {s.dominant_share:8.2%}"
    for pair in s.class_pairs[:8]:
        name = f"{objects[pair.subject]} - {objects[pair.object]}"
        yield f"    {name:<40} {pair.relations:>11,} {pair.share:8.2%} {predicates[pair.predicate]}"
