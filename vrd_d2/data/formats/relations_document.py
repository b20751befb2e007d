"""Dataset dicts to the content of a relations_json file, and back."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from vrd_d2.data.boxes import annotation_xyxy
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.vocabulary import Vocabulary


def contiguous_ids(records: Sequence[Mapping]) -> dict[int, int]:
    """Return file id -> 0-based id, in the order of the file's ids, as Detectron2 does for COCO."""
    return {number: i for i, number in enumerate(sorted(record["id"] for record in records))}


def names_by_id(records: Sequence[Mapping]) -> list[str]:
    """Return the names in the order of the file's ids."""
    return [record["name"] for record in sorted(records, key=lambda record: record["id"])]


def pack_document(
    document: Mapping, image_root: str, *, box_dtype: type = np.float32
) -> PackedRecords:
    """Return the records of a checked document; see :func:`.relations_json.load_relations_json`."""
    images, annotations, relations = (
        document[section] for section in ("images", "annotations", "relations")
    )
    number_of = {image["id"]: i for i, image in enumerate(images)}
    category = contiguous_ids(document["categories"])
    predicate = contiguous_ids(document["predicates"])
    owner = _numbers(number_of[annotation["image_id"]] for annotation in annotations)
    order = np.argsort(owner, kind="stable")  # image by image, within one as in the file
    counts = np.bincount(owner, minlength=len(images))
    position = np.empty_like(order)
    position[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    ids = [annotation["id"] for annotation in annotations]
    position_of = dict(zip(ids, position.tolist(), strict=True))
    rows = np.stack(
        [
            _numbers(position_of[row["subject_id"]] for row in relations),
            _numbers(position_of[row["object_id"]] for row in relations),
            _numbers(predicate[row["predicate_id"]] for row in relations),
        ],
        axis=1,
    )
    image_of_relation = _numbers(number_of[row["image_id"]] for row in relations)
    return PackedRecords(
        file_names=(os.path.join(image_root, image["file_name"]) for image in images),
        image_ids=[image["id"] for image in images],
        sizes=np.array([(i.get("height", 0), i.get("width", 0)) for i in images], np.int64),
        boxes=_xyxy_of_coco(annotations)[order].astype(box_dtype),
        categories=_numbers(category[a["category_id"]] for a in annotations)[order],
        box_counts=counts,
        relations=rows[np.argsort(image_of_relation, kind="stable")],
        relation_counts=np.bincount(image_of_relation, minlength=len(images)),
        annotation_ids=[ids[i] for i in order.tolist()],
        crowd=_numbers(bool(a.get("iscrowd")) for a in annotations)[order],
        captions=(
            [image.get("captions") for image in images]
            if any("captions" in image for image in images)
            else None
        ),
    )


def _numbers(values: Iterable[int]) -> np.ndarray:
    return np.fromiter(values, np.int64)


def _xyxy_of_coco(annotations: Sequence[Mapping]) -> np.ndarray:
    numbers = chain.from_iterable(annotation["bbox"] for annotation in annotations)
    boxes = np.fromiter(numbers, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def to_document(
    dataset_dicts: Sequence[Mapping],
    vocabulary: Vocabulary,
    image_root: str,
    *,
    always_relative: bool = False,
) -> dict[str, list]:
    """Return the content of the file; see :func:`.relations_json.save_relations_json`.

    Ids of categories, predicates and relations count from 1, as COCO's do.
    """
    root = os.path.abspath(image_root)
    ids_of_all = [a.get("id") for record in dataset_dicts for a in record.get("annotations", ())]
    use_ids = None not in ids_of_all and len(set(ids_of_all)) == len(ids_of_all)
    images, annotations, relations = [], [], []
    for record in dataset_dicts:
        image_id = record["image_id"]
        image = {
            "id": image_id,
            "file_name": _referred(record["file_name"], root, always_relative),
            **_size(record),
        }
        if "captions" in record:
            image["captions"] = list(record["captions"])
        images.append(image)
        ids = []
        for annotation in record.get("annotations", ()):
            x1, y1, x2, y2 = annotation_xyxy(annotation)
            ids.append(annotation["id"] if use_ids else len(annotations) + 1)
            annotations.append(
                {
                    "id": ids[-1],
                    "image_id": image_id,
                    "category_id": int(annotation["category_id"]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                }
            )
        for subject, obj, predicate in _rows(record, len(ids)):
            relations.append(
                {
                    "id": len(relations) + 1,
                    "image_id": image_id,
                    "subject_id": ids[subject],
                    "object_id": ids[obj],
                    "predicate_id": predicate + 1,
                }
            )
    return {
        "info": {"description": "relations_json of vrd_d2"},  # pycocotools asks for "info"
        "images": images,
        "annotations": annotations,
        "categories": _numbered(vocabulary.objects),
        "predicates": _numbered(vocabulary.predicates),
        "relations": relations,
    }


def _numbered(names: Sequence[str]) -> list[dict]:
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def _size(record: Mapping) -> dict[str, int]:
    """Return the size of an image; nothing where neither annotation nor image states it."""
    return {key: record[key] for key in ("width", "height") if key in record}


def _referred(file_name: str, root: str, always_relative: bool) -> str:
    path = os.path.abspath(file_name)
    relative = always_relative or Path(path).is_relative_to(root)
    return os.path.relpath(path, root) if relative else path


def _rows(record: Mapping, count: int) -> list[list[int]]:
    """Return the rows of the relations.

    Their indices are checked: a negative one would pick from the end.
    """
    rows = np.asarray(record.get("relations", ()), np.int64).reshape(-1, 3)
    for row, (subject, obj, _) in enumerate(rows.tolist()):
        if not (0 <= subject < count and 0 <= obj < count):
            raise ValueError(
                f"image {record['image_id']!r} ({record['file_name']}): relations[{row}] joins "
                f"boxes {subject} and {obj}, but the image has {count} annotations: "
                "indices count its annotations from 0"
            )
    return rows.tolist()
