"""RelCLIP's relation head: self-attention among entities and among pairs.

Shapes: "sum M" entities and "sum P" pairs of all images in a row, D width of v_i and v_ij.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from vrd_d2.modeling.relation_heads.attention import (
    SegmentAttention,
    Segments,
    attend_in_segments,
    segments_by,
)
from vrd_d2.modeling.relation_heads.base import RELATION_HEAD_REGISTRY, RelationHead
from vrd_d2.modeling.relation_heads.features import RelationFeatures
from vrd_d2.modeling.relation_heads.grid_attention import attend, attend_in_groups
from vrd_d2.modeling.relation_heads.predictor import RelationPredictor
from vrd_d2.modeling.structures import HeadOutput, PairBatch

ATTENTION_PATTERNS = ("full", "subject", "axial")


@RELATION_HEAD_REGISTRY.register()
class RelCLIPHead(RelationHead):
    """Feature adaptors and classifiers of RelCLIP (sections 3.2 and 3.4).

    The adaptors h_obj and h_rel of Eq. (1) are the fully connected layers of the features and the
    attention layers here. The context sees the sampled pairs alone in training, as in the paper.

    Args:
        features: tokens of entities and pairs.
        predictor: classifiers, prior and losses.
        layers, heads: attention layers of either adaptor, and heads of each.
        attention: out of ``ATTENTION_PATTERNS``: which pairs of an image see each other.
    """

    # v_i are made where RCL or the object classifier reads them.
    uses_entities = False

    @configurable
    def __init__(
        self,
        *,
        features: RelationFeatures,
        predictor: RelationPredictor,
        layers: int = 2,
        heads: int = 8,
        attention: str = "full",
    ):
        super().__init__(features=features, predictor=predictor)
        if attention not in ATTENTION_PATTERNS:
            raise ValueError(
                f"MODEL.RELATION_HEAD.ATTENTION is {attention!r}: choose one of "
                f"{ATTENTION_PATTERNS}"
            )
        self.attention_pattern = attention
        with torch.random.fork_rng(devices=[]):
            self.relation_attention = _layers(self.dim, layers, heads)
            self.entity_attention = None
            if features.entities is not None:
                self.entity_attention = _layers(self.dim, layers, heads)
        self._one_image = False
        self._draw_weights()

    @classmethod
    def from_config(cls, cfg: CfgNode, **shapes) -> dict:
        head = cfg.MODEL.RELATION_HEAD
        # The constructor draws all weights.
        with torch.random.fork_rng(devices=[]):
            parts = super().from_config(cfg, **shapes)
        return {
            **parts,
            "layers": head.ATTENTION_LAYERS,
            "heads": head.ATTENTION_HEADS,
            "attention": head.ATTENTION,
        }

    def _draw_weights(self) -> None:
        """Draw the weights in the order of :meth:`named_modules`: a seed has always given these."""
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.predictor.reset_classifiers()

    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the parts of pairs first, then those of entities.

        Optimizers number parameters in this order, and their states in checkpoints are by number.
        """
        memo = set() if memo is None else memo
        if remove_duplicate:
            sides = (
                ("features.relations", "relation_attention", "predictor.predicates"),
                ("features.entities", "entity_attention", "predictor.classes"),
            )
            start = f"{prefix}." if prefix else ""
            for name in (name for side in sides for name in side):
                parent, _, attribute = name.rpartition(".")
                part = getattr(self.get_submodule(parent), attribute)
                if part is not None:
                    yield from part.named_modules(memo, start + name)
        yield from super().named_modules(memo, prefix, remove_duplicate)

    def context(self, batch: PairBatch) -> HeadOutput:
        """Attend among the entities of an image, then among its pairs."""
        entities = class_logits = None
        # Only RCL reads embeddings that nothing classifies.
        if self.entity_attention is not None and (
            self.training or self.predictor.classes is not None
        ):
            entities = self._among_entities(self.features.entity_tokens(batch), batch)
            class_logits = self.predictor.classify(entities)
        tokens = self.features.relation_tokens(batch, class_logits)
        return HeadOutput(entities, self._among_pairs(tokens, batch), class_logits)

    def _among_entities(self, tokens: Tensor, batch: PairBatch) -> Tensor:
        if self._one_image:
            for layer in self.entity_attention:
                tokens = attend(layer, tokens)
            return tokens
        segments = [(None, batch.entity_counts)] * len(self.entity_attention)
        return attend_in_segments(self.entity_attention, tokens, segments)

    def _among_pairs(self, tokens: Tensor, batch: PairBatch) -> Tensor:
        if not self._one_image:
            return attend_in_segments(self.relation_attention, tokens, self._segments(batch))
        (pairs,), (entities,) = batch.pairs, batch.entity_counts
        for index, layer in enumerate(self.relation_attention):
            if self.attention_pattern == "full":
                tokens = attend(layer, tokens)
                continue
            by_object = self.attention_pattern == "axial" and index % 2
            groups, members = pairs.flip(1).unbind(1) if by_object else pairs.unbind(1)
            tokens = attend_in_groups(layer, tokens, groups, members, entities)
        return tokens

    def _segments(self, batch: PairBatch) -> list[Segments]:
        """Return which pairs see each other, for each layer."""
        layers = len(self.relation_attention)
        if self.attention_pattern == "full":
            return [(None, batch.pair_counts)] * layers
        by_subject = segments_by(batch.indices[:, 0])
        if self.attention_pattern == "subject":
            return [by_subject] * layers
        by_object = segments_by(batch.indices[:, 1])
        return [by_subject if layer % 2 == 0 else by_object for layer in range(layers)]

    @property
    def export_problem(self) -> None:
        """Return None: the head exports."""
        return None

    def export_form(self) -> "RelCLIPHead":
        """Return the head with its attention written as grids; everything else is shared."""
        form = copy.copy(self)
        form._one_image = True
        return form

    @classmethod
    def export_limits(cls, cfg: CfgNode) -> Sequence[str]:
        """Return the memory that attention among all pairs needs."""
        if cfg.MODEL.RELATION_HEAD.ATTENTION != "full":
            return ()
        return (
            "Attention among all P pairs needs memory in proportion to P x P: with onnxruntime "
            "about 8 P^2 floats a layer, 1.3 GB at 6,400 pairs.",
        )


def _layers(dim: int, count: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(SegmentAttention(dim, heads) for _ in range(count))
