"""Models as ONNX, torch.export programs and TorchScript; tools/export_model.py writes them.

One image a call, of any size, with any number of boxes. What is exported computes the numbers of
the model itself; its input is the image resized as the metadata say, its boxes are in pixels of
that resized image. :mod:`vrd_d2.onnx_runtime` does all of this for ONNX, without torch.

Names are imported at their first use.
"""

from typing import TYPE_CHECKING

from vrd_d2.export.names import FILES, PARTS
from vrd_d2.moved import lazy_attributes

if TYPE_CHECKING:
    from vrd_d2.export.build import exportable
    from vrd_d2.export.card import model_card
    from vrd_d2.export.formats import write_model
    from vrd_d2.export.metadata import describe

__all__ = ["FILES", "PARTS", "describe", "exportable", "model_card", "write_model"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "describe": "vrd_d2.export.metadata",
        "exportable": "vrd_d2.export.build",
        "model_card": "vrd_d2.export.card",
        "write_model": "vrd_d2.export.formats",
    },
)
