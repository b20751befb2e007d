"""RelCLIP's relation head: ROI features, adaptors, classifiers and their losses.

Shapes: N pictures, M entities and P pairs of a picture, "sum M" and "sum P" those of all pictures in a
row; C object classes, K predicates, D width of v_i and v_ij.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor, nn

from vrd_d2.modeling.attention import SegmentAttention, segments_by
from vrd_d2.modeling.geometry import (
    ENTITY_GEOMETRY,
    PAIR_GEOMETRY,
    entity_geometry,
    pair_geometry,
    union_boxes,
)
from vrd_d2.modeling.pooling import roi_mean
from vrd_d2.modeling.processes import mean_count

ATTENTION_PATTERNS = ("full", "subject", "axial")


@dataclass
class HeadOutput:
    """What the head says of the entities and pairs of a batch.

    Attributes:
        entities: v_i, (sum M, D), or None where nothing asks for them.
        relations: v_ij, (sum P, D).
        class_logits: (sum M, C or C + 1), or None where classes are given.
        predicate_logits: (sum P, K + 1), background last.
    """

    entities: Tensor | None
    relations: Tensor
    class_logits: Tensor | None
    predicate_logits: Tensor


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


class RelationHead(nn.Module):
    """Feature adaptors and classifiers of RelCLIP (sections 3.2 and 3.4).

    Args:
        visual_dim: channels of the visual map.
        stride: pixels per cell of the visual map.
        num_classes: C.
        num_predicates: K.
        entity_embeddings: make v_i (RCL or the object classifier needs them).
        classify_entities: build the object classifier; its loss needs it (SGCls, SGDet).
        background_class: the object classifier has a class "none" (SGDet).
        class_table: (C, D_t) text embeddings to join the pair input, or None.
        dim, position_dim, attention_layers, attention_heads, attention: see config.py.
        resolution, sampling_ratio: of ROIAlign.
        object_loss_weight, predicate_loss_weight: factors of the losses.
    """

    @configurable
    def __init__(
        self,
        *,
        visual_dim: int,
        stride: int,
        num_classes: int,
        num_predicates: int,
        entity_embeddings: bool,
        classify_entities: bool,
        background_class: bool,
        class_table: Tensor | None = None,
        dim: int = 512,
        position_dim: int = 128,
        attention_layers: int = 2,
        attention_heads: int = 8,
        attention: str = "full",
        resolution: int = 7,
        sampling_ratio: int = 2,
        object_loss_weight: float = 1.0,
        predicate_loss_weight: float = 1.0,
    ):
        super().__init__()
        if attention not in ATTENTION_PATTERNS:
            raise ValueError(
                f"MODEL.RELATION.ATTENTION is {attention!r}: choose one of {ATTENTION_PATTERNS}"
            )
        self.scale = 1.0 / stride
        self.roi = {"resolution": resolution, "sampling_ratio": sampling_ratio}
        self.attention_pattern = attention
        self.num_classes = num_classes
        self.loss_weights = (object_loss_weight, predicate_loss_weight)
        adaptor = {
            "visual_dim": visual_dim,
            "position_dim": position_dim,
            "dim": dim,
            "layers": attention_layers,
            "heads": attention_heads,
        }
        extra_dim = 0 if class_table is None else 2 * class_table.shape[1]
        # Part of the checkpoint, so that inference needs no text encoder.
        self.register_buffer("class_table", class_table)
        self.relation_adaptor = FeatureAdaptor(
            geometry_dim=PAIR_GEOMETRY, extra_dim=extra_dim, **adaptor
        )
        self.predicate_classifier = nn.Linear(dim, num_predicates + 1)
        # Modules without a loss are not built: each parameter gets a gradient in each iteration.
        self.entity_adaptor = self.class_classifier = None
        if entity_embeddings or classify_entities:
            self.entity_adaptor = FeatureAdaptor(
                geometry_dim=ENTITY_GEOMETRY, extra_dim=0, **adaptor
            )
        if classify_entities:
            self.class_classifier = nn.Linear(dim, num_classes + int(background_class))
        for classifier in (self.predicate_classifier, self.class_classifier):
            if classifier is not None:
                nn.init.normal_(classifier.weight, std=0.01)
                nn.init.zeros_(classifier.bias)

    @classmethod
    def from_config(cls, cfg, *, visual_dim, stride, vocabulary, task, class_table=None):
        relation = cfg.MODEL.RELATION
        return {
            "visual_dim": visual_dim,
            "stride": stride,
            "num_classes": len(vocabulary.objects),
            "num_predicates": len(vocabulary.predicates),
            "entity_embeddings": bool(cfg.MODEL.RCL.LEVELS),
            "classify_entities": not task.classes_given,
            "background_class": not task.boxes_given,
            "class_table": class_table,
            "dim": relation.DIM,
            "position_dim": relation.POSITION_DIM,
            "attention_layers": relation.ATTENTION_LAYERS,
            "attention_heads": relation.ATTENTION_HEADS,
            "attention": relation.ATTENTION,
            "resolution": relation.POOLER_RESOLUTION,
            "sampling_ratio": relation.POOLER_SAMPLING_RATIO,
            "object_loss_weight": relation.OBJECT_LOSS_WEIGHT,
            "predicate_loss_weight": relation.PREDICATE_LOSS_WEIGHT,
        }

    def forward(
        self,
        maps: list[Tensor],
        boxes: list[Tensor],
        classes: list[Tensor] | None,
        pairs: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> HeadOutput:
        """Embed and classify.

        Args:
            maps: N visual maps (D_v, h, w).
            boxes: N tensors (M, 4) in pixels of the picture that the map was made of.
            classes: N tensors (M,) of given class ids, or None where they are to be predicted.
            pairs: N tensors (P, 2) of entity indices (subject, object).
            image_sizes: N (height, width).
        """
        counts = [len(b) for b in boxes]
        entities = class_logits = None
        if self.entity_adaptor is not None and (self.training or self.class_classifier is not None):
            adaptor = self.entity_adaptor
            pooled = self._pool(adaptor, maps, boxes)
            geometry = torch.cat(
                [entity_geometry(b, size) for b, size in zip(boxes, image_sizes, strict=True)]
            )
            segments = [(None, counts)] * len(adaptor.attention)
            entities = adaptor(pooled, geometry, None, segments)
            if self.class_classifier is not None:
                class_logits = self.class_classifier(entities)
        relations = self._relations(maps, boxes, classes, pairs, image_sizes, class_logits)
        return HeadOutput(entities, relations, class_logits, self.predicate_classifier(relations))

    def _relations(self, maps, boxes, classes, pairs, image_sizes, class_logits) -> Tensor:
        adaptor = self.relation_adaptor
        subjects = [b[p[:, 0]] for b, p in zip(boxes, pairs, strict=True)]
        objects = [b[p[:, 1]] for b, p in zip(boxes, pairs, strict=True)]
        unions = [union_boxes(s, o) for s, o in zip(subjects, objects, strict=True)]
        geometry = torch.cat(
            [
                pair_geometry(s, o, size)
                for s, o, size in zip(subjects, objects, image_sizes, strict=True)
            ]
        )
        offsets = torch.tensor([0, *(len(b) for b in boxes)]).cumsum(0).tolist()
        # Pairs of all pictures with entity indices that are unique in the batch.
        indices = torch.cat([p + start for p, start in zip(pairs, offsets, strict=False)])
        extra = None
        if self.class_table is not None:
            if class_logits is None:
                table = self.class_table[torch.cat(classes)]
            else:
                # The expected embedding under the predicted classes, background left out.
                probs = class_logits.detach()[:, : self.num_classes].softmax(-1)
                table = probs.to(self.class_table.dtype) @ self.class_table
            extra = table[indices].flatten(1)
        segments = self._segments(indices, [len(p) for p in pairs], len(adaptor.attention))
        return adaptor(self._pool(adaptor, maps, unions), geometry, extra, segments)

    def _pool(self, adaptor: FeatureAdaptor, maps, boxes) -> Tensor:
        return torch.cat(
            [
                roi_mean(adaptor.project(m), b, scale=self.scale, **self.roi)
                for m, b in zip(maps, boxes, strict=True)
            ]
        )

    def _segments(self, indices: Tensor, counts: list[int], layers: int):
        if self.attention_pattern == "full":
            return [(None, counts)] * layers
        by_subject = segments_by(indices[:, 0])
        if self.attention_pattern == "subject":
            return [by_subject] * layers
        by_object = segments_by(indices[:, 1])
        return [by_subject if layer % 2 == 0 else by_object for layer in range(layers)]

    def losses(
        self, output: HeadOutput, class_targets: Tensor | None, predicate_targets: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropies of classes and predicates (section 3.3, "two multi-class losses").

        Args:
            output: of :meth:`forward`.
            class_targets: (sum M,) ids, C for background; None where classes are given.
            predicate_targets: (sum P, K) weights of the predicates of each pair; a row of zeros is
                background.

        Returns:
            {"loss_object", "loss_predicate"}; zeros, connected to the graph, for no entity or pair.
        """
        losses = {}
        if output.class_logits is not None:
            losses["loss_object"] = self.loss_weights[0] * _mean_cross_entropy(
                output.class_logits, class_targets
            )
        background = (predicate_targets.sum(1, keepdim=True) == 0).to(predicate_targets.dtype)
        targets = torch.cat([predicate_targets, background], dim=1)
        targets = targets / targets.sum(1, keepdim=True)
        losses["loss_predicate"] = self.loss_weights[1] * _mean_cross_entropy(
            output.predicate_logits, targets
        )
        return losses


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the entities or pairs of the batches of all processes."""
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return total / mean_count(len(logits), logits.device)
