"""Weights that older checkpoints have under other names."""

from collections.abc import Container, Mapping
from typing import Any

# Old prefix -> new prefix; the first that fits counts. Parameters are in their old order, by which
# states of optimizers are numbered, so that nothing else of a checkpoint changes.
RENAMED = {
    # Before relation heads were made of features, context and predictor.
    "head.relation_adaptor.attention.": "head.relation_attention.",
    "head.relation_adaptor.": "head.features.relations.",
    "head.entity_adaptor.attention.": "head.entity_attention.",
    "head.entity_adaptor.": "head.features.entities.",
    "head.class_table": "head.features.class_table",
    "head.predicate_classifier.": "head.predictor.predicates.",
    "head.class_classifier.": "head.predictor.classes.",
    "head.prior.": "head.predictor.prior.",
}


def with_new_names(weights: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """Return the weights of a checkpoint under the names of today.

    Args:
        weights: by name.
        known: names in the model; weights of these names stay as they are.
    """
    return {name if name in known else _new_name(name): weight for name, weight in weights.items()}


def _new_name(name: str) -> str:
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
