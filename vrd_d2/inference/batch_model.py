"""What predicts in a run over images: a model of torch, or an exported one without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.onnx_runtime import OnnxPredictor
from vrd_d2.scene_graph import SceneGraph


class DetectorNames(NamedTuple):
    """The names of a detector, in place of a vocabulary."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]

    def predicate_id(self, name: str) -> int:
        """Raise ValueError, as there are no predicates."""
        raise ValueError(f"unknown predicate {name!r}: the model is a detector, which has none")


class Model(Protocol):
    """What predicts: :class:`vrd_d2.inference.predictor.Predictor`, or :class:`ExportedModel`."""

    vocabulary: Vocabulary | DetectorNames
    takes_boxes: bool
    needs_boxes: bool
    needs_labels: bool
    explains: bool

    def __call__(self, image: Sequence[np.ndarray], **options: Any) -> list[SceneGraph]: ...


class ExportedModel:
    """An ONNX file of tools/export_model.py, as a :class:`Model`.

    Raises:
        ValueError: see :class:`~vrd_d2.onnx_runtime.OnnxPredictor`.
    """

    explains = False

    def __init__(self, file: str | Path) -> None:
        self._predictor = OnnxPredictor(file)
        names = tuple(map(tuple, map(self._predictor.metadata.get, ("objects", "predicates"))))
        # A detector has no predicates, but a Vocabulary needs some.
        self.vocabulary = Vocabulary(*names) if names[1] else DetectorNames(*names)
        self.needs_boxes = self.takes_boxes = "boxes" in self._predictor.input_names
        self.needs_labels = "classes" in self._predictor.input_names

    def __call__(
        self,
        image: Sequence[np.ndarray],
        *,
        boxes: Sequence | None = None,
        labels: Sequence | None = None,
        batch_size: int = 1,
        **options: Any,
    ) -> list[SceneGraph]:
        """Predict each image; `batch_size` is ignored, as the file takes one at a time."""
        graphs = []
        for i, pixels in enumerate(image):
            given = {"boxes": boxes and boxes[i], "labels": labels and labels[i]}
            graphs.append(SceneGraph.from_dict(self._predictor(pixels, **given, **options)))
        return graphs
