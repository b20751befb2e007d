"""Load a split of a dataset by its spec, without Detectron2's catalogs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vrd_d2.data.datasets.spec import DatasetSpec, Loaded, Select, SplitFiles
from vrd_d2.data.image_existence import Exclusion, check_policy, drop_missing_images
from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
from vrd_d2.data.source_files import read_json, require_file, until_changed
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


def load_zero_shot(path: str | Path, vocabulary: Vocabulary) -> Triplets:
    """Read triplets that training does not contain, for zR@K.

    Args:
        path: JSON list of [subject name, predicate name, object name].
        vocabulary: of the dataset.

    Returns:
        (subject class, object class, predicate) ids, as the metadata holds them.

    Raises:
        ValueError: the file is no such list, or has a name that is not in the vocabulary.
    """
    rows = read_json(path)
    try:
        return [
            (
                vocabulary.object_id(subject),
                vocabulary.object_id(obj),
                vocabulary.predicate_id(predicate),
            )
            for subject, predicate, obj in rows
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: {error}; it must be a JSON list of [subject name, predicate name, "
            "object name] in the dataset's names"
        ) from error


def vocabulary_of(metadata: dict[str, Any]) -> Vocabulary | None:
    """Return the vocabulary in the metadata of a dataset; None where there are boxes only."""
    if not metadata.get("predicate_classes"):
        return None
    return Vocabulary(metadata["thing_classes"], metadata["predicate_classes"])
