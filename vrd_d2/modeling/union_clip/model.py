"""UnionCLIP: contrastive fine-tuning of CLIP on crops of union boxes and strings of triplets.

Shapes: M entities and P pairs of an image, n distinct regions (crops) of a batch, K predicates, C
object classes, D width of CLIP's joint space.
"""

import copy

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.modeling.encoders.clip import load_clip
from vrd_d2.modeling.pairs import sample_pairs
from vrd_d2.modeling.ranking import RANKINGS, predicate_scores
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.structures import Entities, PairPrediction, TrainingPairs
from vrd_d2.modeling.union_clip.crops import CROPS, crop_windows, cut_crops, union_regions
from vrd_d2.modeling.union_clip.encoders import AdapterMLP, CropEncoder, PhraseEncoder
from vrd_d2.modeling.union_clip.loss import table_losses
from vrd_d2.modeling.union_clip.texts import UnionTexts

FINETUNE = ("none", "mlp", "attention")


@META_ARCH_REGISTRY.register()
class UnionCLIP(RelationModel):
    """Contrastive fine-tuning for relations (seed paper on contrastive fine-tuning, section 3).

    A row of the table is a distinct union region, a column a string "subject predicate object" or
    "null relation". All pairs that share a region share its crop and its embedding, and the texts
    of all of them are true of it; a region none of whose pairs is annotated matches the null text.

    Args:
        crops, phrases: the two sides.
        logit_scale: logarithm of CLIP's learnt scale of cosines; stays as it is.
        finetune: out of ``FINETUNE``.
        texts: strings of the vocabulary, embedded by `phrases`.
        crop: out of ``CROPS``.
        ranking: "softmax" or "logit": what ranks the predicates.
        base: arguments of :class:`RelationModel`.
    """

    open_vocabulary = True
    export_problem = (
        "its texts are encoded as their class pairs come up, by a tower with a tokenizer"
    )

    @configurable
    def __init__(
        self,
        *,
        crops: CropEncoder,
        phrases: PhraseEncoder,
        logit_scale: Tensor,
        finetune: str,
        texts: UnionTexts,
        crop: str,
        ranking: str,
        **base,
    ):
        super().__init__(**base)
        for key, value, choices in [
            ("UNION_CLIP.FINETUNE", finetune, FINETUNE),
            ("UNION_CLIP.CROP", crop, CROPS),
            ("RELATION.RANKING", ranking, RANKINGS),
        ]:
            if value not in choices:
                raise ValueError(f"MODEL.{key} is {value!r}: choose one of {choices}")
        self.crops = crops
        self.phrases = phrases
        self.register_buffer("logit_scale", logit_scale.detach().clone().reshape(()))
        self.finetune = finetune
        self.texts = texts
        self.crop = crop
        self.ranking = ranking
        # Classes of boxes are zero-shot CLIP's, also after blocks of its towers were trained.
        self.zero_shot = nn.ModuleDict()
        if not self.task.classes_given and self.task.boxes_given:
            for name, encoder in (("crops", crops), ("phrases", phrases)):
                if (untrained := encoder.untrained_copy()) is not None:
                    self.zero_shot[name] = untrained

    @classmethod
    def from_config(cls, cfg) -> dict:
        vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
        clip, union = cfg.MODEL.CLIP, cfg.MODEL.UNION_CLIP
        parts = load_clip(clip.NAME, clip.PRETRAINED, cache_dir=clip.CACHE_DIR)
        blocks = 0
        if union.FINETUNE == "attention":
            blocks = union.TRAINED_BLOCKS
            if blocks < 1:
                raise ValueError(
                    f"MODEL.UNION_CLIP.TRAINED_BLOCKS is {blocks}: the attention way trains at "
                    "least one block"
                )

        def adapter() -> nn.Module | None:
            if union.FINETUNE != "mlp":
                return None
            return AdapterMLP(_joint_width(parts.model), residual=union.MLP_RESIDUAL)

        phrases = PhraseEncoder(
            parts,
            trained_blocks=blocks,
            adapter=adapter(),
            chunk=union.TEXT_CHUNK,
            cache_bytes=int(union.TEXT_CACHE_GB * 2**30),
        )
        return {
            **RelationModel.base_config(cfg, vocabulary),
            "crops": CropEncoder(
                parts,
                trained_blocks=blocks,
                adapter=adapter(),
                chunk=union.CROP_CHUNK,
                cache_folder=cfg.MODEL.VISUAL.FEATURE_CACHE,
            ),
            "phrases": phrases,
            "logit_scale": parts.model.logit_scale,
            "finetune": union.FINETUNE,
            "texts": UnionTexts(
                phrases,
                vocabulary,
                relation_prompts=cfg.MODEL.TEXT.RELATION_PROMPTS,
                entity_prompts=cfg.MODEL.TEXT.ENTITY_PROMPTS,
                null_text=union.NULL_TEXT,
                bank_folder=union.TEXT_BANK,
            ),
            "crop": union.CROP,
            "ranking": cfg.MODEL.RELATION.RANKING,
        }

    def with_vocabulary(self, vocabulary: Vocabulary) -> "UnionCLIP":
        """Return a model for other names that shares all weights with this one.

        Its texts are encoded at first use. Fine-tuned towers know the names that they were trained
        with best.

        Raises:
            ValueError: something else in the model is bound to its names.
        """
        count = len(self.vocabulary.objects)
        if self.detector is not None and len(vocabulary.objects) != count:
            raise ValueError(
                f"{len(vocabulary.objects)} object classes, but the detector finds {count}: with a "
                "detector only the predicates can be others"
            )
        if self.distant is not None:
            raise ValueError(
                "MODEL.DISTANT is set: its knowledge base has the names that the model was built "
                "with, and no others can be given"
            )
        other = copy.copy(self)
        other.vocabulary, other.texts = vocabulary, self.texts.with_vocabulary(vocabulary)
        return other

    # ---- Training ------------------------------------------------------------------------------

    def draw_pairs(
        self, example: dict, entities: Entities, pairs: Tensor, targets: Tensor
    ) -> Tensor:
        """Draw regions, each with all of its pairs, so that all that is true of it is there.

        MODEL.RELATION.BATCH_SIZE_PER_IMAGE and POSITIVE_FRACTION count regions.
        """
        _, region = union_regions(entities.boxes, pairs, tuple(example["image"].shape[-2:]))
        count = int(region.max()) + 1 if len(region) else 0
        true = targets.new_zeros((count, targets.shape[1])).index_add(0, region, targets)
        chosen = torch.zeros(count, dtype=torch.bool, device=pairs.device)
        chosen[
            sample_pairs(
                true,
                batch_size=self.batch_size_per_image,
                positive_fraction=self.positive_fraction,
            )
        ] = True
        return chosen[region].nonzero()[:, 0]

    def losses(
        self, batched_inputs: list[dict], entities: list[Entities], sampled: list[TrainingPairs]
    ) -> dict[str, Tensor]:
        """Return loss_visual and loss_language, the two cross-entropies of the table."""
        if self.finetune == "none":
            raise ValueError(
                "MODEL.UNION_CLIP.FINETUNE is none, and nothing to train: choose mlp or attention, "
                "or run train_net.py --eval-only"
            )
        crops, region, subjects, objects = [], [], [], []
        offset = 0
        for example, entity, sample in zip(batched_inputs, entities, sampled, strict=True):
            size = tuple(example["image"].shape[-2:])
            windows, index = union_regions(entity.boxes, sample.pairs, size)
            crops.append(self._cut(example, windows))
            region.append(index + offset)
            offset += len(windows)
            subjects.append(sample.classes[sample.pairs[:, 0]])
            objects.append(sample.classes[sample.pairs[:, 1]])
        states = self.crops.states(torch.cat(crops))
        targets = torch.cat([sample.targets for sample in sampled])
        pair, predicate = (targets > 0).nonzero(as_tuple=True)
        codes = self.texts.code(torch.cat(subjects)[pair], torch.cat(objects)[pair])
        texts, text_sizes, known = self.texts.of_batch(codes)
        column = torch.searchsorted(known, codes) * len(self.vocabulary.predicates) + predicate
        row = torch.cat(region)[pair]
        without = torch.ones(offset, dtype=torch.bool, device=row.device)
        without[row] = False
        null = without.nonzero()
        positives = torch.cat(
            [
                torch.stack([row, column], dim=1),
                torch.cat([null, torch.full_like(null, sum(text_sizes) - 1)], dim=1),
            ]
        )
        return table_losses(
            self.crops.embed(states),
            texts,
            positives,
            scale=self.logit_scale.exp(),
            text_sizes=text_sizes,
        )

    # ---- Inference -----------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, batched_inputs: list[dict], entities: list[Entities], pairs: list[Tensor]
    ) -> list[PairPrediction]:
        """Return the softmax of a pair's K texts and the null text; classes by zero-shot CLIP."""
        predictions = []
        for example, entity, pair in zip(batched_inputs, entities, pairs, strict=True):
            classes, scores = entity.classes, entity.scores
            if classes is None:
                classes, scores = self._classify(example, entity.boxes)
            size = tuple(example["image"].shape[-2:])
            windows, region = union_regions(entity.boxes, pair, size)
            regions = torch.cat(
                [
                    self.crops.embed(self.crops.states(self._cut(example, chunk)))
                    for chunk in windows.split(self.crops.chunk)
                ]
            )
            logits = self._logits(regions, region, classes[pair[:, 0]], classes[pair[:, 1]])
            answer = predicate_scores(logits, self.ranking)
            predictions.append(PairPrediction(classes, scores, *answer))
        return predictions

    def _logits(self, regions: Tensor, region: Tensor, subjects: Tensor, objects: Tensor) -> Tensor:
        """Return scaled cosines (P, K + 1) of the texts of each pair, the null text last.

        Grouped by class pair: gathering a block for every pair was measured to be 20 times slower.
        """
        codes = self.texts.code(subjects, objects)
        order = codes.argsort()
        distinct, counts = codes[order].unique_consecutive(return_counts=True)
        logits = regions.new_empty((len(codes), len(self.vocabulary.predicates) + 1))
        for members, block in zip(
            order.split(counts.tolist()), self.texts.blocks(distinct.tolist()), strict=True
        ):
            logits[members, :-1] = regions[region[members]] @ block.to(regions.dtype).T
        logits[:, -1] = regions[region] @ self.texts.null
        return logits * self.logit_scale.exp()

    def _classify(self, example: dict, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes (M,) of given boxes and probabilities, by zero-shot CLIP on crops."""
        windows = crop_windows(boxes, tuple(example["image"].shape[-2:]))
        # CLIP as it was, without what was trained.
        heads = {
            "crops": getattr(self.zero_shot, "crops", self.crops.upper),
            "phrases": getattr(self.zero_shot, "phrases", self.phrases.upper),
        }
        rows = [
            self.crops.embed(self.crops.states(self._cut(example, chunk)), head=heads["crops"])
            for chunk in windows.split(self.crops.chunk)
        ]
        logits = torch.cat(rows) @ self.texts.classes(heads["phrases"]).T * self.logit_scale.exp()
        best = logits.softmax(-1).max(dim=1)
        return best.indices, best.values

    def _cut(self, example: dict, windows: Tensor) -> Tensor:
        """Return RGB crops (n, 3, H, W) uint8 of windows of an image."""
        image = example["image"].to(self.device)
        crops = cut_crops(image, windows, self.crops.size, mode=self.crop)
        return crops.flip(1) if self.image_format == "BGR" else crops


def _joint_width(model: nn.Module) -> int:
    """Return D of an open_clip model, whatever its image tower."""
    projection = model.text_projection
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
