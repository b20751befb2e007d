"""The part of a model that is exported."""

from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import nn

from vrd_d2.export.detector import ExportableDetector
from vrd_d2.export.names import PARTS
from vrd_d2.export.relations import ExportableModel, ExportableRelations


def exportable(
    model: nn.Module, what: str
) -> ExportableDetector | ExportableRelations | ExportableModel:
    """Return a part of a model in a form that exports.

    Args:
        model: a detector or a relation model.
        what: "detector" (image -> boxes), "relations" (image and boxes -> relations) or "full"
            (image -> boxes and relations).

    Raises:
        ValueError: the model has no such part.
    """
    if what not in PARTS:
        raise ValueError(f"unknown part {what!r}: choose one of {', '.join(PARTS)}")
    if what == "relations":
        return ExportableRelations(model)
    if what == "full":
        return ExportableModel(model)
    detector = model if isinstance(model, GeneralizedRCNN) else getattr(model, "detector", None)
    if detector is None:
        raise ValueError(
            f"this {type(model).__name__} has no detector (boxes are given): export 'relations'"
        )
    return ExportableDetector(detector)
