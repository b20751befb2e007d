"""The feature adaptors of RelCLIP, which bring CLIP's features into the domain of relations.

Shapes: T tokens (entities or pairs) of all images in a row, D width of the embeddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrd_d2.modeling.relation_heads.attention import SegmentAttention


class FeatureAdaptor(nn.Module):
    """h_obj and h_rel of Eq. (1): one fully connected layer and two multi-head attention layers.

    The fully connected layer reads [roi ; p], here as two summands with weights of their own. ROI
    pooling is linear, so the first summand is applied to the map once instead of to every box.
    """

    def __init__(
        self,
        *,
        visual_dim: int,
        geometry_dim: int,
        position_dim: int,
        extra_dim: int,
        dim: int,
        layers: int,
        heads: int,
    ):
        super().__init__()
        self.position = nn.Sequential(
            nn.Linear(geometry_dim, position_dim), nn.ReLU(), nn.Linear(position_dim, position_dim)
        )
        self.fc_visual = nn.Linear(visual_dim, dim, bias=False)
        self.fc_position = nn.Linear(position_dim + extra_dim, dim)
        self.attention = nn.ModuleList(SegmentAttention(dim, heads) for _ in range(layers))

    def project(self, feature_map: Tensor) -> Tensor:
        """The visual part of the fully connected layer on a map: (D_v, H, W) -> (D, H, W)."""
        return torch.einsum("dv,vhw->dhw", self.fc_visual.weight, feature_map)

    def forward(
        self,
        pooled: Tensor,
        geometry: Tensor,
        extra: Tensor | None,
        segments: list[tuple[Tensor | None, list[int]]],
    ) -> Tensor:
        """Adapt.

        Args:
            pooled: (T, D) ROI means of the projected maps.
            geometry: (T, geometry_dim).
            extra: (T, extra_dim) or None.
            segments: for each attention layer the order that makes segments contiguous (None: they
                are) and their lengths.

        Returns:
            (T, D).
        """
        position = self.position(geometry)
        if extra is not None:
            position = torch.cat([position, extra], dim=-1)
        tokens = F.relu(pooled + self.fc_position(position))
        for layer, (order, sizes) in zip(self.attention, segments, strict=True):
            if order is None:
                tokens = layer(tokens, sizes)
            else:
                tokens = torch.empty_like(tokens).index_copy(0, order, layer(tokens[order], sizes))
        return tokens
