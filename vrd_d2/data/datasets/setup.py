"""Set up the datasets: the built-in ones at the first use, those of a config before it is used."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detectron2.data import DatasetCatalog

from vrd_d2.data.datasets.builtin import SPECS, builtin_names, datasets_root
from vrd_d2.data.datasets.opening import ZERO_SHOT, is_file, unknown_dataset
from vrd_d2.data.datasets.registrar import (
    exclude_images,
    is_foreign,
    register_dataset,
    register_relations_json,
)
from vrd_d2.data.image_existence import check_policy
from vrd_d2.data.source_files import file_stamp

if TYPE_CHECKING:
    from detectron2.config import CfgNode

_chosen_root: Path | None = None  # the last one that register_builtin_datasets was given
_current: tuple | None = None  # what setup_datasets was last called for


def setup_datasets(cfg: "CfgNode") -> None:
    """Register the datasets that a config may name: DATASETS.REGISTER and the built-in ones.

    DATASETS.TRAIN, TEST and DISTANT may name files, too, which are registered under their paths.
    DATASETS.MISSING_IMAGES and EXCLUDE say which of their images are read. The built-in datasets
    stay in the folder of the last :func:`register_builtin_datasets`. A second call with the same
    settings does nothing, so that what was changed by hand in between stays.

    Args:
        cfg: with the node DATASETS; another is not read.

    Raises:
        ValueError: names the key, its value and the remedy.
    """
    global _current
    node = cfg.DATASETS
    names = [*node.TRAIN, *node.TEST]
    rows = [tuple(row) if isinstance(row, list) else row for row in node.REGISTER]
    settings = (
        _root(), rows, node.MISSING_IMAGES, node.EXCLUDE,
        file_stamp(node.EXCLUDE) if node.EXCLUDE else None, names,
    )  # fmt: skip
    if settings == _current:
        return
    _current = None  # in case of an error
    _register_builtin(_root(), node.MISSING_IMAGES, replace_others=False)
    register_user_datasets(node.REGISTER, missing_images=node.MISSING_IMAGES)
    registered = {*builtin_names(), *(row[0] for row in node.REGISTER)}
    for name in dict.fromkeys([*names, *node.DISTANT]):
        if name not in registered and is_file(name):
            register_source(name, missing_images=node.MISSING_IMAGES)
    exclude_images(node.EXCLUDE, names)
    _current = settings


def register_builtin_once() -> None:
    """Register the built-in datasets unless they are registered."""
    (first, *_) = SPECS
    if first.dataset_name(first.splits[0]) not in DatasetCatalog:
        _register_builtin(_root(), "error")


def register_builtin_datasets(
    root: str | os.PathLike | None = None, *, missing_images: str = "error"
) -> None:
    """Register the datasets of :data:`.builtin.SPECS`, again if they are registered.

    This moves them to another folder or changes `missing_images`. Metadata that was added to a
    dataset stays while its folder does.

    Args:
        root: folder of all datasets; None is $DETECTRON2_DATASETS, or ./datasets without it.
        missing_images: "error", "skip" or "keep", see
            :func:`~vrd_d2.data.image_existence.drop_missing_images`.
    """
    global _chosen_root, _current
    check_policy(missing_images)
    _chosen_root = None if root is None else Path(root)
    _current = None  # what a config asks for is to be set up again
    _register_builtin(_root(), missing_images)


def _root() -> Path:
    return datasets_root() if _chosen_root is None else _chosen_root


def _register_builtin(root: Path, missing_images: str, *, replace_others: bool = True) -> None:
    """Register SPECS; without `replace_others` a user's own dataset of such a name stays."""
    for spec in SPECS:
        if not replace_others:
            splits = tuple(s for s in spec.splits if not is_foreign(spec.dataset_name(s)))
            spec = replace(spec, splits=splits)
        register_dataset(spec, root, missing_images=missing_images)


def register_user_datasets(
    entries: Sequence[Sequence[str]], *, missing_images: str = "error"
) -> None:
    """Register the datasets of ``DATASETS.REGISTER``.

    A zero_shot.json beside a file gives its dataset the triplets of zero-shot recall.

    Args:
        entries: rows of [name, relations_json file, image folder]; an empty folder is the file's.
        missing_images: see :func:`~vrd_d2.data.image_existence.drop_missing_images`.

    Raises:
        ValueError: a row is not three strings, or its name belongs to another dataset.
    """
    for index, entry in enumerate(entries):
        if (
            not isinstance(entry, list | tuple)
            or len(entry) != 3
            or not all(isinstance(part, str) for part in entry)
        ):
            raise ValueError(
                f"DATASETS.REGISTER[{index}] is {entry!r}: it must be "
                "[name, relations_json file, image folder]"
            )
        name, json_file, image_root = entry
        register_relations_json(
            name,
            json_file,
            image_root or None,
            missing_images=missing_images,
            zero_shot_file=Path(json_file).with_name(ZERO_SHOT),
        )


def register_source(
    data: str | os.PathLike, images: str | None = None, *, missing_images: str = "error"
) -> str:
    """Return the name in DatasetCatalog of a dataset that a user names.

    Args:
        data: the name of a registered dataset; or a file, which is registered under its path.
        images: folder of a file's images; None is its own.
        missing_images: of a file, see :func:`~vrd_d2.data.image_existence.drop_missing_images`.

    Raises:
        ValueError: there is no such file or name.
    """
    name = os.fspath(data)
    if is_file(name):
        register_user_datasets([(name, name, images or "")], missing_images=missing_images)
    elif name not in DatasetCatalog:
        raise unknown_dataset(name, DatasetCatalog)
    return name
