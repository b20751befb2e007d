"""The relation head that a config names."""

from detectron2.config import CfgNode
from torch import Tensor

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.relation_heads import relclip  # noqa: F401  registers its head
from vrd_d2.modeling.relation_heads.base import RELATION_HEAD_REGISTRY, RelationHead
from vrd_d2.tasks import Task

CONTEXT_PAIRS = ("sampled", "all")


def relation_head_class(cfg: CfgNode) -> type[RelationHead]:
    """Return the class that MODEL.RELATION_HEAD.NAME names.

    Raises:
        ValueError: no head of that name is registered.
    """
    name = cfg.MODEL.RELATION_HEAD.NAME
    if name not in RELATION_HEAD_REGISTRY:
        known = ", ".join(sorted(known for known, _ in RELATION_HEAD_REGISTRY))
        raise ValueError(
            f"MODEL.RELATION_HEAD.NAME is {name!r}: choose one of {known}, or import the module "
            "that registers it"
        )
    return RELATION_HEAD_REGISTRY.get(name)


def build_relation_head(
    cfg: CfgNode,
    *,
    visual_dim: int,
    stride: int,
    vocabulary: Vocabulary,
    task: Task,
    class_table: Tensor | None = None,
) -> RelationHead:
    """Build the head that MODEL.RELATION_HEAD.NAME names.

    Args:
        cfg, visual_dim, stride, vocabulary, task, class_table: see
            :meth:`~vrd_d2.modeling.relation_heads.base.RelationHead.from_config`.

    Raises:
        ValueError: no head of that name is registered, or a setting of it is wrong.
    """
    kind = relation_head_class(cfg)
    if kind.context_pairs not in CONTEXT_PAIRS:
        raise ValueError(
            f"{kind.__name__}.context_pairs is {kind.context_pairs!r}: choose one of "
            f"{CONTEXT_PAIRS}"
        )
    return kind(
        cfg,
        visual_dim=visual_dim,
        stride=stride,
        vocabulary=vocabulary,
        task=task,
        class_table=class_table,
    )
