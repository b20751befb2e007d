"""Small relation heads of other kinds than RelCLIP's, registered for tests."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import nn

from vrd_d2.modeling.relation_heads.base import RELATION_HEAD_REGISTRY, RelationHead
from vrd_d2.modeling.structures import HeadOutput

BEST_PAIRS = 3


@RELATION_HEAD_REGISTRY.register()
class SequentialHead(RelationHead):
    """Entities from right to left, each class decided after the one before; as Neural Motifs.

    No entity gets the class of the one before, so that decisions differ from the best logits.
    """

    @configurable
    def __init__(self, **parts):
        super().__init__(**parts)
        self.cell = nn.GRUCell(2 * self.dim, self.dim)
        self.names = nn.Embedding(self.features.num_classes + 1, self.dim)
        self.ends = nn.Linear(2 * self.dim, self.dim)

    def context(self, batch):
        tokens = self.features.entity_tokens(batch).split(batch.entity_counts)
        found = [self._image(batch, image, rows) for image, rows in enumerate(tokens)]
        states, logits, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
        ends = self.ends(states[batch.indices].flatten(1))
        relations = self.features.relation_tokens(batch, logits) + ends
        if batch.classes is not None:
            return HeadOutput(states, relations)
        return HeadOutput(states, relations, class_logits=logits, classes=classes)

    def _image(self, batch, image, tokens):
        start = self.features.num_classes
        state, before = tokens.new_zeros((1, self.dim)), torch.tensor(start)
        states, logits = [None] * len(tokens), [None] * len(tokens)
        classes = torch.full((len(tokens),), start)
        for i in batch.boxes[image][:, [0, 2]].sum(1).argsort(descending=True).tolist():
            state = self.cell(torch.cat([tokens[i], self.names(before)])[None], state)
            states[i] = state
            given = batch.classes or batch.gt_classes
            scores = tokens.new_zeros((1, start))
            if batch.classes is None:
                scores = self.predictor.classify(state)
            free = scores[0, :start].index_fill(0, before.clamp(max=start - 1), -torch.inf)
            before = given[image][i] if given else free.argmax()
            logits[i], classes[i] = scores, before
        return torch.cat(states), torch.cat(logits), classes


@RELATION_HEAD_REGISTRY.register()
class DroppingHead(RelationHead):
    """The pairs of an image that look most related, with a loss for it; as Graph R-CNN."""

    @configurable
    def __init__(self, **parts):
        super().__init__(**parts)
        self.relatedness = nn.Linear(self.dim, 1)

    def context(self, batch):
        entities = self.features.entity_tokens(batch)
        scores = self.relatedness(self.features.relation_tokens(batch, self._logits(entities)))
        losses = {}
        if self.training:
            related = (torch.cat(batch.targets).sum(1) > 0).float()
            losses["loss_related"] = F.binary_cross_entropy_with_logits(
                scores[:, 0], related, reduction="sum"
            ) / max(len(scores), 1)
        best, start = [], 0
        for part in scores[:, 0].split(batch.pair_counts):
            best.append(part.topk(min(BEST_PAIRS, len(part))).indices.sort().values + start)
            start += len(part)
        best = torch.cat(best)
        left = batch.select_pairs(best)
        relations = self.features.relation_tokens(left, self._logits(entities))
        return HeadOutput(entities, relations, pair_index=best, losses=losses)

    def _logits(self, entities):
        return self.predictor.classify(entities)


@RELATION_HEAD_REGISTRY.register()
class AllPairsHead(RelationHead):
    """Entities take the mean of all their pairs, pairs the sum of their ends; as IMP."""

    context_pairs = "all"

    @configurable
    def __init__(self, **parts):
        super().__init__(**parts)
        self.message = nn.Linear(self.dim, self.dim)

    def context(self, batch):
        entities = self.features.entity_tokens(batch)
        pairs = self.features.relation_tokens(batch, self.predictor.classify(entities))
        subjects, objects = batch.indices.unbind(1)
        counts = torch.bincount(subjects, minlength=len(entities)).clamp(min=1)[:, None]
        sums = torch.zeros_like(entities).index_add(0, subjects, self.message(pairs))
        entities = entities + sums / counts
        return HeadOutput(entities, pairs + entities[subjects] + entities[objects])
