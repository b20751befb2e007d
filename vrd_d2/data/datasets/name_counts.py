"""Vocabularies of datasets whose names are open: the most frequent ones."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vrd_d2.data.vocabulary import Vocabulary


@dataclass
class NameCounts:
    """How often a dataset has each name.

    Attributes:
        objects: of objects, by class name.
        predicates: of relations, by predicate.
    """

    objects: Counter = field(default_factory=Counter)
    predicates: Counter = field(default_factory=Counter)

    def vocabulary(
        self, num_objects: int | None = None, num_predicates: int | None = None
    ) -> Vocabulary:
        """The most frequent names, most frequent first, equally frequent ones by name.

        Args:
            num_objects, num_predicates: how many; None is all.

        Raises:
            ValueError: there are fewer.
        """
        return Vocabulary(
            _most_frequent(self.objects, num_objects, "object classes"),
            _most_frequent(self.predicates, num_predicates, "predicates"),
        )

    def summary(self, covered: "NameCounts") -> str:
        """What is in `covered` of these, for the log."""
        parts = []
        for kind in ("objects", "predicates"):
            mine, kept = getattr(self, kind), getattr(covered, kind)
            lost = (mine - kept).most_common(5)
            most = ", ".join(f"{name!r} {number}" for name, number in lost) or "none"
            kind = "relations" if kind == "predicates" else kind
            parts.append(f"{kept.total()} of {mine.total()} {kind} (left out most: {most})")
        return " and ".join(parts)


def positions(names: Iterable[str]) -> dict[str, int]:
    """Name -> its position, which is its id."""
    return {name: position for position, name in enumerate(names)}


def write_vocabulary(vocabulary: Vocabulary, json_file: str | os.PathLike) -> None:
    """Write a vocabulary as :func:`~vrd_d2.data.vocabulary.get_vocabulary` reads it."""
    content = {"objects": vocabulary.objects, "predicates": vocabulary.predicates}
    Path(json_file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _most_frequent(counts: Counter, number: int | None, kind: str) -> tuple[str, ...]:
    if number is not None and not 0 < number <= len(counts):
        raise ValueError(f"{number} {kind} are asked for: choose 1 to {len(counts)}, or all")
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(ranked[:number])
