"""Vocabularies of datasets whose names are open: the most frequent ones."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

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
        """Return the most frequent names, most frequent first, equally frequent ones by name.

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
        """Describe what is in `covered` of these, for the log."""
        parts = []
        for kind in ("objects", "predicates"):
            found, read = getattr(self, kind), getattr(covered, kind)
            lost = (found - read).most_common(5)
            most = ", ".join(f"{name!r} {number}" for name, number in lost) or "none"
            kind = "relations" if kind == "predicates" else kind
            parts.append(f"{read.total()} of {found.total()} {kind} (left out most: {most})")
        return " and ".join(parts)


def positions(names: Iterable[str]) -> dict[str, int]:
    """Return name -> its position, which is its id."""
    return {name: position for position, name in enumerate(names)}


def names_metadata(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the metadata of a dataset whose names are known when it is read."""
    return {
        "thing_classes": list(vocabulary.objects),
        "predicate_classes": list(vocabulary.predicates),
    }


def vocabulary_remedy(name: str) -> str:
    """Say where the vocabulary of a dataset comes from."""
    return f"`python datasets/prepare_vocabulary.py {name}` writes it from the training file"


def _most_frequent(counts: Counter, number: int | None, kind: str) -> tuple[str, ...]:
    if number is not None and not 0 < number <= len(counts):
        raise ValueError(f"{number} {kind} are asked for: choose 1 to {len(counts)}, or all")
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(ranked[:number])
