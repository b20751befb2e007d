"""Seeded splits of a dataset by image, and the triplets that a split leaves unseen."""

import json
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
from vrd_d2.data.vocabulary import Vocabulary


def split_indices(
    count: int, parts: Mapping[str, float | int], *, rest: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Divide images by chance.

    Args:
        count: images.
        parts: part -> number of images (int), or share of all of them (float in 0..1).
        rest: part that gets all other images.
        seed: the same seed, count and parts give the same split on every machine.

    Returns:
        Part -> sorted indices: those of `parts`, then `rest`. Every image is in exactly one.

    Raises:
        ValueError: a share or number is out of range, or they are more than there are images.
    """
    sizes = {name: _size(name, part, count) for name, part in parts.items()}
    if (
        sizes
        and all(isinstance(part, float) for part in parts.values())
        and sum(parts.values()) <= 1
    ):
        # Two halves of an odd number are both rounded up: the last one gets one image less.
        last = list(sizes)[-1]
        sizes[last] -= max(sum(sizes.values()) - count, 0)
    others = count - sum(sizes.values())
    if others < 0:
        asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{asked} are more than the {count} images: take fewer")
    order = np.random.default_rng(seed).permutation(count)
    found, start = {}, 0
    for name, size in {**sizes, rest: others}.items():
        found[name] = np.sort(order[start : start + size])
        start += size
    return found


def _size(name: str, part: float | int, count: int) -> int:
    if isinstance(part, float):
        if not 0 <= part <= 1:  # also for NaN
            raise ValueError(f"{name} is {part:g}: a share must be in 0..1, a number an integer")
        return math.floor(part * count + 0.5)
    if part < 0:
        raise ValueError(f"{name} is {part}: a number of images must not be negative")
    return part


def zero_shot_names(
    train: Sequence[dict], test: Sequence[dict], vocabulary: Vocabulary
) -> list[list[str]]:
    """Return test triplets that training does not contain, as names [subject, predicate, object].

    Args:
        train, test: dataset dicts, lists or PackedRecords, of the same vocabulary.
        vocabulary: their names.
    """
    unseen = unseen_triplets(_packed(test).triplets(), _packed(train).triplets())
    return [
        [vocabulary.objects[subject], vocabulary.predicates[predicate], vocabulary.objects[obj]]
        for subject, obj, predicate in unseen
    ]


def write_zero_shot(rows: Sequence[Sequence[str]], path: str | os.PathLike) -> None:
    """Write :func:`zero_shot_names` as zero_shot.json of a dataset."""
    write_text(path, json.dumps(list(rows)) + "\n")


def _packed(records: Sequence[dict]) -> PackedRecords:
    if isinstance(records, PackedRecords):
        return records
    return PackedRecords.pack(records, drop_other_keys=True)
