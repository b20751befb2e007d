"""Names of object classes and predicates, and the built-in lists of the public benchmarks."""

import difflib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vrd_d2.addresses import refuse_address
from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.names import name_problem, same_but_blanks, same_but_case
from vrd_d2.data.source_files import located, read_json, require_regular, until_changed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Class and predicate names; an id is a position, 0-based, without background.

    Attributes:
        objects: C names of object classes.
        predicates: K names of predicates.

    Raises:
        ValueError: a list is empty, or a name is empty, repeated or no string.
    """

    objects: tuple[str, ...]
    predicates: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in ("objects", "predicates"):
            names = getattr(self, kind)
            if isinstance(names, str):
                raise ValueError(f"{kind} of a vocabulary must be a list of names, not {names!r}")
            object.__setattr__(self, kind, tuple(names))
            _check_names(kind, getattr(self, kind))

    def object_id(self, name: str) -> int:
        """Return the id of an object class; raise ValueError for an unknown name."""
        return _lookup(name, self.objects, "object class")

    def predicate_id(self, name: str) -> int:
        """Return the id of a predicate; raise ValueError for an unknown name."""
        return _lookup(name, self.predicates, "predicate")


@cache
def _positions(names: tuple[str, ...]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _lookup(name: str, names: tuple[str, ...], kind: str) -> int:
    try:
        return _positions(names)[name]
    except (KeyError, TypeError):  # TypeError: it is a list, say
        near = difflib.get_close_matches(str(name), names, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {_some(names)}"
        raise ValueError(f"unknown {kind} {name!r}; {hint}") from None


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(repr, names[:8])) + more


def _check_names(kind: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError(f"{kind} of a vocabulary are empty: give at least one name")
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{kind}[{index}] is {name!r}: every name must be a non-empty string")
        if problem := name_problem(name):
            raise ValueError(f"{kind}[{index}] is {name!a}, which {problem}")
        if name in first:
            raise ValueError(
                f"{kind}[{index}] repeats the name {name!r} of {kind}[{first[name]}]: "
                "names must be unique"
            )
        first[name] = index
    if twins := same_but_blanks(names):
        known, index = twins
        raise ValueError(
            f"{kind}[{index}] is {names[index]!r} and {kind}[{known}] is {names[known]!r}: names "
            "must differ by more than blanks"
        )


def _built_in() -> dict[str, Vocabulary]:
    path = Path(__file__).with_name("vocabularies.json")
    return {name: Vocabulary(**kinds) for name, kinds in read_json(path).items()}


_BUILT_IN = _built_in()

# Visual Genome, split of Xu et al. 2017; ids are those of the public VG-SGG dicts minus 1.
VG150 = _BUILT_IN["vg150"]
# The 20 predicates of Chen et al. 2019 that VisualDS and RelCLIP report, in VG150's
# (alphabetical) order. The order of VisualDS's own files could not be checked: compare their
# ids by name before mixing predictions.
VG20 = _BUILT_IN["vg20"]
# Stanford VRD, Lu et al. 2016, in the order of its objects.json and predicates.json.
VRD = _BUILT_IN["vrd"]
# Panoptic Scene Graph, Yang et al. 2022: COCO's things, then its merged stuff.
PSG = _BUILT_IN["psg"]
# The drawn scenes of datasets/prepare_scenes.py, which reads the same list.
SCENES = _BUILT_IN["scenes"]


def keep_vocabulary(vocabulary: Vocabulary) -> str:
    """Return a name by which :func:`get_vocabulary` finds this vocabulary in this process.

    It is for a vocabulary that is in no file, such as that of a checkpoint.
    """
    known = next((name for name, other in _BUILT_IN.items() if other == vocabulary), None)
    if known is None:
        known = f"kept {len(_BUILT_IN)}"
        _BUILT_IN[known] = vocabulary
    return known


def get_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """Return a vocabulary by name, or read it from a JSON file.

    Args:
        name_or_path: "vg150", "vg20", "vrd", "psg", "scenes", or the path of a JSON: a
            relations_json file (categories and predicates in the order of their ids),
            ``{"objects": [...], "predicates": [...]}``, or VG-SGG dicts (``label_to_idx``,
            ``predicate_to_idx``).

    Raises:
        ValueError: neither a known name nor a readable file, or the file has no such lists.
    """
    if str(name_or_path) in _BUILT_IN:
        return _BUILT_IN[str(name_or_path)]
    refuse_address(name_or_path)
    path = Path(name_or_path)
    require_regular(path)
    if not path.is_file():
        raise ValueError(
            f"vocabulary {str(name_or_path)!r} is neither one of {', '.join(_BUILT_IN)} "
            f"nor an existing JSON file (looked for in {Path.cwd()})"
        )
    return _read((path.resolve(),))


def named_records(name_or_path: str | Path) -> tuple[list[dict], list[dict]]:
    """Return categories and predicates as relations_json has them, records with "id" and "name".

    Those of a relations_json file are its own. Others are numbered from 1, as COCO's are.

    Args:
        name_or_path: see :func:`get_vocabulary`.

    Raises:
        ValueError: see :func:`get_vocabulary`.
    """
    vocabulary = get_vocabulary(name_or_path)
    if str(name_or_path) not in _BUILT_IN:
        content = read_json(name_or_path, repeated_keys=True)
        if "categories" in content and "predicates" in content:
            return content["categories"], content["predicates"]
    categories, predicates = (
        [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        for names in (vocabulary.objects, vocabulary.predicates)
    )
    return categories, predicates


def write_vocabulary(vocabulary: Vocabulary, json_file: str | os.PathLike) -> None:
    """Write a vocabulary as :func:`get_vocabulary` reads it."""
    content = {"objects": vocabulary.objects, "predicates": vocabulary.predicates}
    write_text(json_file, json.dumps(content, indent=1) + "\n")


@until_changed(maxsize=64)  # a relations_json may be large, and many parts of a model ask for it
def _read(paths: tuple[Path]) -> Vocabulary:
    (path,) = paths
    content = read_json(path, damaged="write it again", repeated_keys=True)
    with located(path):
        vocabulary = vocabulary_from_json(content)
    for kind in ("objects", "predicates"):
        names = getattr(vocabulary, kind)
        if twins := same_but_case(names):
            known, index = twins[0]
            logger.warning(
                "%s: %d %s differ from another only by case, such as %r and %r: are they the same?",
                path, len(twins), kind, names[known], names[index],
            )  # fmt: skip
    return vocabulary


def vocabulary_from_json(content: Any) -> Vocabulary:
    """Return the vocabulary in the parsed content of a file that `get_vocabulary` reads.

    Raises:
        ValueError: with what is missing.
    """
    if isinstance(content, Mapping):
        if "categories" in content and "predicates" in content:
            return Vocabulary(
                _by_id(content["categories"], "categories"),
                _by_id(content["predicates"], "predicates"),
            )
        if "objects" in content and "predicates" in content:
            return Vocabulary(content["objects"], content["predicates"])
        if "label_to_idx" in content and "predicate_to_idx" in content:
            return Vocabulary(
                _by_number(content["label_to_idx"], "label_to_idx"),
                _by_number(content["predicate_to_idx"], "predicate_to_idx"),
            )
    raise ValueError(
        "no vocabulary in it: expected the keys categories and predicates (relations_json), "
        "objects and predicates, or label_to_idx and predicate_to_idx (VG-SGG)"
    )


def _by_id(records: Any, key: str) -> tuple[str, ...]:
    try:
        if len({record["id"] for record in records}) < len(records):
            raise ValueError(f"{key} have an id twice: give every record another")
        return tuple(record["name"] for record in sorted(records, key=lambda r: r["id"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f'{key} must be a list of {{"id": ..., "name": ...}}') from error


def _by_number(numbers: Any, key: str) -> tuple[str, ...]:
    """Names by number; a background at 0 is left out."""
    try:
        named = {int(number): name for name, number in numbers.items() if int(number) > 0}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{key} must map names to numbers from 1") from error
    if sorted(named) != list(range(1, len(named) + 1)):
        raise ValueError(f"{key} must number its names 1, 2, ... without gaps")
    return tuple(named[number] for number in sorted(named))
