"""The frozen image encoder of RelCLIP: CLIP's ViT, or any other backbone instead (Table 4).

Shapes: N images, D channels of the map.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from vrd_d2.addresses import refuse_address
from vrd_d2.checkpoint.checkpointer import detector_file, load_weights
from vrd_d2.checkpoint.downloads import hub_address, network

TIMM = "timm/"


def batch_size_on(device: torch.device | str, batch_size: int) -> int:
    """Return how many inputs of a frozen encoder are encoded at a time whose outputs are stored.

    One on the CPU. The last digits of an output depend on the others of its batch, and what is
    missing in a store depends on where a run was stopped, while a resumed run is to be the same.
    """
    return 1 if torch.device(device).type == "cpu" else batch_size


def encode_by_size(
    encode: Callable[[Tensor], Tensor], images: Sequence[Tensor], *, divisor: int
) -> list[Tensor]:
    """Encode images of any sizes, each as if it were alone.

    Images that are padded to the same size share a forward pass; no image is padded to the size
    of another, so that its features never depend on its batch mates.

    Args:
        encode: (n, 3, H, W) -> (n, D, h, w).
        images: N tensors (3, H_n, W_n), normalised.
        divisor: to a multiple of which height and width are padded, right and below.

    Returns:
        N maps (D, h_n, w_n).
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        size = tuple(-(-side // divisor) * divisor for side in image.shape[-2:])
        by_size.setdefault(size, []).append(index)
    result: list[Tensor] = [None] * len(images)
    for (height, width), members in by_size.items():
        batch = torch.stack(
            [
                # Zeros after normalisation: the mean colour.
                F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))
                for image in (images[index] for index in members)
            ]
        )
        for index, feature_map in zip(members, encode(batch), strict=True):
            result[index] = feature_map
    return result


def map_shape(
    height: int, width: int, channels: int, stride: int, divisor: int
) -> tuple[int, int, int]:
    """Return the shape (D, h, w) of the map of an image that :func:`encode_by_size` pads."""
    return (
        channels,
        -(-height // divisor) * divisor // stride,
        -(-width // divisor) * divisor // stride,
    )


class FrozenBackbone(nn.Module):
    """One map of a convolutional or hierarchical backbone, frozen.

    Args:
        backbone: (N, 3, H, W) -> {feature: (N, D, h, w)}, or a list of one map.
        feature: which of its maps; None for the only one.
        shape: channels and stride of that map.
        divisor: to a multiple of which images are padded.
        mean, std: RGB normalisation of pixels in 0..1 that the backbone was trained with.
        flip_channels: whether it reads BGR.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature: str | None,
        shape: ShapeSpec,
        divisor: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        flip_channels: bool = False,
    ):
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.feature = feature
        self.shape = shape
        self.divisor = divisor
        self.mean, self.std = tuple(mean), tuple(std)
        self.flip_channels = flip_channels

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in eval mode: the backbone is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Encode (N, 3, H, W) RGB, normalised, sides multiples of the divisor, to (N, D, h, w)."""
        outputs = self.backbone(images.flip(1) if self.flip_channels else images)
        return outputs[0] if self.feature is None else outputs[self.feature]

    def maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Encode images: see :func:`encode_by_size`."""
        return encode_by_size(self, images, divisor=self.divisor)

    def map_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (D, h, w) of the map of an image."""
        return map_shape(height, width, self.shape.channels, self.shape.stride, self.divisor)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the one map."""
        return {self.feature or "map": self.shape}


def build_backbone_encoder(cfg: CfgNode) -> FrozenBackbone:
    """Build the encoder that MODEL.VISUAL.ENCODER names other than "clip".

    "timm/NAME" is a model of timm, MODEL.VISUAL.FEATURE "map0", "map1", ... one of its maps from
    the finest on; any other name is a builder in Detectron2's BACKBONE_REGISTRY, which reads the
    stock MODEL.BACKBONE, MODEL.RESNETS, ... keys, and the feature one of its outputs.

    Raises:
        ValueError: unknown name or feature, or weights that are missing or do not fit.
    """
    name = cfg.MODEL.VISUAL.ENCODER
    return _timm(cfg) if name.startswith(TIMM) else _registered(cfg)


def _timm(cfg: CfgNode) -> FrozenBackbone:
    import timm

    visual = cfg.MODEL.VISUAL
    name, weights = visual.ENCODER.removeprefix(TIMM), visual.WEIGHTS
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "none"
        raise ValueError(f"MODEL.VISUAL.ENCODER: timm has no model {name!r}; near: {near}")
    options = {}
    if weights not in ("", "pretrained"):
        _require(weights)
        options["pretrained_cfg_overlay"] = {"file": weights}
    with network(hub=weights == "pretrained") as state:
        try:
            index = int(visual.FEATURE.removeprefix("map"))
            backbone = timm.create_model(
                name, pretrained=bool(weights), features_only=True, out_indices=(index,), **options
            )
        except Exception as error:  # timm raises many types: no such map, no network, other weights
            source = f" from {hub_address()}" if weights == "pretrained" else ""
            raise ValueError(
                f"MODEL.VISUAL: timm could not build {name} with FEATURE {visual.FEATURE!r} (map0, "
                f"map1, ...) and WEIGHTS {weights!r}{source} ({state.reason(error)}). Without "
                "internet, copy the weights file here and set MODEL.VISUAL.WEIGHTS to its path"
            ) from error
    info, pixels = backbone.feature_info, backbone.pretrained_cfg
    stride = info.reduction()[0]
    return FrozenBackbone(
        backbone,
        feature=None,
        shape=ShapeSpec(channels=info.channels()[0], stride=stride),
        divisor=stride,
        mean=pixels["mean"],
        std=pixels["std"],
    )


def _registered(cfg: CfgNode) -> FrozenBackbone:
    visual = cfg.MODEL.VISUAL
    if visual.ENCODER not in BACKBONE_REGISTRY:
        known = ", ".join(sorted(name for name, _ in BACKBONE_REGISTRY))
        raise ValueError(
            f"MODEL.VISUAL.ENCODER is {visual.ENCODER!r}: choose clip, timm/NAME, or a registered "
            f"backbone ({known})"
        )
    channels = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone: Backbone = BACKBONE_REGISTRY.get(visual.ENCODER)(cfg, channels)
    shapes = backbone.output_shape()
    if visual.FEATURE not in shapes:
        raise ValueError(
            f"MODEL.VISUAL.FEATURE is {visual.FEATURE!r}: {visual.ENCODER} gives {list(shapes)}"
        )
    if visual.WEIGHTS:
        _load_backbone(backbone, visual.WEIGHTS)
    bgr = cfg.INPUT.FORMAT == "BGR"
    order = slice(None, None, -1 if bgr else 1)
    shape = shapes[visual.FEATURE]
    return FrozenBackbone(
        backbone,
        feature=visual.FEATURE,
        shape=shape,
        divisor=max(backbone.size_divisibility, shape.stride),
        mean=tuple(value / 255 for value in cfg.MODEL.PIXEL_MEAN[order]),
        std=tuple(value / 255 for value in cfg.MODEL.PIXEL_STD[order]),
        flip_channels=bgr,
    )


def _load_backbone(backbone: nn.Module, path: str) -> None:
    """Load the backbone's part of a detector's checkpoint, or a file of Detectron2's model zoo."""
    path = detector_file(path)
    if "://" not in path:
        _require(path)
    try:
        load_weights(nn.ModuleDict({"backbone": backbone}), path)
    except ValueError as error:
        raise ValueError(
            "MODEL.VISUAL.WEIGHTS does not fit the backbone that MODEL.BACKBONE, MODEL.RESNETS, "
            f"MODEL.FPN, ... describe: {error}"
        ) from error


def _require(path: str) -> None:
    refuse_address(path, "MODEL.VISUAL.WEIGHTS of a model of timm")
    if not Path(path).is_file():
        raise ValueError(f"MODEL.VISUAL.WEIGHTS: there is no file {path}")
