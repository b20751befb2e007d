"""What every relation head has: features, a context of its kind, and a predictor.

Shapes: "sum M" entities and "sum P" pairs of all images in a row, D width of their embeddings, C
object classes, K predicates.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from fvcore.common.registry import Registry
from torch import Tensor, nn

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.relation_heads.features import RelationFeatures
from vrd_d2.modeling.relation_heads.predictor import RelationPredictor
from vrd_d2.modeling.structures import HeadOutput, PairBatch
from vrd_d2.tasks import Task

RELATION_HEAD_REGISTRY = Registry("RELATION_HEAD")
RELATION_HEAD_REGISTRY.__doc__ = """Classes of relation heads, by MODEL.RELATION_HEAD.NAME."""


class RelationHead(nn.Module, ABC):
    """Base of the relation heads; a subclass writes :meth:`context` alone.

    A new head is a registered subclass in a module of this folder, its import in `build.py`, and a
    YAML with its name as MODEL.RELATION_HEAD.NAME. A subclass with layers of its kind makes them
    in a constructor that is `@configurable` too and passes `features` and `predictor` on. Every
    parameter must get a gradient in every iteration, also without any entity or pair.

    Args:
        features: tokens of entities and pairs.
        predictor: classifiers, prior and losses.

    Attributes:
        context_pairs: the pairs that the context sees in training: "sampled", those that the loss
            counts; or "all" candidates, of which the sample selects the loss alone.
        uses_entities: whether the context reads tokens of entities, so that they are built even
            where neither RCL nor an object classifier needs them.
    """

    context_pairs: str = "sampled"
    uses_entities: bool = True

    @configurable
    def __init__(self, *, features: RelationFeatures, predictor: RelationPredictor):
        super().__init__()
        self.features = features
        self.predictor = predictor

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        *,
        visual_dim: int,
        stride: int,
        vocabulary: Vocabulary,
        task: Task,
        class_table: Tensor | None = None,
    ) -> dict:
        """Return the arguments of the constructor.

        Args:
            cfg: with MODEL.RELATION_HEAD, RELATION_LOSS, PREDICATE_PRIOR and RCL.LEVELS.
            visual_dim, stride: channels of the visual map and pixels per cell.
            vocabulary: gives C and K.
            task: tells which classes are to be predicted.
            class_table: (C, D_t) text embeddings of the classes, or None.
        """
        head, loss, prior = (
            cfg.MODEL.RELATION_HEAD,
            cfg.MODEL.RELATION_LOSS,
            cfg.MODEL.PREDICATE_PRIOR,
        )
        classify_entities = not task.classes_given
        features = RelationFeatures(
            visual_dim=visual_dim,
            stride=stride,
            num_classes=len(vocabulary.objects),
            entities=cls.uses_entities or classify_entities or bool(cfg.MODEL.RCL.LEVELS),
            class_table=class_table,
            dim=head.DIM,
            position_dim=head.POSITION_DIM,
            resolution=head.POOLER_RESOLUTION,
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
        )
        predictor = RelationPredictor(
            dim=head.DIM,
            num_classes=len(vocabulary.objects),
            num_predicates=len(vocabulary.predicates),
            classify_entities=classify_entities,
            background_class=not task.boxes_given,
            object_loss_weight=loss.OBJECT_WEIGHT,
            predicate_loss_weight=loss.PREDICATE_WEIGHT,
            predicate_loss_kind=loss.PREDICATE,
            focal_gamma=loss.FOCAL_GAMMA,
            class_balanced_beta=loss.CLASS_BALANCED_BETA,
            frequency_bias=prior.FREQUENCY_BIAS,
            logit_adjustment=prior.LOGIT_ADJUSTMENT,
            logit_adjustment_tau=prior.LOGIT_ADJUSTMENT_TAU,
        )
        return {"features": features, "predictor": predictor}

    @property
    def dim(self) -> int:
        """Return D, the width of `HeadOutput.entities` and `HeadOutput.relations`."""
        return self.features.dim

    @abstractmethod
    def context(self, batch: PairBatch) -> HeadOutput:
        """Make embeddings of entities and pairs that have seen each other.

        Start from `self.features.entity_tokens(batch)` and `self.features.relation_tokens(batch)`.
        Set other fields of the output only where the head decides them: logits from other
        classifiers, classes decided one by one, the pairs that are left, and losses.
        """

    def forward(self, batch: PairBatch) -> HeadOutput:
        """Embed and classify the entities and pairs of a batch."""
        return self.predictor(self.context(batch), batch)

    def losses(self, output: HeadOutput, batch: PairBatch) -> dict[str, Tensor]:
        """Return the losses of the predictor and those that the context has added."""
        return {**self.predictor.losses(output, batch), **output.losses}

    @property
    def export_problem(self) -> str | None:
        """Return why the head does not export; None where :meth:`export_form` does its work."""
        return f"its relation head {type(self).__name__} has no form that exports"

    def export_form(self) -> "RelationHead":
        """Return the head for one image a call, with the same weights and no branch on the data."""
        raise ValueError(self.export_problem)

    @classmethod
    def export_limits(cls, cfg: CfgNode) -> Sequence[str]:
        """Return sentences for the model card on what an export of this head cannot do."""
        return ()
