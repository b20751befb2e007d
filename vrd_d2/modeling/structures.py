"""What relation models pass on between their stages.

Shapes: N images, M entities and P pairs of an image, "sum M" and "sum P" those of all images in a
row; C object classes, K predicates, D width of embeddings.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


@dataclass
class Entities:
    """The objects of an image between which relations are looked for.

    Attributes:
        boxes: (M, 4) XYXY pixels of the resized image.
        classes: (M,) given or detected class ids, or None where they are not known yet.
        scores: (M,) confidence of those classes.
        gt_index: (M,) ground-truth object that each stands for, -1 for none; training only.
        class_logits: (M, C + 1) the detector's whole class distribution, background last. None
            unless the "detections" of an example bring it: Detectron2's box head gives the best
            class alone.
        features: (M, F) the detector's ROI features; None unless "detections" bring them.
    """

    boxes: Tensor
    classes: Tensor | None
    scores: Tensor
    gt_index: Tensor | None = None
    class_logits: Tensor | None = None
    features: Tensor | None = None


@dataclass
class PairPrediction:
    """The answer of a model for one image.

    Attributes:
        classes, scores: (M,) final classes of the entities and their scores.
        predicate_probs: (P, K + 1), background last.
        predicate_scores: (P, K), by which predicates are ranked.
        pairs: (P, 2) the pairs that are left where the model dropped some of the candidates;
            None for all of them.
    """

    classes: Tensor
    scores: Tensor
    predicate_probs: Tensor
    predicate_scores: Tensor
    pairs: Tensor | None = None


@dataclass
class TrainingPairs:
    """Candidate pairs of one image, their targets, and the sample of them that is trained on.

    Attributes:
        candidates: (P, 2).
        candidate_targets: (P, K) label weights, a row of zeros is background.
        chosen: (S,) sorted indices of the sampled pairs.
        classes: (M,) ground-truth class of each entity, C for those that stand for no object.
    """

    candidates: Tensor
    candidate_targets: Tensor
    chosen: Tensor
    classes: Tensor

    @property
    def pairs(self) -> Tensor:
        """Return the sampled pairs, (S, 2)."""
        return self.candidates[self.chosen]

    @property
    def targets(self) -> Tensor:
        """Return the targets of the sampled pairs, (S, K)."""
        return self.candidate_targets[self.chosen]

    @property
    def mask(self) -> Tensor:
        """Return which candidates are in the sample, bool (P,)."""
        mask = torch.zeros(len(self.candidates), dtype=torch.bool, device=self.candidates.device)
        return mask.index_fill(0, self.chosen, True)


@dataclass
class PairBatch:
    """The input of a relation head: the entities and pairs of a batch of images.

    Lists have one entry an image. The fields from `gt_classes` on are None outside of training.

    Attributes:
        maps: visual maps (D_v, h, w).
        boxes: (M, 4) in pixels of the image that the map was made of.
        classes: (M,) given class ids, or None where the head is to predict them.
        pairs: (P, 2) entity indices (subject, object).
        image_sizes: (height, width).
        class_logits: (M, C + 1) the detector's whole class distribution, or None.
        entity_features: (M, F) the detector's ROI features, or None.
        gt_classes: (M,) ground-truth classes, C for entities that stand for no object.
        gt_index: (M,) ground-truth object that each entity stands for, -1 for none.
        relations: (R, 3) annotated rows (subject, object, predicate) of ground-truth objects;
            None for an image whose relations are not known (distant supervision).
        targets: (P, K) label weights of the pairs, a row of zeros is background.
        loss_mask: (P,) bool, the pairs that the losses count; None counts all of them.
    """

    maps: list[Tensor]
    boxes: list[Tensor]
    classes: list[Tensor] | None
    pairs: list[Tensor]
    image_sizes: list[tuple[int, int]]
    class_logits: list[Tensor] | None = None
    entity_features: list[Tensor] | None = None
    gt_classes: list[Tensor] | None = None
    gt_index: list[Tensor] | None = None
    relations: list[Tensor | None] | None = None
    targets: list[Tensor] | None = None
    loss_mask: list[Tensor] | None = None

    # shape[0] rather than len(): in an export the sizes are symbols.
    @property
    def entity_counts(self) -> list[int]:
        """Return M of each image."""
        return [boxes.shape[0] for boxes in self.boxes]

    @property
    def pair_counts(self) -> list[int]:
        """Return P of each image."""
        return [pairs.shape[0] for pairs in self.pairs]

    @cached_property
    def indices(self) -> Tensor:
        """Return the pairs (sum P, 2) with entity indices that are unique in the batch."""
        starts = accumulate(self.entity_counts, initial=0)
        return torch.cat([pairs + start for pairs, start in zip(self.pairs, starts, strict=False)])

    def select_pairs(self, pair_index: Tensor | None) -> "PairBatch":
        """Return the batch with some of its pairs, their targets and their mask.

        Args:
            pair_index: (Q,) ascending indices into the sum P pairs; None returns the batch itself.
        """
        if pair_index is None:
            return self
        ends = torch.tensor(self.pair_counts, device=pair_index.device).cumsum(0)
        images = torch.searchsorted(ends, pair_index, right=True)
        counts = torch.bincount(images, minlength=len(self.pairs)).tolist()

        def pick(rows: list[Tensor] | None) -> list[Tensor] | None:
            return None if rows is None else list(torch.cat(rows)[pair_index].split(counts))

        return replace(
            self,
            pairs=pick(self.pairs),
            targets=pick(self.targets),
            loss_mask=pick(self.loss_mask),
        )


@dataclass
class HeadOutput:
    """The output of a relation head for a batch.

    A head's context sets `entities` and `relations`, and any other field that it decides itself;
    the predictor fills in the logits that are still None.

    Attributes:
        entities: v_i, (sum M, D), or None where nothing needs them.
        relations: v_ij, (sum P, D).
        class_logits: (sum M, C or C + 1), or None where classes are given.
        predicate_logits: (sum P, K + 1), background last.
        classes: (sum M,) ids that the head decided on; None for the best of `class_logits`.
        pair_index: (sum P,) ascending indices into the pairs of the batch, where the head dropped
            some of them; None for all of them.
        losses: {"loss_*": scalar} of the head itself, in training.
    """

    entities: Tensor | None
    relations: Tensor
    class_logits: Tensor | None = None
    predicate_logits: Tensor | None = None
    classes: Tensor | None = None
    pair_index: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
