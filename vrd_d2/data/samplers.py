"""Samplers of training images: rare predicates, orientations, and resumed data streams."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vrd_d2.data.records.packed import PackedRecords


class SkippingSampler(Sampler):
    """An infinite sampler without its first indices: where a resumed run had come to.

    Args:
        sampler: of this process.
        skip: indices that this process has already consumed.
    """

    def __init__(self, sampler: Sampler, skip: int):
        self.sampler = sampler
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), self.skip, None)


class GroupingSampler(Sampler):
    """Indices in such an order that each batch holds wide images alone, or none.

    What Detectron2 does under DATALOADER.ASPECT_RATIO_GROUPING with images that were read, done
    with their sizes: which images wait for a batch of their kind is no state of a loader then, and
    a resumed run goes on with the very same batches.

    Args:
        sampler: of this process, infinite.
        wide: bool for each image: it is wider than high.
        batch_size: images of a batch of this process.
    """

    def __init__(self, sampler: Sampler, wide: Sequence[bool] | np.ndarray, batch_size: int):
        self.sampler = sampler
        self.wide = wide
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        waiting: dict[bool, list[int]] = {False: [], True: []}
        for index in self.sampler:
            group = waiting[bool(self.wide[index])]
            group.append(index)
            if len(group) == self.batch_size:
                yield from group
                group.clear()


class NumberingSampler(Sampler):
    """Yields (number, index): how many indices came before, and the index itself.

    Args:
        sampler: of this process.
    """

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return enumerate(self.sampler)


def wide_images(dataset: Sequence[dict] | Dataset) -> np.ndarray:
    """Return for each image whether it is wider than high, False where its size is not known."""
    if isinstance(dataset, PackedRecords):
        height, width = dataset.sizes.T
        return width > height
    records = (dataset[index] for index in range(len(dataset)))
    return np.array([record.get("width", 0) > record.get("height", 0) for record in records], bool)


def predicate_repeat_factors(
    dataset_dicts: Sequence[dict] | Dataset, num_predicates: int, threshold: float
) -> Tensor:
    """Return repeat factors of images by their rarest predicate (after Gupta et al. 2019).

    With f(p) the share of images that have predicate p, an image is repeated
    max over its predicates of max(1, sqrt(threshold / f(p))) times.

    Args:
        dataset_dicts: with "relations" (R, 3); a list, PackedRecords, or several of the latter.
        num_predicates: K.
        threshold: share of images below which a predicate is rare.

    Returns:
        (number of images,) float32, at least 1.
    """
    present = torch.zeros((len(dataset_dicts), num_predicates), dtype=torch.bool)
    start = 0
    for part in getattr(dataset_dicts, "datasets", [dataset_dicts]):  # of a ConcatDataset
        rows = present[start : start + len(part)]
        start += len(part)
        if isinstance(part, PackedRecords):
            owner = np.repeat(np.arange(len(part)), part.relation_counts)
            rows.numpy()[owner, part.relations[:, 2]] = True
            continue
        for row, record in zip(rows, part, strict=True):
            row[torch.as_tensor(record["relations"], dtype=torch.int64).reshape(-1, 3)[:, 2]] = True
    share = present.float().mean(0)
    factors = (threshold / share.clamp(min=1e-12)).sqrt().clamp(min=1)
    return torch.where(present, factors, 1.0).amax(1)
