"""Padding of images whose size is not known when a model is exported."""

import torch.nn.functional as F
from torch import Tensor


def padded(image: Tensor, divisor: int) -> Tensor:
    """Add zeros right and below up to multiples of a number of pixels: (3, H, W) -> (3, H', W').

    The new size is written as a product: so the exporter sees that it is divisible, and that every
    stride of a backbone and every upsampling of an FPN meets the sizes of the other.
    """
    height, width = image.shape[-2:]
    if divisor < 2:
        return image
    bottom = (height + divisor - 1) // divisor * divisor - height
    right = (width + divisor - 1) // divisor * divisor - width
    return F.pad(image, (0, right, 0, bottom))
