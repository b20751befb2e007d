"""Load a split of a dataset by its spec, without Detectron2's catalogs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vrd_d2.data.datasets.spec import DatasetSpec, Loaded, Select, SplitFiles
from vrd_d2.data.image_existence import Exclusion, check_policy, drop_missing_images
from vrd_d2.data.record_values import short
from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
from vrd_d2.data.source_files import located, read_json, require_file, until_changed
from vrd_d2.data.vocabulary import Vocabulary

Triplets = list[tuple[int, int, int]]


def load_split(
    spec: DatasetSpec,
    root: Path,
    split: str,
    *,
    missing_images: str = "error",
    exclusion: Exclusion | None = None,
) -> Loaded:
    """Load one split: packed, without missing and excluded images.

    Args:
        spec: of the dataset.
        root: folder of all datasets.
        split: one of the spec's.
        missing_images: "error" raises when an image is missing, "skip" leaves it out and logs its
            name, "keep" does not look for images.
        exclusion: images to leave out whether they exist or not.

    Returns:
        PackedRecords, and metadata of the files.

    Raises:
        ValueError: a file is missing, or names itself, the record and the remedy.
    """
    check_policy(missing_images)
    files = spec.files(root, split)
    require_files(spec.dataset_name(split), files)
    source = str(next(iter(files.paths.values())))
    select = partial(
        drop_missing_images, missing_images=missing_images, source=source, exclusion=exclusion
    )
    if spec.remembered:
        paths, kinds = tuple(files.paths.values()), tuple(files.paths)
        loaded = _remembered(paths, kinds, files.image_root, spec.load, split)
    else:
        loaded = _packed(spec.load(files, split, select))
    # Again for loaders that select themselves: all of theirs exist, and none is excluded.
    return replace(loaded, records=select(loaded.records))


def check_names(
    files: SplitFiles, key: str, found: Sequence[str], known: Sequence[str], name: str
) -> None:
    """Check that a file has the names that its dataset is registered with.

    Raises:
        ValueError: with the file, the dataset and the remedy.
    """
    if list(known) == list(found):
        return
    source = files.paths.get("vocabulary", next(iter(files.paths.values())))
    raise ValueError(
        f"{source} has {len(found)} {key} that differ from the {len(known)} that dataset {name!r} "
        "was registered with: write the file with the same list, or register the dataset again or "
        "under another name"
    )


def require_files(name: str, files: SplitFiles) -> None:
    """Raise ValueError, with the remedy, unless all files of a split exist."""
    for kind, path in files.paths.items():
        if remedy := files.remedies.get(kind, files.remedy):
            require_file(name, path, remedy)


@until_changed(maxsize=8)  # trainer, evaluator and baselines ask for the same
def _remembered(
    paths: tuple[Path, ...],
    kinds: tuple[str, ...],
    image_root: Path,
    load: Callable[[SplitFiles, str, Select], Sequence[dict] | Loaded],
    split: str,
) -> Loaded:
    files = SplitFiles(dict(zip(kinds, paths, strict=True)), image_root)
    return _packed(load(files, split, lambda records: records))


def _packed(found: Sequence[dict] | Loaded) -> Loaded:
    loaded = found if isinstance(found, Loaded) else Loaded(found)
    if isinstance(loaded.records, PackedRecords):
        return loaded
    return replace(loaded, records=PackedRecords.pack(loaded.records))


def zero_shot_triplets(
    spec: DatasetSpec, root: Path, split: str, vocabulary: Vocabulary | None
) -> Triplets | None:
    """Return the triplets of a split that training does not contain; None if nothing says which.

    Args:
        spec, root, split: as in :func:`load_split`.
        vocabulary: of the dataset; None for boxes only.

    Raises:
        ValueError: the list of the split, or a file that it is made from, is wrong.
    """
    files = spec.files(root, split)
    if files.zero_shot is not None:
        if vocabulary is None or not files.zero_shot.is_file():
            return None
        return load_zero_shot(files.zero_shot, vocabulary)
    training_files = spec.files(root, "train")
    if (
        spec.triplets is None
        or split == "train"
        or not all(path.is_file() for path in training_files.paths.values())
    ):
        return None
    training = spec.triplets(training_files, "train")
    return unseen_triplets(spec.triplets(files, split), training) if len(training) else None


def load_zero_shot(
    path: str | os.PathLike,
    vocabulary: Vocabulary | None,
    *,
    num_classes: int | None = None,
    num_predicates: int | None = None,
) -> Triplets:
    """Read triplets that training does not contain, for zR@K.

    Args:
        path: JSON list of [subject name, predicate name, object name], as `tools/dataset.py
            zero-shot` writes it; or of ids [subject class, object class, predicate], from 0. Texts
            are names, and numbers are ids: each has its own order.
        vocabulary: of the dataset; None where its names are not known, so that there must be ids.
        num_classes, num_predicates: how many there are, without a vocabulary; None if unknown.

    Returns:
        (subject class, object class, predicate) ids, as the metadata holds them.

    Raises:
        ValueError: names the row that is neither, is not like the first one, or has a name or an id
            that does not exist.
    """
    rows = read_json(path)
    if type(rows) is not list:
        raise ValueError(f"{path} is no list: {_ZERO_SHOT_FORM}")
    if vocabulary is not None:
        num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    kinds = [_kind_of_triplet(row) for row in rows]
    triplets = []
    for number, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        with located(f"{path}: row {number}, {short(row)}"):
            if kind is None:
                raise ValueError(_ZERO_SHOT_FORM)
            if kind is not kinds[0]:
                raise ValueError(
                    "row 0 is not of this kind: write names in all rows, or ids in all"
                )
            if kind is int:
                triplets.append(_checked_ids(row, num_classes, num_predicates))
            elif vocabulary is None:
                raise ValueError(
                    "it has names, but those of the dataset are not known: take a relations_json "
                    "or a registered dataset, name --vocabulary, or write ids [subject class, "
                    "object class, predicate]"
                )
            else:
                triplets.append(_named_ids(row, vocabulary))
    return triplets


_ZERO_SHOT_FORM = (
    "it must be a JSON list of [subject name, predicate name, object name] in the dataset's names, "
    "or of ids [subject class, object class, predicate] from 0"
)


def _kind_of_triplet(row: Any) -> type | None:
    """Return str for three names, int for three ids, None for anything else."""
    if type(row) is not list or len(row) != 3:
        return None
    (kind, *others) = set(map(type, row))
    return kind if kind in (str, int) and not others else None


def _checked_ids(
    row: list[int], num_classes: int | None, num_predicates: int | None
) -> tuple[int, int, int]:
    for what, number, count in zip(
        ("subject class", "object class", "predicate"),
        row,
        (num_classes, num_classes, num_predicates),
        strict=True,
    ):
        if number < 0 or (count is not None and number >= count):
            exist = "" if count is None else f" ({count} exist)"
            raise ValueError(
                f"there is no {what} {number}{exist}: ids are [subject class, object class, "
                "predicate] and count from 0"
            )
    return tuple(row)


def _named_ids(row: list[str], vocabulary: Vocabulary) -> tuple[int, int, int]:
    subject, predicate, obj = row
    try:
        return (
            vocabulary.object_id(subject),
            vocabulary.object_id(obj),
            vocabulary.predicate_id(predicate),
        )
    except ValueError as error:
        other = {subject, predicate} <= set(vocabulary.objects) and obj in vocabulary.predicates
        order = "; names are [subject, predicate, object] in this order" if other else ""
        raise ValueError(f"{error}{order}") from error


def vocabulary_of(metadata: dict[str, Any]) -> Vocabulary | None:
    """Return the vocabulary in the metadata of a dataset; None where there are boxes only."""
    if not metadata.get("predicate_classes"):
        return None
    return Vocabulary(metadata["thing_classes"], metadata["predicate_classes"])
