"""Models as ONNX, torch.export programs and TorchScript; tools/export_model.py writes them.

One image a call, of any size, with any number of boxes. What is exported computes the numbers of
the model itself; its input is the image resized as the metadata say, its boxes are in pixels of
that resized image. :mod:`vrd_d2.onnx_runtime` does all of this for ONNX, without torch.
"""

from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import nn

from vrd_d2.export.detector import ExportableDetector
from vrd_d2.export.formats import FILES, write_model
from vrd_d2.export.metadata import describe
from vrd_d2.export.model_card import model_card
from vrd_d2.export.relations import ExportableModel, ExportableRelations

PARTS = ("detector", "relations", "full")

__all__ = ["FILES", "PARTS", "describe", "exportable", "model_card", "write_model"]


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
