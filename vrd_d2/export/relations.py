"""A relation model for one image in a form that exports: the same numbers, no branch on the data.

Weights are the model's modules, used and not copied; so are features and predictor of its head,
whose context comes in a form of its kind (:meth:`RelationHead.export_form`).

Shapes: M entities, P pairs, K predicates, C classes.
"""

import torch
from torch import Tensor, nn

from vrd_d2.export.detector import ExportableDetector
from vrd_d2.export.image import padded
from vrd_d2.modeling.encoders.clip import CLIPViT
from vrd_d2.modeling.geometry import candidate_pairs
from vrd_d2.modeling.ranking import best_classes, predicate_scores, restrict
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.structures import PairBatch


class ExportableRelations(nn.Module):
    """Everything of a relation model after the boxes are known.

    Args:
        model: of any task, with a visual map and a relation head (RelCLIP).

    Raises:
        ValueError: the model, or its relation head, has no form that exports.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        problem = getattr(model, "export_problem", "it is no relation model")
        if problem is not None:
            raise ValueError(
                f"{type(model).__name__} does not export: {problem}. A detector in it does "
                "('detector'), and tools/predict.py runs it as it is"
            )
        model.eval()
        # The parts that run, not the model: what only training needs stays out of the file.
        self.visual, self.head = model.visual, model.head.export_form()
        self.num_classes = len(model.vocabulary.objects)
        self.register_buffer("pixel_mean", model.pixel_mean)
        self.register_buffer("pixel_std", model.pixel_std)
        self.image_format, self.ranking = model.image_format, model.ranking
        self.needs_classes, self.require_overlap = model.needs_classes, model.require_overlap
        self.register_buffer("candidates", candidate_table(model) if model.restrict else None)

    @property
    def inputs(self) -> list[str]:
        """Return the names of the arguments of :meth:`forward` that this model takes."""
        return ["image", "boxes", *["classes"] * self.needs_classes]

    @property
    def outputs(self) -> list[str]:
        """Return the names of what :meth:`forward` returns."""
        entities = [] if self.needs_classes else ["classes", "scores"]
        return [*entities, "pairs", "predicate_probs", "predicate_scores"]

    def forward(
        self, image: Tensor, boxes: Tensor, classes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Predict.

        Args:
            image: (3, H, W) uint8, channels as INPUT.FORMAT says.
            boxes: (M, 4) XYXY pixels of `image`; M may be 0.
            classes: (M,) int64 ids, where the model needs them.

        Returns:
            classes (M,) int64 and scores (M,), unless classes are given; pairs (P, 2) int64 rows
            (subject, object); predicate_probs (P, K + 1) with background last; predicate_scores
            (P, K), what ranks.
        """
        # The model's own steps, for a batch of one image.
        batch = PairBatch(
            maps=[self._map(image)],
            boxes=[boxes],
            classes=[classes] if self.needs_classes else None,
            pairs=[candidate_pairs(boxes, require_overlap=self.require_overlap)],
            image_sizes=[image.shape[-2:]],
        )
        output = self.head(batch)
        (pairs,) = batch.select_pairs(output.pair_index).pairs
        probs, ranking = predicate_scores(output.predicate_logits, self.ranking)
        named = () if self.needs_classes else best_classes(output, self.num_classes)
        if self.candidates is not None:
            ids = named[0] if named else classes
            subject, obj = pairs.unbind(1)
            probs, ranking = restrict(probs, ranking, self.candidates[ids[subject], ids[obj]])
        return *named, pairs, probs, ranking

    def _map(self, image: Tensor) -> Tensor:
        """Return V(I), (D_v, h, w)."""
        visual = self.visual
        if self.image_format == "BGR":
            image = image.flip(0)
        pixels = (image.float() / 255 - self.pixel_mean) / self.pixel_std
        if isinstance(visual, CLIPViT):
            result = visual.encode(padded(pixels, visual.size_divisibility)[None])[0]
        else:
            result = visual(padded(pixels, visual.divisor)[None])[0]
        # A view of tokens would be asked whether it has a single column.
        return result.clone(memory_format=torch.contiguous_format)


def candidate_table(model: RelationModel) -> Tensor:
    """Return which predicates MODEL.DISTANT.RESTRICT lets score, bool (C, C, K)."""
    count = len(model.vocabulary.objects)
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    return model.distant.candidates(torch.arange(count), pairs).view(count, count, -1)


class ExportableModel(nn.Module):
    """A whole relation model of SGDet: image in, detections and relations out.

    Args:
        model: with a detector.

    Raises:
        ValueError: the model takes given boxes.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.relations = ExportableRelations(model)
        if model.detector is None:
            raise ValueError(
                f"this model of {model.task.value} finds no boxes: export 'relations', which takes "
                "them"
            )
        self.detector = ExportableDetector(model.detector)

    inputs = ["image"]
    outputs = ["boxes", "classes", "scores", "pairs", "predicate_probs", "predicate_scores"]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (M, 4) in pixels of `image`, and as :class:`ExportableRelations`."""
        boxes, classes, scores = self.detector(image)
        if self.relations.needs_classes:
            return boxes, classes, scores, *self.relations(image, boxes, classes)
        return boxes, *self.relations(image, boxes)
