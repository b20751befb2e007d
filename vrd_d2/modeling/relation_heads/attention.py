"""Self-attention inside segments: the entities or the pairs of one image, or a group of them.

Shapes: T tokens of all segments in a row, D width.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The order that makes segments contiguous (None: they are) and their lengths.
Segments = tuple[Tensor | None, list[int]]


class SegmentAttention(nn.Module):
    """Pre-norm residual multi-head self-attention in which a token sees its segment only."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"MODEL.RELATION_HEAD.DIM {dim} is no multiple of ATTENTION_HEADS {heads}"
            )
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, sizes: Sequence[int]) -> Tensor:
        """Attend.

        Args:
            tokens: (T, D), the segments one after the other.
            sizes: lengths of the segments; they sum to T.

        Returns:
            (T, D).
        """
        qkv = self.qkv(self.norm(tokens))
        return tokens + self.out(self._attend(qkv, [size for size in sizes if size]))

    def _attend(self, qkv: Tensor, sizes: list[int]) -> Tensor:
        total, width = qkv.shape
        if not sizes:
            # An empty slice rather than zeros: the weights stay in the graph without tokens too.
            return qkv[:, : width // 3]
        if len(set(sizes)) == 1:
            return self._blocks(qkv.reshape(len(sizes), sizes[0], width)).reshape(total, -1)
        if len(sizes) <= 16:
            # A few segments, of very different lengths: one call each beats padding.
            return torch.cat([self._blocks(part[None])[0] for part in qkv.split(sizes)])
        lengths = torch.tensor(sizes, device=qkv.device)
        valid = torch.arange(max(sizes), device=qkv.device) < lengths[:, None]  # S x L
        padded = qkv.new_zeros((len(sizes), max(sizes), width))
        padded[valid] = qkv
        return self._blocks(padded, mask=valid[:, None, None, :])[valid]

    def _blocks(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        segments, length, width = qkv.shape
        q, k, v = qkv.reshape(segments, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if qkv.dtype != torch.float32:
            # On strided heads the CPU kernel is nearly twice as slow in half precision.
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(segments, length, width // 3)


def attend_in_segments(
    layers: Iterable[SegmentAttention], tokens: Tensor, segments: Sequence[Segments]
) -> Tensor:
    """Apply attention layers, each to segments of its kind: (T, D) -> (T, D)."""
    for layer, (order, sizes) in zip(layers, segments, strict=True):
        if order is None:
            tokens = layer(tokens, sizes)
        else:
            tokens = torch.empty_like(tokens).index_copy(0, order, layer(tokens[order], sizes))
    return tokens


def segments_by(groups: Tensor) -> Segments:
    """Return the segments of tokens that are of the same group.

    Args:
        groups: (T,) group ids.

    Returns:
        (T,) permutation, stable, or None where the tokens are in order already (candidate pairs
        are, by subject); and the lengths of the segments.
    """
    ordered, order = groups.sort(stable=True)
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    return (None if torch.equal(ordered, groups) else order), counts.tolist()
