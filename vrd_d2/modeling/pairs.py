"""Training targets of pairs: which entities stand for which objects, labels, and sampling.

Shapes: M entities, P pairs, K predicates, R annotated relations, G ground-truth objects.
"""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor


def match_entities(boxes: Tensor, gt_boxes: Tensor, *, iou_threshold: float) -> Tensor:
    """Return the ground-truth object that each detected box stands for.

    Args:
        boxes: (M, 4).
        gt_boxes: (G, 4); G may be 0.
        iou_threshold: least IoU, inclusive.

    Returns:
        (M,) int64 index of the ground-truth box of the highest IoU (the first of several), or -1.
    """
    if len(gt_boxes) == 0 or len(boxes) == 0:
        return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
    iou, index = pairwise_iou(Boxes(boxes), Boxes(gt_boxes)).max(dim=1)
    return torch.where(iou >= iou_threshold, index, -1)


def label_pairs(
    pairs: Tensor, gt_index: Tensor, relations: Tensor, num_objects: int, num_predicates: int
) -> Tensor:
    """Return the annotated predicates of pairs.

    Args:
        pairs: (P, 2) entity indices.
        gt_index: (M,) ground-truth object of each entity, -1 for none.
        relations: (R, 3) rows (subject, object, predicate) of ground-truth indices. Repeated rows
            count once; several predicates on a pair make a row of several ones; self-relations
            belong to no pair.
        num_objects: G.
        num_predicates: K.

    Returns:
        (P, K) float32 of zeros and ones; a row of zeros is background.
    """
    targets = torch.zeros((len(pairs), num_predicates), device=pairs.device)
    if len(relations) == 0 or len(pairs) == 0:
        return targets
    # Row number of the annotated (subject, object) cells; absent ones point to a row of zeros.
    cells, row_of = torch.unique(
        relations[:, 0] * num_objects + relations[:, 1], return_inverse=True
    )
    table = torch.zeros((len(cells) + 1, num_predicates), device=pairs.device)
    table[row_of, relations[:, 2]] = 1.0
    subject, obj = gt_index[pairs[:, 0]], gt_index[pairs[:, 1]]
    key = subject * num_objects + obj
    position = torch.searchsorted(cells, key).clamp(max=len(cells) - 1)
    found = (cells[position] == key) & (subject >= 0) & (obj >= 0) & (subject != obj)
    return table[torch.where(found, position, len(cells))]


def sample_pairs(
    targets: Tensor, *, batch_size: int, positive_fraction: float, generator=None
) -> Tensor:
    """Draw a random subset of pairs: at most a share of positives, filled up with background.

    Args:
        targets: (P, K) label weights.
        batch_size: pairs to draw.
        positive_fraction: largest share of pairs with a label.
        generator: of torch, for tests.

    Returns:
        (S,) sorted int64 indices into the pairs, S <= batch_size.
    """
    positive = (targets.sum(1) > 0).nonzero()[:, 0]
    negative = (targets.sum(1) == 0).nonzero()[:, 0]

    def draw(indices: Tensor, count: int) -> Tensor:
        if len(indices) <= count:
            return indices
        chosen = torch.randperm(len(indices), device=targets.device, generator=generator)[:count]
        return indices[chosen]

    positive = draw(positive, int(batch_size * positive_fraction))
    negative = draw(negative, batch_size - len(positive))
    return torch.cat([positive, negative]).sort().values
