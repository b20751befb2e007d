"""Geometry of boxes and of ordered pairs: candidates, union boxes, position features.

Shapes: M entities of an image, P ordered pairs. Boxes are absolute XYXY pixels.
"""

import torch
from torch import Tensor

ENTITY_GEOMETRY = 9
PAIR_GEOMETRY = 3 * ENTITY_GEOMETRY + 7


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    corner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return corner.clamp(min=0).prod(-1)


def union_boxes(subjects: Tensor, objects: Tensor) -> Tensor:
    """Return the smallest boxes that hold both: (..., 4) and (..., 4) -> (..., 4)."""
    return torch.cat(
        [
            torch.minimum(subjects[..., :2], objects[..., :2]),
            torch.maximum(subjects[..., 2:], objects[..., 2:]),
        ],
        dim=-1,
    )


def candidate_pairs(boxes: Tensor, *, require_overlap: bool) -> Tensor:
    """Return all ordered pairs (i, j), i != j, in the order of (i, j).

    Args:
        boxes: (M, 4).
        require_overlap: leave out pairs whose boxes do not intersect in an area > 0.

    Returns:
        (P, 2) int64; P may be 0.
    """
    chosen = ~torch.eye(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    if require_overlap:
        chosen &= _intersection(boxes[:, None], boxes[None]) > 0
    return chosen.nonzero()


def entity_geometry(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return position features of single boxes, all relative to the image.

    x1/W, y1/H, x2/W, y2/H, cx/W, cy/H, w/W, h/H and area/(W*H).

    Args:
        boxes: (..., 4).
        image_size: (height, width) in the same pixels.

    Returns:
        (..., 9) float32.
    """
    # In an export the size is a symbol, which no new tensor can be made of.
    height, width = (boxes.new_ones(()) * side for side in image_size)
    corners = boxes.float() / torch.stack([width, height, width, height])
    size = (corners[..., 2:] - corners[..., :2]).clamp(min=0)
    center = (corners[..., :2] + corners[..., 2:]) / 2
    return torch.cat([corners, center, size, size.prod(-1, keepdim=True)], dim=-1)


def pair_geometry(subjects: Tensor, objects: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return position features of pairs: union, subject, object, and how the two lie to each other.

    The last seven numbers are dx/w_j and dy/h_j (sign(x) log(1 + |x|) of each), log w_i/w_j,
    log h_i/h_j, IoU, intersection/area_i and intersection/area_j, with sides of less than a pixel
    counted as one pixel: real annotations have boxes of zero area, and their ratios must stay
    finite.

    Args:
        subjects, objects: (..., 4).
        image_size: (height, width).

    Returns:
        (..., 34) float32.
    """
    subjects, objects = subjects.float(), objects.float()
    size_i = (subjects[..., 2:] - subjects[..., :2]).clamp(min=1)
    size_j = (objects[..., 2:] - objects[..., :2]).clamp(min=1)
    offset = (subjects[..., :2] + subjects[..., 2:] - objects[..., :2] - objects[..., 2:]) / 2
    # A thin object beside a far subject gives offsets of hundreds: log-compress both ways.
    offset = offset / size_j
    offset = offset.sign() * offset.abs().log1p()
    inter = _intersection(subjects, objects)
    area_i, area_j = size_i.prod(-1), size_j.prod(-1)
    relative = torch.cat(
        [
            offset,
            (size_i / size_j).log(),
            (inter / (area_i + area_j - inter).clamp(min=1))[..., None],
            (inter / area_i)[..., None],
            (inter / area_j)[..., None],
        ],
        dim=-1,
    )
    return torch.cat(
        [
            entity_geometry(union_boxes(subjects, objects), image_size),
            entity_geometry(subjects, image_size),
            entity_geometry(objects, image_size),
            relative,
        ],
        dim=-1,
    )
