"""Knowledge bases that others have published, read with the names of a vocabulary."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrd_d2.data.captions.lexicon import Lexicon
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.source_files import read_json
from vrd_d2.data.vocabulary import Vocabulary


@dataclass
class Coverage:
    """How much of a published base a vocabulary holds.

    Attributes:
        counted, counted_known: counts of all triplets, and of those in the vocabulary.
        triplets, known: different triplets, and those in the vocabulary.
        unknown_objects, unknown_predicates: names that are not in it, by their counts.
        ambiguous: keys that can be read as several pairs of names.
    """

    counted: int = 0
    counted_known: int = 0
    triplets: int = 0
    known: int = 0
    unknown_objects: Counter[str] = field(default_factory=Counter)
    unknown_predicates: Counter[str] = field(default_factory=Counter)
    ambiguous: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def most(names: Counter[str]) -> str:
            shown = ", ".join(f"{name!r} {count}" for name, count in names.most_common(5))
            return f"{len(names)}{f' (most: {shown})' if shown else ''}"

        text = (
            f"{self.known} of {self.triplets} triplets ({self.counted_known} of {self.counted} "
            f"counts) are in the vocabulary; unknown object names: {most(self.unknown_objects)}; "
            f"unknown predicates: {most(self.unknown_predicates)}"
        )
        if self.ambiguous:
            text += f"; {len(self.ambiguous)} ambiguous keys left out: {self.ambiguous[:5]}"
        return text


def read_ready_base(
    path: str | os.PathLike,
    vocabulary: Vocabulary,
    *,
    split: str = "train",
    object_aliases: Mapping[str, str] | None = None,
    predicate_aliases: Mapping[str, str] | None = None,
) -> tuple[KnowledgeBase, Coverage]:
    """Read a base of names.

    Two forms are known. ``{"subject|predicate|object": count}``, alone or under the names of
    splits, of which one is read. And VisualDS's ``{"subject_object": [predicate, ...]}`` (a
    predicate listed n times counts n) or ``{"subject_object": {predicate: count}}``: an underscore
    stands for a space, and a key is cut where both sides are names of the vocabulary. Names are
    looked up like the words of captions: "people" is a "person" where there are no "people", and
    "wearing" is "wear".

    Args:
        path: the JSON file.
        vocabulary: names to read.
        split: which part of a file with splits to read.
        object_aliases, predicate_aliases: alias -> canonical name, as
            :func:`~vrd_d2.data.names.read_aliases` returns them.

    Returns:
        The base, and how much of the file is in it.

    Raises:
        ValueError: no such file, none of these forms, or not one triplet has names of the
            vocabulary.
    """
    content = _read(path, split)
    lexicon = Lexicon(vocabulary, object_aliases, predicate_aliases)
    coverage = Coverage()
    counts: Counter[tuple[int, int, int]] = Counter()
    for key, value in content.items():
        reading = _of_triplet if "|" in key else _of_pair
        try:
            for pair, predicate, count in reading(key, value, lexicon, coverage):
                _add(counts, coverage, pair, lexicon, predicate, count)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: {key!r} holds {str(value)[:60]}: expected a count for "
                "'subject|predicate|object' or predicate names for 'subject_object'"
            ) from error
    if not counts:
        raise ValueError(f"{path} holds nothing for this vocabulary: {coverage}")
    source = f"{Path(path).name}: {coverage}"
    return KnowledgeBase.from_counts(vocabulary, counts, sources=[source]), coverage


def _add(
    counts: Counter[tuple[int, int, int]],
    coverage: Coverage,
    pair: tuple[int, int] | None,
    lexicon: Lexicon,
    name: str,
    count: int,
) -> None:
    coverage.counted += count
    coverage.triplets += 1
    predicate = lexicon.find_predicate(_spaced(name))
    if predicate is None:
        coverage.unknown_predicates[name] += count
    elif pair is not None:
        counts[pair[0], predicate, pair[1]] += count
        coverage.counted_known += count
        coverage.known += 1


def _read(path: str | os.PathLike, split: str) -> dict[str, Any]:
    content = read_json(path, repeated_keys=True)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no JSON object of triplets")
    if all(isinstance(part, dict) and any("|" in key for key in part) for part in content.values()):
        if split not in content:
            raise ValueError(f"{path} has no split {split!r}: choose one of {', '.join(content)}")
        return content[split]
    return content


def _of_triplet(
    key: str, count: Any, lexicon: Lexicon, coverage: Coverage
) -> Iterator[tuple[tuple[int, int] | None, str, int]]:
    subject, predicate, object_name = key.split("|")
    ids = [lexicon.find_object(_spaced(name)) for name in (subject, object_name)]
    for name, index in zip((subject, object_name), ids, strict=True):
        if index is None:
            coverage.unknown_objects[name] += int(count)
    yield (None if None in ids else (ids[0], ids[1])), predicate, int(count)


def _of_pair(
    key: str, value: Any, lexicon: Lexicon, coverage: Coverage
) -> Iterator[tuple[tuple[int, int] | None, str, int]]:
    if not isinstance(value, (list, dict)):
        raise ValueError("no list of predicates")
    counts = Counter(value)
    parts = key.split("_")
    cuts = [("_".join(parts[:i]), "_".join(parts[i:])) for i in range(1, len(parts))]
    found = {
        (subject, other)
        for first, second in cuts
        if (subject := lexicon.find_object(_spaced(first))) is not None
        and (other := lexicon.find_object(_spaced(second))) is not None
    }
    if len(found) > 1:
        coverage.ambiguous.append(key)
    elif not found:
        names = [name for cut in cuts for name in cut]
        unknown = [name for name in names if lexicon.find_object(_spaced(name)) is None]
        coverage.unknown_objects.update(unknown if len(cuts) == 1 else [key])
    pair = found.pop() if len(found) == 1 else None
    for predicate, count in counts.items():
        yield pair, predicate, int(count)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
