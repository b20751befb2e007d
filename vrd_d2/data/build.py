"""The images of several training sets as one, packed or not."""

import logging
from collections.abc import Sequence
from itertools import chain

import numpy as np
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.build import filter_images_with_only_crowd_annotations
from torch.utils.data import ConcatDataset, Dataset

from vrd_d2.data.records.packed import PackedRecords

logger = logging.getLogger(__name__)


class DistantRecords(Dataset):
    """Images as if their relations were not annotated, each marked "distant"."""

    def __init__(self, records: Sequence[dict] | Dataset):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        nothing = np.zeros((0, 3), np.int64)
        return {**self.records[index], "relations": nothing, "distant": True}


def training_records(
    names: Sequence[str], *, filter_empty: bool, distant: Sequence[str] = ()
) -> list[dict] | Dataset:
    """What Detectron2's ``get_detection_dataset_dicts`` does, for PackedRecords as well.

    That function hands a torch Dataset on as it is, and so would not filter it.

    Args:
        names: of registered datasets.
        filter_empty: leave out images without a box, or with boxes of crowds alone.
        distant: those of the names whose relations are not to be read.

    Returns:
        A list if all datasets are lists; PackedRecords; DistantRecords; or a ConcatDataset of
        several, whose parts are these and serialised lists.

    Raises:
        ValueError: a dataset has no image (left).
    """
    parts = []
    for name in names:
        part = DatasetCatalog.get(name)
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
