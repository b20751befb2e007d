"""Attention of one image in a form that exports: no list of lengths, no branch on the data.

Attention among pairs that share an entity is written as a grid of all M x M ordered pairs instead
of as segments of different lengths. The weights are those of the layers that are passed in.

Shapes: M entities, T tokens (entities or pairs), P pairs, D width of the tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vrd_d2.modeling.relation_heads.attention import SegmentAttention

# Added to the score of what is no token. Finite, so that a row without any token does not become
# NaN; exp() of it is 0 all the same.
MASKED = -1e9
# Masked tokens that are added: exporters treat lengths of 0 and 1 as special cases.
SPARE = 2


def attend(layer: SegmentAttention, tokens: Tensor) -> Tensor:
    """Attend among all tokens: (T, D) -> (T, D); T may be 0."""
    qkv = F.pad(layer.qkv(layer.norm(tokens)), (0, 0, 0, SPARE))
    mask = F.pad(torch.zeros_like(tokens[:, 0]), (0, SPARE), value=MASKED)
    return tokens + layer.out(_mix(qkv[None], layer.heads, mask[None, None, None])[0, :-SPARE])


def attend_in_groups(
    layer: SegmentAttention, tokens: Tensor, groups: Tensor, members: Tensor, count: int
) -> Tensor:
    """Attend among the tokens of each group, on a grid of groups x members.

    Args:
        layer: of the model.
        tokens: (P, D).
        groups, members: (P,) row and column of each token in the grid.
        count: M, side of the grid.

    Returns:
        (P, D).
    """
    qkv = layer.qkv(layer.norm(tokens))
    side = count + SPARE
    cell = groups * side + members
    grid = qkv.new_zeros((side * side, qkv.shape[1])).index_copy(0, cell, qkv)
    mask = qkv.new_full((side * side,), MASKED).index_fill(0, cell, 0.0)
    mixed = _mix(grid.view(side, side, -1), layer.heads, mask.view(side, 1, 1, side))
    return tokens + layer.out(mixed.flatten(0, 1)[cell])


def _mix(qkv: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Attend in each segment: (S, L, 3 D) -> (S, L, D)."""
    segments, length, width = qkv.shape
    parts = qkv.view(segments, length, 3, heads, width // (3 * heads))
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)
