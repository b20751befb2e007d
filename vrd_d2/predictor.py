"""One picture in, one scene graph out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data.detection_utils import read_image

from vrd_d2.data.mapper import RelationMapper, relation_example
from vrd_d2.engine import build_trained_model, load_config
from vrd_d2.scene_graph import SceneGraph, predicted_graph


class Predictor:
    """A trained relation model for single pictures.

    Args:
        config_file: YAML of the model.
        weights: its checkpoint.
        overrides: KEY VALUE KEY VALUE ... of the config.

    Raises:
        ValueError: a file is missing, or the checkpoint does not fit the config.
    """

    def __init__(self, config_file: str | Path, weights: str | Path, overrides: Sequence[str] = ()):
        # Single pictures do not come back: a cache of their maps would only grow.
        cfg = load_config(
            config_file,
            [*overrides, "MODEL.WEIGHTS", str(weights), "MODEL.CLIP.FEATURE_CACHE", ""],
        )
        self.model = build_trained_model(cfg)
        mapper = RelationMapper(cfg, is_train=False)
        self._augmentations, self._format = mapper.augmentations, mapper.image_format

    @torch.no_grad()
    def __call__(
        self,
        image: str | Path | np.ndarray,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        labels: Sequence[str] | None = None,
        top_k: int = 20,
    ) -> SceneGraph:
        """Predict.

        Args:
            image: path, or uint8 (H, W, 3) RGB.
            boxes: (M, 4) XYXY pixels, for models of PredCls and SGCls.
            labels: M class names of the vocabulary, for models of PredCls.
            top_k: relations to keep, the best of different pairs.

        Returns:
            Entities and relations by name, in pixels of the picture.

        Raises:
            ValueError: the file cannot be read, or boxes and labels are not what the task needs.
        """
        task = self.model.task
        if (boxes is None) == task.boxes_given or (labels is None) == task.classes_given:
            raise ValueError(
                f"the model's task is {task.value}: give "
                f"{'boxes' if task.boxes_given else 'no boxes'} and "
                f"{'labels' if task.classes_given else 'no labels'}"
            )
        vocabulary = self.model.vocabulary
        classes = None if labels is None else [vocabulary.object_id(label) for label in labels]
        example = relation_example(
            self._read(image),
            [] if boxes is None else boxes,
            classes,
            augmentations=self._augmentations,
        )
        return predicted_graph(self.model([example])[0], vocabulary, top_k=top_k)

    def _read(self, image: str | Path | np.ndarray) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return np.ascontiguousarray(image[..., ::-1]) if self._format == "BGR" else image
        try:
            return read_image(str(image), format=self._format)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"the picture {image} cannot be read: {error}") from error
