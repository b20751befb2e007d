"""Batches that are spread over several processes, seen as one.

Detectron2's DDP averages gradients over the processes. A loss that is a mean over the whole batch
is therefore computed by each process as its share of the sum, divided by the *average* count.
"""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        # All processes send tensors of one shape; what is padded is cut off again.
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        # Every process used these rows in its loss: the gradients add up.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.split(ctx.sizes)[comm.get_rank()], None


def gather_sizes(count: int, device: torch.device) -> list[int]:
    """Return the number of rows of each process."""
    if comm.get_world_size() == 1:
        return [count]
    own = torch.tensor([count], device=device)
    sizes = [torch.zeros_like(own) for _ in range(comm.get_world_size())]
    dist.all_gather(sizes, own)
    return [int(size) for size in sizes]


def gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Return the rows of all processes, by rank, with gradient to where they came from.

    Args:
        rows: (N, ...) of this process; N may differ between processes and be 0.
        sizes: of :func:`gather_sizes`.

    Returns:
        (sum of sizes, ...).
    """
    return rows if len(sizes) == 1 else _GatherRows.apply(rows, sizes)


def mean_count(count: int, device: torch.device) -> float:
    """Return the average of a count over the processes, not 0: the divisor of a batch's mean."""
    sizes = gather_sizes(count, device)
    return max(sum(sizes), 1) / len(sizes)
