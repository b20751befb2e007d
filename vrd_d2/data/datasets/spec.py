"""What a loader's module says of its dataset; builtin.py collects it, registrar.py does the rest.

A new dataset is a module with a :class:`DatasetSpec`, a vocabulary, and a line in builtin.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.vocabulary import Vocabulary

README_REMEDY = "datasets/README.md says where to get it and where its files go"
# Dataset dicts -> those whose images are there and not excluded.
Select = Callable[[Sequence[dict]], Sequence[dict]]


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split.

    Attributes:
        paths: files that are needed, by what they are. A file "relations_json" is in that format
            or COCO's, and becomes ``json_file`` of the metadata.
        image_root: folder of the images.
        remedy: how to get a file that does not exist; "": its reader says so.
        remedies: the same for some of the files, by what they are.
        zero_shot: JSON list of [subject name, predicate name, object name] that training does not
            contain; it need not exist.
    """

    paths: Mapping[str, Path | str]
    image_root: Path | str
    remedy: str = README_REMEDY
    remedies: Mapping[str, str] = field(default_factory=dict)
    zero_shot: Path | None = None


@dataclass(frozen=True)
class Loaded:
    """A split that has been read.

    Attributes:
        records: dataset dicts, in the order of the file.
        metadata: what the files say, such as "thing_classes" where the names of a dataset are
            known only when it is read.
    """

    records: Sequence[dict]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset of relations.

    Missing images, excluded images, zero-shot triplets, packing and the catalog's metadata are not
    its business: the registrar applies them to what `load` returns.

    Attributes:
        name: splits are called NAME_SPLIT in DatasetCatalog.
        splits: such as "train", "val", "test"; ("",) for a dataset without splits.
        files: (folder of all datasets, split) -> the files of the split. Nothing is read.
        vocabulary: its names; None if `load` returns them.
        load: (files, split, select) -> dataset dicts as ``datasets/README.md`` describes them, or
            :class:`Loaded`. A loader that opens images calls `select` first, with dicts that have
            "file_name"; others need not.
        triplets: (files, split) -> (T, 3) the distinct (subject class, object class, predicate) of
            a split, whether its images exist or not. Those that are not in the split "train"
            become zero-shot triplets. None: there is no such list.
        remembered: what `load` returns depends on the files alone (it neither looks for images nor
            calls `select`), so that it is used again until one of them changes.
    """

    name: str
    splits: tuple[str, ...]
    files: Callable[[Path, str], SplitFiles]
    vocabulary: Vocabulary | None
    load: Callable[[SplitFiles, str, Select], Sequence[dict] | Loaded]
    triplets: Callable[[SplitFiles, str], np.ndarray] | None = None
    remembered: bool = False

    def dataset_name(self, split: str) -> str:
        """Return the name of a split in DatasetCatalog."""
        return f"{self.name}_{split}" if split else self.name


def first_existing(folder: Path, *names: str) -> Path:
    """Return the first of the files that exists, or the first of all."""
    paths = [folder / name for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def existing(**paths: Path) -> dict[str, Path]:
    """Return those of the optional files that exist."""
    return {key: path for key, path in paths.items() if path.is_file()}
