"""Crops of union boxes: windows, distinct regions, and PIL and open_clip as references."""

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vrd_d2.modeling.union_clip.crops import (
    bicubic,
    crop_windows,
    cut_crops,
    resize_floats,
    union_regions,
)


def smooth_image(height, width):
    """Something with edges and gradients, as images have."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.BICUBIC))


IMAGE = smooth_image(240, 320)
TENSOR = torch.from_numpy(IMAGE.copy()).permute(2, 0, 1).contiguous()
WINDOWS = torch.tensor([[0, 0, 320, 240], [10, 20, 300, 60], [100, 5, 130, 230], [3, 3, 9, 9]])


def test_squashed_crops_equal_pil():
    crops = cut_crops(TENSOR, WINDOWS, (96, 96), mode="squash")
    for crop, window in zip(crops, WINDOWS.tolist(), strict=True):
        expected = Image.fromarray(IMAGE).crop(window).resize((96, 96), Image.BICUBIC)
        difference = np.abs(np.asarray(expected).astype(int) - crop.permute(1, 2, 0).numpy())
        assert difference.max() <= 5 and difference.mean() < 0.2


def test_shrinking_is_antialiased():
    """Of a fine chequerboard only its mean is left; without antialiasing extremes are."""
    board = (np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)
    image = torch.from_numpy(board).expand(3, -1, -1).contiguous()
    crop = cut_crops(image, torch.tensor([[0, 0, 240, 240]]), (24, 24), mode="squash")
    assert (crop.float() - 127.5).abs().max() < 20


@pytest.mark.parametrize("size", [(40, 56), (300, 64), (64, 300), (130, 90)])
def test_resizing_floats_equals_resizing_bytes(size):
    """Noise overshoots between the two directions, where bytes end at 0 and 255."""
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 90, 130), np.uint8))
    found, expected = resize_floats(noise, size), bicubic(noise, size)
    assert found.dtype == torch.uint8 and found.shape == expected.shape
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.02


@pytest.mark.parametrize(
    ("window", "tolerance"),
    # It resizes before it cuts: of a window with an odd margin it may cut within a pixel.
    [([0, 0, 320, 240], 0.5), ([10, 20, 300, 60], 0.5), ([100, 5, 130, 230], 4)],
)
def test_center_crops_equal_open_clips_own_preprocessing(window, tolerance):
    transform = open_clip.image_transform(96, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    crop = cut_crops(TENSOR, torch.tensor([window]), (96, 96), mode="center")[0]
    expected = transform(Image.fromarray(IMAGE).crop(window)) * 255
    assert (expected - crop).abs().mean() < tolerance


@given(
    st.lists(
        st.tuples(*[st.floats(-50, 400)] * 4).map(lambda b: (*map(min, b[:2], b[2:]), *b[2:])),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_windows_lie_in_the_image_and_hold_the_box(boxes):
    boxes = torch.tensor(boxes)
    windows = crop_windows(boxes, (240, 320))
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] > windows[:, :2]).all()
    assert (windows[:, 2] <= 320).all() and (windows[:, 3] <= 240).all()
    inside = ((boxes >= 0).all(1)) & (boxes[:, 2] <= 320) & (boxes[:, 3] <= 240)
    assert (windows[inside, :2] <= boxes[inside, :2]).all()
    assert (windows[inside, 2:] >= boxes[inside, 2:]).all()
    crops = cut_crops(TENSOR, windows, (8, 8), mode="center")
    assert crops.shape == (len(boxes), 3, 8, 8) and crops.dtype == torch.uint8


def test_pairs_with_one_union_box_share_a_region():
    # The first box holds the second, and the third is apart.
    boxes = torch.tensor([[0.0, 0, 50, 50], [10, 10, 20, 20], [60, 60, 90, 90]])
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]])
    windows, region = union_regions(boxes, pairs, (100, 100))
    assert len(windows) == 3
    assert region[0] == region[1] and region[2] == region[3] and region[4] == region[5]
    assert windows[region].tolist() == [
        *([0, 0, 50, 50], [0, 0, 50, 50], [0, 0, 90, 90]),
        *([0, 0, 90, 90], [10, 10, 90, 90], [10, 10, 90, 90]),
    ]


@pytest.mark.parametrize("mode", ["squash", "center"])
def test_no_window_makes_no_crop(mode):
    windows, region = union_regions(torch.zeros(0, 4), torch.zeros((0, 2), dtype=int), (10, 10))
    assert cut_crops(TENSOR, windows, (8, 8), mode=mode).shape == (0, 3, 8, 8) and len(region) == 0
