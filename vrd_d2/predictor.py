"""One picture in, one scene graph out; or a list of pictures and a list of graphs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from vrd_d2.data.mapper import RelationMapper, relation_example
from vrd_d2.engine import build_trained_model, load_config
from vrd_d2.graph_reading import predicted_graph
from vrd_d2.media import read_picture
from vrd_d2.scene_graph import SceneGraph

Picture = str | Path | np.ndarray


class Predictor:
    """A trained relation model for pictures.

    Args:
        config_file: YAML of the model.
        weights: its checkpoint; none for a model without anything to train.
        overrides: KEY VALUE KEY VALUE ... of the config.

    Raises:
        ValueError: a file is missing, or the checkpoint does not fit the config.
    """

    def __init__(
        self, config_file: str | Path, weights: str | Path = "", overrides: Sequence[str] = ()
    ):
        # Single pictures do not come back: a cache of their maps would only grow.
        cfg = load_config(
            config_file,
            [*overrides, "MODEL.WEIGHTS", str(weights), "MODEL.CLIP.FEATURE_CACHE", ""],
        )
        self.cfg = cfg
        self.model = build_trained_model(cfg)
        mapper = RelationMapper(cfg, is_train=False)
        self._augmentations, self._format = mapper.augmentations, mapper.image_format

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        *,
        boxes: Sequence | None = None,
        labels: Sequence | None = None,
        top_k: int = 20,
        min_score: float = 0.0,
        min_entity_score: float = 0.0,
        predicates: Sequence[str] | None = None,
        max_overlap: float = 0.7,
        batch_size: int = 8,
    ) -> SceneGraph | list[SceneGraph]:
        """Predict.

        Args:
            image: path, or uint8 (H, W, 3) RGB; or a list of these.
            boxes: (M, 4) XYXY pixels, for models of PredCls and SGCls, and in SGDet instead of
                detections; for a list of pictures, a list of these. They refer to the upright
                picture where EXIF turns it.
            labels: M class names of the vocabulary, for models of PredCls, and for boxes in SGDet
                unless the relation head names the objects (MODEL.RELATION.ENTITY_CLASSES "head");
                or a list of these.
            top_k: relations to keep, the best of different pairs.
            min_score: relations with a lower score are left out.
            min_entity_score: entities with a lower score are left out, with their relations.
            predicates: names among which the best of each pair is chosen; None for all.
            max_overlap: of found entities that overlap by a larger IoU, whatever their classes,
                only the best stays; 1 keeps all. Given boxes always stay.
            batch_size: pictures of a list that go through the model at once.

        Returns:
            Entities and relations by name, in pixels of the picture; a list of these for a list.

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
            example = self._example(image, boxes, labels)
            return self._graphs([image], [example], options)[0]
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be 1 at least")
        boxes, labels = (
            _one_each(value, name, len(image))
            for value, name in ((boxes, "boxes"), (labels, "labels"))
        )
        graphs: list[SceneGraph] = []
        for start in range(0, len(image), batch_size):
            batch = slice(start, start + batch_size)
            examples = [
                self._example(*row)
                for row in zip(image[batch], boxes[batch], labels[batch], strict=True)
            ]
            graphs += self._graphs(image[batch], examples, options)
        return graphs

    def _example(
        self,
        image: Picture,
        boxes: Sequence[Sequence[float]] | None,
        labels: Sequence[str] | None,
    ) -> dict[str, Any]:
        task, needs_labels = self.model.task, self.model.needs_classes
        optional = not task.boxes_given and self.model.detector is not None
        lacking = boxes is None and not optional
        if lacking or (labels is not None) != (boxes is not None and needs_labels):
            raise ValueError(
                f"the model's task is {task.value}: give "
                f"{'either no boxes, or boxes' if optional else 'boxes'} and "
                f"{'labels' if needs_labels else 'no labels'}"
            )
        vocabulary = self.model.vocabulary
        classes = None if labels is None else [vocabulary.object_id(label) for label in labels]
        pixels = self._read(image)
        height, width = pixels.shape[:2]
        if min(height, width) * self.cfg.INPUT.MAX_SIZE_TEST < max(height, width):
            raise ValueError(
                f"a picture of {width} x {height} pixels is too narrow: nothing is left of it when "
                f"its longer side is {self.cfg.INPUT.MAX_SIZE_TEST} (INPUT.MAX_SIZE_TEST)"
            )
        example = relation_example(
            pixels,
            [] if boxes is None else boxes,
            classes,
            augmentations=self._augmentations,
        )
        if boxes is not None and not task.boxes_given:
            given = example["instances"]
            found = example["detections"] = Instances(given.image_size, pred_boxes=given.gt_boxes)
            found.scores = torch.ones(len(given))
            if classes is not None:
                found.pred_classes = given.gt_classes
        return example

    def _graphs(
        self, images: Sequence[Picture], examples: list[dict[str, Any]], options: dict[str, Any]
    ) -> list[SceneGraph]:
        graphs = []
        for image, output in zip(images, self.model(examples), strict=True):
            graph = predicted_graph(output, self.model.vocabulary, **options)
            file_name = None if isinstance(image, np.ndarray) else str(image)
            graphs.append(replace(graph, file_name=file_name))
        return graphs

    def _read(self, image: Picture) -> np.ndarray:
        if not isinstance(image, np.ndarray):
            image, _ = read_picture(image)
        return np.ascontiguousarray(image[..., ::-1]) if self._format == "BGR" else image


def _one_each(values: Sequence | None, name: str, count: int) -> Sequence:
    if values is None:
        return [None] * count
    if len(values) != count:
        raise ValueError(f"{name} for {len(values)} pictures, but there are {count} pictures")
    return values
