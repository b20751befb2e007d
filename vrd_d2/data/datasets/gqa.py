"""GQA's scene graphs (Hudson and Manning 2019) as they are published, into dataset dicts.

They are Visual Genome's, cleaned. Names are open: a vocabulary says which are read.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.boxes import XYXY_ABS
from vrd_d2.data.datasets.name_counts import (
    NameCounts,
    names_metadata,
    positions,
    vocabulary_remedy,
)
from vrd_d2.data.datasets.spec import DatasetSpec, Loaded, Select, SplitFiles
from vrd_d2.data.images.folders import ImageFolders
from vrd_d2.data.record_values import checked_box, checked_size, member
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import collector_paused, located, read_json
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary

logger = logging.getLogger(__name__)

# Where the images lie: the folder of GQA's archive, or those of Visual Genome's.
IMAGE_FOLDERS = ("images", "allImages/images", "VG_100K", "VG_100K_2")
_TOP_LEVEL = (
    "it must be an object {image id: {width, height, objects}} with at least one image: is this "
    "train_sceneGraphs.json or val_sceneGraphs.json?"
)


def gqa_vocabulary(
    json_file: str | os.PathLike,
    *,
    num_objects: int | None = None,
    num_predicates: int | None = None,
) -> Vocabulary:
    """Return the most frequent names of a file, most frequent first.

    "to the left of" and "to the right of", which GQA added by the positions of boxes, are
    predicates like any other.

    Args:
        json_file: ``train_sceneGraphs.json``.
        num_objects, num_predicates: how many names; None is all.

    Raises:
        ValueError: the file is wrong, as in :func:`load_gqa`, or has fewer names.
    """
    counts = NameCounts()
    document = read_json(json_file)
    with located(json_file), collector_paused():
        for _, objects in _images(document):
            for record in objects.values():
                counts.objects[record["name"]] += 1
                counts.predicates.update(row["name"] for row in record["relations"])
        return counts.vocabulary(num_objects, num_predicates)


def load_gqa(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    vocabulary: Vocabulary,
) -> PackedRecords:
    """Read ``train_sceneGraphs.json`` or ``val_sceneGraphs.json``.

    Objects that are not in the vocabulary are left out, and relations whose predicate or one of
    whose ends is not; the log says how many. Boxes stay as annotated, and so do several predicates
    on a pair, repeated relations, and images of which nothing is left. Images are not looked for.

    Args:
        json_file: {image id: {"width", "height", "objects": {object id: {"name", "x", "y", "w",
            "h", "relations": [{"name", "object": object id}]}}}}.
        image_root: folder of the images ID.jpg, in one of IMAGE_FOLDERS below it; None is the
            JSON's.
        vocabulary: names to read, such as those of :func:`gqa_vocabulary`.

    Returns:
        Dataset dicts in the order of the file, as
        :func:`~vrd_d2.data.formats.relations_json.load_relations_json` returns them;
        "image_id" and the "id" of annotations are GQA's, strings.

    Raises:
        ValueError: names the file, the image and what is wrong with it.
    """
    document = read_json(json_file)
    root = os.path.dirname(os.fspath(json_file)) if image_root is None else image_root
    folders = ImageFolders(root, IMAGE_FOLDERS)
    found, covered = NameCounts(), NameCounts()
    classes, predicates = positions(vocabulary.objects), positions(vocabulary.predicates)

    def records() -> Iterator[dict]:
        for image_id, objects in _images(document):
            with located(f"image {image_id!r}"):
                scene = _scene(objects, classes, predicates, found, covered)
            yield scene | {
                "file_name": folders.path(f"{image_id}.jpg"),
                "image_id": image_id,
                "height": document[image_id]["height"],
                "width": document[image_id]["width"],
            }

    with located(json_file), collector_paused():
        packed = PackedRecords.pack(records())
    logger.info(
        "%s: %d images; the vocabulary covers %s", json_file, len(packed), found.summary(covered)
    )
    return packed


def _images(document: Any) -> Iterator[tuple[str, dict[str, dict]]]:
    """Yield image ids and their checked objects."""
    if type(document) is not dict or not document:
        raise ValueError(_TOP_LEVEL)
    for image_id, graph in document.items():
        with located(f"image {image_id!r}"):
            checked_size(graph)
            objects = member(graph, "objects", dict)
            for object_id, record in objects.items():
                try:
                    _check_object(record, objects)
                except ValueError as error:
                    raise ValueError(f"object {object_id!r}: {error}") from error
        yield image_id, objects


def _check_object(record: Any, objects: dict) -> None:
    member(record, "name", str)
    if not record["name"].strip():
        raise ValueError("its name is empty: give it one")
    for i, row in enumerate(member(record, "relations", list)):
        name, target = member(row, "name", str), member(row, "object", str)
        if not name.strip():
            raise ValueError(f"relations[{i}]: its name is empty: give it one")
        if target not in objects:
            raise ValueError(
                f"relations[{i}]: object {target!r} is not an object of this image: correct it "
                "or add that object"
            )


def _scene(
    objects: dict[str, dict],
    classes: dict[str, int],
    predicates: dict[str, int],
    found: NameCounts,
    covered: NameCounts,
) -> dict[str, Any]:
    """Return annotations and relations of one image."""
    annotations, index = [], {}
    for object_id, record in objects.items():
        try:
            numbers = [member(record, key, int, float) for key in ("x", "y", "w", "h")]
            box = checked_box(numbers, "[x, y, w, h]", (0, 1, 2, 3), extent=True)
        except ValueError as error:
            raise ValueError(f"object {object_id!r}: {error}") from error
        found.objects[record["name"]] += 1
        category = classes.get(record["name"])
        if category is None:
            continue
        covered.objects[record["name"]] += 1
        index[object_id] = len(annotations)
        annotations.append(
            {
                "id": object_id,
                "bbox": box,
                "bbox_mode": XYXY_ABS,
                "category_id": category,
            }
        )
    relations = []
    for object_id, record in objects.items():
        for row in record["relations"]:
            found.predicates[row["name"]] += 1
            predicate = predicates.get(row["name"])
            triplet = (index.get(object_id), index.get(row["object"]), predicate)
            if None not in triplet:
                covered.predicates[row["name"]] += 1
                relations.append(triplet)
    return {
        "annotations": annotations,
        "relations": np.array(relations, np.int64).reshape(-1, 3),
    }


def _files(root: Path, split: str) -> SplitFiles:
    folder = root / "gqa"
    paths = {
        "scene_graphs": folder / f"{split}_sceneGraphs.json",
        "vocabulary": folder / "vocabulary.json",
    }
    return SplitFiles(paths, folder, remedies={"vocabulary": vocabulary_remedy("gqa")})


def _load(files: SplitFiles, split: str, select: Select) -> Loaded:
    vocabulary = get_vocabulary(files.paths["vocabulary"])
    records = load_gqa(files.paths["scene_graphs"], files.image_root, vocabulary=vocabulary)
    return Loaded(records, names_metadata(vocabulary))


SPEC = DatasetSpec("gqa", ("train", "val"), _files, None, _load)
