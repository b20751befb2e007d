"""ROIAlign averaged over its bins, evaluated exactly as two sets of one-dimensional weights.

Shapes: B boxes, D channels, a map of (D, H, W).
"""

import torch
from torch import Tensor


def axis_weights(
    low: Tensor, high: Tensor, length: int | Tensor, *, scale: float, samples: int
) -> Tensor:
    """Return the weights of the cells of one axis in the mean of ROIAlign's samples.

    Args:
        low, high: (B,) ends of the boxes on this axis, in image pixels.
        length: number of cells of the map on this axis.
        scale: cells per pixel (1 / stride).
        samples: sampling points per axis (bins x sampling ratio).

    Returns:
        (B, length) float32; a row sums to 1 where every sample lies inside the map, and to less
        where some lie more than a cell outside, which ROIAlign counts as zero.
    """
    # aligned=True: pixel centres lie at half-integer coordinates.
    start = low.float() * scale - 0.5
    extent = (high.float() - low.float()) * scale
    steps = (torch.arange(samples, device=low.device, dtype=torch.float32) + 0.5) / samples
    points = start[:, None] + extent[:, None] * steps  # B x S
    inside = (points >= -1.0) & (points <= length)
    points = points.clamp(min=0).clamp(max=length - 1)
    cells = torch.arange(length, device=low.device, dtype=torch.float32)
    hat = (1 - (points[:, :, None] - cells).abs()).clamp(min=0)  # B x S x length
    return (hat * inside[:, :, None]).sum(1) / samples


def roi_mean(
    feature_map: Tensor,
    boxes: Tensor,
    *,
    scale: float,
    resolution: int = 7,
    sampling_ratio: int = 2,
) -> Tensor:
    """Return the mean over the bins of ``roi_align(aligned=True)``, without making the bins.

    Every sample of ROIAlign is a bilinear weight: a hat in y times a hat in x, and whether it falls
    outside the map is a condition on y or on x. The mean over all samples is therefore
    ``w_y(b)^T V w_x(b)``, one outer product of weights and one matrix product for all boxes. Kept
    in float32 under autocast: bfloat16 coordinates would be off by a pixel.

    Args:
        feature_map: (D, H, W).
        boxes: (B, 4) XYXY in image pixels.
        scale: cells per pixel.
        resolution: bins per axis.
        sampling_ratio: samples per bin and axis; must be positive (an adaptive ratio would make the
            number of samples depend on the box).

    Returns:
        (B, D) float32.
    """
    if sampling_ratio <= 0:
        raise ValueError(
            f"MODEL.RELATION_HEAD.POOLER_SAMPLING_RATIO must be positive, got {sampling_ratio}"
        )
    with torch.autocast(feature_map.device.type, enabled=False):
        height, width = feature_map.shape[-2:]
        samples = resolution * sampling_ratio
        wx = axis_weights(boxes[:, 0], boxes[:, 2], width, scale=scale, samples=samples)
        wy = axis_weights(boxes[:, 1], boxes[:, 3], height, scale=scale, samples=samples)
        weights = (wy[:, :, None] * wx[:, None, :]).flatten(1)  # B x HW
        return weights @ feature_map.float().flatten(1).T
