"""Heat maps as images: a layer to lay over the photograph, or the photograph under one."""

import base64

import numpy as np
from PIL import Image

# Blue over green to red, as Figure 2 of RelCLIP has it; the weaker, the more of the image shows.
# The 256 colours, RGB, of the map "turbo" (Mikhailov, 2019), so that matplotlib is not loaded.
_TURBO = (
    "MBI7MhVDMxhKNBtRNR5YNiFfNyRmOCdtOSpzOi15Oy+APDKGPTWLPjiRPzuXPz6cQECiQUOnQUasQkmxQku1Q066"
    "RFG/RFTDRFbHRVnLRVzPRV7TRmHWRmTaRmbdRmngRmvjR27mR3HpR3PrR3buR3jwR3vyRn30RoD2RoL4RoX6Rof7"
    "RYr8RYz9RI/+Q5H+QpT/QZb/QJn/Ppv+PZ7+O6D9OqP8OKX7N6j6Nav4M633Ma/1L7L0LrTyLLfwKrnuKLzrJ77p"
    "JcDnI8PkIsXiIMffH8ndHsvaHM3YG9DVGtLSGtTQGdXNGNfKGNnIGNvFGN3CGN7AGOC9GeK7GeO5GuS2HOa0Heey"
    "H+mvIOqsIuuqJeynJ+6kKu+hLPCeL/GbMvKYNfOUOPSRPPWOP/aKQ/eHRviESviATvl9Uvp6Vfp2WftzXfxvYfxs"
    "Zf1paf1mbf5icf5fdf5cef5Zff9WgP9ThP9RiP9Oi/9Lj/9Jkv9Hlv5Emf5CnP5An/0/of09pPw8p/w6qfs5rPs4"
    "r/o3sfk2tPg2t/c1ufY1vPU0vvQ0wfM0w/E0xvA0yO80y+00zew00Oo00uk11Oc11+U12eQ22+I23eA339834d03"
    "49s45dk459c56dU569M57NE67s8678068cs68sk69Mc69cU69sM698E6+L45+bw5+ro5+7g4+7Y3/LM2/LE2/a41"
    "/aw0/qkz/qcy/qQx/qEw/p4v/pst/pks/pYr/pMq/pAp/Y0n/Yom/Icl/IQj+4Ei+34h+nsf+Xge+XUd+HIc928a"
    "9mwZ9WkY9GYX82MV8mAU8V0T8FsS71gR7VUQ7FMP61AO6k4N6EsM50kM5UcL5EUK4kMK4UEJ3z8I3T0I3DsH2jkH"
    "2DcG1jUG1DMF0jEF0C8Fzi0EzCsEyioEyCgDxSYDwyUDwSMCviECvCACuR4Ctx0CtBsBshoBrxgBrBcBqRYBpxQB"
    "pBMBoRIBnhABmw8BmA4BlQ0BkgsBjgoBiwkCiAgChQcCgQYCfgUCegQD"
)
_COLOURS = np.frombuffer(base64.b64decode(_TURBO), np.uint8).reshape(256, 3)
_OPACITY = 0.65


def heat_layer(heat: np.ndarray) -> Image.Image:
    """Return an image with palette and transparency, to be stretched over the photograph.

    Args:
        heat: (h, w) in 0..1.
    """
    layer = Image.fromarray(_bytes(heat)).convert("P")
    layer.putpalette(_COLOURS.tobytes())
    layer.info["transparency"] = bytes(int(_OPACITY * value) for value in range(256))
    return layer


def blend_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image under its heat map.

    Args:
        image: uint8 (H, W, 3) RGB.
        heat: (h, w) in 0..1, which covers the image.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    height, width = image.shape[:2]
    values = Image.fromarray(_bytes(heat)).resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(values)
    opacity = (_OPACITY / 255 * values)[..., None]
    return np.rint(image * (1 - opacity) + _COLOURS[values] * opacity).astype(np.uint8)


def _bytes(heat: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
