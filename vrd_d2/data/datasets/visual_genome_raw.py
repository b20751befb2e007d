"""Visual Genome (Krishna et al. 2017) as it is published, into dataset dicts.

The raw annotation is free text. Names are normalised and looked up in a vocabulary, with lists
of aliases where given; what is not in the vocabulary is left out. The VG150 split of Xu et al. 2017
also merges boxes and filters images: raw annotation read here is close to it, not equal.
"""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.boxes import XYXY_ABS
from vrd_d2.data.datasets.spec import DatasetSpec, Select, SplitFiles, existing
from vrd_d2.data.images.folders import ImageFolders
from vrd_d2.data.names import NameTable, normalise_name, read_aliases
from vrd_d2.data.source_files import read_json
from vrd_d2.data.vocabulary import VG150, Vocabulary

logger = logging.getLogger(__name__)

# Where the images are after unpacking, by the folders of the two published archives or in one.
IMAGE_FOLDERS = ("images", "VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2")


@dataclass
class _Counts:
    """What of the raw annotation the vocabulary covers."""

    objects: int = 0
    objects_read: int = 0
    relations: int = 0
    relations_read: int = 0
    unknown_objects: Counter = field(default_factory=Counter)
    unknown_predicates: Counter = field(default_factory=Counter)


def load_visual_genome_raw(
    root: str | os.PathLike,
    vocabulary: Vocabulary,
    *,
    object_aliases: str | os.PathLike | None = None,
    predicate_aliases: str | os.PathLike | None = None,
    image_ids: Iterable[int] | None = None,
) -> list[dict]:
    """Read ``image_data.json``, ``objects.json`` and ``relationships.json``.

    An object takes the first of its names that the vocabulary has. Objects that only occur in
    relationships are objects too. Boxes are clipped to the image, also where that leaves no area.
    A relation is left out if its subject, predicate or object is not in the vocabulary. Images are
    not looked for.

    Args:
        root: folder of the JSON files; images are ID.jpg in one of IMAGE_FOLDERS
            below it.
        vocabulary: names to read.
        object_aliases, predicate_aliases: alias files, see :func:`.names.read_aliases`.
        image_ids: images to read; None is all of image_data.json.

    Returns:
        Dataset dicts in the order of image_data.json, as
        :func:`~vrd_d2.data.formats.relations_json.load_relations_json` returns them; "id" of an
        annotation is Visual Genome's object_id.

    Raises:
        ValueError: names the file and the record that is missing or wrong.
    """
    root = Path(root)
    entries = _by_image(root / "image_data.json")
    wanted = list(entries) if image_ids is None else _chosen(image_ids, entries, root)
    objects = _by_image(root / "objects.json")
    relationships = _by_image(root / "relationships.json")
    tables = [
        NameTable(names, read_aliases(aliases) if aliases is not None else {})
        for names, aliases in (
            (vocabulary.objects, object_aliases),
            (vocabulary.predicates, predicate_aliases),
        )
    ]
    folders = ImageFolders(root, IMAGE_FOLDERS)
    counts = _Counts()
    dicts = []
    for image_id in wanted:
        try:
            record = _image(
                entries[image_id],
                objects.get(image_id, {}).get("objects", []),
                relationships.get(image_id, {}).get("relationships", []),
                *tables,
                counts,
            )
        except KeyError as error:
            raise ValueError(
                f"{root}: a record of image {image_id} has no key {error}: "
                "are these the raw files of Visual Genome?"
            ) from error
        file_name = folders.path(f"{image_id}.jpg")
        dicts.append({"file_name": file_name, "image_id": image_id, **record})
    _report(root, len(dicts), counts)
    return dicts


def _image(
    image: Mapping,
    objects: list[Mapping],
    relationships: list[Mapping],
    object_names: NameTable,
    predicate_names: NameTable,
    counts: _Counts,
) -> dict[str, Any]:
    """Return size, annotations and relations of one image."""
    width, height = image["width"], image["height"]
    ends = (row[end] for row in relationships for end in ("subject", "object"))
    annotations: list[dict] = []
    index: dict[int, int | None] = {}  # object_id -> position in annotations, None: left out
    for found in itertools.chain(objects, ends):
        object_id = found["object_id"]
        if object_id in index:
            continue
        names = found["names"] if "names" in found else [found["name"]]
        category = next((i for i in map(object_names.find, names) if i is not None), None)
        counts.objects += 1
        if category is None:
            counts.unknown_objects.update(map(normalise_name, names[:1]))
        position = None if category is None else len(annotations)
        # Later releases merge repeated boxes and list the ids that the one box stands for.
        index.update(dict.fromkeys([object_id, *found.get("merged_object_ids", ())], position))
        if category is not None:
            annotations.append(
                {
                    "id": object_id,
                    "bbox": _clipped(found, width, height),
                    "bbox_mode": XYXY_ABS,
                    "category_id": category,
                }
            )
    rows = []
    for row in relationships:
        predicate = predicate_names.find(row["predicate"])
        if predicate is None:
            counts.unknown_predicates[normalise_name(row["predicate"])] += 1
        triplet = (index[row["subject"]["object_id"]], index[row["object"]["object_id"]], predicate)
        if None not in triplet:
            rows.append(triplet)
    counts.objects_read += len(annotations)
    counts.relations += len(relationships)
    counts.relations_read += len(rows)
    return {
        "height": height,
        "width": width,
        "annotations": annotations,
        "relations": np.array(rows, np.int64).reshape(-1, 3),
    }


def _clipped(box: Mapping, width: int, height: int) -> list[float]:
    def inside(value: float, limit: int) -> float:
        return float(min(max(value, 0), limit))

    x, y = box["x"], box["y"]
    return [
        inside(x, width),
        inside(y, height),
        inside(x + box["w"], width),
        inside(y + box["h"], height),
    ]


def _by_image(path: Path) -> dict[int, dict]:
    """Return image id -> its record in one of the published files."""
    records = read_json(path, missing="it is part of Visual Genome", repeated_keys=True)
    try:
        # The first release calls the image's id "id" in all files.
        return {record.get("image_id", record.get("id")): record for record in records}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no list with one record for each image") from error


def _chosen(image_ids: Iterable[int], images: Mapping, root: Path) -> list[int]:
    wanted = set(image_ids)
    unknown = sorted(wanted.difference(images))
    if unknown:
        raise ValueError(
            f"image_ids {unknown[:10]} ({len(unknown)} in all) are not in {root}/image_data.json"
        )
    return [image_id for image_id in images if image_id in wanted]


def _report(root: Path, images: int, counts: _Counts) -> None:
    def most(unknown: Counter) -> str:
        return ", ".join(f"{name!r} {number}" for name, number in unknown.most_common(5)) or "none"

    logger.info(
        "%s: %d images; the vocabulary covers %d of %d objects (left out most: %s) and %d of %d "
        "relations (unknown predicates most: %s)",
        root, images, counts.objects_read, counts.objects, most(counts.unknown_objects),
        counts.relations_read, counts.relations, most(counts.unknown_predicates),
    )  # fmt: skip


def _files(root: Path, split: str) -> SplitFiles:
    folder = root / "visual_genome"
    kinds = ("image_data", "objects", "relationships")
    aliases = {f"{kind}_aliases": folder / f"{kind}_alias.txt" for kind in ("object", "predicate")}
    paths = {kind: folder / f"{kind}.json" for kind in kinds}
    return SplitFiles({**paths, **existing(**aliases)}, folder)


def _load(files: SplitFiles, split: str, select: Select) -> list[dict]:
    aliases = {key: path for key, path in files.paths.items() if key.endswith("_aliases")}
    return load_visual_genome_raw(files.image_root, VG150, **aliases)


SPEC = DatasetSpec("visual_genome_raw", ("",), _files, VG150, _load)
