"""RelCLIP: a frozen visual map, a relation head, and Relational Contrastive Learning (RCL)."""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.modeling.activation import activation, over_image
from vrd_d2.modeling.encoders.clip import CLIPViT, TextEncoder, load_clip
from vrd_d2.modeling.encoders.feature_cache import FeatureCache, fingerprint
from vrd_d2.modeling.encoders.visual_encoder import (
    FrozenBackbone,
    batch_size_on,
    build_backbone_encoder,
)
from vrd_d2.modeling.geometry import union_boxes
from vrd_d2.modeling.ranking import RANKINGS, best_classes, predicate_scores
from vrd_d2.modeling.relation_heads.base import RelationHead
from vrd_d2.modeling.relation_heads.build import build_relation_head
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.relational_contrast import RelationalContrast, rcl_losses
from vrd_d2.modeling.structures import (
    Entities,
    PairBatch,
    PairPrediction,
    TrainingPairs,
)
from vrd_d2.modeling.text.language import RelationText
from vrd_d2.modeling.text.word_vectors import PhraseVectors, SentencePhrases, build_phrases


@META_ARCH_REGISTRY.register()
class RelCLIP(RelationModel):
    """RelCLIP (seed paper, section 3): frozen CLIP ViT map, relation head, RCL in training.

    The head is any registered one (MODEL.RELATION_HEAD.NAME). RCL is an auxiliary loss on the
    embeddings of entities and pairs that it returns; without levels of contrast there is none.

    Args:
        visual: the frozen map V(I): CLIP's ViT, or another backbone (Table 4).
        pixel_mean, pixel_std: its RGB normalisation of pixels in 0..1.
        head: features, context and predictor.
        contrast: RCL losses.
        text: embeddings of labels; read in training only.
        phrases: word embeddings of active sampling; read in training only.
        entity_classes: "head" or "detector": whose class and score a detected entity gets.
        ranking: "softmax" or "logit": what ranks the predicates.
        feature_cache: folder of cached visual maps, or "".
        base: arguments of :class:`RelationModel`.
    """

    has_heat_maps = True
    checkpoint_has_clip = True

    @configurable
    def __init__(
        self,
        *,
        visual: CLIPViT | FrozenBackbone,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        head: RelationHead,
        contrast: RelationalContrast,
        text: RelationText,
        phrases: PhraseVectors | SentencePhrases,
        entity_classes: str,
        ranking: str,
        feature_cache: str = "",
        **base,
    ):
        super().__init__(**base)
        if entity_classes not in ("head", "detector"):
            raise ValueError(
                f"MODEL.RELATION.ENTITY_CLASSES is {entity_classes!r}: choose head or detector"
            )
        if ranking not in RANKINGS:
            raise ValueError(f"MODEL.RELATION.RANKING is {ranking!r}: choose one of {RANKINGS}")
        self.visual = visual
        self.head = head
        self.contrast = contrast
        self.text = text
        self.phrases = phrases
        self.entity_classes = entity_classes
        self.ranking = ranking
        self.feature_cache_folder = feature_cache
        # Made at first use: the encoder's weights, which are its key, may still be loaded.
        self._feature_cache: FeatureCache | None = None
        shape = (3, 1, 1)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(shape), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(shape), False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
        base = RelationModel.base_config(cfg, vocabulary)
        clip = cfg.MODEL.CLIP
        parts = load_clip(clip.NAME, clip.PRETRAINED, cache_dir=clip.CACHE_DIR)
        if cfg.MODEL.VISUAL.ENCODER == "clip":
            visual, mean, std = CLIPViT(parts.model.visual), parts.mean, parts.std
        else:
            visual = build_backbone_encoder(cfg)
            mean, std = visual.mean, visual.std
        encoder = TextEncoder(parts)
        text = RelationText(
            encoder,
            vocabulary,
            entity_prompts=cfg.MODEL.TEXT.ENTITY_PROMPTS,
            relation_prompts=cfg.MODEL.TEXT.RELATION_PROMPTS,
        )
        table = text.entity_table
        phrases = build_phrases(cfg.MODEL.TEXT.WORD_VECTORS, encoder, vocabulary)
        (shape,) = visual.output_shape().values()
        rcl = cfg.MODEL.RCL
        return {
            **base,
            "visual": visual,
            "pixel_mean": mean,
            "pixel_std": std,
            "head": build_relation_head(
                cfg,
                visual_dim=shape.channels,
                stride=shape.stride,
                vocabulary=vocabulary,
                task=base["task"],
                class_table=table if cfg.MODEL.RELATION_HEAD.CLASS_EMBEDDING else None,
            ),
            "contrast": RelationalContrast(
                levels=rcl.LEVELS,
                visual_dim=cfg.MODEL.RELATION_HEAD.DIM,
                text_dim=table.shape[1],
                temperature=rcl.TEMPERATURE,
                gamma=rcl.GAMMA,
                epsilon=rcl.EPSILON,
                eta=rcl.ETA,
                sampling=rcl.SAMPLING,
                weighted=rcl.WEIGHTED,
                loss_weight=rcl.LOSS_WEIGHT,
                memory_bank=rcl.MEMORY_BANK,
                phrase_dim=phrases.width,
            ),
            "text": text,
            "phrases": phrases,
            "entity_classes": cfg.MODEL.RELATION.ENTITY_CLASSES,
            "ranking": cfg.MODEL.RELATION.RANKING,
            "feature_cache": cfg.MODEL.VISUAL.FEATURE_CACHE,
        }

    @property
    def needs_classes(self) -> bool:
        """Return whether entities must come with their classes: not if the head names them."""
        return self.task.classes_given or self._detector_classes_stay

    @property
    def needs_counts(self) -> bool:
        """Return whether the head has a prior that is counted on the training set."""
        return self.head.predictor.prior is not None

    def set_counts(self, counts: Tensor) -> None:
        """Give the head its prior; counts (C, C, K + 1) of the training set."""
        self.head.predictor.prior.set_counts(counts)

    @property
    def export_problem(self) -> str | None:
        """Return why the relations do not export: the head's reason, if it has one."""
        return self.head.export_problem

    @property
    def _detector_classes_stay(self) -> bool:
        return not self.task.boxes_given and self.entity_classes == "detector"

    def train(self, mode: bool = True) -> "RelCLIP":
        """Set the mode of the head; CLIP and the detector stay in eval mode."""
        super().train(mode)
        self.visual.eval()
        return self

    def visual_maps(self, batched_inputs: list[dict]) -> list[Tensor]:
        """Return V(I) of each image, (D_v, h, w), from MODEL.VISUAL.FEATURE_CACHE if it is set."""
        images = [example["image"] for example in batched_inputs]
        if not self.feature_cache_folder:
            return self._encode(images)
        if self._feature_cache is None:
            settings = (self.pixel_mean.tolist(), self.pixel_std.tolist(), self.image_format)
            self._feature_cache = FeatureCache(
                self.feature_cache_folder,
                fingerprint(self.visual, settings),
                shape_of=lambda image: self.visual.map_shape(*image.shape[-2:]),
            )
        # In float32 whatever is around it, since all runs share what is stored.
        with torch.autocast(self.device.type, enabled=False):
            maps = self._feature_cache.get(
                images, lambda missing: self._missing([images[index] for index in missing])
            )
        return [feature_map.to(self.device) for feature_map in maps]

    def _missing(self, images: list[Tensor]) -> list[Tensor]:
        """Return maps that are going to be stored."""
        count = batch_size_on(self.device, len(images))
        batches = [images[start : start + count] for start in range(0, len(images), count)]
        return [feature_map for batch in batches for feature_map in self._encode(batch)]

    def _encode(self, images: list[Tensor]) -> list[Tensor]:
        images = [image.to(self.device) for image in images]
        if self.image_format == "BGR":
            images = [image.flip(0) for image in images]
        return self.visual.maps(
            [(image.float() / 255 - self.pixel_mean) / self.pixel_std for image in images]
        )

    def _batch(
        self,
        batched_inputs: list[dict],
        entities: list[Entities],
        pairs: list[Tensor],
        maps: list[Tensor] | None = None,
    ) -> PairBatch:
        """Return the input of the head; without maps the images are encoded."""
        # A detected class that is going to be the answer is also the one that pairs are given.
        classes_known = self.task.classes_given or (
            self._detector_classes_stay and not self.training
        )

        def of_all(name: str) -> list[Tensor] | None:
            values = [getattr(entity, name) for entity in entities]
            return None if any(value is None for value in values) else values

        return PairBatch(
            maps=self.visual_maps(batched_inputs) if maps is None else maps,
            boxes=of_all("boxes"),
            classes=of_all("classes") if classes_known else None,
            pairs=pairs,
            image_sizes=[tuple(example["image"].shape[-2:]) for example in batched_inputs],
            class_logits=of_all("class_logits"),
            entity_features=of_all("features"),
        )

    def losses(
        self, batched_inputs: list[dict], entities: list[Entities], sampled: list[TrainingPairs]
    ) -> dict[str, Tensor]:
        """Return the losses of the head and one loss_rcl_* a level."""
        sees_all = self.head.context_pairs == "all"
        batch = self._batch(
            batched_inputs, entities, [s.candidates if sees_all else s.pairs for s in sampled]
        )
        batch.gt_classes = [sample.classes for sample in sampled]
        batch.gt_index = [entity.gt_index for entity in entities]
        batch.relations = [
            None if example.get("distant") else example["relations"].to(self.device)
            for example in batched_inputs
        ]
        batch.targets = [s.candidate_targets if sees_all else s.targets for s in sampled]
        if sees_all:
            batch.loss_mask = [sample.mask for sample in sampled]
        output = self.head(batch)
        losses = self.head.losses(output, batch)
        if self.contrast.levels:
            losses |= rcl_losses(self.contrast, output, batch, text=self.text, phrases=self.phrases)
        return losses

    def predict(
        self, batched_inputs: list[dict], entities: list[Entities], pairs: list[Tensor]
    ) -> list[PairPrediction]:
        """Return the scores of section 3.4: softmax of the logits, classes of the entities."""
        batch = self._batch(batched_inputs, entities, pairs)
        output = self.head(batch)
        classes = [entity.classes for entity in entities]
        scores = [entity.scores for entity in entities]
        if output.class_logits is not None and not self._detector_classes_stay:
            found = best_classes(output, len(self.vocabulary.objects))
            classes, scores = (values.split(batch.entity_counts) for values in found)
        batch = batch.select_pairs(output.pair_index)
        logits = output.predicate_logits.float().split(batch.pair_counts)
        return [
            PairPrediction(c, s, *predicate_scores(rows, self.ranking), pairs=left)
            for c, s, rows, left in zip(classes, scores, logits, batch.pairs, strict=True)
        ]

    def relation_activations(
        self,
        example: dict,
        rows: Sequence[int],
        predicates: Sequence[int],
        *,
        method: str = "grad_cam",
    ) -> list[Tensor]:
        """Make heat maps of relations on V(I) (Figure 2), from the logits of their predicates.

        Grad-CAM is shown inside the union box, whose features the head pools for the pair: its
        weights of channels are the same everywhere, and light up things outside of the pair.

        Args:
            example: one mapped example; with "detections" the detector does not run again.
            rows: positions among the pairs that the model gives for the example.
            predicates: id of a predicate for each.
            method: see :func:`~vrd_d2.modeling.activation.activation`.

        Returns:
            for each a (h, w) float32 map that covers the resized image, greatest value 1, or 0
            where nothing speaks for the predicate.
        """
        size = tuple(example["image"].shape[-2:])
        entities = self.entities(example)
        (feature_map,) = self.visual_maps([example])
        (shape,) = self.visual.output_shape().values()
        found = []
        with torch.enable_grad():
            feature_map = feature_map.detach().float().requires_grad_()
            batch = self._batch([example], [entities], [self.pairs(entities)], [feature_map])
            output = self.head(batch)
            (pairs,) = batch.select_pairs(output.pair_index).pairs
            unions = union_boxes(*entities.boxes[pairs].unbind(1)).tolist()
            for row, predicate in zip(rows, predicates, strict=True):
                score = output.predicate_logits[row, predicate].float()
                cells = activation(feature_map, score, method=method)
                heat = over_image(
                    cells,
                    stride=shape.stride,
                    image_size=size,
                    box=unions[row] if method == "grad_cam" else None,
                )
                found.append(heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny))
        return found
