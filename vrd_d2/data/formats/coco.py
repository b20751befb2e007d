"""COCO files without relations: instances (boxes only), and detection results.

Both formats are documented at https://cocodataset.org/#format-data and #format-results.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vrd_d2.data.boxes import BoxLayout, known_sizes, require_layout
from vrd_d2.data.record_values import is_finite_number, short
from vrd_d2.data.source_files import read_json

logger = logging.getLogger(__name__)
_REMEDY = (
    'it must be a COCO results file, [{"image_id": ..., "category_id": ..., '
    '"bbox": [x, y, width, height], "score": ...}, ...]'
)
_SHOWN = 5  # errors that an exception quotes
_FAR = 1e9  # pixels; no image is that large


def is_boxes_only(document: Any) -> bool:
    """Return whether a parsed JSON is a COCO instances file: categories, but no relations."""
    return (
        isinstance(document, Mapping)
        and "categories" in document
        and not {"predicates", "relations"} & set(document)
    )


def with_empty_relations(document: Mapping) -> dict:
    """Return a boxes-only document with the lists of relations_json.

    Test files may have no annotations.
    """
    return {"annotations": [], **document, "predicates": [], "relations": []}


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, found by a detector or drawn by hand.

    Attributes:
        boxes: (M, 4) float64, XYXY pixels of the original image.
        classes: (M,) int64, 0-based; or None where they are not known.
        scores: (M,) float32 in 0..1.
    """

    boxes: np.ndarray
    classes: np.ndarray | None
    scores: np.ndarray


def load_detections(
    path: str | os.PathLike,
    category_ids: Mapping[int, int],
    *,
    sizes: Mapping[Any, tuple[int, int]] | None = None,
) -> dict[Any, Detections]:
    """Read a COCO results file.

    Args:
        path: JSON list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"};
            without "score" it is 1, and other keys do not count.
        category_ids: file id -> 0-based id of the dataset's categories.
        sizes: image id -> width and height, where they are known: boxes that are in another layout
            are found by them.

    Returns:
        Detections by image id, in the order of the file.

    Raises:
        ValueError: names the file, the record and the remedy.
    """
    rows = read_json(
        path, missing="correct DATASETS.DETECTIONS", damaged="write it again", repeated_keys=True
    )
    if not isinstance(rows, list):
        raise ValueError(f"{path} is no list: {_REMEDY}")
    problems = [
        f"{path}: record {index}: {problem}"
        for index, row in enumerate(rows)
        if (problem := _problem(row, category_ids))
    ]
    if problems:
        more = len(problems) - _SHOWN
        raise ValueError("\n".join(problems[:_SHOWN]) + (f"\nand {more} more" if more > 0 else ""))
    by_image: dict[Any, list[Mapping]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    detections = {image: _detections(found, category_ids) for image, found in by_image.items()}
    layout = BoxLayout("[x, y, width, height]")
    for image, found in detections.items():
        layout.add(found.boxes, known_sizes((sizes or {}).get(image, (0, 0))))
    require_layout(layout, str(path))
    if rows and 0 in category_ids and not any(row["category_id"] == 0 for row in rows):
        logger.warning(
            "%s: no box has category_id 0, though the dataset's ids count from 0: if those of the "
            "file count from 1, all classes are wrong by one",
            path,
        )
    return detections


def _problem(row: Any, category_ids: Mapping[int, int]) -> str | None:
    if not isinstance(row, Mapping):
        return f"is {row!r}: {_REMEDY}"
    for key in ("image_id", "category_id", "bbox"):
        if key not in row:
            return f"the key {key} is missing: {_REMEDY}"
    if type(row["image_id"]) not in (int, str):
        return f"image_id is {row['image_id']!r}: it must be the dataset's id of the image"
    box, score = row["bbox"], row.get("score", 1.0)
    if not _numbers(box, 4) or min(box[2:]) < 0 or max(map(abs, box)) >= _FAR:
        return (
            f"bbox is {short(box)}: it must be [x, y, width, height], four finite numbers in "
            "pixels, width and height not negative"
        )
    if not _numbers([score], 1) or not 0 <= score <= 1:
        return f"score is {short(score)}: it must be a number in 0..1"
    category = row["category_id"]
    if type(category) is not int or category not in category_ids:
        known = sorted(category_ids)
        return (
            f"category_id is {short(category)}, but the dataset's are {known[0]} to {known[-1]} "
            f"({len(known)} of them): use the ids of its categories"
        )
    return None


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(is_finite_number, values))


def _detections(rows: Sequence[Mapping], category_ids: Mapping[int, int]) -> Detections:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        boxes,
        np.array([category_ids[row["category_id"]] for row in rows], np.int64),
        np.array([row.get("score", 1.0) for row in rows], np.float32),
    )


def no_detections() -> Detections:
    """Return the detections of an image in which nothing was found."""
    return _detections([], {})
