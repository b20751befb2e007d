"""Box formats of annotations, without Detectron2."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vrd_d2.data.record_values import short
from vrd_d2.data.source_files import located
from vrd_d2.onnx_runtime import BoxLayout, box_array

__all__ = [
    "BoxLayout",
    "annotation_xyxy",
    "box_array",
    "check_layout",
    "known_sizes",
    "require_layout",
]

logger = logging.getLogger(__name__)

# Values of detectron2.structures.BoxMode, an IntEnum: they compare equal to its members.
XYXY_ABS, XYWH_ABS = 0, 1


def annotation_xyxy(annotation: Mapping[str, Any]) -> list[float]:
    """Return the box of a Detectron2 annotation as XYXY_ABS, whatever its BoxMode.

    Raises:
        ValueError: it has no box or no BoxMode, or the box is no list of numbers.
    """
    for key in ("bbox", "bbox_mode"):
        if key not in annotation:
            raise ValueError(f"an annotation has no {key!r}: add it")
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    try:
        if mode == XYWH_ABS:
            x, y, width, height = map(float, box)
            return [x, y, x + width, y + height]
        if mode == XYXY_ABS:
            x1, y1, x2, y2 = map(float, box)
            return [x1, y1, x2, y2]
        from detectron2.structures import BoxMode

        # As an array of doubles: a list would be converted in single precision.
        mode = BoxMode(mode)
        converted = BoxMode.convert(np.array([box], np.float64), mode, BoxMode.XYXY_ABS)[0]
        x1, y1, x2, y2 = map(float, converted)
    # Detectron2 asserts that a rotated box has five numbers, and has no parts of the image.
    except (TypeError, ValueError, OverflowError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"bbox {short(box)} of bbox_mode {annotation['bbox_mode']!r}: it must be numbers in "
            "pixels, four of them in BoxMode.XYXY_ABS or XYWH_ABS"
        ) from error
    return [x1, y1, x2, y2]


def check_layout(records: Any, source: str) -> None:
    """Check that the boxes of a dataset are corners in pixels, see :class:`.BoxLayout`.

    Args:
        records: dataset dicts, a list or PackedRecords.
        source: what the message begins with.

    Raises:
        ValueError: they are in another layout.
    """
    layout = BoxLayout("corners of pixels by their bbox_mode")
    if hasattr(records, "box_counts"):
        sizes = known_sizes(records.sizes[:, ::-1])
        layout.add(records.boxes, np.repeat(sizes, records.box_counts, axis=0))
    else:
        for record in records:
            with located(f"{source}: image {record.get('image_id')!r}"):
                boxes = [annotation_xyxy(found) for found in record.get("annotations", ())]
            size = known_sizes([record.get("width") or 0, record.get("height") or 0])
            layout.add(np.reshape(boxes, (-1, 4)), size)
    if problem := layout.problem():
        raise ValueError(f"{source}: {problem}")


def require_layout(layout: BoxLayout, source: str) -> None:
    """Judge the boxes of a file that has been read: an error, a warning, or nothing.

    Args:
        layout: to which the boxes were added.
        source: what the message begins with.

    Raises:
        ValueError: they are in another layout.
    """
    if problem := layout.problem():
        raise ValueError(f"{source}: {problem}")
    if hint := layout.hint():
        logger.warning("%s: %s", source, hint)


def known_sizes(sizes: Iterable) -> np.ndarray:
    """Return sizes as float64, with inf for 0, which stands for not known."""
    found = np.asarray(sizes, np.float64)
    return np.where(found > 0, found, np.inf)
