"""Boxes of one's own for single pictures, out of a COCO file that names pictures and classes."""

import json
import math
from pathlib import Path
from typing import Any


class GivenBoxes:
    """Boxes and labels by picture, which is found by the name of its file without folders."""

    def __init__(self, source: str, boxes: dict[str, tuple[list[list[float]], list[str]]]) -> None:
        self._source, self._boxes = source, boxes

    def of(self, file_name: str) -> tuple[list[list[float]], list[str]]:
        """XYXY boxes (M, 4) in pixels and M class names.

        Raises:
            ValueError: the file does not have this picture.
        """
        name = Path(file_name).name
        if name not in self._boxes:
            raise ValueError(f"{self._source} has no picture {name!r}: add it to its images")
        return self._boxes[name]


def load_given_boxes(json_file: str | Path) -> GivenBoxes:
    """Read a COCO file, such as the predictions.json of tools/predict.py.

    Args:
        json_file: with "images" (id, file_name), "annotations" (image_id, category_id, bbox XYWH
            in pixels) and "categories" (id, name).

    Raises:
        ValueError: names the file, the record and the remedy.
    """
    try:
        document = json.loads(Path(json_file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{json_file} cannot be read as JSON: {error}") from error
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(document, dict) or not isinstance(document.get(key), list)
    ]
    if missing:
        raise ValueError(
            f"{json_file} has no list {missing[0]!r}: boxes are a COCO file with images, "
            "annotations and categories; a list of results alone names no pictures"
        )
    names = {category["id"]: category["name"] for category in document["categories"]}
    file_of: dict[Any, str] = {}
    boxes: dict[str, tuple[list, list]] = {}
    for image in document["images"]:
        name = Path(image["file_name"]).name
        if name in boxes:
            raise ValueError(
                f"{json_file} has two pictures {name!r}: pictures are found by the name of their "
                "file, so split the file by folder"
            )
        file_of[image["id"]] = name
        boxes[name] = ([], [])
    for number, annotation in enumerate(document["annotations"]):
        try:
            x, y, width, height = map(float, annotation["bbox"])
            of = boxes[file_of[annotation["image_id"]]]
            label = names[annotation["category_id"]]
            if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
                raise ValueError(f"bbox is {annotation['bbox']}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{json_file}: annotations[{number}] is {annotation}: it needs the image_id of a "
                f"picture, the category_id of a category and bbox [x, y, width, height] ({error!r})"
            ) from error
        of[0].append([x, y, x + width, y + height])
        of[1].append(label)
    return GivenBoxes(str(json_file), boxes)
