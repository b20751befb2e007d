"""Ground truth from a file or a registered dataset, without its images."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vrd_d2.data.boxes import BoxLayout, require_layout
from vrd_d2.data.datasets.loading import Triplets
from vrd_d2.data.datasets.opening import Source, open_dataset
from vrd_d2.data.source_files import require_regular
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.evaluation.json_lines import (
    LineError,
    ground_truth_from_json,
    read_json_lines,
    starts_like_lines,
)
from vrd_d2.evaluation.records import GroundTruth, ground_truth_from_dict


@dataclass(frozen=True)
class GroundTruths:
    """The annotation of all images.

    Attributes:
        name: what it was read from.
        images: ground truth by image_id, in the order of the file.
        vocabulary: names of classes and predicates; None where the file has none.
        file_names: path of each image by image_id; empty where the file has none.
        sizes: width and height by image_id, where they are known.
        zero_shot: () -> (subject class, object class, predicate) that training does not have; None
            where nothing says which.
    """

    name: str
    images: Mapping[int | str, GroundTruth]
    vocabulary: Vocabulary | None = None
    file_names: Mapping[int | str, str] = field(default_factory=dict)
    sizes: Mapping[int | str, tuple[int, int]] = field(default_factory=dict)
    zero_shot: Callable[[], Triplets | None] = lambda: None

    @classmethod
    def of_dataset(
        cls, name: str, records: Sequence[dict], vocabulary: Vocabulary | None
    ) -> "GroundTruths":
        """Return the annotation in dataset dicts.

        Raises:
            ValueError: an image comes twice.
        """
        index: dict[int | str, int] = {}
        file_names, sizes = {}, {}
        for number, record in enumerate(records):
            image_id = record["image_id"]
            if index.setdefault(image_id, number) != number:
                raise ValueError(f"{name} holds image_id {image_id!r} twice: ids must be unique")
            file_names[image_id] = record["file_name"]
            if "width" in record and "height" in record:
                sizes[image_id] = (record["width"], record["height"])
        return cls(name, _OfRecords(records, index), vocabulary, file_names, sizes)


class _OfRecords(Mapping):
    """Ground truth by image_id, made of a dataset dict when it is asked for."""

    def __init__(self, records: Sequence[dict], index: dict[int | str, int]) -> None:
        self._records, self._index = records, index

    def __getitem__(self, image_id: int | str) -> GroundTruth:
        return ground_truth_from_dict(self._records[self._index[image_id]])

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def read_ground_truth(
    data: str | os.PathLike,
    *,
    images: str | None = None,
    root: str | os.PathLike | None = None,
) -> GroundTruths:
    """Read a relations_json file, a registered dataset or JSON Lines; the content shows which.

    Args:
        data, images, root: see :func:`~vrd_d2.data.datasets.opening.open_dataset`; or JSON Lines.

    Raises:
        ValueError: what is wrong and where.
    """
    require_regular(data)
    if os.path.isfile(data) and starts_like_lines(data, "image_id"):
        return GroundTruths(os.fspath(data), _read_lines(Path(data)))
    return ground_truths(open_dataset(data, images=images, root=root))


def ground_truths(source: Source) -> GroundTruths:
    """Return the annotation of a dataset that has been read.

    Raises:
        ValueError: it has no relations, or an image twice.
    """
    if not source.predicates:
        raise ValueError(f"{source.name} has boxes only, and no relations to compare with")
    found = GroundTruths.of_dataset(source.name, source.records, source.vocabulary())
    return GroundTruths(**{**vars(found), "zero_shot": source.zero_shot})


def _read_lines(path: Path) -> dict[int | str, GroundTruth]:
    images: dict[int | str, GroundTruth] = {}
    layout = BoxLayout()
    for number, value in read_json_lines(path):
        if value["image_id"] in images:
            raise LineError(path, number, f"image_id {value['image_id']!r} comes twice")
        try:
            images[value["image_id"]] = ground_truth_from_json(value)
            images[value["image_id"]].check()
        except ValueError as error:
            raise LineError(path, number, error) from error
        found = images[value["image_id"]]
        layout.add(found.boxes, [found.longer_side or np.inf] * 2)
    require_layout(layout, f"{path}: gt_boxes")
    return images
