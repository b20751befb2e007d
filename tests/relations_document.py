"""A small relations_json document, and ways to spoil it, for the tests of the format."""

import copy
import json
from pathlib import Path

# Two images; ids of several types, out of order, and not from 1, on purpose.
DOCUMENT = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80, "captions": ["a man"]},
        {"id": "x", "file_name": "sub/b.jpg", "width": 50, "height": 60},
    ],
    "categories": [
        {"id": 30, "name": "hat"},
        {"id": 10, "name": "man"},
        {"id": 20, "name": "horse"},
    ],
    "predicates": [{"id": 9, "name": "wearing"}, {"id": 4, "name": "riding"}],
    "annotations": [
        {"id": 5, "image_id": 7, "category_id": 20, "bbox": [10, 20, 30, 40], "area": 1200},
        {"id": 3, "image_id": "x", "category_id": 30, "bbox": [0, 0, 5.5, 5], "area": 27.5},
        {"id": 4, "image_id": 7, "category_id": 10, "bbox": [0, 0, 50, 80], "area": 4000},
    ],
    "relations": [
        {"id": 1, "image_id": 7, "subject_id": 4, "object_id": 5, "predicate_id": 4},
    ],
}
for _annotation in DOCUMENT["annotations"]:
    _annotation["iscrowd"] = int(_annotation["id"] == 3)


def write(folder: Path, document: object) -> Path:
    """Write a document, or a text, and (empty) files for the two images beside it."""
    path = folder / "data.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "a.jpg").touch()
    (folder / "sub/b.jpg").touch()
    return path


def changed(section: str, index: int, **values) -> dict:
    """DOCUMENT with values of one record replaced; None deletes the key."""
    document = copy.deepcopy(DOCUMENT)
    record = document[section][index]
    for key, value in values.items():
        if value is None:
            del record[key]
        else:
            record[key] = value
    return document


def without(section: str) -> dict:
    return {key: value for key, value in DOCUMENT.items() if key != section}
