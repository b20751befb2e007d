"""The separable ROI mean against torchvision's roi_align."""

import pytest
import torch
from torchvision.ops import roi_align

from vrd_d2.modeling.encoders.pooling import roi_mean


def random_boxes(count, width, height, seed):
    """Boxes of all kinds: ordinary, without area, partly and wholly outside."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=generator) * torch.tensor([1.6 * width, 1.6 * height])
    corner -= torch.tensor([0.3 * width, 0.3 * height])
    size = torch.rand((count, 2), generator=generator) ** 3 * torch.tensor([width, height])
    size[: count // 10] = 0
    return torch.cat([corner, corner + size], 1)


@pytest.mark.parametrize("stride", [4, 14, 16, 32])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 7), (19, 25), (23, 11)])
@pytest.mark.parametrize("resolution, ratio", [(7, 2), (3, 4), (1, 1)])
def test_equals_roi_align(stride, height, width, resolution, ratio):
    torch.manual_seed(0)
    feature_map = torch.randn(5, height, width)
    boxes = random_boxes(60, width * stride, height * stride, seed=stride)
    expected = roi_align(feature_map[None], [boxes], resolution, 1 / stride, ratio, True)
    got = roi_mean(
        feature_map, boxes, scale=1 / stride, resolution=resolution, sampling_ratio=ratio
    )
    torch.testing.assert_close(got, expected.mean((2, 3)), atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_roi_align():
    feature_map = torch.randn(3, 9, 12, requires_grad=True)
    boxes = random_boxes(40, 12 * 16, 9 * 16, seed=7)
    weight = torch.randn(40, 3)
    (roi_mean(feature_map, boxes, scale=1 / 16) * weight).sum().backward()
    got, feature_map.grad = feature_map.grad, None
    pooled = roi_align(feature_map[None], [boxes], 7, 1 / 16, 2, True).mean((2, 3))
    (pooled * weight).sum().backward()
    torch.testing.assert_close(got, feature_map.grad, atol=1e-5, rtol=1e-5)


def test_no_boxes():
    assert roi_mean(torch.randn(4, 5, 5), torch.zeros(0, 4), scale=1 / 16).shape == (0, 4)


def test_stays_exact_under_autocast():
    feature_map, boxes = torch.randn(8, 19, 25), random_boxes(50, 800, 608, seed=3)
    expected = roi_mean(feature_map, boxes, scale=1 / 32)
    with torch.autocast("cpu", torch.bfloat16):
        got = roi_mean(feature_map, boxes, scale=1 / 32)
    assert torch.equal(got, expected)


def test_adaptive_sampling_is_refused():
    with pytest.raises(ValueError, match="POOLER_SAMPLING_RATIO"):
        roi_mean(torch.randn(1, 2, 2), torch.zeros(1, 4), scale=1.0, sampling_ratio=0)
