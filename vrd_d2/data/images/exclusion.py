"""Datasets without the images of a list: DATASETS.EXCLUDE."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog

from vrd_d2.data.image_existence import drop_missing_images, leaving_out

logger = logging.getLogger(__name__)


def exclude_images(list_file: str | os.PathLike, dataset_names: Sequence[str]) -> None:
    """Make registered datasets leave out the images that a file lists.

    Another call replaces what an earlier one asked for. An entry is a file name or the end of a
    path: "1.jpg" and "images/1.jpg" both mean /data/images/1.jpg. It is checked against all of the
    datasets when the first of them is read.

    Args:
        list_file: see :func:`read_name_list`; "" leaves out nothing.
        dataset_names: datasets that the list is for.

    Raises:
        ValueError: the list cannot be read.
    """
    for name in list(DatasetCatalog):
        if isinstance(load := DatasetCatalog[name], _Without):
            _replace(name, load.load)
    if not list_file:
        return
    entries = _Entries(str(list_file), read_name_list(list_file))
    for name in dict.fromkeys(dataset_names):
        if name in DatasetCatalog:
            entries.loaders[name] = DatasetCatalog[name]
            _replace(name, _Without(name, DatasetCatalog[name], entries))


class _Entries:
    """The list, and which of it each dataset has had."""

    def __init__(self, source: str, names: list[str]):
        self.source = source
        self.names = names
        self.loaders: dict[str, Callable[[], Sequence[dict]]] = {}
        self.found: dict[str, set[str]] = {}

    def load(self, name: str) -> Sequence[dict]:
        with leaving_out(self.names) as left_out:
            # Loaders that are not of this package do not ask for the list, so it is done again.
            dicts = drop_missing_images(self.loaders[name](), missing_images="keep", source=name)
        self.found[name] = left_out.found
        logger.info(
            "%s: %d images are left out by %s; %d remain",
            name, left_out.count, self.source, len(dicts),
        )  # fmt: skip
        return dicts

    def unknown(self) -> list[str]:
        """Entries that no dataset has had so far."""
        found = set().union(*self.found.values())
        return [name for name in self.names if os.path.normpath(name) not in found]

    def check(self) -> None:
        """Every entry must mean an image, of the other datasets if not of the one just read."""
        for name in self.loaders:
            if not self.unknown():
                return
            if name not in self.found:
                self.load(name)
        if unknown := self.unknown():
            raise ValueError(
                f"{self.source}: {len(unknown)} of {len(self.names)} entries match no image of "
                f"{', '.join(self.loaders)}: {', '.join(unknown[:5])}; correct them, or write the "
                "list again with `tools/dataset.py check --bad-list`"
            )


class _Without:
    """The loader of a dataset, without the images of the list."""

    def __init__(self, name: str, load: Callable[[], Sequence[dict]], entries: _Entries):
        self.name = name
        self.load = load
        self.entries = entries

    def __call__(self) -> Sequence[dict]:
        dicts = self.entries.load(self.name)
        self.entries.check()
        return dicts


def _replace(name: str, load: Callable[[], Sequence[dict]]) -> None:
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, load)


def read_name_list(path: str | os.PathLike) -> list[str]:
    """File names of a text file, one a line; empty lines and lines that begin with # do not count.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it must be a text file with an image's file name "
            "a line, as `tools/dataset.py check --bad-list` writes it"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
