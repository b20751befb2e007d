"""Visual relationships of Open Images V6 (Kuznetsova et al. 2020) as published, into dicts.

The files are CSV. A row is a relation: two labels, two boxes in fractions of the image, and the
predicate. Objects have no numbers: equal label and equal box make one object.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.boxes import XYXY_ABS
from vrd_d2.data.csv_files import read_csv, read_csv_pairs
from vrd_d2.data.datasets.name_counts import (
    NameCounts,
    names_metadata,
    positions,
    vocabulary_remedy,
)
from vrd_d2.data.datasets.spec import (
    DatasetSpec,
    Loaded,
    Select,
    SplitFiles,
    existing,
    first_existing,
)
from vrd_d2.data.images.folders import ImageFolders
from vrd_d2.data.images.sizes import read_size, read_sizes
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import collector_paused, located
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary

logger = logging.getLogger(__name__)

IMAGE_FOLDERS = ("images", "train", "validation", "test")
_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # as files call them
_ATTRIBUTE = "is"  # "table is wooden": the second label is no object
_HEADERS = frozenset(("LabelName", "id"))  # of the files of descriptions, of which some have none
_SIDES = ("XMin", "YMin", "XMax", "YMax")
_RELATION_COLUMNS = (
    ("ImageID",),
    ("RelationshipLabel", "RelationLabel"),
    ("LabelName1",),
    ("LabelName2",),
    *((f"{side}{end}",) for end in (1, 2) for side in _SIDES),
)
_BOX_COLUMNS = (("ImageID",), ("LabelName",), *((side,) for side in _SIDES))
_TOLERANCE = 0.01  # by which a fraction may leave 0..1

Object = tuple[str, float, float, float, float]  # class name; x1, y1, x2, y2 in fractions


@dataclass
class _Image:
    """Objects in the order of their first mention, and relations (subject, object, predicate)."""

    objects: dict[Object, int]
    relations: list[tuple[Object, Object, str]]


def open_images_vocabulary(
    relations_csv: str | os.PathLike,
    class_descriptions: str | os.PathLike,
    *,
    num_objects: int | None = None,
    num_predicates: int | None = None,
) -> Vocabulary:
    """Return the most frequent names of a file's relations, most frequent first; no attributes.

    Args:
        relations_csv, class_descriptions: as in :func:`load_open_images`.
        num_objects, num_predicates: how many names; None is all.

    Raises:
        ValueError: a file is wrong, or has fewer names.
    """
    counts = NameCounts()
    for image in _read_relations(relations_csv, _read_classes(class_descriptions)).values():
        counts.objects.update(name for name, *_ in image.objects)
        counts.predicates.update(predicate for *_, predicate in image.relations)
    with located(relations_csv):
        return counts.vocabulary(num_objects, num_predicates)


def load_open_images(
    relations_csv: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    class_descriptions: str | os.PathLike,
    vocabulary: Vocabulary,
    boxes_csv: str | os.PathLike | None = None,
    sizes: str | os.PathLike | None = None,
    select: Select | None = None,
) -> PackedRecords:
    """Read ``oidv6-train-annotations-vrd.csv`` or that of another split.

    There is a dict for every image that has a relation. Attributes, rows with the predicate
    "is", are no relations of two objects: they are left out, and counted in the log, as are
    objects and relations whose names are not in the vocabulary. Boxes stay as annotated, and so
    do repeated relations and several predicates on a pair.

    Args:
        relations_csv: columns ImageID, LabelName1, LabelName2, XMin1, XMax1, YMin1, YMax1, XMin2,
            XMax2, YMin2, YMax2, RelationshipLabel (or RelationLabel); numbers in fractions of
            width and height.
        image_root: folder of the images ImageID.jpg, in one of IMAGE_FOLDERS below it; None is
            the CSV's.
        class_descriptions: CSV of label (such as /m/01g317) and name, with or without a header.
            Labels of the same name are one class.
        vocabulary: names to read, such as those of :func:`open_images_vocabulary`. Predicates are
            the relationship labels with spaces for underscores.
        boxes_csv: columns ImageID, LabelName, XMin, XMax, YMin, YMax (others are ignored): objects
            beside those in relations, which then come first; None has none.
        sizes: JSON file of :func:`~vrd_d2.data.images.sizes.write_sizes`, keyed ImageID.jpg; None
            reads the headers of the images.
        select: chooses among dicts with "file_name" before images are opened; None takes all,
            which needs the images or `sizes`.

    Returns:
        Dataset dicts in the order of the file, as
        :func:`~vrd_d2.data.formats.relations_json.load_relations_json` returns them;
        "image_id" is the ImageID, "id" of an annotation counts from 1 through what is returned.

    Raises:
        ValueError: names the file, the line or image, and what is wrong with it.
    """
    name_of = _read_classes(class_descriptions)
    images = _read_relations(relations_csv, name_of)
    if boxes_csv is not None:
        _add_boxes(images, boxes_csv, name_of)
    known = read_sizes(sizes)
    root = os.path.dirname(os.fspath(relations_csv)) if image_root is None else image_root
    folders = ImageFolders(root, IMAGE_FOLDERS)
    wanted = [{"file_name": folders.path(f"{key}.jpg"), "image_id": key} for key in images]
    if select is not None:
        wanted = select(wanted)
    found, covered = NameCounts(), NameCounts()
    numbers = iter(range(1, 2**63))
    classes, predicates = positions(vocabulary.objects), positions(vocabulary.predicates)

    def records() -> Iterator[dict]:
        for record in wanted:
            with located(f"image {record['image_id']!r}"):
                record["width"], record["height"] = _size(record, known, folders)
            image = images.pop(record["image_id"])
            yield record | _scene(image, record, classes, predicates, numbers, found, covered)

    with located(relations_csv), collector_paused():
        packed = PackedRecords.pack(records())
    logger.info(
        "%s: %d images; the vocabulary covers %s",
        relations_csv, len(packed), found.summary(covered),
    )  # fmt: skip
    return packed


def _read_classes(class_descriptions: str | os.PathLike) -> dict[str, str]:
    return read_csv_pairs(class_descriptions, _HEADERS)


@collector_paused()
def _read_relations(
    relations_csv: str | os.PathLike, name_of: Mapping[str, str]
) -> dict[str, _Image]:
    """Return image id -> objects and relations, of all images that have a relation."""
    images: dict[str, _Image] = {}
    attributes = 0
    for line, row in read_csv(relations_csv, _RELATION_COLUMNS):
        image_id, predicate, label1, label2, *sides = row
        if predicate == _ATTRIBUTE:
            attributes += 1
            continue
        try:
            if not image_id or not predicate:
                raise ValueError("ImageID and RelationshipLabel must not be empty: get it again")
            first = _object(label1, sides[:4], name_of)
            second = _object(label2, sides[4:], name_of)
        except ValueError as error:
            raise ValueError(f"{relations_csv}: line {line}: {error}") from error
        image = images.setdefault(image_id, _Image({}, []))
        for found in (first, second):
            image.objects.setdefault(found, len(image.objects))
        image.relations.append((first, second, predicate.replace("_", " ")))
    if not images:
        raise ValueError(
            f"{relations_csv}: no relations, {attributes} attributes: is this the file of visual "
            "relationships?"
        )
    logger.info("%s: %d attributes are left out", relations_csv, attributes)
    return images


def _add_boxes(
    images: dict[str, _Image], boxes_csv: str | os.PathLike, name_of: Mapping[str, str]
) -> None:
    """Put the boxes of another file before the objects of those images that have relations."""
    listed: dict[str, dict[Object, int]] = {}
    for line, (image_id, label, *sides) in read_csv(boxes_csv, _BOX_COLUMNS):
        if image_id not in images:
            continue
        try:
            found = _object(label, sides, name_of)
        except ValueError as error:
            raise ValueError(f"{boxes_csv}: line {line}: {error}") from error
        objects = listed.setdefault(image_id, {})
        objects.setdefault(found, len(objects))
    for image_id, objects in listed.items():
        for found in images[image_id].objects:
            objects.setdefault(found, len(objects))
        images[image_id].objects = objects


def _object(label: str, sides: list[str], name_of: Mapping[str, str]) -> Object:
    if label not in name_of:
        raise ValueError(
            f"label {label[:80]!r} is not in the class descriptions: get the file of descriptions "
            "that has it"
        )
    try:
        x1, y1, x2, y2 = map(float, sides)
    except ValueError:
        x1, y1, x2, y2 = (float("nan"),) * 4
    if not (
        -_TOLERANCE <= x1 <= x2 <= 1 + _TOLERANCE and -_TOLERANCE <= y1 <= y2 <= 1 + _TOLERANCE
    ):
        raise ValueError(
            f"box {sides!r} must be XMin, YMin, XMax, YMax in fractions of the image, not ending "
            "before it begins"
        )
    return name_of[label], x1, y1, x2, y2


def _size(
    record: Mapping[str, Any], known: Mapping[str, tuple[int, int]], folders: ImageFolders
) -> tuple[int, int]:
    name = os.path.basename(record["file_name"])
    if name in known:
        return known[name]
    if name not in folders.found:
        raise ValueError(
            f"its size is unknown, of which boxes are fractions: put {record['file_name']} there "
            "or name it in the file of sizes"
        )
    return read_size(record["file_name"])


def _scene(
    image: _Image,
    record: Mapping[str, Any],
    classes: Mapping[str, int],
    predicates: Mapping[str, int],
    numbers: Iterator[int],
    found: NameCounts,
    covered: NameCounts,
) -> dict[str, Any]:
    """Return annotations in pixels and relations of one image."""
    width, height = record["width"], record["height"]
    annotations: list[dict] = []
    index: dict[Object, int] = {}
    for key in image.objects:
        name, x1, y1, x2, y2 = key
        found.objects[name] += 1
        if name not in classes:
            continue
        covered.objects[name] += 1
        index[key] = len(annotations)
        annotations.append(
            {
                "id": next(numbers),
                "bbox": [x1 * width, y1 * height, x2 * width, y2 * height],
                "bbox_mode": XYXY_ABS,
                "category_id": classes[name],
            }
        )
    relations = []
    for subject, obj, predicate in image.relations:
        found.predicates[predicate] += 1
        row = (index.get(subject), index.get(obj), predicates.get(predicate))
        if None not in row:
            covered.predicates[predicate] += 1
            relations.append(row)
    return {
        "annotations": annotations,
        "relations": np.array(relations, np.int64).reshape(-1, 3),
    }


def open_images_files(folder: Path, split: str) -> dict[str, Path]:
    """Return the files of a split by the arguments of :func:`load_open_images`.

    File names may begin with "oidv6-" or not, as the published ones do and do not. The two
    optional files are among them if they exist.
    """

    def find(*stems: str) -> Path:
        return first_existing(folder, *(p + stem for stem in stems for p in ("oidv6-", "")))

    stem = f"{_SPLITS[split]}-annotations"
    return {
        "relations_csv": find(f"{stem}-vrd.csv"),
        "class_descriptions": find("class-descriptions.csv", "class-descriptions-boxable.csv"),
        **existing(boxes_csv=find(f"{stem}-bbox.csv"), sizes=folder / "sizes.json"),
    }


def _files(root: Path, split: str) -> SplitFiles:
    folder = root / "oiv6"
    paths = {**open_images_files(folder, split), "vocabulary": folder / "vocabulary.json"}
    return SplitFiles(paths, folder, remedies={"vocabulary": vocabulary_remedy("oiv6")})


def _load(files: SplitFiles, split: str, select: Select) -> Loaded:
    vocabulary = get_vocabulary(files.paths["vocabulary"])
    paths = {**files.paths, "vocabulary": vocabulary}
    records = load_open_images(image_root=files.image_root, select=select, **paths)
    return Loaded(records, names_metadata(vocabulary))


SPEC = DatasetSpec("oiv6", tuple(_SPLITS), _files, None, _load)
