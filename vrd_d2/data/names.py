"""Free-text names: the form in which they are compared, and lists of aliases."""

import os
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from vrd_d2.data.source_files import read_text

_NO_TEXT = ("Cc", "Cs")  # Unicode's control characters, and halves of surrogate pairs
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_name(name: str) -> str:
    """Return a name in the form in which names are compared.

    That is lower case, without punctuation, with single spaces.
    """
    return re.sub(r"\s+", " ", name.lower().translate(_PUNCTUATION)).strip()


def name_problem(name: str) -> str | None:
    """Return why a text cannot be the name of a class or predicate; None if it can."""
    if not name.strip():
        return "is empty: give it one"
    for character in name:
        if unicodedata.category(character) in _NO_TEXT:
            return f"has the character {character!a}, which cannot be shown: remove it"
    return None


def same_but_blanks(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the positions of the first two names that are equal up to blanks; None if all differ.

    Of equal names this is silent.
    """
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        known = first.setdefault(" ".join(name.split()), index)
        if names[known] != name:
            return known, index
    return None


def same_but_case(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of names that are equal up to case: (the first such, another)."""
    first: dict[str, int] = {}
    found = []
    for index, name in enumerate(names):
        known = first.setdefault(name.casefold(), index)
        if names[known] != name:
            found.append((known, index))
    return found


def read_aliases(path: str | os.PathLike) -> dict[str, str]:
    """Read normalised alias -> normalised canonical name.

    Args:
        path: text file; each line comma separated, its first name the canonical one. A canonical
            name that an earlier line made an alias stands for that line's name; where lines
            contradict each other, the last one counts.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    lines = read_text(path).splitlines()
    aliases: dict[str, str] = {}
    for line in lines:
        names = [name for name in map(normalise_name, line.split(",")) if name]
        if names:
            canonical = aliases.get(names[0], names[0])
            aliases.update(dict.fromkeys(names, canonical))
    return aliases


class NameTable:
    """Ids of free-text names.

    Args:
        names: of a vocabulary.
        aliases: as :func:`read_aliases` returns them.
    """

    def __init__(self, names: Iterable[str], aliases: Mapping[str, str]):
        self._ids = {normalise_name(name): index for index, name in enumerate(names)}
        self._aliases = aliases
        self._seen: dict[str, int | None] = {}

    def find(self, name: str) -> int | None:
        """Return the id of a name, itself or by its alias; None if it is not in the vocabulary."""
        if name not in self._seen:
            key = normalise_name(name)
            # The vocabulary's names come first: an alias must not hide one of them.
            self._seen[name] = self._ids.get(key, self._ids.get(self._aliases.get(key, key)))
        return self._seen[name]
