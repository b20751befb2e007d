"""Dataset dicts as a handful of arrays: small, quick to load, and shared by loader workers.

Visual Genome as Python dicts takes over a gigabyte, of which every worker comes to hold a copy,
because counting references writes to the pages that fork shares. Arrays are not written to.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from torch import Tensor
from torch.utils.data import Dataset

from vrd_d2.data.records.columns import JsonColumn, flat_ranges, id_column, narrow, offsets_of

_RECORD_KEYS = frozenset(
    ("file_name", "image_id", "height", "width", "annotations", "relations", "captions")
)
_ANNOTATION_KEYS = frozenset(("id", "bbox", "bbox_mode", "category_id", "iscrowd"))


def _view(tensor: Tensor) -> np.ndarray:
    found = tensor.numpy()
    found.flags.writeable = False
    return found


def annotation_xyxy(annotation: Mapping[str, Any]) -> list[float]:
    """Box of a Detectron2 annotation as XYXY_ABS, whatever its BoxMode."""
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode != BoxMode.XYXY_ABS:
        # As an array of doubles: a list would be converted in single precision.
        box = BoxMode.convert(np.array([box], np.float64), BoxMode(mode), BoxMode.XYXY_ABS)[0]
    return [float(value) for value in box]


class PackedRecords(Dataset):
    """A read-only sequence of dataset dicts, each built when it is asked for.

    Indexing gives a fresh dict of the contract of ``datasets/README.md``, a slice gives
    PackedRecords. Detectron2 takes it where it takes a list of dicts: ``DatasetCatalog`` functions
    may return it, and loaders do not serialise it. Its memory is shared by forked workers, and by
    spawned ones as well, since it consists of tensors.
    """

    def __init__(
        self,
        *,
        file_names: Iterable[str],
        image_ids: Sequence[Any] | np.ndarray,
        sizes: np.ndarray,
        boxes: np.ndarray,
        categories: np.ndarray,
        box_counts: np.ndarray,
        relations: np.ndarray,
        relation_counts: np.ndarray,
        annotation_ids: Sequence[Any] | np.ndarray | None = None,
        crowd: np.ndarray | None = None,
        captions: Iterable[list[str] | None] | None = None,
    ):
        """
        Args:
            file_names: of N images.
            image_ids: (N,) integers or strings.
            sizes: (N, 2) height, width; 0 where it is not known, and the dict has no such key.
            boxes: (B, 4) XYXY in pixels, image by image; float32, or float64 where the last
                digit matters.
            categories: (B,) class ids.
            box_counts: (N,) boxes of each image, adding up to B.
            relations: (R, 3) rows (subject index, object index, predicate id), image by image;
                indices count the image's own boxes from 0.
            relation_counts: (N,), adding up to R.
            annotation_ids: (B,) integers or strings; None: annotations have no "id".
            crowd: (B,) bool; None: no box is a crowd.
            captions: N lists, or None where an image has no "captions".

        Raises:
            ValueError: lengths do not fit each other, or a relation points at no box.
        """
        box_counts, relation_counts = np.asarray(box_counts), np.asarray(relation_counts)
        relations = np.asarray(relations, np.int64).reshape(-1, 3)
        self._file_names = JsonColumn.pack(file_names)
        self._image_ids = id_column(image_ids)
        self._sizes = torch.from_numpy(narrow(np.asarray(sizes).reshape(-1, 2)))
        self._boxes = torch.from_numpy(np.ascontiguousarray(boxes).reshape(-1, 4))
        self._categories = torch.from_numpy(narrow(np.asarray(categories)))
        self._box_offsets = torch.from_numpy(offsets_of(box_counts))
        self._relations = torch.from_numpy(narrow(relations))
        self._relation_offsets = torch.from_numpy(offsets_of(relation_counts))
        self._annotation_ids = None if annotation_ids is None else id_column(annotation_ids)
        self._crowd = None
        if crowd is not None and np.any(crowd):
            self._crowd = torch.from_numpy(np.ascontiguousarray(crowd, np.bool_))
        self._captions = None if captions is None else JsonColumn.pack(captions)
        self._check()

    def _check(self) -> None:
        images, boxes = len(self._file_names), len(self._boxes)
        for name, column, expected in (
            ("image_ids", self._image_ids, images),
            ("sizes", self._sizes, images),
            ("box_counts", self._box_offsets[1:], images),
            ("relation_counts", self._relation_offsets[1:], images),
            ("captions", self._captions, images),
            ("categories", self._categories, boxes),
            ("annotation_ids", self._annotation_ids, boxes),
            ("crowd", self._crowd, boxes),
        ):
            if column is not None and len(column) != expected:
                raise ValueError(f"{name} has {len(column)} entries where {expected} are needed")
        for name, offsets, column in (
            ("box_counts", self.box_offsets, self._boxes),
            ("relation_counts", self.relation_offsets, self._relations),
        ):
            if (np.diff(offsets) < 0).any() or offsets[-1] != len(column):
                raise ValueError(
                    f"{name} add up to {offsets[-1]}, but there are {len(column)} rows for them"
                )
        ends = self.relations[:, :2]
        owner = np.repeat(np.arange(images), self.relation_counts)
        wrong = ((ends < 0) | (ends >= self.box_counts[owner][:, None])).any(1)
        if wrong.any():
            row = int(wrong.argmax())
            index = int(owner[row])
            raise ValueError(
                f"image {self._image_ids.values(index, index + 1)[0]!r}: a relation joins boxes "
                f"{ends[row, 0]} and {ends[row, 1]}, but the image has {self.box_counts[index]} "
                "annotations: indices count its annotations from 0"
            )

    @classmethod
    def pack(
        cls, records: Iterable[Mapping[str, Any]], *, drop_other_keys: bool = False
    ) -> "PackedRecords":
        """Pack dataset dicts; boxes become XYXY in single precision.

        Args:
            records: with file_name, image_id, annotations and relations; and height and width, if
                known.
            drop_other_keys: leave out what has no place here ("segmentation", say) instead of
                raising.

        Raises:
            ValueError: names the record that lacks a key, has another one or a wrong relation.
        """
        names, image_ids, sizes, captions, annotation_ids = [], [], [], [], []
        boxes, categories, crowd, relations = array("f"), array("q"), bytearray(), []
        box_counts, relation_counts = array("q"), array("q")
        for index, record in enumerate(records):
            try:
                annotations, rows = record["annotations"], record["relations"]
                if not drop_other_keys:
                    _refuse_others(record, annotations)
                names.append(str(record["file_name"]))
                image_ids.append(record["image_id"])
                sizes.append((record.get("height", 0), record.get("width", 0)))
                for annotation in annotations:
                    boxes.extend(annotation_xyxy(annotation))
                    categories.append(int(annotation["category_id"]))
                    crowd.append(bool(annotation.get("iscrowd", 0)))
                    annotation_ids.append(annotation.get("id"))
            except (KeyError, ValueError) as error:
                what = f"the key {error} is missing" if isinstance(error, KeyError) else error
                where = record.get("file_name", record.get("image_id"))
                raise ValueError(f"dataset dict {index} ({where}): {what}") from error
            captions.append(record.get("captions"))
            relations.append(np.asarray(rows, np.int64).reshape(-1, 3))
            box_counts.append(len(annotations))
            relation_counts.append(len(relations[-1]))
        return cls(
            file_names=names,
            image_ids=image_ids,
            sizes=np.array(sizes, np.int64).reshape(-1, 2),
            boxes=np.frombuffer(boxes, np.float32),
            categories=np.frombuffer(categories, np.int64),
            box_counts=np.frombuffer(box_counts, np.int64),
            relations=np.concatenate([np.zeros((0, 3), np.int64), *relations]),
            relation_counts=np.frombuffer(relation_counts, np.int64),
            annotation_ids=None if None in annotation_ids else annotation_ids,
            crowd=np.frombuffer(crowd, np.bool_),
            captions=captions if any(texts is not None for texts in captions) else None,
        )

    def select(self, indices: Sequence[int] | np.ndarray) -> "PackedRecords":
        """Some of the images, in the given order.

        Args:
            indices: of images, or a mask (N,) of bool.

        Raises:
            IndexError: there is no such image.
        """
        rows = np.asarray(indices)
        rows = np.arange(len(self))[rows if rows.size else rows.astype(np.int64)]
        box_counts, relation_counts = self.box_counts[rows], self.relation_counts[rows]
        of_boxes = flat_ranges(self.box_offsets[:-1][rows], box_counts)
        of_relations = flat_ranges(self.relation_offsets[:-1][rows], relation_counts)
        chosen = PackedRecords.__new__(PackedRecords)
        chosen._file_names = self._file_names.take(rows)
        chosen._image_ids = self._image_ids.take(rows)
        chosen._sizes = torch.from_numpy(self._sizes.numpy()[rows])
        chosen._boxes = torch.from_numpy(self._boxes.numpy()[of_boxes])
        chosen._categories = torch.from_numpy(self._categories.numpy()[of_boxes])
        chosen._box_offsets = torch.from_numpy(offsets_of(box_counts))
        chosen._relations = torch.from_numpy(self._relations.numpy()[of_relations])
        chosen._relation_offsets = torch.from_numpy(offsets_of(relation_counts))
        chosen._annotation_ids = chosen._crowd = chosen._captions = None
        if self._annotation_ids is not None:
            chosen._annotation_ids = self._annotation_ids.take(of_boxes)
        if self._crowd is not None:
            chosen._crowd = torch.from_numpy(self._crowd.numpy()[of_boxes])
        if self._captions is not None:
            chosen._captions = self._captions.take(rows)
        return chosen

    def __len__(self) -> int:
        return len(self._file_names)

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | PackedRecords":
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._record(int(index) % len(self))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._record, range(len(self)))

    def _record(self, i: int) -> dict[str, Any]:
        height, width = self._sizes[i].tolist()
        start, stop = self._box_offsets[i : i + 2].tolist()
        first, last = self._relation_offsets[i : i + 2].tolist()
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
            for box, category in zip(
                self._boxes[start:stop].tolist(),
                self._categories[start:stop].tolist(),
                strict=True,
            )
        ]
        if self._annotation_ids is not None:
            ids = self._annotation_ids.values(start, stop)
            for annotation, number in zip(annotations, ids, strict=True):
                annotation["id"] = number
        if self._crowd is not None:
            for box in self._crowd[start:stop].nonzero()[:, 0].tolist():
                annotations[box]["iscrowd"] = 1
        record = {
            "file_name": self._file_names.values(i, i + 1)[0],
            "image_id": self._image_ids.values(i, i + 1)[0],
            "height": height,
            "width": width,
            "annotations": annotations,
            "relations": self._relations[first:last].numpy().astype(np.int64),
        }
        if not height or not width:
            del record["height"], record["width"]
        if self._captions is not None:
            (captions,) = self._captions.values(i, i + 1)
            if captions is not None:
                record["captions"] = captions
        return record

    @property
    def file_names(self) -> list[str]:
        """N file names."""
        return self._file_names.values(0, len(self))

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) height and width of the images, read-only."""
        return _view(self._sizes)

    @property
    def boxes(self) -> np.ndarray:
        """(B, 4) XYXY of all images, read-only."""
        return _view(self._boxes)

    @property
    def categories(self) -> np.ndarray:
        """(B,) class ids, read-only."""
        return _view(self._categories)

    @property
    def box_offsets(self) -> np.ndarray:
        """(N + 1,): the boxes of image i are rows box_offsets[i] to box_offsets[i + 1]."""
        return _view(self._box_offsets)

    @property
    def box_counts(self) -> np.ndarray:
        """(N,) boxes of each image."""
        return np.diff(self.box_offsets)

    @property
    def object_counts(self) -> np.ndarray:
        """(N,) boxes of each image that are no crowds."""
        if self._crowd is None:
            return self.box_counts
        crowds = np.concatenate([[0], np.cumsum(self._crowd.numpy())])
        return self.box_counts - np.diff(crowds[self.box_offsets])

    @property
    def relations(self) -> np.ndarray:
        """(R, 3) relations of all images, read-only; indices count each image's own boxes."""
        return _view(self._relations)

    @property
    def relation_offsets(self) -> np.ndarray:
        """(N + 1,): the relations of image i are the rows between two of them."""
        return _view(self._relation_offsets)

    @property
    def relation_counts(self) -> np.ndarray:
        """(N,) relations of each image."""
        return np.diff(self.relation_offsets)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        columns = (getattr(self, name) for name in vars(self))
        return sum(column.nbytes for column in columns if column is not None)

    def triplets(self) -> np.ndarray:
        """Distinct (subject class, object class, predicate) of the relations: (T, 3), sorted."""
        start = np.repeat(self.box_offsets[:-1], self.relation_counts)
        subjects, objects, predicates = self.relations.astype(np.int64).T
        classes = self.categories
        return np.unique(
            np.stack([classes[start + subjects], classes[start + objects], predicates], axis=1),
            axis=0,
        ).astype(np.int64)


def unseen_triplets(triplets: np.ndarray, training: np.ndarray) -> list[tuple[int, int, int]]:
    """Zero-shot triplets: rows of `triplets` that are not in `training`, as tuples."""
    seen = set(map(tuple, training.tolist()))
    return [row for row in map(tuple, triplets.tolist()) if row not in seen]


def _refuse_others(record: Mapping, annotations: Sequence[Mapping]) -> None:
    others = record.keys() - _RECORD_KEYS
    others |= set(chain.from_iterable(annotations)) - _ANNOTATION_KEYS
    if others:
        raise ValueError(
            f"PackedRecords have no place for {', '.join(map(repr, sorted(others)))}: "
            "drop_other_keys leaves them out"
        )
