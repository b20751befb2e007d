"""Which predictions hit which ground truth, on plain arrays.

Shapes: M predicted boxes · G ground-truth boxes ·
R ground-truth rows (subject index, object index, predicate) · T ranked predictions.
"""

import numpy as np

MISS = np.iinfo(np.uint16).max  # the rank of a ground-truth row that nothing hits


def box_iou(boxes: np.ndarray, others: np.ndarray, *, inclusive: bool = True) -> np.ndarray:
    """Return the IoU of every box with every other box.

    Single precision and this order of operations, because the public evaluators compute so:
    a box that lies exactly on the threshold must fall on the same side.

    Args:
        boxes: (M, 4) XYXY.
        others: (G, 4) XYXY.
        inclusive: widths and heights count both end pixels (x2 - x1 + 1).

    Returns:
        (M, G) float32; 0 where both areas are 0.
    """
    boxes = np.asarray(boxes, np.float32)[:, None]
    others = np.asarray(others, np.float32)[None]
    one = np.float32(inclusive)
    width = np.minimum(boxes[..., 2], others[..., 2]) - np.maximum(boxes[..., 0], others[..., 0])
    height = np.minimum(boxes[..., 3], others[..., 3]) - np.maximum(boxes[..., 1], others[..., 1])
    intersection = np.maximum(width + one, 0) * np.maximum(height + one, 0)
    areas = [(b[..., 2] - b[..., 0] + one) * (b[..., 3] - b[..., 1] + one) for b in (boxes, others)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union != 0)


def compatible_boxes(
    boxes: np.ndarray,
    classes: np.ndarray,
    gt_boxes: np.ndarray,
    gt_classes: np.ndarray,
    *,
    threshold: float = 0.5,
    inclusive: bool = True,
    bind: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which predicted box can stand for which ground-truth box.

    Args:
        bind: only the best ground-truth box of the same class, the first of equals.

    Returns:
        (M, G) bool, and the IoU (M, G).
    """
    iou = box_iou(boxes, gt_boxes, inclusive=inclusive)
    compatible = (classes[:, None] == gt_classes[None]) & (iou >= np.float32(threshold))
    if bind and compatible.any():
        bound = np.zeros_like(compatible)
        candidates = np.where(compatible, iou, -1).argmax(1)
        bound[np.arange(len(bound)), candidates] = True
        compatible &= bound
    return compatible, iou


def first_hits(hits: np.ndarray) -> np.ndarray:
    """Return the rank of the first prediction that hits each ground-truth row.

    Args:
        hits: (T, R) bool, predictions best first.

    Returns:
        (R,) uint16, MISS where nothing hits.
    """
    if not hits.size:
        return np.full(hits.shape[1], MISS, np.uint16)
    first = hits.argmax(0)
    return np.where(hits[first, np.arange(hits.shape[1])], first, MISS).astype(np.uint16)


def one_to_one_hits(hits: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Return the rank of the prediction assigned to each ground-truth row, one row a prediction.

    Best predictions choose first, each the free row that it overlaps most (Lu et al. 2016).

    Args:
        hits: (T, R) bool, predictions best first.
        overlap: (T, R) what decides between several rows.

    Returns:
        (R,) uint16, MISS where nothing is assigned.
    """
    ranks = np.full(hits.shape[1], MISS, np.uint16)
    free = np.ones(hits.shape[1], bool)
    for rank in np.flatnonzero(hits.any(1)):
        rows = np.flatnonzero(hits[rank] & free)
        if len(rows):
            row = rows[overlap[rank, rows].argmax()]
            ranks[row] = rank
            free[row] = False
    return ranks


def union_boxes(boxes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the smallest box around both boxes of each pair: (M, 4), (P, 2) -> (P, 4)."""
    first, second = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    return np.concatenate(
        [np.minimum(first[:, :2], second[:, :2]), np.maximum(first[:, 2:], second[:, 2:])], axis=1
    )
