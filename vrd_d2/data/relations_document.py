"""Data set dicts to the content of a relations_json file, and back."""

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from vrd_d2.data.vocabulary import Vocabulary


def contiguous_ids(records: Sequence[Mapping]) -> dict[int, int]:
    """File id -> 0-based id, in the order of the file's ids, as Detectron2 does for COCO."""
    return {number: i for i, number in enumerate(sorted(record["id"] for record in records))}


def to_dicts(document: Mapping, image_root: str) -> list[dict]:
    """Data set dicts of a checked document; see :func:`.relations_json.load_relations_json`."""
    category = contiguous_ids(document["categories"])
    predicate = contiguous_ids(document["predicates"])
    records = {}
    for image in document["images"]:
        records[image["id"]] = record = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": [],
            "relations": [],
        }
        if "captions" in image:
            record["captions"] = image["captions"]
    position = {}
    mode = BoxMode.XYXY_ABS
    for annotation, box in zip(
        document["annotations"], _xyxy_of_coco(document["annotations"]), strict=True
    ):
        annotations = records[annotation["image_id"]]["annotations"]
        position[annotation["id"]] = len(annotations)
        found = {
            "id": annotation["id"],
            "bbox": box,
            "bbox_mode": mode,
            "category_id": category[annotation["category_id"]],
        }
        if annotation.get("iscrowd"):
            found["iscrowd"] = 1
        annotations.append(found)
    for row in document["relations"]:
        records[row["image_id"]]["relations"].append(
            (
                position[row["subject_id"]],
                position[row["object_id"]],
                predicate[row["predicate_id"]],
            )
        )
    for record in records.values():
        record["relations"] = np.array(record["relations"], np.int64).reshape(-1, 3)
    return list(records.values())


def _xyxy_of_coco(annotations: Sequence[Mapping]) -> list[list[float]]:
    numbers = chain.from_iterable(annotation["bbox"] for annotation in annotations)
    boxes = np.fromiter(numbers, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes.tolist()


def to_document(
    dataset_dicts: Sequence[Mapping], vocabulary: Vocabulary, image_root: str
) -> dict[str, list]:
    """The content of the file; see :func:`.relations_json.save_relations_json`.

    Ids of categories, predicates and relations count from 1, as COCO's do.
    """
    root = os.path.abspath(image_root)
    given = [a.get("id") for record in dataset_dicts for a in record.get("annotations", ())]
    keep_ids = None not in given and len(set(given)) == len(given)
    images, annotations, relations = [], [], []
    for record in dataset_dicts:
        image_id = record["image_id"]
        image = {
            "id": image_id,
            "file_name": _below(record["file_name"], root),
            "width": record["width"],
            "height": record["height"],
        }
        if "captions" in record:
            image["captions"] = list(record["captions"])
        images.append(image)
        ids = []
        for annotation in record.get("annotations", ()):
            x1, y1, x2, y2 = annotation_xyxy(annotation)
            ids.append(annotation["id"] if keep_ids else len(annotations) + 1)
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
        for subject, object_, predicate in _rows(record, len(ids)):
            relations.append(
                {
                    "id": len(relations) + 1,
                    "image_id": image_id,
                    "subject_id": ids[subject],
                    "object_id": ids[object_],
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


def _below(file_name: str, root: str) -> str:
    path = os.path.abspath(file_name)
    return os.path.relpath(path, root) if Path(path).is_relative_to(root) else path


def annotation_xyxy(annotation: Mapping[str, Any]) -> list[float]:
    """Box of a Detectron2 annotation as XYXY_ABS, whatever its BoxMode."""
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode != BoxMode.XYXY_ABS:
        # As an array of doubles: a list would be converted in single precision.
        box = BoxMode.convert(np.array([box], np.float64), BoxMode(mode), BoxMode.XYXY_ABS)[0]
    return [float(value) for value in box]


def _rows(record: Mapping, count: int) -> list[list[int]]:
    """Rows of the relations, their indices checked: a negative one would pick from the end."""
    rows = np.asarray(record.get("relations", ()), np.int64).reshape(-1, 3)
    for row, (subject, object_, _) in enumerate(rows.tolist()):
        if not (0 <= subject < count and 0 <= object_ < count):
            raise ValueError(
                f"image {record['image_id']!r} ({record['file_name']}): relations[{row}] joins "
                f"boxes {subject} and {object_}, but the picture has {count} annotations: "
                "indices count its annotations from 0"
            )
    return rows.tolist()
