"""Manifests of studies and the ratings that people saved, read back and checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vrd_d2.addresses import refuse_address
from vrd_d2.evaluation.human.study import MANIFEST_FORMAT, RATINGS_FORMAT

VERDICTS = ("yes", "no", "skip")

Ratings = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Manifest:
    """What a report needs to know of a study.

    Attributes:
        images: the ids of each image's items, in the order in which they are shown.
        ranked: for each model and image the ids of its items, best first.
    """

    study: str
    dataset: str
    task: str
    top: int
    images: list[list[str]]
    ranked: dict[str, list[list[str]]]

    @property
    def relations(self) -> list[str]:
        """The ids of all items."""
        return [relation for image in self.images for relation in image]


def read_manifest(path: str | Path) -> Manifest:
    """Read the manifest that was written beside a page.

    Raises:
        ValueError: the file is missing or is no manifest.
    """
    document = _read(path, MANIFEST_FORMAT, "the manifest that was made beside the page")
    try:
        images = document["pictures"]
        manifest = Manifest(
            str(document["study"]),
            str(document["dataset"]),
            str(document["task"]),
            int(document["top"]),
            [[item["id"] for item in image["items"]] for image in images],
            {
                model: [list(image["ranked"][model]) for image in images]
                for model in document["models"]
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: a part of the manifest is missing or malformed "
            f"({type(error).__name__}: {error}): make the page again with the same arguments"
        ) from error
    known = set(manifest.relations)
    for model, lists in manifest.ranked.items():
        unknown = {relation for ids in lists for relation in ids} - known
        if unknown:
            raise ValueError(
                f"{path}: model {model!r} names relations that no image has, such as "
                f"{min(unknown)!r}: make the page again with the same arguments"
            )
    return manifest


def read_ratings(paths: Sequence[str | Path], manifest: Manifest) -> Ratings:
    """Read the files that raters exported.

    One file may hold several raters, and one rater may be in several files as long as these do
    not contradict each other.

    Returns:
        "yes", "no" or "skip" by rater, then by id of the relation.

    Raises:
        ValueError: names the file: it is missing, malformed or of another page, a rater rated
            nothing, or rated a relation differently in two files.
    """
    ratings: Ratings = {}
    origin: dict[tuple[str, str], str] = {}
    known = set(manifest.relations)
    for path in map(str, paths):
        document = _read(path, RATINGS_FORMAT, "a file that the page exported")
        if document.get("study") != manifest.study:
            raise ValueError(
                f"{path} holds ratings of page {document.get('study')!r}, but the manifest is of "
                f"page {manifest.study!r}: give the manifest that was made beside that page"
            )
        for name, given in _raters(path, document):
            _check(path, name, given, known)
            of_rater = ratings.setdefault(name, {})
            for relation, verdict in given.items():
                if of_rater.setdefault(relation, verdict) != verdict:
                    raise ValueError(
                        f"{name!r} rated {relation} {of_rater[relation]!r} in "
                        f"{origin[name, relation]} and {verdict!r} in {path}: give only the file "
                        "that was exported last, or rename one if these are two people"
                    )
                origin.setdefault((name, relation), path)
    if not ratings:
        raise ValueError("no file of ratings was given")
    return ratings


def _read(path: str | Path, form: str, wanted: str) -> dict:
    refuse_address(path)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no complete JSON file ({error}): export it again") from error
    if not isinstance(document, dict) or document.get("format") != form:
        found = document.get("format") if isinstance(document, dict) else None
        raise ValueError(
            f'{path}: "format" is {found!r}, not {form!r}: is this {wanted}?'
            if found is not None
            else f'{path} has no "format": is this {wanted}?'
        )
    return document


def _raters(path: str, document: Mapping) -> list[tuple[str, dict]]:
    raters = document.get("raters")
    if not isinstance(raters, list) or not all(
        isinstance(rater, dict)
        and isinstance(rater.get("name"), str)
        and rater["name"].strip()
        and isinstance(rater.get("ratings"), dict)
        for rater in raters
    ):
        raise ValueError(
            f'{path}: "raters" must be a list of objects with "name" and "ratings": export it again'
        )
    if not raters:
        raise ValueError(f"{path}: nobody rated anything: leave the file out")
    return [(rater["name"].strip(), rater["ratings"]) for rater in raters]


def _check(path: str, name: str, given: Mapping[str, object], known: set[str]) -> None:
    if not given:
        raise ValueError(
            f"{path}: {name!r} rated nothing: leave the file out, or remove the rater from it"
        )
    for relation, verdict in given.items():
        if relation not in known:
            raise ValueError(
                f"{path}: {name!r} rated {relation!r}, which the manifest does not have: the file "
                "was changed; export it again"
            )
        if verdict not in VERDICTS:
            raise ValueError(
                f"{path}: {name!r} rated {relation} {verdict!r}: it must be "
                f"{', '.join(VERDICTS[:-1])} or {VERDICTS[-1]}"
            )
