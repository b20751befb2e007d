"""Visual Genome in the form that nearly all public code reads: VG-SGG.h5, its dicts, image_data.

The split of Xu et al. 2017 ("Scene Graph Generation by Iterative Message Passing", VG150), and with
the vocabulary VG20 that of Chen et al. 2019 ("Scene Graph Prediction with Limited Labels").
"""

import logging
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from vrd_d2.data.datasets.spec import DatasetSpec, Select, SplitFiles, first_existing
from vrd_d2.data.datasets.visual_genome_h5_files import (
    CORRUPT_IMAGES,
    ranges_of,
    read_h5,
    read_image_data,
    read_vocabulary,
    translate,
)
from vrd_d2.data.datasets.visual_genome_raw import IMAGE_FOLDERS
from vrd_d2.data.images.folders import ImageFolders
from vrd_d2.data.records.columns import flat_ranges
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import until_changed
from vrd_d2.data.vocabulary import VG20, VG150, Vocabulary

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_OUTSIDE = 2  # pixels at box scale; annotators and rounding stay within


def load_visual_genome_h5(
    h5_file: str | os.PathLike,
    dicts_file: str | os.PathLike,
    image_data_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    split: str,
    vocabulary: Vocabulary | None = None,
    val_images: int | None = 5000,
    require_relations: bool = True,
    exclude_image_ids: Iterable[int] = (),
) -> PackedRecords:
    """Read one split. :class:`VisualGenomeH5` reads several without opening the files again.

    Args:
        h5_file, dicts_file, image_data_file, vocabulary, val_images, require_relations,
            exclude_image_ids: see :class:`VisualGenomeH5`.
        image_root, split: see :meth:`VisualGenomeH5.records`.

    Raises:
        ValueError: names the file, the record and the remedy.
    """
    genome = VisualGenomeH5(
        h5_file,
        dicts_file,
        image_data_file,
        vocabulary=vocabulary,
        val_images=val_images,
        require_relations=require_relations,
        exclude_image_ids=exclude_image_ids,
    )
    return genome.records(split, image_root)


class VisualGenomeH5:
    """The three files, read and checked.

    The .h5 holds 1-based ``labels`` (B, 1) and ``predicates`` (R, 1), ``relationships`` (R, 2) as
    indices of all boxes, ``boxes_1024`` or ``boxes_512`` (B, 4) as centre and size at the scale at
    which the image's longer side has that many pixels, and for each of the I images the first and
    last (inclusive, -1 for none) of its boxes and relations, and its split. Other content
    (attributes, ``active_object_mask``) is not read.

    Boxes become XYXY at the image's own scale, as public code has them: the corner is centre -
    size / 2, rounded towards 0 where the file has integers, as all public ones have. (Their centre
    was rounded down when they were written, so boxes of odd size lie half a pixel of that scale too
    far to the upper left; other readers share this, and equal boxes matter more.) Then they are
    clipped to [0, width] and [0, height], where public code clips to width - 1 and height - 1. No
    box is dropped, also none without area, and their order stays.

    Attributes:
        vocabulary: of the records.
        val_images: which images are validation; may be set.
    """

    def __init__(
        self,
        h5_file: str | os.PathLike,
        dicts_file: str | os.PathLike,
        image_data_file: str | os.PathLike,
        *,
        vocabulary: Vocabulary | None = None,
        val_images: int | None = 5000,
        require_relations: bool = True,
        exclude_image_ids: Iterable[int] = (),
    ):
        """
        Args:
            h5_file: VG-SGG-with-attri.h5 or VG-SGG.h5.
            dicts_file: the JSON of its names, VG-SGG-dicts-with-attri.json or VG-SGG-dicts.json.
            image_data_file: image_data.json, one entry for each image of the .h5, in its order.
            vocabulary: None demands the names and ids of VG150. With any other vocabulary, ids are
                translated by name: it must have all object classes of the dicts; relations with
                other predicates are left out (VG20).
            val_images: validation is the first so many images of split 0 that have a relation,
                and training the rest (protocol ``sgb``); None: validation is split 1 (VisualDS).
            require_relations: leave out images without a relation (of the vocabulary), as public
                code does for relations; False reads all that have a box, for a detector. They join
                training and test; validation stays the same.
            exclude_image_ids: entries of image_data.json to leave out if it has more than the .h5
                has images, such as CORRUPT_IMAGES; the ids need not occur.

        Raises:
            ValueError: names the file, the record and the remedy.
        """
        if val_images is not None and val_images < 0:
            raise ValueError(f"val_images is {val_images}: give a number from 0, or None")
        self._h5_file, self.val_images = str(h5_file), val_images
        self._require_relations = require_relations
        self.vocabulary, label_map, predicate_map = read_vocabulary(dicts_file, vocabulary)
        data = read_h5(self._h5_file)
        self._image_ids, self._sizes = read_image_data(
            image_data_file, exclude_image_ids, self._h5_file, len(data.split)
        )
        self._split = data.split
        self._first_box, self._box_counts = ranges_of(data, "box", len(data.labels), self._h5_file)
        first, counts = ranges_of(data, "rel", len(data.predicates), self._h5_file)
        self._categories = translate(data, "labels", label_map, self._h5_file)
        rows = flat_ranges(first, counts)
        owner = np.repeat(np.arange(len(counts)), counts)
        ends = data.relationships[rows] - self._first_box[owner][:, None]
        self._check_ends(data.relationships, rows, owner, ends)
        predicates = translate(data, "predicates", predicate_map, self._h5_file)[rows]
        known = predicates >= 0  # the others are none of the vocabulary
        self._relations = np.column_stack([ends, predicates])[known]
        self._relation_counts = np.bincount(owner[known], minlength=len(counts))
        self._scale, self._boxes = data.scale, data.boxes

    @property
    def has_validation_split(self) -> bool:
        """Return whether some images are of split 1, so that val_images=None is possible."""
        return bool((self._split == 1).any())

    def image_indices(self, split: str) -> np.ndarray:
        """Return the positions in the .h5 of a split's images, ascending; none if there are none.

        Raises:
            ValueError: unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
        related = self._relation_counts > 0
        usable = related if self._require_relations else self._box_counts > 0
        if split == "test":
            chosen = (self._split == 2) & usable
        elif self.val_images is None:
            chosen = (self._split == 1) & related if split == "val" else (self._split == 0) & usable
        else:
            held_out = np.zeros(len(related), bool)
            held_out[np.flatnonzero((self._split == 0) & related)[: self.val_images]] = True
            chosen = held_out if split == "val" else (self._split == 0) & usable & ~held_out
        return np.flatnonzero(chosen)

    def records(self, split: str, image_root: str | os.PathLike) -> PackedRecords:
        """Return the dataset dicts of a split, whether their images exist or not.

        Args:
            split: "train", "val" or "test".
            image_root: folder of the images ID.jpg, or of the folders IMAGE_FOLDERS.

        Returns:
            In the order of the file; "id" of an annotation is 1 + its index of all boxes.

        Raises:
            ValueError: unknown or empty split.
        """
        images = self.image_indices(split)
        if not len(images):
            numbers = np.column_stack(np.unique(self._split, return_counts=True)).tolist()
            raise ValueError(
                f"{self._h5_file} has no image of split {split!r} with val_images="
                f"{self.val_images} ([split, images] in the file: {numbers}): "
                "validation is split 1 with val_images=None, else the first images of split 0"
            )
        found = ImageFolders(image_root, ("", *IMAGE_FOLDERS)).found
        names = [f"{image_id}.jpg" for image_id in self._image_ids[images].tolist()]
        default = os.path.join(image_root, IMAGE_FOLDERS[0])
        counts = self._box_counts[images]
        boxes = flat_ranges(self._first_box[images], counts)
        starts = np.cumsum(self._relation_counts) - self._relation_counts
        rows = flat_ranges(starts[images], self._relation_counts[images])
        sizes = self._sizes[images]
        packed = PackedRecords(
            file_names=(found.get(name) or os.path.join(default, name) for name in names),
            image_ids=self._image_ids[images],
            sizes=sizes,
            boxes=self._xyxy(self._boxes[boxes], np.repeat(sizes, counts, axis=0)),
            categories=self._categories[boxes],
            box_counts=counts,
            relations=self._relations[rows],
            relation_counts=self._relation_counts[images],
            annotation_ids=boxes + 1,
        )
        logger.info(
            "%s: %s has %d images, %d boxes, %d relations",
            self._h5_file, split, len(packed), len(boxes), len(rows),
        )  # fmt: skip
        return packed

    def triplets(self, split: str) -> np.ndarray:
        """Return the distinct (subject class, object class, predicate) of a split: (T, 3)."""
        images = self.image_indices(split)
        starts = np.cumsum(self._relation_counts) - self._relation_counts
        rows = self._relations[flat_ranges(starts[images], self._relation_counts[images])]
        first = np.repeat(self._first_box[images], self._relation_counts[images])
        subjects, objects = (self._categories[first + rows[:, end]] for end in (0, 1))
        return np.unique(np.column_stack([subjects, objects, rows[:, 2]]), axis=0)

    def _xyxy(self, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return centre and size at box scale as XYXY (B, 4) float32 in pixels of images (B, 2)."""
        corner = boxes[:, :2] - boxes[:, 2:] / 2
        if np.issubdtype(boxes.dtype, np.integer):
            corner = np.trunc(corner)
        corners = np.hstack([corner, corner + boxes[:, 2:]])
        corners *= (sizes.max(1, initial=0) / self._scale)[:, None]
        limits = np.tile(sizes[:, ::-1], 2)
        outside = (corners[:, :2] + corners[:, 2:]) / 2 > limits[:, :2] * (1 + _OUTSIDE / 1024)
        share = outside.any(1).mean() if len(boxes) else 0.0
        if share > 0.01:
            logger.warning(
                "%s: %.0f %% of the boxes have their centre outside the image: image_data.json "
                "may list the images in another order than the .h5",
                self._h5_file, 100 * share,
            )  # fmt: skip
        return np.clip(corners, 0, limits).astype(np.float32)

    def _check_ends(
        self, relationships: np.ndarray, rows: np.ndarray, owner: np.ndarray, ends: np.ndarray
    ) -> None:
        wrong = ((ends < 0) | (ends >= self._box_counts[owner][:, None])).any(1)
        if not wrong.any():
            return
        at = int(wrong.argmax())
        row, image = int(rows[at]), int(owner[at])
        first, count = int(self._first_box[image]), int(self._box_counts[image])
        raise ValueError(
            f"{self._h5_file}: relationships[{row}] joins boxes {relationships[row].tolist()}, but "
            f"its image {image} (image_id {self._image_ids[image]}) has the boxes {first} to "
            f"{first + count - 1} of {len(self._categories)}: the file is damaged or was put "
            "together from different ones"
        )


@until_changed(maxsize=2)  # all splits, and the zero-shot list, are read from the same files
def _open(paths: tuple[Path, ...], vocabulary: Vocabulary) -> VisualGenomeH5:
    # With VG150, whose ids the files must have, None is stricter than a translation by name.
    data = VisualGenomeH5(
        *paths,
        vocabulary=None if vocabulary == VG150 else vocabulary,
        exclude_image_ids=CORRUPT_IMAGES,
    )
    if vocabulary != VG150 and data.has_validation_split:
        data.val_images = None  # the file of Chen et al.
    return data


def _files(root: Path, split: str) -> SplitFiles:
    folder = root / "visual_genome"
    paths = {
        "h5_file": first_existing(folder, "VG-SGG-with-attri.h5", "VG-SGG.h5"),
        "dicts_file": first_existing(folder, "VG-SGG-dicts-with-attri.json", "VG-SGG-dicts.json"),
        "image_data_file": folder / "image_data.json",
    }
    return SplitFiles(paths, folder)


def _load(vocabulary: Vocabulary, files: SplitFiles, split: str, select: Select) -> PackedRecords:
    return _open(tuple(files.paths.values()), vocabulary).records(split, files.image_root)


def _triplets(vocabulary: Vocabulary, files: SplitFiles, split: str) -> np.ndarray:
    return _open(tuple(files.paths.values()), vocabulary).triplets(split)


SPECS = tuple(
    DatasetSpec(
        name,
        SPLITS,
        _files,
        vocabulary,
        partial(_load, vocabulary),
        triplets=partial(_triplets, vocabulary),
    )
    for name, vocabulary in (("vg_sgg", VG150), ("vg20_sgg", VG20))
)
