"""The features of a relation head: tokens of entities and pairs, before any of them sees another.

Shapes: T tokens (entities or pairs) of all images in a row, "sum M" entities and "sum P" pairs, D
width of the tokens, C object classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrd_d2.modeling.encoders.pooling import roi_mean
from vrd_d2.modeling.geometry import (
    ENTITY_GEOMETRY,
    PAIR_GEOMETRY,
    entity_geometry,
    pair_geometry,
    union_boxes,
)
from vrd_d2.modeling.structures import PairBatch


class TokenFeatures(nn.Module):
    """The fully connected layer in h_obj and h_rel of RelCLIP's Eq. (1).

    It reads [roi ; p], here as two summands with separate weights. ROI pooling is linear, so the
    first summand is applied to the map once instead of to every box.

    Args:
        visual_dim: channels of the visual map.
        geometry_dim: numbers that describe the position of a token.
        position_dim: width of the position embedding p.
        extra_dim: width of what else joins p.
        dim: D.
    """

    def __init__(
        self, *, visual_dim: int, geometry_dim: int, position_dim: int, extra_dim: int, dim: int
    ):
        super().__init__()
        self.position = nn.Sequential(
            nn.Linear(geometry_dim, position_dim), nn.ReLU(), nn.Linear(position_dim, position_dim)
        )
        self.fc_visual = nn.Linear(visual_dim, dim, bias=False)
        self.fc_position = nn.Linear(position_dim + extra_dim, dim)

    def project(self, feature_map: Tensor) -> Tensor:
        """Apply the visual part of the layer to a map: (D_v, H, W) -> (D, H, W)."""
        return torch.einsum("dv,vhw->dhw", self.fc_visual.weight, feature_map)

    def forward(self, pooled: Tensor, geometry: Tensor, extra: Tensor | None = None) -> Tensor:
        """Make tokens.

        Args:
            pooled: (T, D) ROI means of the projected maps.
            geometry: (T, geometry_dim).
            extra: (T, extra_dim) or None.

        Returns:
            (T, D).
        """
        position = self.position(geometry)
        if extra is not None:
            position = torch.cat([position, extra], dim=-1)
        return F.relu(pooled + self.fc_position(position))


class RelationFeatures(nn.Module):
    """ROI means, geometry and class embeddings as tokens; written so that it exports as it is.

    Args:
        visual_dim: channels of the visual map.
        stride: pixels per cell of the visual map.
        num_classes: C.
        entities: build the entity side; without it there are tokens of pairs alone.
        class_table: (C, D_t) text embeddings of the classes to join the pair input, or None.
        dim, position_dim: see config/defaults.py.
        resolution, sampling_ratio: of ROIAlign.
    """

    def __init__(
        self,
        *,
        visual_dim: int,
        stride: int,
        num_classes: int,
        entities: bool = True,
        class_table: Tensor | None = None,
        dim: int = 512,
        position_dim: int = 128,
        resolution: int = 7,
        sampling_ratio: int = 2,
    ):
        super().__init__()
        self.dim = dim
        self.scale = 1.0 / stride
        self.roi = {"resolution": resolution, "sampling_ratio": sampling_ratio}
        self.num_classes = num_classes
        widths = {"visual_dim": visual_dim, "position_dim": position_dim, "dim": dim}
        extra_dim = 0 if class_table is None else 2 * class_table.shape[1]
        # Part of the checkpoint, so that inference needs no text encoder.
        self.register_buffer("class_table", class_table)
        self.relations = TokenFeatures(geometry_dim=PAIR_GEOMETRY, extra_dim=extra_dim, **widths)
        self.entities = None
        if entities:
            self.entities = TokenFeatures(geometry_dim=ENTITY_GEOMETRY, extra_dim=0, **widths)

    def entity_tokens(self, batch: PairBatch) -> Tensor:
        """Return the tokens of the entities, (sum M, D)."""
        geometry = torch.cat(
            [
                entity_geometry(boxes, size)
                for boxes, size in zip(batch.boxes, batch.image_sizes, strict=True)
            ]
        )
        return self.entities(self._pool(self.entities, batch.maps, batch.boxes), geometry)

    def relation_tokens(self, batch: PairBatch, class_logits: Tensor | None = None) -> Tensor:
        """Return the tokens of the pairs, (sum P, D).

        Args:
            batch: entities and pairs.
            class_logits: (sum M, C or C + 1) of the entities, for the class embeddings of a pair
                where the batch has no classes; None takes the detector's.
        """
        subjects = [b[p[:, 0]] for b, p in zip(batch.boxes, batch.pairs, strict=True)]
        objects = [b[p[:, 1]] for b, p in zip(batch.boxes, batch.pairs, strict=True)]
        unions = [union_boxes(s, o) for s, o in zip(subjects, objects, strict=True)]
        geometry = torch.cat(
            [
                pair_geometry(s, o, size)
                for s, o, size in zip(subjects, objects, batch.image_sizes, strict=True)
            ]
        )
        rows = self._class_rows(batch, class_logits)
        extra = None if rows is None else rows[batch.indices].flatten(1)
        return self.relations(self._pool(self.relations, batch.maps, unions), geometry, extra)

    def _pool(self, layer: TokenFeatures, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        return torch.cat(
            [
                roi_mean(layer.project(m), b, scale=self.scale, **self.roi)
                for m, b in zip(maps, boxes, strict=True)
            ]
        )

    def _class_rows(self, batch: PairBatch, class_logits: Tensor | None) -> Tensor | None:
        """Return the text embedding of each entity's class, (sum M, D_t), if pairs see it."""
        if self.class_table is None:
            return None
        if batch.classes is not None:
            return self.class_table[torch.cat(batch.classes)]
        if class_logits is None and batch.class_logits is not None:
            class_logits = torch.cat(batch.class_logits)
        if class_logits is None:
            raise ValueError(
                "MODEL.RELATION_HEAD.CLASS_EMBEDDING is True, but no classes are known when this "
                "relation head makes the tokens of pairs: set it to False"
            )
        # The expected embedding under the predicted classes, background left out.
        probs = class_logits.detach()[:, : self.num_classes].softmax(-1)
        return probs.to(self.class_table.dtype) @ self.class_table
