"""Scene graphs of single images and of lists of images."""

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from PIL import Image

from vrd_d2.config.loading import load_inference_config
from vrd_d2.data.dataset_mapper import RelationMapper, relation_example
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.engine.build import build_trained_model
from vrd_d2.inference.selection import predicted_graph, select_triplets, selected_graph
from vrd_d2.media.images import read_image, to_rgb
from vrd_d2.onnx_runtime import checked_boxes, checked_pixels
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.tasks import Task

ImageInput = str | os.PathLike | np.ndarray | Image.Image


class Predictor:
    """A trained relation model for images.

    Args:
        config_file: YAML of the model; or its config; or the checkpoint itself, which brings its
            config along.
        weights: the checkpoint, beside a YAML or instead of a config's MODEL.WEIGHTS; none for a
            model without anything to train.
        overrides: KEY VALUE KEY VALUE ... of the config.

    Raises:
        ValueError: a file is missing, or the checkpoint does not fit the config.
    """

    def __init__(
        self,
        config_file: str | Path | CfgNode,
        weights: str | Path = "",
        overrides: Sequence[str] = (),
    ):
        cfg = load_inference_config(config_file, weights, overrides)
        # Images are seldom predicted twice: a cache of their maps would only grow.
        cfg.MODEL.VISUAL.FEATURE_CACHE = ""
        self.cfg = cfg
        self.model = build_trained_model(cfg)
        mapper = RelationMapper(cfg, is_train=False)
        self._augmentations, self._format = mapper.augmentations, mapper.image_format

    @property
    def task(self) -> Task:
        """Where boxes and classes come from."""
        return self.model.task

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the classes and predicates."""
        return self.model.vocabulary

    @property
    def takes_boxes(self) -> bool:
        """Whether boxes may be given: in SGDet instead of detections."""
        return True

    @property
    def needs_boxes(self) -> bool:
        """Whether boxes must be given, as the model finds none."""
        return self.task.boxes_given or self.model.detector is None

    @property
    def needs_labels(self) -> bool:
        """Whether given boxes must come with their labels; if not, they must not."""
        return self.model.needs_classes

    @property
    def explains(self) -> bool:
        """Whether the model has heat maps: :meth:`explain`."""
        return self.model.has_heat_maps

    @property
    def takes_vocabularies(self) -> bool:
        """Whether the model can do with other names: :meth:`with_vocabulary`."""
        return self.model.open_vocabulary

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Predictor":
        """Return a predictor for other names, which shares its weights with this one.

        Raises:
            ValueError: the model learnt its names; only UnionCLIP reads them as text.
        """
        if not self.takes_vocabularies:
            raise ValueError(
                f"{type(self.model).__name__} has learnt its predicates and knows no others: only "
                "UnionCLIP takes names of your own"
            )
        other = copy.copy(self)
        other.model = self.model.with_vocabulary(vocabulary)
        return other

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        boxes: Sequence | None = None,
        labels: Sequence | None = None,
        top_k: int = 20,
        min_score: float = 0.0,
        min_entity_score: float = 0.0,
        predicates: str | Sequence[str] | None = None,
        max_overlap: float = 0.7,
        batch_size: int = 8,
    ) -> SceneGraph | list[SceneGraph]:
        """Predict the scene graph of an image, or of each of a list.

        Args:
            image: path, uint8 (H, W, 3) RGB, or an image of PIL; or a list of these.
            boxes: (M, 4) XYXY pixels, for models of PredCls and SGCls, and in SGDet instead of
                detections; for a list of images, a list of these. They refer to the upright
                image if its EXIF turns it.
            labels: M class names of the vocabulary, for models of PredCls, and for boxes in SGDet
                unless the relation head names the objects (MODEL.RELATION.ENTITY_CLASSES "head");
                or a list of these.
            top_k, min_score, min_entity_score, predicates: see
                :func:`vrd_d2.onnx_runtime.select`.
            max_overlap: of found entities that overlap by a larger IoU, whatever their classes,
                only the one with the best score remains; 1 removes none. Given boxes always remain.
            batch_size: images of a list that go through the model at once.

        Returns:
            Entities and relations by name, in pixels of the image; a list of these for a list.

        Raises:
            ValueError: a file cannot be read, boxes and labels are not what the task needs, or a
                predicate is not in the vocabulary.
        """
        options = {
            "top_k": top_k,
            "min_score": min_score,
            "min_entity_score": min_entity_score,
            "predicates": predicates,
            "max_overlap": max_overlap if boxes is None else 1.0,
        }
        if not isinstance(image, (list, tuple)):
            return self._graphs([image], [boxes], [labels], options)[0]
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}: it must be a whole number, 1 at least")
        boxes, labels = (
            _one_each(value, name, len(image))
            for value, name in ((boxes, "boxes"), (labels, "labels"))
        )
        graphs: list[SceneGraph] = []
        for start in range(0, len(image), batch_size):
            batch = slice(start, start + batch_size)
            graphs += self._graphs(image[batch], boxes[batch], labels[batch], options)
        return graphs

    @torch.no_grad()
    def explain(
        self,
        image: ImageInput,
        *,
        choose: int | str | Sequence[str] = 3,
        method: str = "grad_cam",
        boxes: Sequence | None = None,
        labels: Sequence | None = None,
        max_overlap: float = 0.7,
        **options: Any,
    ) -> tuple[SceneGraph, dict[int, np.ndarray]]:
        """Predict one image, with heat maps of relations (RelCLIP, Figure 2).

        Args:
            image, boxes, labels, max_overlap, options: as for a call.
            choose: how many of the best relations get one; or patterns of triplets such as
                "man riding horse" or "* on *": see :meth:`SceneGraph.find`.
            method: "grad_cam", or "elementwise": see :mod:`vrd_d2.modeling.activation`.

        Returns:
            The graph, and by index of the relation a float32 (h, w) array in 0..1 that covers the
            image at a lower resolution: how much each point speaks for the predicate.

        Raises:
            ValueError: as for a call; or the model has no visual map.
        """
        if not self.explains:
            raise ValueError(
                f"{type(self.model).__name__} has no heat maps: they need the visual map of RelCLIP"
            )
        pixels, origin = _read(image)
        example = self.model.with_detections(self._example(pixels, boxes, labels))
        output = self.model([example])[0]
        selection = select_triplets(
            output,
            self.vocabulary,
            max_overlap=max_overlap if boxes is None else 1.0,
            **options,
        )
        graph = replace(selected_graph(output, self.vocabulary, selection), **origin)
        count = len(graph.relations)
        chosen = range(min(choose, count)) if isinstance(choose, int) else graph.find(choose)
        maps = self.model.relation_activations(
            example,
            selection.rows[list(chosen)].tolist(),
            selection.predicates[list(chosen)].tolist(),
            method=method,
        )
        return graph, {i: heat.cpu().numpy() for i, heat in zip(chosen, maps, strict=True)}

    def _example(
        self,
        pixels: np.ndarray,
        boxes: Sequence[Sequence[float]] | None,
        labels: Sequence[str] | None,
    ) -> dict[str, Any]:
        missing = boxes is None and self.needs_boxes
        if missing or (labels is not None) != (boxes is not None and self.needs_labels):
            raise ValueError(
                f"the model's task is {self.task.value}: give "
                f"{'boxes' if self.needs_boxes else 'either no boxes, or boxes'} and "
                f"{'labels' if self.needs_labels else 'no labels'}"
            )
        classes = None
        if isinstance(labels, str) or not isinstance(labels, (Iterable, type(None))):
            raise ValueError(f"labels is {labels!r}: give a list, a label for each box")
        if labels is not None:
            classes = [self.vocabulary.object_id(label) for label in labels]
        if self._format == "BGR":
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        height, width = pixels.shape[:2]
        if min(height, width) * self.cfg.INPUT.MAX_SIZE_TEST < max(height, width):
            raise ValueError(
                f"an image of {width} x {height} pixels is too narrow: nothing is left of it when "
                f"its longer side is {self.cfg.INPUT.MAX_SIZE_TEST} (INPUT.MAX_SIZE_TEST)"
            )
        example = relation_example(
            pixels,
            [] if boxes is None else checked_boxes(boxes, height, width),
            classes,
            augmentations=self._augmentations,
        )
        if boxes is not None and not self.task.boxes_given:
            given = example["instances"]
            found = example["detections"] = Instances(given.image_size, pred_boxes=given.gt_boxes)
            found.scores = torch.ones(len(given))
            if classes is not None:
                found.pred_classes = given.gt_classes
        return example

    def _graphs(
        self,
        images: Sequence[ImageInput],
        boxes: Sequence,
        labels: Sequence,
        options: dict[str, Any],
    ) -> list[SceneGraph]:
        read = [_read(image) for image in images]
        examples = [
            self._example(pixels, *given)
            for (pixels, _), *given in zip(read, boxes, labels, strict=True)
        ]
        return [
            replace(predicted_graph(output, self.vocabulary, **options), **origin)
            for (_, origin), output in zip(read, self.model(examples), strict=True)
        ]


def _read(image: ImageInput) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the image in RGB, and what a graph stores of it: the file, or else the image."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        return read_image(path)[0], {"file_name": path}
    if isinstance(image, Image.Image):
        try:
            image = to_rgb(image)[0]
        # It may not be decoded yet, and Pillow raises nearly anything on what is broken.
        except Exception as error:
            name = getattr(image, "filename", "") or "of Pillow"
            raise ValueError(
                f"the image {name} cannot be read ({type(error).__name__}: {error}): get it again"
            ) from error
    image = checked_pixels(image)
    return image, {"image": image}


def _one_each(values: Sequence | None, name: str, count: int) -> Sequence:
    if values is None:
        return [None] * count
    given = len(values) if hasattr(values, "__len__") else "no list of"
    if given != count:
        raise ValueError(f"{name} for {given} images, but there are {count} images")
    return values
