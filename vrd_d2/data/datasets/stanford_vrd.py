"""Stanford VRD (Lu et al. 2016) as it is published, into dataset dicts.

An image's annotation is a list of relations and nothing else: its objects are what their two ends
name. The size of an image is not in the files.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.boxes import XYXY_ABS
from vrd_d2.data.datasets.spec import DatasetSpec, Select, SplitFiles, existing
from vrd_d2.data.images.folders import ImageFolders
from vrd_d2.data.images.sizes import read_size, read_sizes
from vrd_d2.data.record_values import checked_box, checked_index, member
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import located, read_json
from vrd_d2.data.vocabulary import VRD, Vocabulary

logger = logging.getLogger(__name__)

# Where the images lie: the folders of the published archive, or others.
IMAGE_FOLDERS = (
    "images",
    "sg_dataset/sg_train_images",
    "sg_dataset/sg_test_images",
    "sg_train_images",
    "sg_test_images",
)
_TOP_LEVEL = (
    "it must be an object {image: [relations]} with at least one image: is this "
    "annotations_train.json or annotations_test.json?"
)


def stanford_vrd_vocabulary(folder: str | os.PathLike) -> Vocabulary:
    """Read the names of ``objects.json`` and ``predicates.json``, numbered from 0.

    Raises:
        ValueError: a file is missing or no JSON list of different names.
    """
    names = {}
    for kind in ("objects", "predicates"):
        path = Path(folder) / f"{kind}.json"
        names[kind] = read_json(path)
        if type(names[kind]) is not list:
            raise ValueError(f"{path}: it must be a list of names: get the file again")
    with located(folder):
        return Vocabulary(**names)


def load_stanford_vrd(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    vocabulary: Vocabulary = VRD,
    sizes: str | os.PathLike | None = None,
    select: Select | None = None,
) -> PackedRecords:
    """Read ``annotations_train.json`` or ``annotations_test.json``.

    The objects of an image are the distinct (class, box) of its relations' ends, in the order of
    their first mention. Boxes stay as annotated, and so do repeated relations, several
    predicates on a pair, relations of a box to itself, and images without relations (which
    thereby have no objects).

    Args:
        json_file: {file name: [{"subject": {"category", "bbox": [y1, y2, x1, x2]}, "predicate",
            "object": ...}]}, with numbers from 0 of classes and predicates.
        image_root: folder with the images, in one of IMAGE_FOLDERS below it; None is the
            JSON's. An image may have another suffix than the annotation says: of the published
            ones one is a .gif, which copies have renamed.
        vocabulary: what the numbers stand for.
        sizes: JSON file of :func:`~vrd_d2.data.images.sizes.write_sizes`; None reads the headers
            of the images.
        select: chooses among the dicts before sizes are read from images; None takes all.

    Returns:
        Dataset dicts in the order of the file, as
        :func:`~vrd_d2.data.formats.relations_json.load_relations_json` returns them.
        "image_id" is the annotation's file name; "id" of an annotation counts from 1 through the
        file. "height" and "width" are missing where the image is, unless `sizes` has it.

    Raises:
        ValueError: names the file, the image and what is wrong with it.
    """
    known = read_sizes(sizes)
    root = os.path.dirname(os.fspath(json_file)) if image_root is None else image_root
    images = ImageFolders(root, IMAGE_FOLDERS, any_suffix=True)
    dicts = [
        {"file_name": images.path(record["image_id"]), **record}
        for record in _annotated(json_file, vocabulary)
    ]
    if select is not None:
        dicts = select(dicts)
    existing = set(images.found.values())
    for record in dicts:
        size = known.get(record["image_id"])
        if size is None and record["file_name"] in existing:
            with located(json_file):
                size = read_size(record["file_name"])
        if size is not None:
            record["width"], record["height"] = size
    _report(json_file, dicts)
    return PackedRecords.pack(dicts)


def _annotated(json_file: str | os.PathLike, vocabulary: Vocabulary) -> list[dict]:
    """Read the images of a file with what is annotated, whether they exist or not."""
    document = read_json(json_file)
    with located(json_file):
        if type(document) is not dict or not document:
            raise ValueError(_TOP_LEVEL)
        numbers = iter(range(1, 2**63))
        dicts = []
        for name, rows in document.items():
            with located(f"image {name!r}"):
                annotations, relations = _image(rows, vocabulary, numbers)
            dicts.append({"image_id": name, "annotations": annotations, "relations": relations})
    return dicts


def _image(
    rows: Any, vocabulary: Vocabulary, numbers: Iterator[int]
) -> tuple[list[dict], np.ndarray]:
    """Return annotations and relations of one image."""
    if type(rows) is not list:
        raise ValueError("it must have a list of relations, empty if it has none")
    annotations: list[dict] = []
    index: dict[tuple, int] = {}
    relations = []
    for i, row in enumerate(rows):
        with located(f"relation {i}"):
            ends = []
            for end in ("subject", "object"):
                with located(end):
                    category, box = _end(member(row, end, dict), vocabulary)
                key = (category, *box)
                if key not in index:
                    index[key] = len(annotations)
                    annotations.append(
                        {
                            "id": next(numbers),
                            "bbox": box,
                            "bbox_mode": XYXY_ABS,
                            "category_id": category,
                        }
                    )
                ends.append(index[key])
            predicate = member(row, "predicate", int)
            checked_index(predicate, len(vocabulary.predicates), "predicate")
            relations.append((*ends, predicate))
    return annotations, np.array(relations, np.int64).reshape(-1, 3)


def _end(record: dict, vocabulary: Vocabulary) -> tuple[int, list[float]]:
    category = member(record, "category", int)
    checked_index(category, len(vocabulary.objects), "category")
    return category, checked_box(member(record, "bbox", list), "[y1, y2, x1, x2]", (2, 0, 3, 1))


def _report(json_file: str | os.PathLike, dicts: list[dict]) -> None:
    relations = [record["relations"] for record in dicts]
    repeated = sum(len(rows) - len(np.unique(rows, axis=0)) for rows in relations)
    logger.info(
        "%s: %d images (%d without relations), %d objects, %d relations (%d repeat another, %d "
        "are of a box to itself)",
        json_file, len(dicts), sum(not len(rows) for rows in relations),
        sum(len(record["annotations"]) for record in dicts), sum(map(len, relations)),
        repeated, sum(int((rows[:, 0] == rows[:, 1]).sum()) for rows in relations),
    )  # fmt: skip


def _files(root: Path, split: str) -> SplitFiles:
    folder = root / "vrd"
    optional = existing(sizes=folder / "sizes.json", objects=folder / "objects.json")
    return SplitFiles(
        {"annotations": folder / f"annotations_{split}.json", **optional}, image_root=folder
    )


def _load(files: SplitFiles, split: str, select: Select) -> PackedRecords:
    folder = files.image_root
    if "objects" in files.paths and stanford_vrd_vocabulary(folder) != VRD:
        raise ValueError(
            f"{folder}: objects.json and predicates.json have not the names of Stanford VRD: get "
            "them again, or load the files by load_stanford_vrd with another vocabulary"
        )
    sizes = files.paths.get("sizes")
    return load_stanford_vrd(files.paths["annotations"], folder, sizes=sizes, select=select)


def _triplets(files: SplitFiles, split: str) -> np.ndarray:
    records = _annotated(files.paths["annotations"], VRD)
    return PackedRecords.pack({"file_name": "", **record} for record in records).triplets()


SPEC = DatasetSpec("vrd", ("train", "test"), _files, VRD, _load, triplets=_triplets)
