"""A dataset by its file or by its name: the one way in which tools open what a user names.

Built-in datasets need neither torch nor Detectron2.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vrd_d2.data.datasets.builtin import builtin_names, datasets_root
from vrd_d2.data.datasets.loading import (
    Triplets,
    check_names,
    load_split,
    vocabulary_of,
    zero_shot_triplets,
)
from vrd_d2.data.datasets.relations_json_dataset import user_spec
from vrd_d2.data.datasets.spec import DatasetSpec
from vrd_d2.data.vocabulary import Vocabulary

ZERO_SHOT = "zero_shot.json"  # beside a file of the user's


@dataclass
class Source:
    """A dataset that has been read.

    Attributes:
        name: as the user named it: a file, or a registered name.
        records: its dataset dicts.
        objects, predicates: its names; no predicates where there are boxes only.
        image_root: folder of its images, if there is one.
        json_file: in the format of relations_json or COCO, if it is such a file.
        zero_shot: () -> the (subject class, object class, predicate) that training does not have;
            None where nothing says which.
    """

    name: str
    records: Sequence[dict]
    objects: list[str]
    predicates: list[str]
    image_root: str | None
    json_file: str | None = None
    zero_shot: Callable[[], Triplets | None] = field(default=lambda: None, repr=False)

    def vocabulary(self) -> Vocabulary:
        """Return its names; raise ValueError for boxes only."""
        if not self.predicates:
            raise ValueError(
                f"{self.name} has boxes only: name the predicates that go with it, "
                "--vocabulary vg150 or a JSON"
            )
        return Vocabulary(self.objects, self.predicates)


def is_file(data: str | os.PathLike) -> bool:
    """Return whether a dataset is given as a file."""
    data = os.fspath(data)
    return data.endswith(".json") or os.path.isfile(data)


def open_dataset(
    data: str | os.PathLike,
    *,
    images: str | None = None,
    root: str | os.PathLike | None = None,
    missing_images: str = "keep",
) -> Source:
    """Read a dataset.

    Args:
        data: a relations_json or COCO instances file, or the name of a registered dataset.
        images: folder of a file's images; None is its own.
        root: folder of all registered datasets; None is $DETECTRON2_DATASETS, or ./datasets.
        missing_images: "keep" does not look for images; see
            :func:`~vrd_d2.data.image_existence.drop_missing_images`.

    Raises:
        ValueError: there is no such file or name, or it cannot be read.
    """
    data = os.fspath(data)
    folder = datasets_root() if root is None else Path(root)
    if is_file(data):
        image_root = os.path.dirname(data) if images is None else images
        zero_shot = Path(data).with_name(ZERO_SHOT)
        spec, split = user_spec(data, data, image_root, zero_shot=zero_shot), ""
    elif data in (known := builtin_names()):
        spec, split = known[data]
    else:
        return _of_catalog(data)
    loaded = load_split(spec, folder, split, missing_images=missing_images)
    names = _names(data, spec, folder, split, loaded.metadata)
    files = spec.files(folder, split)
    json_file = files.paths.get("relations_json")
    return Source(
        data,
        loaded.records,
        list(names["thing_classes"]),
        list(names.get("predicate_classes", ())),
        os.fspath(files.image_root),
        None if json_file is None else os.fspath(json_file),
        partial(zero_shot_triplets, spec, folder, split, vocabulary_of(names)),
    )


def _names(
    name: str, spec: DatasetSpec, folder: Path, split: str, found: dict[str, Any]
) -> dict[str, Any]:
    """Return the names of classes that the spec has, which must be the file's, or the file's."""
    if spec.vocabulary is None:
        return found
    names = {
        "thing_classes": list(spec.vocabulary.objects),
        "predicate_classes": list(spec.vocabulary.predicates),
    }
    for key in names.keys() & found.keys():
        check_names(spec.files(folder, split), key, found[key], names[key], name)
    return names


def _of_catalog(name: str) -> Source:
    """Return a dataset that something else has registered with Detectron2."""
    try:
        from detectron2.data import DatasetCatalog, MetadataCatalog
    except ImportError:
        raise unknown_dataset(name, builtin_names()) from None
    if name not in DatasetCatalog:
        raise unknown_dataset(name, {*builtin_names(), *DatasetCatalog})
    records = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)  # after the catalog, which may set it
    return Source(
        name,
        records,
        list(metadata.get("thing_classes", ())),
        list(metadata.get("predicate_classes", ())),
        metadata.get("image_root"),
        metadata.get("json_file"),
        lambda: metadata.get("zero_shot_triplets"),
    )


def unknown_dataset(name: str, known: Iterable[str]) -> ValueError:
    """Return the error for a name that is none, with the registered names that are like it."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    if os.path.isdir(name):
        hint = " (it is a folder): give the path of a JSON in it"
    elif near:
        hint = f"; did you mean {' or '.join(near)}? ({len(known)} names are registered)"
    else:
        hint = f": give the path of its JSON, or one of the {len(known)} registered names"
    return ValueError(f"there is neither a file nor a registered dataset {name!r}{hint}")
