"""Faster R-CNN for one image in a form that exports: the same numbers, no branch on the data.

Detectron2's inference chooses its path by what it finds (are there small boxes? does a level have
boxes? how many candidates are there?). Here every choice is a mask or a selection of a fixed size:
lists are filled up with a box of score -inf, which ranks last and so suppresses nothing.

Shapes: A anchors of a level, R proposals, C classes, M detections.
"""

import math

import torch
import torch.nn.functional as F
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import Tensor, nn
from torchvision.ops import nms

from vrd_d2.export.image import padded


class ExportableDetector(nn.Module):
    """Inference of a :class:`GeneralizedRCNN` with FPN (or one map) on one image.

    Args:
        detector: RPN and StandardROIHeads with axis-aligned boxes; its modules are used, not
            copied. Masks and keypoints are left out.

    Raises:
        ValueError: the detector has other parts.
    """

    def __init__(self, detector: GeneralizedRCNN):
        super().__init__()
        heads = detector.roi_heads
        if type(detector.proposal_generator) is not RPN or type(heads) is not StandardROIHeads:
            raise ValueError(
                f"a detector of {type(detector.proposal_generator).__name__} and "
                f"{type(heads).__name__} does not export: only RPN with StandardROIHeads does"
            )
        if heads.train_on_pred_boxes or heads.box_predictor.use_sigmoid_ce:
            raise ValueError(
                "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES and USE_SIGMOID_CE do not export"
            )
        self.detector = detector.eval()

    inputs = ["image"]
    outputs = ["boxes", "classes", "scores"]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            image: (3, H, W) uint8 or float, channels as INPUT.FORMAT says, values 0..255.

        Returns:
            boxes (M, 4) XYXY pixels of `image`, classes (M,) int64, scores (M,), best first.
        """
        detector = self.detector
        size = image.shape[-2:]
        # Padded after normalisation, as Detectron2 does: with the mean colour.
        pixels = (image.float() - detector.pixel_mean) / detector.pixel_std
        maps = detector.backbone(padded(pixels, detector.backbone.size_divisibility)[None])
        proposals, found = self._proposals(maps, size)
        return self._detections(maps, proposals, found, size)

    def _proposals(self, maps: dict[str, Tensor], size: tuple) -> tuple[Tensor, Tensor]:
        """Return (R, 4) boxes and (R,) whether each is one, R fixed."""
        rpn = self.detector.proposal_generator
        features = [maps[name] for name in rpn.in_features]
        objectness, deltas = rpn.rpn_head(features)
        anchors = grid_anchors(rpn.anchor_generator, features)
        take = rpn.pre_nms_topk[False]
        boxes, scores, levels = [], [], []
        for level, (logits, delta, anchor) in enumerate(
            zip(objectness, deltas, anchors, strict=True)
        ):
            logits, delta = by_cell(logits, 1)[:, 0], by_cell(delta, anchor.shape[1])
            # Filled up, so that a small map has enough entries, too.
            logits = F.pad(logits, (0, take), value=-torch.inf)
            best, index = logits.topk(take)
            delta, anchor = (F.pad(rows, (0, 0, 0, take))[index] for rows in (delta, anchor))
            boxes.append(rpn.box2box_transform.apply_deltas(delta, anchor))
            scores.append(best)
            levels.append(torch.full_like(index, level))
        boxes, scores, levels = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        finite = boxes.isfinite().all(1)
        boxes = clip(boxes, size)
        sides = boxes[:, 2:] - boxes[:, :2]
        valid = finite & (sides > rpn.min_box_size).all(1)
        scores = torch.where(valid, scores, -torch.inf)
        boxes, scores, _ = best_of_groups(
            boxes, scores, levels, len(features), rpn.nms_thresh, rpn.post_nms_topk[False], size
        )
        return boxes, scores > -torch.inf

    def _detections(
        self, maps: dict[str, Tensor], proposals: Tensor, found: Tensor, size: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.detector.roi_heads
        predictor = heads.box_predictor
        pooled = pool([maps[name] for name in heads.box_in_features], heads.box_pooler, proposals)
        logits, deltas = predictor(heads.box_head(pooled))
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        boxes = clip(boxes.unflatten(1, (-1, 4)), size)  # R x (C or 1) x 4
        probs = logits.softmax(-1)[:, :-1]
        candidates = ((probs > predictor.test_score_thresh) & found[:, None]).nonzero()
        row, classes = candidates.unbind(1)
        boxes = boxes[row, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)]
        boxes, scores, classes = best_of_groups(
            boxes,
            probs[row, classes],
            classes,
            probs.shape[1],
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
            size,
        )
        found = (scores > -torch.inf).nonzero()[:, 0]
        return boxes[found], classes[found], scores[found]


def by_cell(prediction: Tensor, width: int) -> Tensor:
    """Return an RPN output in the order of the anchors: (1, A' * width, h, w) -> (A, width)."""
    # The copy by clone(): reshape() would ask whether the map is a single cell.
    cells = prediction[0].movedim(0, 2).clone(memory_format=torch.contiguous_format)
    return cells.view(-1, width)


def grid_anchors(generator: DefaultAnchorGenerator, features: list[Tensor]) -> list[Tensor]:
    """Return the anchors (A, 4) of each map; lengths do not pass through floats."""
    anchors = []
    for feature, stride, cell in zip(
        features, generator.strides, generator.cell_anchors, strict=True
    ):
        height, width = feature.shape[-2:]
        y, x = (
            (torch.arange(side, device=cell.device) + generator.offset) * stride
            for side in (height, width)
        )
        y, x = y[:, None] + torch.zeros_like(x), x + torch.zeros_like(y)[:, None]
        shifts = torch.stack([x, y, x, y], dim=-1)  # h x w x 4
        anchors.append((shifts[:, :, None] + cell).view(-1, 4))
    return anchors


def clip(boxes: Tensor, size: tuple) -> Tensor:
    """Clip boxes (..., 4) to an image of (height, width)."""
    height, width = size
    x = boxes[..., 0::2].clamp(min=0).clamp(max=width)
    y = boxes[..., 1::2].clamp(min=0).clamp(max=height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def best_of_groups(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    num_groups: int,
    threshold: float,
    count: int,
    size: tuple,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes after non-maximum suppression inside groups (classes or levels).

    Groups are laid side by side so that they cannot overlap, in a square: in a row, the last of 150
    classes would lie at 150,000 pixels, where float32 is good for 1/64 pixel only.

    Args:
        boxes: (B, 4) inside the image.
        scores: (B,), -inf for what is no box.
        groups: (B,) ids below `num_groups`.
        threshold: boxes that overlap a better one by more are dropped.
        count: how many to return.
        size: (height, width) of the image.

    Returns:
        boxes (count, 4), scores (count,), groups (count,), best first and filled up with empty
        boxes of score -inf.
    """
    columns = math.ceil(math.sqrt(num_groups))
    # One empty box at the end, so that there is something to choose from and to fill up with.
    boxes, groups = F.pad(boxes, (0, 0, 0, 1)), F.pad(groups, (0, 1))
    scores = F.pad(scores, (0, 1), value=-torch.inf)
    # clip() and the pixels of the image bound every coordinate.
    step = torch.stack([boxes.new_ones(()) * (side + 1) for side in (size[1], size[0])])
    cell = torch.stack([groups % columns, groups // columns], dim=1)
    offset = cell.to(boxes.dtype) * step
    best = nms(boxes + torch.cat([offset, offset], dim=1), scores, threshold)
    last = torch.zeros_like(groups[:1]) + boxes.shape[0] - 1
    best = torch.cat([best, last.expand(count)])[:count]
    return boxes[best], scores[best], groups[best]


def pool(features: list[Tensor], pooler: nn.Module, boxes: Tensor) -> Tensor:
    """Pool as Detectron2's ROIPooler does for one image: (R, 4) -> (R, D, bins, bins).

    Every level pools its boxes and one more, a spare row, so that no level has none.
    """
    rois = F.pad(boxes, (1, 0))  # batch index 0
    if len(features) == 1:
        return pooler.level_poolers[0](features[0], rois)
    sides = boxes[:, 2:] - boxes[:, :2]
    # Equation 1 of the FPN paper.
    level = pooler.canonical_level + torch.log2(
        sides.prod(1).sqrt() / pooler.canonical_box_size + 1e-8
    )
    level = level.floor().clamp(pooler.min_level, pooler.max_level) - pooler.min_level
    rois = F.pad(rois, (0, 0, 0, 1))
    result = rois.new_zeros((rois.shape[0], features[0].shape[1], *pooler.output_size))
    for index, (feature, level_pooler) in enumerate(
        zip(features, pooler.level_poolers, strict=True)
    ):
        rows = F.pad(level == index, (0, 1), value=True).nonzero()[:, 0]
        result = result.index_copy(0, rows, level_pooler(feature, rois[rows]))
    return result[:-1]
