"""Boxes for single images, out of a COCO file that names images and classes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.boxes import BoxLayout, annotation_xyxy, check_layout, require_layout
from vrd_d2.data.datasets.opening import is_file, open_dataset
from vrd_d2.data.record_values import checked_box, short
from vrd_d2.data.source_files import read_json

_FAR = 1e9  # pixels; no image is that large


class GivenBoxes:
    """Boxes and labels by image, which is found by the name of its file without folders."""

    def __init__(
        self,
        source: str,
        boxes: dict[str, tuple[list[list[float]], list[str]]],
        sizes: dict[str, tuple[int, int]],
    ) -> None:
        self._source, self._boxes, self._sizes = source, boxes, sizes

    @property
    def digest(self) -> str:
        """Return what tells these boxes from others: a hash of the file, or of the boxes."""
        if is_file(self._source):
            return hashlib.sha256(Path(self._source).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps([self._boxes, self._sizes]).encode()).hexdigest()

    def check_names(self, file_names: Iterable[str]) -> None:
        """Raise ValueError if one entry would serve two of the files."""
        seen: dict[str, str] = {}
        for file_name in file_names:
            name = Path(file_name).name
            if name in seen and name in self._boxes:
                raise ValueError(
                    f"{self._source} has one image {name!r}, for {seen[name]} and {file_name}: "
                    "predict them one folder after the other"
                )
            seen[name] = file_name

    def of(self, file_name: str, size: tuple[int, int]) -> tuple[list[list[float]], list[str]]:
        """Return XYXY boxes (M, 4) in pixels and M class names.

        Args:
            file_name: of the image.
            size: its width and height.

        Raises:
            ValueError: the file does not have this image, or states another size.
        """
        name = Path(file_name).name
        if name not in self._boxes:
            raise ValueError(f"{self._source} has no image {name!r}: add it to its images")
        stated = self._sizes.get(name, size)
        if stated != size:
            raise ValueError(
                f"{self._source} says that {name!r} has {stated[0]} x {stated[1]} pixels, but it "
                f"has {size[0]} x {size[1]}, turned upright as its EXIF says: its boxes would be "
                "elsewhere"
            )
        return self._boxes[name]


def load_given_boxes(data: str | Path) -> GivenBoxes:
    """Read the boxes of a COCO file, or those that a registered dataset annotates.

    Args:
        data: see :func:`load_coco_boxes`; or the name of a registered dataset.

    Raises:
        ValueError: names the file, the record and the remedy.
    """
    if is_file(data):
        return load_coco_boxes(data)
    source = open_dataset(data)
    check_layout(source.records, source.name)
    boxes: dict[str, tuple[list, list]] = {}
    sizes = {}
    for record in source.records:
        name = Path(record["file_name"]).name
        if name in boxes:
            raise ValueError(
                f"{data} has two images {name!r}: images are found by the name of their file, so "
                "write it as files by folder (tools/dataset.py convert)"
            )
        annotations = record["annotations"]
        labels = [source.objects[annotation["category_id"]] for annotation in annotations]
        boxes[name] = (list(map(annotation_xyxy, annotations)), labels)
        if "width" in record and "height" in record:
            sizes[name] = (record["width"], record["height"])
    return GivenBoxes(str(data), boxes, sizes)


def load_coco_boxes(json_file: str | Path) -> GivenBoxes:
    """Read a COCO file, such as the predictions.json of tools/predict.py.

    Args:
        json_file: with "images" (id, file_name), "annotations" (image_id, category_id, bbox XYWH
            in pixels) and "categories" (id, name); "width" and "height" of images, where
            they are stated, are compared with the images.

    Raises:
        ValueError: names the file, the record and the remedy.
    """
    document = read_json(json_file, damaged="write it again", repeated_keys=True)
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(document, dict) or not isinstance(document.get(key), list)
    ]
    if missing:
        raise ValueError(
            f"{json_file} has no list {missing[0]!r}: boxes are a COCO file with images, "
            "annotations and categories; a list of results alone names no images"
        )
    names = _by_id(document, "categories", "name", json_file)
    files = _by_id(document, "images", "file_name", json_file)
    boxes: dict[str, tuple[list, list]] = {}
    for name in (Path(file).name for file in files.values()):
        if name in boxes:
            raise ValueError(
                f"{json_file} has two images {name!r}: images are found by the name of their "
                "file, so split the file by folder"
            )
        boxes[name] = ([], [])
    for number, annotation in enumerate(document["annotations"]):
        try:
            box = checked_box(annotation["bbox"], "[x, y, width, height]", range(4), extent=True)
            of = boxes[Path(files[annotation["image_id"]]).name]
            label = names[annotation["category_id"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{json_file}: annotations[{number}] is {annotation}: it needs the image_id of an "
                f"image, the category_id of a category and bbox [x, y, width, height] ({error!r})"
            ) from error
        of[0].append(box)
        of[1].append(label)
    sizes = {}
    for number, image in enumerate(document["images"]):
        size = image.get("width") or 0, image.get("height") or 0
        if not all(type(side) in (int, float) and 0 <= side < _FAR for side in size):
            raise ValueError(
                f"{json_file}: images[{number}] is {short(image)}: width and height must be pixels"
            )
        if all(size):
            sizes[Path(image["file_name"]).name] = size
    layout = BoxLayout("[x, y, width, height]")
    for name, (corners, _) in boxes.items():
        layout.add(np.reshape(corners, (-1, 4)), sizes.get(name, (np.inf, np.inf)))
    require_layout(layout, str(json_file))
    return GivenBoxes(str(json_file), boxes, sizes)


def _by_id(document: dict, key: str, name: str, json_file: str | Path) -> dict[Any, str]:
    """Return the names of a list of records by their ids."""
    found: dict[Any, str] = {}
    for number, record in enumerate(document[key]):
        try:
            known = record["id"] in found
            found[record["id"]] = record[name]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{json_file}: {key}[{number}] is {record}: it needs id and {name} ({error!r})"
            ) from error
        if known or not isinstance(record[name], str):
            reason = f"its {name} is no text"
            if known:
                reason = f"its id {record['id']!r} is that of another"
            raise ValueError(f"{json_file}: {key}[{number}] is {record}: {reason}")
    return found
