"""Many messages about a file in a few lines: one line for each kind."""

import re
from collections.abc import Iterable

# What differs between messages of one kind: quoted texts, lists, brackets, paths, numbers.
_PARTICULARS = re.compile(
    r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | \[[^\]]*\] | \([^)]*\) | \S*[./]\w\S* | \d\S*""",
    re.VERBOSE,
)


def kind_of(message: str) -> str:
    """Return what remains of a message without names and numbers."""
    return re.sub("#(?: #)+", "#", _PARTICULARS.sub("#", message))  # a path may have blanks


def by_kind(messages: Iterable[str]) -> list[list[str]]:
    """Return the messages grouped by what remains of them without names and numbers.

    Groups and messages are in the order in which they come first.
    """
    groups: dict[str, list[str]] = {}
    for message in messages:
        groups.setdefault(kind_of(message), []).append(message)
    return list(groups.values())


def lines_by_kind(messages: Iterable[str]) -> list[str]:
    """Return one line a kind: its first message, and how many more there are."""
    return [
        group[0] + (f" (and {len(group) - 1} more like this)" if len(group) > 1 else "")
        for group in by_kind(messages)
    ]
