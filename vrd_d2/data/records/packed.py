"""Dataset dicts as a handful of arrays: small, quick to load, and shared by loader workers.

Visual Genome as Python dicts takes over a gigabyte, of which every worker comes to hold a copy,
because counting references writes to the pages that fork shares. Arrays are not written to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vrd_d2.data.boxes import XYXY_ABS
from vrd_d2.data.records.columns import (
    COLUMNS,
    JsonColumn,
    flat_ranges,
    id_column,
    narrow,
    offsets_of,
    read_only,
)
from vrd_d2.data.records.packing import packed_columns


class PackedRecords:
    """A read-only sequence of dataset dicts, each built when it is asked for.

    Indexing gives a fresh dict of the contract of ``datasets/README.md``, a slice gives
    PackedRecords. Its memory is shared by forked workers. What registered datasets return,
    :class:`~vrd_d2.data.build.RecordsDataset`, is a torch Dataset as well, which spawned workers
    share, too.
    """

    bbox_mode: int = XYXY_ABS  # of the annotations in the dicts

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
        self._sizes = narrow(np.asarray(sizes).reshape(-1, 2))
        self._boxes = np.ascontiguousarray(boxes).reshape(-1, 4)
        self._categories = narrow(np.asarray(categories))
        self._box_offsets = offsets_of(box_counts)
        self._relations = narrow(relations)
        self._relation_offsets = offsets_of(relation_counts)
        self._annotation_ids = None if annotation_ids is None else id_column(annotation_ids)
        self._crowd = None
        if crowd is not None and np.any(crowd):
            self._crowd = np.ascontiguousarray(crowd, np.bool_)
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
            drop_other_keys: leave out what cannot be packed ("segmentation", say) instead of
                raising.

        Raises:
            ValueError: names the record with a missing key, another one or a wrong relation.
        """
        return cls(**packed_columns(records, drop_other_keys=drop_other_keys))

    def select(self, indices: Sequence[int] | np.ndarray) -> "PackedRecords":
        """Return some of the images, in the given order.

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
        chosen = type(self).__new__(type(self))
        chosen._file_names = self._file_names.take(rows)
        chosen._image_ids = self._image_ids.take(rows)
        chosen._sizes = self._sizes[rows]
        chosen._boxes = self._boxes[of_boxes]
        chosen._categories = self._categories[of_boxes]
        chosen._box_offsets = offsets_of(box_counts)
        chosen._relations = self._relations[of_relations]
        chosen._relation_offsets = offsets_of(relation_counts)
        chosen._annotation_ids = chosen._crowd = chosen._captions = None
        if self._annotation_ids is not None:
            chosen._annotation_ids = self._annotation_ids.take(of_boxes)
        if self._crowd is not None:
            chosen._crowd = self._crowd[of_boxes]
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
            {"bbox": box, "bbox_mode": self.bbox_mode, "category_id": category}
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
            for box in self._crowd[start:stop].nonzero()[0].tolist():
                annotations[box]["iscrowd"] = 1
        record = {
            "file_name": self._file_names.values(i, i + 1)[0],
            "image_id": self._image_ids.values(i, i + 1)[0],
            "height": height,
            "width": width,
            "annotations": annotations,
            "relations": self._relations[first:last].astype(np.int64),
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
        """Return the N file names."""
        return self._file_names.values(0, len(self))

    @property
    def sizes(self) -> np.ndarray:
        """Return (N, 2) height and width of the images, read-only."""
        return read_only(self._sizes)

    @property
    def boxes(self) -> np.ndarray:
        """Return (B, 4) XYXY of all images, read-only."""
        return read_only(self._boxes)

    @property
    def categories(self) -> np.ndarray:
        """Return (B,) class ids, read-only."""
        return read_only(self._categories)

    @property
    def box_offsets(self) -> np.ndarray:
        """Return (N + 1,): the boxes of image i are rows box_offsets[i] to box_offsets[i + 1]."""
        return read_only(self._box_offsets)

    @property
    def box_counts(self) -> np.ndarray:
        """Return (N,) boxes of each image."""
        return np.diff(self.box_offsets)

    @property
    def object_counts(self) -> np.ndarray:
        """Return (N,) boxes of each image that are no crowds."""
        if self._crowd is None:
            return self.box_counts
        crowds = np.concatenate([[0], np.cumsum(self._crowd)])
        return self.box_counts - np.diff(crowds[self.box_offsets])

    @property
    def relations(self) -> np.ndarray:
        """Return (R, 3) relations of all images, read-only; indices count each image's boxes."""
        return read_only(self._relations)

    @property
    def relation_offsets(self) -> np.ndarray:
        """Return (N + 1,): the relations of image i are the rows between two of them."""
        return read_only(self._relation_offsets)

    @property
    def relation_counts(self) -> np.ndarray:
        """Return (N,) relations of each image."""
        return np.diff(self.relation_offsets)

    @property
    def nbytes(self) -> int:
        """Return the memory of the arrays in bytes."""
        return sum(array.nbytes for array in self.to_arrays()[1].values())

    def to_arrays(self) -> tuple[dict[str, type], dict[str, np.ndarray]]:
        """Return what the records consist of: types by attribute, and all arrays by name."""
        kinds: dict[str, type] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, value in vars(self).items():
            if value is not None and not isinstance(value, (np.ndarray, *COLUMNS)):
                continue
            kinds[name] = type(value)
            parts = vars(value) if isinstance(value, COLUMNS) else {"": value}
            arrays |= {f"{name}.{k}": a for k, a in parts.items() if a is not None}
        return kinds, arrays

    @classmethod
    def from_arrays(
        cls, kinds: Mapping[str, type], arrays: Mapping[str, np.ndarray]
    ) -> "PackedRecords":
        """Return the records that consist of the arrays; the inverse of :meth:`to_arrays`."""
        made = cls.__new__(cls)
        for name, kind in kinds.items():
            value = arrays.get(f"{name}.")
            if kind in COLUMNS:
                value = kind.__new__(kind)
                parts = {k.removeprefix(f"{name}."): a for k, a in arrays.items()}
                vars(value).update({k: a for k, a in parts.items() if "." not in k})
            setattr(made, name, value)
        return made

    def triplets(self) -> np.ndarray:
        """Return the distinct (subject class, object class, predicate): (T, 3), sorted."""
        start = np.repeat(self.box_offsets[:-1], self.relation_counts)
        subjects, objects, predicates = self.relations.astype(np.int64).T
        classes = self.categories
        return np.unique(
            np.stack([classes[start + subjects], classes[start + objects], predicates], axis=1),
            axis=0,
        ).astype(np.int64)


def unseen_triplets(triplets: np.ndarray, training: np.ndarray) -> list[tuple[int, int, int]]:
    """Return the zero-shot triplets: rows of `triplets` that are not in `training`, as tuples."""
    seen = set(map(tuple, training.tolist()))
    return [row for row in map(tuple, triplets.tolist()) if row not in seen]
