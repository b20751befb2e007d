"""Where in the image a score comes from: Grad-CAM on the visual map (RelCLIP, Figure 2).

Shapes: a map of D channels and h x w cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

METHODS = ("grad_cam", "elementwise")


def activation(feature_map: Tensor, score: Tensor, *, method: str = "grad_cam") -> Tensor:
    """Return how much each cell speaks for a score.

    "grad_cam" weights each channel with the mean of its gradient (Selvaraju et al., 2017);
    "elementwise" multiplies every value with its own gradient (HiResCAM, Draelos and Carin, 2020),
    which stays where the score really looks. Both add up the channels and clamp the sum at 0.

    Args:
        feature_map: (D, h, w), a leaf that requires a gradient.
        score: a number that was computed from it; its graph stays.

    Returns:
        (h, w), at least 0; zeros where the score does not depend on the map.

    Raises:
        ValueError: unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"heat maps by {method!r}: choose one of {METHODS}")
    (gradient,) = torch.autograd.grad(score, feature_map, retain_graph=True, materialize_grads=True)
    if method == "grad_cam":
        gradient = gradient.mean((1, 2), keepdim=True)
    return (gradient * feature_map.detach()).sum(0).relu()


def over_image(
    cells: Tensor,
    *,
    stride: int,
    image_size: tuple[int, int],
    box: Sequence[float] | None = None,
    step: int = 4,
) -> Tensor:
    """Interpolate values of cells over the image that they were computed from.

    Args:
        cells: (h, w); the map may reach beyond the image, which was padded right and below.
        stride: pixels per cell.
        image_size: (height, width) of the image.
        box: XYXY pixels outside of which the result is 0; None for all of the image.
        step: pixels per value of the result.

    Returns:
        (ceil(height / step), ceil(width / step)), which cover exactly the image.
    """
    axes, inside = [], []
    for axis, (length, count) in enumerate(zip(image_size, cells.shape, strict=True)):
        steps = -(-length // step)
        pixels = (torch.arange(steps, device=cells.device) + 0.5) * (length / steps)
        axes.append(2 * pixels / (stride * count) - 1)
        low, high = (0, length) if box is None else (box[1 - axis], box[3 - axis])
        inside.append((pixels >= low) & (pixels <= high))
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None].to(cells.dtype)
    values = F.grid_sample(cells[None, None], grid, padding_mode="border", align_corners=False)
    return values[0, 0] * (inside[0][:, None] & inside[1])
