"""RelCLIP: visual relationship detection with a frozen CLIP and Relational Contrastive Learning."""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.modeling.activation import activation, over_image
from vrd_d2.modeling.contrastive import RelationalContrast, Triplets
from vrd_d2.modeling.encoders.clip import CLIPViT, TextEncoder, load_clip
from vrd_d2.modeling.encoders.feature_cache import FeatureCache, fingerprint
from vrd_d2.modeling.encoders.visual_encoder import FrozenBackbone, build_backbone_encoder
from vrd_d2.modeling.geometry import union_boxes
from vrd_d2.modeling.relation_heads.relclip_head import HeadOutput, RelationHead
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.structures import RANKINGS, Entities, PairPrediction, TrainingPairs
from vrd_d2.modeling.text.language import RelationText
from vrd_d2.modeling.text.word_vectors import PhraseVectors, SentencePhrases, build_phrases


@META_ARCH_REGISTRY.register()
class RelCLIP(RelationModel):
    """RelCLIP (seed paper, section 3): frozen CLIP ViT map, relation head, RCL in training.

    Args:
        visual: the frozen map V(I): CLIP's ViT, or another backbone (Table 4).
        pixel_mean, pixel_std: its RGB normalisation of pixels in 0..1.
        head: adaptors and classifiers.
        contrast: RCL losses.
        text: embeddings of labels; read in training only.
        phrases: word embeddings of active sampling; read in training only.
        entity_classes: "head" or "detector": whose class and score a detected entity gets.
        ranking: "softmax" or "logit": what ranks the predicates.
        feature_cache: folder of cached visual maps, or "".
        base: arguments of :class:`RelationModel`.
    """

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
            "head": RelationHead(
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
        """Entities must come with their classes, unless the head names them."""
        return self.task.classes_given or self._keeps_detector_classes

    @property
    def needs_counts(self) -> bool:
        """Whether the head has a prior that is read off the training set."""
        return self.head.prior is not None

    def set_counts(self, counts: Tensor) -> None:
        """Give the head its prior; counts (C, C, K + 1) of the training set."""
        self.head.prior.set_counts(counts)

    def train(self, mode: bool = True) -> "RelCLIP":
        """CLIP and the detector stay in eval mode."""
        super().train(mode)
        self.visual.eval()
        return self

    def visual_maps(self, batched_inputs: list[dict]) -> list[Tensor]:
        """V(I) of each image, (D_v, h, w); read from MODEL.VISUAL.FEATURE_CACHE where it is set."""
        images = [example["image"] for example in batched_inputs]
        if not self.feature_cache_folder:
            return self._encode(images)
        if self._feature_cache is None:
            settings = (self.pixel_mean.tolist(), self.pixel_std.tolist(), self.image_format)
            self._feature_cache = FeatureCache(
                self.feature_cache_folder, fingerprint(self.visual, settings)
            )
        # In float32 whatever is around it, since all runs share what is stored.
        with torch.autocast(self.device.type, enabled=False):
            maps = self._feature_cache.get(
                images, lambda indices: self._encode([images[index] for index in indices])
            )
        return [feature_map.to(self.device) for feature_map in maps]

    def _encode(self, images: list[Tensor]) -> list[Tensor]:
        images = [image.to(self.device) for image in images]
        if self.image_format == "BGR":
            images = [image.flip(0) for image in images]
        return self.visual.maps(
            [(image.float() / 255 - self.pixel_mean) / self.pixel_std for image in images]
        )

    def _run_head(
        self,
        batched_inputs: list[dict],
        entities: list[Entities],
        pairs: list[Tensor],
        maps: list[Tensor] | None = None,
    ) -> HeadOutput:
        # A detected class that is going to be the answer is also what the pairs are told.
        classes_known = self.task.classes_given or (
            self._keeps_detector_classes and not self.training
        )
        return self.head(
            self.visual_maps(batched_inputs) if maps is None else maps,
            [entity.boxes for entity in entities],
            [entity.classes for entity in entities] if classes_known else None,
            pairs,
            [tuple(example["image"].shape[-2:]) for example in batched_inputs],
        )

    def losses(
        self, batched_inputs: list[dict], entities: list[Entities], sampled: list[TrainingPairs]
    ) -> dict[str, Tensor]:
        """loss_object, loss_predicate and one loss_rcl_* a level."""
        output = self._run_head(batched_inputs, entities, [sample.pairs for sample in sampled])
        targets = torch.cat([sample.targets for sample in sampled])
        classes = torch.cat([sample.classes for sample in sampled])
        losses = self.head.losses(output, classes, targets)
        if self.contrast.levels:
            losses.update(self._contrast(output, sampled, classes, targets))
        return losses

    def _contrast(
        self,
        output: HeadOutput,
        sampled: list[TrainingPairs],
        classes: Tensor,
        targets: Tensor,
    ) -> dict[str, Tensor]:
        offset, indices = 0, []
        for sample in sampled:
            indices.append(sample.pairs + offset)
            offset += len(sample.classes)
        positive = (targets.sum(1) > 0).nonzero()[:, 0]
        subject, object = torch.cat(indices)[positive].unbind(1)
        weights = targets[positive]
        visual = Triplets(
            output.relations[positive], output.entities[subject], output.entities[object]
        )
        subject, object = classes[subject], classes[object]
        text = Triplets(
            self.text.relations(subject, weights, object),
            self.text.entities(subject),
            self.text.entities(object),
        )
        phrases = {
            level.key: self.phrases(level.parts, subject, weights, object)
            for level in self.contrast.levels
        }
        return self.contrast(visual, text, phrases)

    def predict(
        self, batched_inputs: list[dict], entities: list[Entities], pairs: list[Tensor]
    ) -> list[PairPrediction]:
        """Scores of section 3.4: softmax of the predicate logits, classes of the entities."""
        output = self._run_head(batched_inputs, entities, pairs)
        logits = output.predicate_logits.float().split([len(p) for p in pairs])
        classes = [entity.classes for entity in entities]
        scores = [entity.scores for entity in entities]
        if output.class_logits is not None and not self._keeps_detector_classes:
            probs = output.class_logits.float().softmax(-1)[:, : len(self.vocabulary.objects)]
            best = probs.max(dim=1)
            counts = [len(entity.boxes) for entity in entities]
            scores, classes = best.values.split(counts), best.indices.split(counts)
        return [
            PairPrediction(c, s, probs, row[:, :-1] if self.ranking == "logit" else probs[:, :-1])
            for c, s, row, probs in zip(
                classes, scores, logits, [row.softmax(-1) for row in logits], strict=True
            )
        ]

    def relation_activations(
        self,
        example: dict,
        rows: Sequence[int],
        predicates: Sequence[int],
        *,
        method: str = "grad_cam",
    ) -> list[Tensor]:
        """Heat maps of relations on V(I) (Figure 2), from the logits of their predicates.

        Grad-CAM is shown inside the union box, whose features the head pools for the pair: its
        channel weights know no place, and light up things elsewhere that the pair never saw.

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
        pairs = self.pairs(entities)
        unions = union_boxes(*entities.boxes[pairs].unbind(1)).tolist()
        (feature_map,) = self.visual_maps([example])
        (shape,) = self.visual.output_shape().values()
        found = []
        with torch.enable_grad():
            feature_map = feature_map.detach().float().requires_grad_()
            output = self._run_head([example], [entities], [pairs], [feature_map])
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

    @property
    def _keeps_detector_classes(self) -> bool:
        return not self.task.boxes_given and self.entity_classes == "detector"
