"""The table of regions and texts and its two cross-entropies (contrastive fine-tuning paper, 3.3).

Shapes: n regions and m texts of the whole batch, D width of the joint space.
"""

import torch
from detectron2.utils import comm
from torch import Tensor

from vrd_d2.modeling.contrastive import contrastive_loss
from vrd_d2.modeling.processes import gather_rows, gather_sizes


def table_losses(
    regions: Tensor, texts: Tensor, positives: Tensor, *, scale: Tensor, text_sizes: list[int]
) -> dict[str, Tensor]:
    """Return L_v-CE and L_l-CE, both with as many positives as there are.

        L_v = 1/n sum_I sum_T y(I, T) ( log sum_T' exp d(I, T') - d(I, T) ), L_l its transpose.

    Under several processes the table is that of all their regions and texts. Each process brings
    regions and a share of the texts, and answers for their rows and columns; the average
    over the processes of what this returns is the loss of the whole table.

    Args:
        regions: (n of this process, D), rows of length 1.
        texts: (m of this process, D), rows of length 1.
        positives: (q, 2) int64 entries of the table that are 1: region of this process, text of all
            (the shares of the processes one after another).
        scale: factor of the cosines, CLIP's exp(logit_scale).
        text_sizes: number of texts of each process.

    Returns:
        {"loss_visual", "loss_language"}; graph-connected zeros without regions.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, texts = regions.float(), texts.float()
        region_sizes = gather_sizes(len(regions), regions.device)
        rank = comm.get_rank()
        first_region, first_text = sum(region_sizes[:rank]), sum(text_sizes[:rank])
        all_regions = gather_rows(regions, region_sizes)
        all_texts = gather_rows(texts, text_sizes)
        rows = regions.new_zeros((len(regions), len(all_texts)))
        rows[positives[:, 0], positives[:, 1]] = 1
        everyones = gather_rows(
            positives + positives.new_tensor([first_region, 0]),
            gather_sizes(len(positives), positives.device),
        )
        region, text = everyones[:, 0], everyones[:, 1] - first_text
        own = (text >= 0) & (text < len(texts))
        columns = texts.new_zeros((len(texts), len(all_regions)))
        columns[text[own], region[own]] = 1
        visual = contrastive_loss(scale * regions @ all_texts.T, rows).sum()
        language = contrastive_loss(scale * texts @ all_regions.T, columns).sum()
        processes = len(region_sizes)
        return {
            "loss_visual": visual * processes / max(len(all_regions), 1),
            "loss_language": language * processes / max(len(all_texts), 1),
        }
