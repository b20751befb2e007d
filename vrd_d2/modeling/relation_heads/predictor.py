"""The predictor of a relation head: classifiers, what is known beforehand, and losses.

Shapes: "sum M" entities and "sum P" pairs of all images in a row, D width of their embeddings, C
object classes, K predicates.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrd_d2.modeling.processes import mean_count
from vrd_d2.modeling.relation_heads.long_tail import LOSSES, PredicatePrior, predicate_loss
from vrd_d2.modeling.structures import HeadOutput, PairBatch


class RelationPredictor(nn.Module):
    """Linear classifiers of entities and pairs (RelCLIP, sections 3.3 and 3.4).

    Args:
        dim: D.
        num_classes: C.
        num_predicates: K.
        classify_entities: build the object classifier (SGCls, SGDet).
        background_class: the object classifier has a class "none" (SGDet).
        object_loss_weight, predicate_loss_weight: factors of the losses.
        predicate_loss_kind, focal_gamma, class_balanced_beta: see
            :func:`~vrd_d2.modeling.relation_heads.long_tail.predicate_loss`.
        frequency_bias, logit_adjustment, logit_adjustment_tau: see
            :class:`~vrd_d2.modeling.relation_heads.long_tail.PredicatePrior`.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_classes: int,
        num_predicates: int,
        classify_entities: bool,
        background_class: bool,
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
        if predicate_loss_kind not in LOSSES:
            raise ValueError(
                f"MODEL.RELATION_LOSS.PREDICATE is {predicate_loss_kind!r}: choose one of {LOSSES}"
            )
        self.num_classes = num_classes
        self.loss_weights = (object_loss_weight, predicate_loss_weight)
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
        self.predicates = nn.Linear(dim, num_predicates + 1)
        # Modules without a loss are not built: each parameter gets a gradient in each iteration.
        self.classes = None
        if classify_entities:
            self.classes = nn.Linear(dim, num_classes + int(background_class))
        self.reset_classifiers()

    def reset_classifiers(self) -> None:
        """Draw small weights for the classifiers, so that training starts from even odds."""
        for classifier in (self.predicates, self.classes):
            if classifier is not None:
                nn.init.normal_(classifier.weight, std=0.01)
                nn.init.zeros_(classifier.bias)

    def classify(self, entities: Tensor | None) -> Tensor | None:
        """Return class logits (sum M, C or C + 1) of entity embeddings.

        None where there is no object classifier, or where there are no embeddings.
        """
        if self.classes is None or entities is None:
            return None
        return self.classes(entities)

    def forward(self, output: HeadOutput, batch: PairBatch) -> HeadOutput:
        """Fill in the logits that the context has not set, and add the prior.

        Args:
            output: of the context.
            batch: input of the head.
        """
        class_logits = output.class_logits
        if class_logits is None:
            class_logits = self.classify(output.entities)
        output = replace(output, class_logits=class_logits)
        logits = output.predicate_logits
        if logits is None:
            logits = self.predicates(output.relations)
        if self.prior is not None:
            subjects = objects = None
            if self.prior.frequency_bias:
                ids = self.entity_classes(output, batch)
                pairs = batch.select_pairs(output.pair_index).indices
                subjects, objects = ids[pairs].unbind(1)
            logits = self.prior(logits, subjects, objects)
        return replace(output, predicate_logits=logits)

    def entity_classes(self, output: HeadOutput, batch: PairBatch) -> Tensor:
        """Return class ids (sum M,): given ones, else the head's decision, else the best."""
        if batch.classes is not None:
            return torch.cat(batch.classes)
        if output.classes is not None:
            return output.classes
        if output.class_logits is None:
            raise ValueError(
                "MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS is True, but neither the task nor this "
                "relation head gives the classes of entities: set it to False"
            )
        return output.class_logits[:, : self.num_classes].argmax(1)

    def losses(self, output: HeadOutput, batch: PairBatch) -> dict[str, Tensor]:
        """Return the cross-entropies of classes and predicates (RelCLIP, section 3.3).

        Args:
            output: of :meth:`forward`.
            batch: input of the head, with `gt_classes` and `targets`.

        Returns:
            {"loss_object", "loss_predicate"}; zeros, connected to the graph, for no entity or pair.
            Without class logits there is no "loss_object".
        """
        losses = {}
        if output.class_logits is not None:
            logits = output.class_logits
            total = F.cross_entropy(logits.float(), torch.cat(batch.gt_classes), reduction="sum")
            losses["loss_object"] = (
                self.loss_weights[0] * total / mean_count(len(logits), logits.device)
            )
        batch = batch.select_pairs(output.pair_index)
        logits, targets = output.predicate_logits, torch.cat(batch.targets)
        if batch.loss_mask is not None:
            mask = torch.cat(batch.loss_mask)
            logits, targets = logits[mask], targets[mask]
        background = (targets.sum(1, keepdim=True) == 0).to(targets.dtype)
        targets = torch.cat([targets, background], dim=1)
        targets = targets / targets.sum(1, keepdim=True)
        counts = logits.new_zeros(0) if self.prior is None else self.prior.counts
        total = predicate_loss(logits, targets, counts=counts, **self.predicate_loss)
        # The mean over the pairs of the batches of all processes.
        losses["loss_predicate"] = (
            self.loss_weights[1] * total / mean_count(len(logits), logits.device)
        )
        return losses
