"""Registers datasets with Detectron2's catalogs. No file is read before a dataset is asked for."""

import copy
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from vrd_d2.data.build import RecordsDataset
from vrd_d2.data.datasets.loading import (
    check_names,
    load_split,
    vocabulary_of,
    zero_shot_triplets,
)
from vrd_d2.data.datasets.relations_json_dataset import user_spec
from vrd_d2.data.datasets.spec import DatasetSpec
from vrd_d2.data.image_existence import (
    Exclusion,
    check_policy,
    drop_missing_images,
    read_name_list,
)

logger = logging.getLogger(__name__)

# Metadata that come with the files.
_FROM_FILE = ("thing_classes", "predicate_classes", "thing_dataset_id_to_contiguous_id")


def register_dataset(
    spec: DatasetSpec, root: str | os.PathLike, *, missing_images: str = "error", **metadata: Any
) -> None:
    """Register all splits of a dataset; each is read when it is asked for.

    A name that is registered already is replaced. Metadata that was added to it stays while its
    files are the same.

    Args:
        spec: of the dataset.
        root: folder of all datasets.
        missing_images: "error", "skip" or "keep", see
            :func:`~vrd_d2.data.image_existence.drop_missing_images`.
        metadata: more metadata, such as ``zero_shot_triplets``.
    """
    check_policy(missing_images)
    for split in spec.splits:
        name = spec.dataset_name(split)
        files = spec.files(Path(root), split)
        where = {"image_root": str(files.image_root)}
        if "relations_json" in files.paths:
            where["json_file"] = str(files.paths["relations_json"])
        _forget(name, where)
        DatasetCatalog.register(name, RegisteredSplit(spec, Path(root), split, missing_images))
        added = {key: value for key, value in metadata.items() if value is not None}
        if spec.vocabulary is not None:
            added["thing_classes"] = list(spec.vocabulary.objects)
            added["predicate_classes"] = list(spec.vocabulary.predicates)
        known = MetadataCatalog.get(name)
        for key, value in {**added, **where}.items():
            _overwrite(known, key, value)
        if known.get("evaluator_type") is None:
            known.set(evaluator_type="relation")


def register_relations_json(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    missing_images: str = "error",
    zero_shot_file: str | os.PathLike | None = None,
    **metadata: Any,
) -> None:
    """Register a relations_json file as a dataset of Detectron2; it is read when it is asked for.

    ``thing_classes`` and ``predicate_classes`` enter the metadata when the file is read, unless
    they are given here: then the file must have the very same.

    Args:
        name: name of the dataset. Registering a name again with the same file replaces it, and
            metadata that was added meanwhile stays.
        json_file, image_root, missing_images: see
            :func:`~vrd_d2.data.formats.relations_json.load_relations_json`.
        zero_shot_file: JSON list of [subject name, predicate name, object name] that training
            does not contain; it need not exist.
        metadata: more metadata, such as ``zero_shot_triplets``.

    Raises:
        ValueError: the name belongs to another dataset.
    """
    check_policy(missing_images)
    path = os.fspath(json_file)
    if name in DatasetCatalog and MetadataCatalog.get(name).get("json_file") != path:
        raise ValueError(
            f"dataset name {name!r} is taken by "
            f"{MetadataCatalog.get(name).get('json_file', 'another dataset')}; "
            f"choose another name for {path}"
        )
    spec = user_spec(
        name,
        path,
        os.path.dirname(path) if image_root is None else os.fspath(image_root),
        zero_shot=None if zero_shot_file is None else Path(zero_shot_file),
    )
    register_dataset(spec, os.curdir, missing_images=missing_images, **metadata)


def _forget(name: str, where: dict[str, str]) -> None:
    """Remove a dataset; metadata that others added stays if its files are the same."""
    if name not in DatasetCatalog:
        return
    DatasetCatalog.remove(name)
    known = MetadataCatalog.get(name)
    key = "json_file" if "json_file" in where else "image_root"
    if known.get(key) != where[key]:
        MetadataCatalog.remove(name)
        return
    for key in _FROM_FILE:
        vars(known).pop(key, None)


def _overwrite(metadata: Any, key: str, value: Any) -> None:
    """Set metadata that may have another value."""
    vars(metadata).pop(key, None)
    metadata.set(**{key: value})


class RegisteredSplit:
    """What DatasetCatalog calls for the dataset dicts of one split.

    Attributes:
        name: in the catalog.
        excluded: images to leave out; None: none.
    """

    def __init__(self, spec: DatasetSpec, root: Path, split: str, missing_images: str):
        self.name = spec.dataset_name(split)
        self.excluded: ExcludedImages | None = None
        self._spec, self._root, self._split = spec, root, split
        self._missing_images = missing_images

    def __call__(self) -> RecordsDataset:
        if self.excluded is not None:
            return self.excluded.read(self.name)
        return self.read(None)

    def read(self, exclusion: Exclusion | None) -> RecordsDataset:
        """Return the dicts without some images, and complete the metadata with what files say."""
        loaded = load_split(
            self._spec,
            self._root,
            self._split,
            missing_images=self._missing_images,
            exclusion=exclusion,
        )
        metadata = MetadataCatalog.get(self.name)
        self._complete(metadata, loaded.metadata)
        # A list that the user set counts more.
        if metadata.get("zero_shot_triplets") is None:
            vocabulary = vocabulary_of(vars(metadata))
            found = zero_shot_triplets(self._spec, self._root, self._split, vocabulary)
            if found is not None:
                _overwrite(metadata, "zero_shot_triplets", found)
        return RecordsDataset.of(loaded.records)

    def _complete(self, metadata: Any, found: dict[str, Any]) -> None:
        files = self._spec.files(self._root, self._split)
        for key, value in found.items():
            known = metadata.get(key)
            if not key.endswith("_classes") or known is None:
                _overwrite(metadata, key, copy.copy(value))  # the value is remembered
            else:
                check_names(files, key, value, known, self.name)


def is_foreign(name: str) -> bool:
    """Return whether a name is registered with a loader that is not of this package."""
    return name in DatasetCatalog and not isinstance(DatasetCatalog[name], RegisteredSplit)


def exclude_images(list_file: str | os.PathLike, dataset_names: Sequence[str]) -> None:
    """Make registered datasets leave out the images that a file lists.

    Another call replaces what an earlier one asked for. An entry is a file name or the end of a
    path: "1.jpg" and "images/1.jpg" both mean /data/images/1.jpg. It is checked against all of the
    datasets when the first of them is read.

    Args:
        list_file: see :func:`~vrd_d2.data.image_existence.read_name_list`; "" leaves out nothing.
        dataset_names: datasets that the list is for.

    Raises:
        ValueError: the list cannot be read.
    """
    for name in list(DatasetCatalog):
        loader = DatasetCatalog[name]
        if isinstance(loader, RegisteredSplit):
            loader.excluded = None
        elif isinstance(loader, _ForeignLoader):
            _replace(name, loader.load)
    if not list_file:
        return
    excluded = ExcludedImages(str(list_file), read_name_list(list_file))
    for name in dict.fromkeys(dataset_names):
        if name not in DatasetCatalog:
            continue
        loader = DatasetCatalog[name]
        if not isinstance(loader, RegisteredSplit):
            loader = _ForeignLoader(name, loader)
            _replace(name, loader)
        loader.excluded = excluded
        excluded.readers[name] = loader.read


class ExcludedImages:
    """The images of a list, for several datasets: every entry must match an image of one of them.

    Attributes:
        readers: dataset name -> reads its dicts without the images of the list.
    """

    def __init__(self, source: str, names: list[str]):
        self.readers: dict[str, Callable[[Exclusion], Sequence[dict]]] = {}
        self._source, self._names = source, names
        self._matched: dict[str, set[str]] = {}

    def read(self, name: str) -> Sequence[dict]:
        """Return the dicts of a dataset; the first time, read the others if entries are left."""
        dicts = self._read(name)
        for other in self.readers:
            if not self._unmatched():
                break
            if other not in self._matched:
                self._read(other)
        if unmatched := self._unmatched():
            raise ValueError(
                f"{self._source}: {len(unmatched)} of {len(self._names)} entries match no image of "
                f"{', '.join(self.readers)}: {', '.join(unmatched[:5])}; correct them, or write "
                "the list again with `tools/dataset.py check --bad-list`"
            )
        return dicts

    def _read(self, name: str) -> Sequence[dict]:
        exclusion = Exclusion(self._names)
        dicts = self.readers[name](exclusion)
        self._matched[name] = exclusion.matched
        logger.info(
            "%s: %d images are left out by %s; %d remain",
            name, exclusion.count, self._source, len(dicts),
        )  # fmt: skip
        return dicts

    def _unmatched(self) -> list[str]:
        matched = set().union(*self._matched.values())
        return [name for name in self._names if os.path.normpath(name) not in matched]


class _ForeignLoader:
    """A loader that is not of this package, without the images of a list."""

    excluded: ExcludedImages

    def __init__(self, name: str, load: Callable[[], Sequence[dict]]):
        self.name, self.load = name, load

    def __call__(self) -> Sequence[dict]:
        return self.excluded.read(self.name)

    def read(self, exclusion: Exclusion) -> Sequence[dict]:
        return drop_missing_images(
            self.load(), missing_images="keep", source=self.name, exclusion=exclusion
        )


def _replace(name: str, load: Callable[[], Iterable[dict]]) -> None:
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, load)
