"""Crops of union boxes, as CLIP's image tower takes them.

Shapes: P pairs, n distinct regions of an image.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from vrd_d2.modeling.geometry import union_boxes

CROPS = ("squash", "center")


def crop_windows(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the whole pixels that boxes touch, inside the image and at least one pixel.

    Args:
        boxes: (P, 4) XYXY; boxes without area or outside of the image give the nearest pixels.
        image_size: (height, width).

    Returns:
        (P, 4) int64 windows [x1, x2), [y1, y2).
    """
    height, width = image_size
    limit = torch.tensor([width, height], device=boxes.device)
    low = torch.minimum(boxes[:, :2].floor().long().clamp(min=0), limit - 1)
    high = torch.minimum(boxes[:, 2:].ceil().long(), limit)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1)


def union_regions(
    boxes: Tensor, pairs: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the distinct windows of the union boxes of pairs.

    Both orders of a pair, and all pairs inside a large box with it, share one window: it is
    encoded once.

    Args:
        boxes: (M, 4).
        pairs: (P, 2).
        image_size: (height, width).

    Returns:
        (n, 4) windows and the region of each pair, (P,).
    """
    unions = union_boxes(boxes[pairs[:, 0]], boxes[pairs[:, 1]])
    return torch.unique(crop_windows(unions, image_size), dim=0, return_inverse=True)


def cut_crops(image: Tensor, windows: Tensor, size: tuple[int, int], *, mode: str) -> Tensor:
    """Cut windows out of an image and resize them, bicubic with antialiasing, as PIL does.

    One native resize a window: all windows at once, as products with dense interpolation matrices,
    were 27 times slower on a CPU.

    Args:
        image: uint8 (3, H, W).
        windows: (n, 4) of :func:`crop_windows`.
        size: (height, width) of the crops.
        mode: "squash" stretches the window to the size, so that neither subject nor object is cut;
            "center" leaves its proportions and cuts off its ends, as CLIP's preprocessing does.

    Returns:
        uint8 (n, 3, height, width), on the image's device.
    """
    if len(windows) == 0:
        return image.new_zeros((0, 3, *size))
    if mode == "center":
        windows = _center(windows, size)
    resize = bicubic if image.device.type == "cpu" else resize_floats
    return torch.cat(
        [resize(image[None, :, y1:y2, x1:x2], size) for x1, y1, x2, y2 in windows.tolist()]
    )


bicubic = functools.partial(F.interpolate, mode="bicubic", antialias=True)  # of bytes, on the CPU


def resize_floats(crop: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as of bytes, where there is no such resize (CUDA): each direction ends in bytes."""
    for part in ((crop.shape[-2], size[1]), size):
        crop = bicubic(crop.float(), part).round().clamp(0, 255)
    return crop.to(torch.uint8)


def _center(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the largest centred part of each window with the proportions of `size`."""
    extent = windows[:, 2:] - windows[:, :2]
    target = torch.tensor([size[1], size[0]], device=windows.device)
    scale = (extent / target).min(dim=1, keepdim=True).values
    size_left = torch.minimum((target * scale).round().long().clamp(min=1), extent)
    start = windows[:, :2] + torch.div(extent - size_left, 2, rounding_mode="floor")
    return torch.cat([start, start + size_left], dim=1)
