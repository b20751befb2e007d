"""RelCLIP's relation head: ROI features, adaptors, classifiers and their losses.

Shapes: N images, M entities and P pairs of an image, "sum M" and "sum P" those of all images
in a row; C object classes, K predicates, D width of v_i and v_ij.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor, nn

from vrd_d2.modeling.encoders.pooling import roi_mean
from vrd_d2.modeling.geometry import (
    ENTITY_GEOMETRY,
    PAIR_GEOMETRY,
    entity_geometry,
    pair_geometry,
    union_boxes,
)
from vrd_d2.modeling.processes import mean_count
from vrd_d2.modeling.relation_heads.adaptor import FeatureAdaptor
from vrd_d2.modeling.relation_heads.attention import segments_by
from vrd_d2.modeling.relation_heads.long_tail import LOSSES, PredicatePrior, predicate_loss

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
        predicate_loss_kind, focal_gamma, class_balanced_beta: see
            :func:`~vrd_d2.modeling.relation_heads.long_tail.predicate_loss`.
        frequency_bias, logit_adjustment, logit_adjustment_tau: see
            :class:`~vrd_d2.modeling.relation_heads.long_tail.PredicatePrior`.
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
        predicate_loss_kind: str = "cross_entropy",
        focal_gamma: float = 2.0,
        class_balanced_beta: float = 0.999,
        frequency_bias: bool = False,
        logit_adjustment: str = "none",
        logit_adjustment_tau: float = 1.0,
    ):
        super().__init__()
        if attention not in ATTENTION_PATTERNS:
            raise ValueError(
                f"MODEL.RELATION_HEAD.ATTENTION is {attention!r}: choose one of "
                f"{ATTENTION_PATTERNS}"
            )
        self.scale = 1.0 / stride
        self.roi = {"resolution": resolution, "sampling_ratio": sampling_ratio}
        self.attention_pattern = attention
        self.num_classes = num_classes
        self.loss_weights = (object_loss_weight, predicate_loss_weight)
        if predicate_loss_kind not in LOSSES:
            raise ValueError(
                f"MODEL.RELATION_LOSS.PREDICATE is {predicate_loss_kind!r}: choose one of {LOSSES}"
            )
        self.predicate_loss = {
            "kind": predicate_loss_kind,
            "gamma": focal_gamma,
            "beta": class_balanced_beta,
        }
        self.prior = None
        if frequency_bias or logit_adjustment != "none" or predicate_loss_kind == "class_balanced":
            self.prior = PredicatePrior(
                num_classes=num_classes,
                num_predicates=num_predicates,
                frequency_bias=frequency_bias,
                adjustment=logit_adjustment,
                tau=logit_adjustment_tau,
            )
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
        head, loss = cfg.MODEL.RELATION_HEAD, cfg.MODEL.RELATION_LOSS
        prior = cfg.MODEL.PREDICATE_PRIOR
        return {
            "visual_dim": visual_dim,
            "stride": stride,
            "num_classes": len(vocabulary.objects),
            "num_predicates": len(vocabulary.predicates),
            "entity_embeddings": bool(cfg.MODEL.RCL.LEVELS),
            "classify_entities": not task.classes_given,
            "background_class": not task.boxes_given,
            "class_table": class_table,
            "dim": head.DIM,
            "position_dim": head.POSITION_DIM,
            "attention_layers": head.ATTENTION_LAYERS,
            "attention_heads": head.ATTENTION_HEADS,
            "attention": head.ATTENTION,
            "resolution": head.POOLER_RESOLUTION,
            "sampling_ratio": head.POOLER_SAMPLING_RATIO,
            "object_loss_weight": loss.OBJECT_WEIGHT,
            "predicate_loss_weight": loss.PREDICATE_WEIGHT,
            "predicate_loss_kind": loss.PREDICATE,
            "focal_gamma": loss.FOCAL_GAMMA,
            "class_balanced_beta": loss.CLASS_BALANCED_BETA,
            "frequency_bias": prior.FREQUENCY_BIAS,
            "logit_adjustment": prior.LOGIT_ADJUSTMENT,
            "logit_adjustment_tau": prior.LOGIT_ADJUSTMENT_TAU,
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
            boxes: N tensors (M, 4) in pixels of the image that the map was made of.
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
        offsets = torch.tensor([0, *counts]).cumsum(0).tolist()
        # Pairs of all images with entity indices that are unique in the batch.
        indices = torch.cat([p + start for p, start in zip(pairs, offsets, strict=False)])
        table = self._class_rows(classes, class_logits)
        relations = self._relations(maps, boxes, pairs, image_sizes, indices, table)
        logits = self.predicate_classifier(relations)
        if self.prior is not None:
            if classes is not None:
                ids = torch.cat(classes)
            else:
                ids = class_logits[:, : self.num_classes].argmax(1)
            logits = self.prior(logits, ids[indices[:, 0]], ids[indices[:, 1]])
        return HeadOutput(entities, relations, class_logits, logits)

    def _class_rows(
        self, classes: list[Tensor] | None, class_logits: Tensor | None
    ) -> Tensor | None:
        """Text embedding of each entity's class, (sum M, D_t), if pairs are to see it."""
        if self.class_table is None:
            return None
        if classes is not None:
            return self.class_table[torch.cat(classes)]
        # The expected embedding under the predicted classes, background left out.
        probs = class_logits.detach()[:, : self.num_classes].softmax(-1)
        return probs.to(self.class_table.dtype) @ self.class_table

    def _relations(self, maps, boxes, pairs, image_sizes, indices, class_rows) -> Tensor:
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
        extra = None if class_rows is None else class_rows[indices].flatten(1)
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
            logits = output.class_logits
            total = F.cross_entropy(logits.float(), class_targets, reduction="sum")
            losses["loss_object"] = (
                self.loss_weights[0] * total / mean_count(len(logits), logits.device)
            )
        background = (predicate_targets.sum(1, keepdim=True) == 0).to(predicate_targets.dtype)
        targets = torch.cat([predicate_targets, background], dim=1)
        targets = targets / targets.sum(1, keepdim=True)
        logits = output.predicate_logits
        counts = logits.new_zeros(0) if self.prior is None else self.prior.counts
        total = predicate_loss(logits, targets, counts=counts, **self.predicate_loss)
        # The mean over the pairs of the batches of all processes.
        losses["loss_predicate"] = (
            self.loss_weights[1] * total / mean_count(len(logits), logits.device)
        )
        return losses
