"""RelCLIP for one image in a form that exports: the same numbers, no branch on the data.

Weights are the model's own modules, used and not copied. Attention among pairs that share an entity
is written as a grid of all M x M ordered pairs instead of as lists of different lengths.

Shapes: M entities, P pairs, K predicates, C classes, D width of the tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrd_d2.export.detector import ExportableDetector
from vrd_d2.export.image import padded
from vrd_d2.modeling.encoders.clip import CLIPViT
from vrd_d2.modeling.encoders.pooling import roi_mean
from vrd_d2.modeling.frequency import FrequencyBaseline
from vrd_d2.modeling.geometry import (
    candidate_pairs,
    entity_geometry,
    pair_geometry,
    union_boxes,
)
from vrd_d2.modeling.relation_heads.adaptor import FeatureAdaptor
from vrd_d2.modeling.relation_heads.attention import SegmentAttention
from vrd_d2.modeling.relation_model import NO_CANDIDATE
from vrd_d2.modeling.relclip import RelCLIP
from vrd_d2.modeling.union_clip.model import UnionCLIP

_REASONS = {
    UnionCLIP: "its texts are encoded as their class pairs come up, by a tower with a tokenizer",
    FrequencyBaseline: "it looks counts up and at no image",
}
_OTHERS = "only RelCLIP is written in a form that does"


class ExportableRelations(nn.Module):
    """Everything of :class:`RelCLIP` after the boxes are known.

    Args:
        model: of any task.

    Raises:
        ValueError: the model is no RelCLIP.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if not isinstance(model, RelCLIP):
            raise ValueError(
                f"{type(model).__name__} does not export: {_REASONS.get(type(model), _OTHERS)}. A "
                "detector in it does ('detector'), and tools/predict.py runs it as it is"
            )
        model.eval()
        # The parts that run, not the model: what only training needs stays out of the file.
        self.visual, self.head = model.visual, model.head
        self.register_buffer("pixel_mean", model.pixel_mean)
        self.register_buffer("pixel_std", model.pixel_std)
        self.image_format, self.ranking = model.image_format, model.ranking
        self.needs_classes, self.require_overlap = model.needs_classes, model.require_overlap
        self.register_buffer("candidates", candidate_table(model) if model.restrict else None)

    @property
    def inputs(self) -> list[str]:
        """Names of the arguments of :meth:`forward` that this model takes."""
        return ["image", "boxes", *["classes"] * self.needs_classes]

    @property
    def outputs(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        entities = [] if self.needs_classes else ["classes", "scores"]
        return [*entities, "pairs", "predicate_probs", "predicate_scores"]

    def forward(
        self, image: Tensor, boxes: Tensor, classes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Predict.

        Args:
            image: (3, H, W) uint8, channels as INPUT.FORMAT says.
            boxes: (M, 4) XYXY pixels of `image`; M may be 0.
            classes: (M,) int64 ids, where the model needs them.

        Returns:
            classes (M,) int64 and scores (M,), unless classes are given; pairs (P, 2) int64 rows
            (subject, object); predicate_probs (P, K + 1) with background last; predicate_scores
            (P, K), what ranks.
        """
        head = self.head
        size = image.shape[-2:]
        feature_map = self._map(image)
        class_logits = None
        if head.class_classifier is not None:
            tokens = self._tokens(
                head.entity_adaptor, feature_map, boxes, relative(boxes, size), None
            )
            for layer in head.entity_adaptor.attention:
                tokens = attend(layer, tokens)
            class_logits = head.class_classifier(tokens)
        entities = ()
        if not self.needs_classes:
            classes = None
            best = class_logits.float().softmax(-1)[:, : head.num_classes].max(dim=1)
            entities = best.indices, best.values
        pairs = candidate_pairs(boxes, require_overlap=self.require_overlap)
        subject, object_ = pairs.unbind(1)
        rows = head._class_rows(None if classes is None else [classes], class_logits)
        tokens = self._relation_tokens(feature_map, boxes, pairs, size, rows)
        logits = head.predicate_classifier(tokens)
        if head.prior is not None:
            ids = classes
            if ids is None:
                ids = class_logits[:, : head.num_classes].argmax(1)
            logits = head.prior(logits, ids[subject], ids[object_])
        logits = logits.float()
        probs = logits.softmax(-1)
        ranking = (logits if self.ranking == "logit" else probs)[:, :-1]
        if self.candidates is not None:
            named = classes if classes is not None else entities[0]
            allowed = self.candidates[named[subject], named[object_]]
            ranking = torch.where(allowed, ranking, NO_CANDIDATE)
            probs = torch.cat([probs[:, :-1] * allowed, probs[:, -1:]], dim=1)
            probs = probs / probs.sum(1, keepdim=True).clamp(min=1e-12)
        return *entities, pairs, probs, ranking

    def _map(self, image: Tensor) -> Tensor:
        """V(I), (D_v, h, w)."""
        visual = self.visual
        if self.image_format == "BGR":
            image = image.flip(0)
        pixels = (image.float() / 255 - self.pixel_mean) / self.pixel_std
        if isinstance(visual, CLIPViT):
            result = visual.encode(padded(pixels, visual.size_divisibility)[None])[0]
        else:
            result = visual(padded(pixels, visual.divisor)[None])[0]
        # A view of tokens would be asked whether it has a single column.
        return result.clone(memory_format=torch.contiguous_format)

    def _tokens(
        self,
        adaptor: FeatureAdaptor,
        feature_map: Tensor,
        boxes: Tensor,
        geometry: Tensor,
        extra: Tensor | None,
    ) -> Tensor:
        """The adaptor's fully connected layer."""
        head = self.head
        pooled = roi_mean(adaptor.project(feature_map), boxes, scale=head.scale, **head.roi)
        position = adaptor.position(geometry)
        if extra is not None:
            position = torch.cat([position, extra], dim=-1)
        return F.relu(pooled + adaptor.fc_position(position))

    def _relation_tokens(
        self,
        feature_map: Tensor,
        boxes: Tensor,
        pairs: Tensor,
        size: tuple,
        class_rows: Tensor | None,
    ) -> Tensor:
        """v_ij, (P, D)."""
        head, adaptor = self.head, self.head.relation_adaptor
        subjects, objects = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
        unions = union_boxes(subjects, objects)
        geometry = torch.cat(
            [
                relative(unions, size),
                relative(subjects, size),
                relative(objects, size),
                # How the two lie to each other, the last seven numbers, knows no image size.
                pair_geometry(subjects, objects, (1, 1))[:, -7:],
            ],
            dim=1,
        )
        extra = None
        if class_rows is not None:
            extra = torch.cat([class_rows[pairs[:, 0]], class_rows[pairs[:, 1]]], dim=1)
        tokens = self._tokens(adaptor, feature_map, unions, geometry, extra)
        for index, layer in enumerate(adaptor.attention):
            if head.attention_pattern == "full":
                tokens = attend(layer, tokens)
                continue
            by_object = head.attention_pattern == "axial" and index % 2
            groups, members = pairs.flip(1).unbind(1) if by_object else pairs.unbind(1)
            tokens = attend_in_groups(layer, tokens, groups, members, boxes.shape[0])
        return tokens


def candidate_table(model: RelCLIP) -> Tensor:
    """Which predicates MODEL.DISTANT.RESTRICT lets score, bool (C, C, K)."""
    count = len(model.vocabulary.objects)
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    return model.distant.candidates(torch.arange(count), pairs).view(count, count, -1)


def relative(boxes: Tensor, size: tuple) -> Tensor:
    """:func:`entity_geometry`, with a size that may be known at run time only."""
    height, width = size
    scaled = torch.stack([boxes[:, i] / side for i, side in enumerate((width, height) * 2)], dim=1)
    return entity_geometry(scaled, (1, 1))


# Added to the score of what is no token. Finite, so that a row without any token does not become
# NaN; exp() of it is 0 all the same.
MASKED = -1e9
# Masked tokens that are added: exporters treat lengths of 0 and 1 as cases of their own.
SPARE = 2


def attend(layer: SegmentAttention, tokens: Tensor) -> Tensor:
    """Attention among all tokens: (T, D) -> (T, D); T may be 0."""
    qkv = F.pad(layer.qkv(layer.norm(tokens)), (0, 0, 0, SPARE))
    mask = F.pad(torch.zeros_like(tokens[:, 0]), (0, SPARE), value=MASKED)
    return tokens + layer.out(_mix(qkv[None], layer.heads, mask[None, None, None])[0, :-SPARE])


def attend_in_groups(
    layer: SegmentAttention, tokens: Tensor, groups: Tensor, members: Tensor, count: int
) -> Tensor:
    """Attention among the tokens of each group, on a grid of groups x members.

    Args:
        layer: of the model.
        tokens: (P, D).
        groups, members: (P,) place of each token in the grid.
        count: M, side of the grid.

    Returns:
        (P, D).
    """
    qkv = layer.qkv(layer.norm(tokens))
    side = count + SPARE
    place = groups * side + members
    grid = qkv.new_zeros((side * side, qkv.shape[1])).index_copy(0, place, qkv)
    mask = qkv.new_full((side * side,), MASKED).index_fill(0, place, 0.0)
    mixed = _mix(grid.view(side, side, -1), layer.heads, mask.view(side, 1, 1, side))
    return tokens + layer.out(mixed.flatten(0, 1)[place])


def _mix(qkv: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """(S, L, 3 D) -> (S, L, D)."""
    segments, length, width = qkv.shape
    parts = qkv.view(segments, length, 3, heads, width // (3 * heads))
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


class ExportableModel(nn.Module):
    """A whole RelCLIP of SGDet: image in, detections and relations out.

    Args:
        model: with a detector.

    Raises:
        ValueError: the model takes given boxes.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.relations = ExportableRelations(model)
        if model.detector is None:
            raise ValueError(
                f"this model of {model.task.value} finds no boxes: export 'relations', which takes "
                "them"
            )
        self.detector = ExportableDetector(model.detector)

    inputs = ["image"]
    outputs = ["boxes", "classes", "scores", "pairs", "predicate_probs", "predicate_scores"]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """boxes (M, 4) in pixels of `image`, and what :class:`ExportableRelations` returns."""
        boxes, classes, scores = self.detector(image)
        if self.relations.needs_classes:
            return boxes, classes, scores, *self.relations(image, boxes, classes)
        return boxes, *self.relations(image, boxes)
