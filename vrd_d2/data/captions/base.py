"""What every caption parser gives: triplets of class and predicate ids."""

from collections.abc import Sequence
from typing import Protocol

Triplet = tuple[int, int, int]  # ids: subject class, predicate, object class


class CaptionParser(Protocol):
    """What reads captions: the matcher, or spaCy's parse."""

    name: str  # goes into the knowledge base

    def parse(self, captions: Sequence[str]) -> list[list[Triplet]]:
        """Triplets (subject class, predicate, object class) of each caption; a triplet that a
        caption states twice is listed twice."""
        ...
