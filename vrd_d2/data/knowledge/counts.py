"""Triplet counts by name, out of a JSON, as a frequency table of a vocabulary."""

import logging
import os
from collections import Counter

import torch
from torch import Tensor

from vrd_d2.data.datasets.visual_genome_raw import normalise_name
from vrd_d2.data.source_files import located, read_json
from vrd_d2.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_FORMAT = (
    'it must be {"subject|predicate|object": count, ...}, alone or as "train" of a larger object'
)


def load_triplet_counts(path: str | os.PathLike, vocabulary: Vocabulary) -> Tensor:
    """Counts of predicates for every ordered pair of classes.

    Names are compared in lower case and without punctuation. A triplet of which the vocabulary
    lacks a name is left out; the log says how many, and which names.

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
    table = torch.zeros(len(objects), len(objects), len(predicates) + 1)
    kept, unknown = 0, Counter()
    for triplet, count in counts.items():
        names = [normalise_name(name) for name in triplet.split("|")]
        if len(names) != 3 or type(count) is not int or count < 0:
            raise ValueError(f"{path}: entry {triplet!r}: {count!r}: {_FORMAT}")
        places = (objects.get(names[0]), objects.get(names[2]), predicates.get(names[1]))
        if None in places:
            absent = zip(names, (places[0], places[2], places[1]), strict=True)
            unknown.update(name for name, place in absent if place is None)
        else:
            table[places] += count
            kept += 1
    if not kept:
        raise ValueError(
            f"{path}: the vocabulary knows none of its {len(counts)} triplets, such as "
            f"{next(iter(counts), None)!r}: set MODEL.VOCABULARY to the names it was counted with"
        )
    logger.info(
        "%s: %d of %d triplets, %d relations; %d names are not in the vocabulary%s",
        path, kept, len(counts), int(table.sum()), len(unknown),
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
