"""Box formats of annotations, without Detectron2."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Values of detectron2.structures.BoxMode, an IntEnum: they compare equal to its members.
XYXY_ABS, XYWH_ABS = 0, 1


def annotation_xyxy(annotation: Mapping[str, Any]) -> list[float]:
    """Return the box of a Detectron2 annotation as XYXY_ABS, whatever its BoxMode."""
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode == XYWH_ABS:
        x, y, width, height = map(float, box)
        return [x, y, x + width, y + height]
    if mode != XYXY_ABS:
        from detectron2.structures import BoxMode

        # As an array of doubles: a list would be converted in single precision.
        box = BoxMode.convert(np.array([box], np.float64), BoxMode(mode), BoxMode.XYXY_ABS)[0]
    return [float(value) for value in box]
