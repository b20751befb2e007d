"""Dataset dicts for Detectron2's loaders: packed ones as a torch Dataset, several sets as one."""

import logging
import random
from collections.abc import Callable, Sequence
from itertools import chain
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.structures import BoxMode
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from vrd_d2.data.records.packed import PackedRecords

logger = logging.getLogger(__name__)


class RecordsDataset(PackedRecords, Dataset):
    """Packed records that Detectron2 takes where it takes a list of dicts.

    ``DatasetCatalog`` functions return it, and loaders do not serialise it. Spawned workers share
    its memory, as forked ones do.
    """

    bbox_mode = BoxMode.XYXY_ABS

    @classmethod
    def of(cls, records: Sequence[dict]) -> "RecordsDataset":
        """Return dataset dicts as such a dataset; packed ones are not copied."""
        if isinstance(records, cls):
            return records
        if not isinstance(records, PackedRecords):
            return cls.pack(records)
        made = cls.__new__(cls)
        vars(made).update(vars(records))
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_shared"}


def _share(records: RecordsDataset) -> tuple[Any, ...]:
    """Pickle records for another process: handles of shared memory in place of the arrays.

    The records move to the shared memory, so that all processes that are started use the same.
    """
    shared = vars(records).pop("_shared", None)
    kinds, arrays = records.to_arrays()
    if shared is None:
        shared = {name: _in_shared_memory(array) for name, array in arrays.items()}
        vars(records).update(vars(_attach(type(records), kinds, shared)))
    records._shared = shared
    return _attach, (type(records), kinds, shared)


def _attach(
    cls: type[RecordsDataset], kinds: dict[str, type], shared: dict[str, Tensor]
) -> RecordsDataset:
    records = cls.from_arrays(kinds, {name: tensor.numpy() for name, tensor in shared.items()})
    records._shared = shared  # another process that is started from here attaches to it, too
    return records


def _in_shared_memory(array: np.ndarray) -> Tensor:
    tensor = torch.empty(array.shape, dtype=torch.from_numpy(array[:0].copy()).dtype)
    tensor.share_memory_().numpy()[...] = array
    return tensor


# This pickler is used for processes that are started, and for nothing else.
ForkingPickler.register(RecordsDataset, _share)


class DistantRecords(Dataset):
    """Images as if their relations were not annotated, each marked "distant"."""

    def __init__(self, records: Sequence[dict] | Dataset):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        nothing = np.zeros((0, 3), np.int64)
        return {**self.records[index], "relations": nothing, "distant": True}


class SeededExamples(Dataset):
    """Examples of training, by (number, index) of :class:`~vrd_d2.data.samplers.NumberingSampler`.

    What an augmentation draws depends on the place of the example in the stream alone: neither on
    the loader's worker that reads it nor on where a resumed run began.

    Args:
        dataset: of dataset dicts.
        mapper: turns a dict into an example.
        seed: of the training and the process; None draws other numbers in each run.
    """

    def __init__(
        self,
        dataset: list[dict] | Dataset,
        mapper: Callable[[dict], dict | None],
        *,
        seed: Sequence[int] | None,
    ):
        if isinstance(dataset, list):
            dataset = DatasetFromList(dataset, copy=False)
        self.examples = MapDataset(dataset, mapper)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: tuple[int, int]) -> dict:
        number, index = place
        if self.seed is not None:
            # Detectron2's augmentations draw from numpy.
            np.random.seed([*self.seed, number % 2**32])
            random.seed(repr((*self.seed, number)))
        return self.examples[index]


def training_records(
    names: Sequence[str], *, filter_empty: bool, distant: Sequence[str] = ()
) -> list[dict] | Dataset:
    """Do what Detectron2's ``get_detection_dataset_dicts`` does, for packed records as well.

    That function returns a torch Dataset as it is, and so would not filter it.

    Args:
        names: of registered datasets.
        filter_empty: leave out images without a box, or with boxes of crowds alone.
        distant: those of the names whose relations are not to be read.

    Returns:
        A list if all datasets are lists; RecordsDataset; DistantRecords; or a ConcatDataset of
        several, whose parts are these and serialised lists.

    Raises:
        ValueError: a dataset has no image (left).
    """
    parts = []
    for name in names:
        part = DatasetCatalog.get(name)
        if isinstance(part, PackedRecords):
            part = RecordsDataset.of(part)
        total = len(part)
        if filter_empty and isinstance(part, PackedRecords):
            part = part.select(part.object_counts > 0)
        elif filter_empty and isinstance(part, list) and total and "annotations" in part[0]:
            part = filter_images_with_only_crowd_annotations(part)
        logger.info("%s: %d images, %d without a box left out", name, len(part), total - len(part))
        if not len(part):
            raise ValueError(
                f"dataset {name!r} has no image to train on ({total} before those without a box "
                "were left out, see DATALOADER.FILTER_EMPTY_ANNOTATIONS)"
            )
        parts.append(DistantRecords(part) if name in distant else part)
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return list(chain.from_iterable(parts))
    return ConcatDataset(
        [DatasetFromList(part, copy=False) if isinstance(part, list) else part for part in parts]
    )
