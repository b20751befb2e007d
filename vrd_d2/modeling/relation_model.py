"""The common part of the relation meta-architectures: entities, pairs, targets, output.

Shapes: M entities and P pairs of an image, K predicates, C object classes.
"""

import contextlib
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vrd_d2.checkpoint.weights_files import NotFiniteError
from vrd_d2.data.detections import results_files
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.distant import DistantLabels
from vrd_d2.modeling.geometry import candidate_pairs
from vrd_d2.modeling.pairs import label_pairs, match_entities, sample_pairs
from vrd_d2.modeling.ranking import restrict
from vrd_d2.modeling.structures import Entities, PairPrediction, TrainingPairs
from vrd_d2.tasks import Task


def boxes_replace_detector(cfg: CfgNode) -> bool:
    """Return whether DATASETS.DETECTIONS has boxes for all test sets: no detector is needed."""
    files = results_files(cfg.DATASETS.DETECTIONS)
    return bool(files) and set(cfg.DATASETS.TEST) <= files.keys()


class RelationModel(nn.Module, ABC):
    """Base of the relation models; a subclass writes :meth:`losses` and :meth:`predict`.

    Args:
        task: where boxes and classes come from; only :meth:`entities` asks for it.
        vocabulary: names of classes and predicates.
        detector: frozen, for the task whose boxes are not given; None for the others, or where
            every example brings "detections".
        image_format: channel order of the input images, "BGR" or "RGB".
        require_overlap, batch_size_per_image, positive_fraction, iou_threshold, add_gt_boxes:
            see config/defaults.py.
        distant: labels of images that are marked "distant", or None.
        restrict: predicates that `distant` does not hold for a pair get no score.

    Attributes:
        has_heat_maps: whether there is a method `relation_activations`: where in the image a
            predicate is seen.
        open_vocabulary: whether there is a method `with_vocabulary`: the same model for other
            names of classes and predicates.
        checkpoint_has_clip: whether checkpoints hold all of CLIP that predictions need, so that
            the file of MODEL.CLIP.PRETRAINED need not exist any more.
        weights_file: where the weights come from, for messages; "" in training.
    """

    has_heat_maps: bool = False
    open_vocabulary: bool = False
    checkpoint_has_clip: bool = False
    weights_file: str = ""

    def __init__(
        self,
        *,
        task: Task,
        vocabulary: Vocabulary,
        detector: GeneralizedRCNN | None,
        image_format: str,
        require_overlap: bool,
        batch_size_per_image: int,
        positive_fraction: float,
        iou_threshold: float,
        add_gt_boxes: bool,
        distant: DistantLabels | None = None,
        restrict: bool = False,
    ):
        super().__init__()
        if detector is not None and task.boxes_given:
            raise ValueError(f"task {task.value} needs no detector")
        self.task = task
        self.vocabulary = vocabulary
        self.detector = detector
        if detector is not None:
            detector.eval().requires_grad_(False)
        self.image_format = image_format
        self.require_overlap = require_overlap
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.iou_threshold = iou_threshold
        self.add_gt_boxes = add_gt_boxes
        self.distant = distant
        self.restrict = restrict
        # Set by the trainer under SOLVER.AMP; what needs float32 opts out where it is computed.
        self.autocast_dtype: torch.dtype | None = None
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    @staticmethod
    def base_config(cfg, vocabulary: Vocabulary) -> dict:
        """Return the base's arguments by a config; builds the detector where one is needed."""
        task = Task(cfg.MODEL.RELATION.TASK)
        detector = None
        if not task.boxes_given and not boxes_replace_detector(cfg):
            if len(vocabulary.objects) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
                raise ValueError(
                    f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but the "
                    f"vocabulary {cfg.MODEL.VOCABULARY!r} has {len(vocabulary.objects)} object "
                    "classes: set it to that number"
                )
            detector = GeneralizedRCNN(cfg)
        return {
            "task": task,
            "vocabulary": vocabulary,
            "detector": detector,
            "image_format": cfg.INPUT.FORMAT,
            "require_overlap": cfg.MODEL.RELATION.REQUIRE_OVERLAP,
            "batch_size_per_image": cfg.MODEL.RELATION.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": cfg.MODEL.RELATION.POSITIVE_FRACTION,
            "iou_threshold": cfg.MODEL.RELATION.IOU_THRESHOLD,
            "add_gt_boxes": cfg.MODEL.RELATION.ADD_GT_BOXES,
            "distant": DistantLabels.from_config(cfg, vocabulary),
            "restrict": cfg.MODEL.DISTANT.RESTRICT,
        }

    @property
    def device(self) -> torch.device:
        """Return where the model lies."""
        return self.anchor.device

    @property
    def needs_counts(self) -> bool:
        """Return whether training starts with `set_counts`: counts of the training set."""
        return False

    @property
    def export_problem(self) -> str | None:
        """Return why the relations do not export; None where they do."""
        return "it has no form that exports"

    def train(self, mode: bool = True) -> "RelationModel":
        """Set the mode; frozen parts stay in eval mode."""
        super().train(mode)
        if self.detector is not None:
            self.detector.eval()
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Return losses in training, else predictions in pixels of the original images.

        Args:
            batched_inputs: examples of :class:`~vrd_d2.data.dataset_mapper.RelationMapper`:
                "image", "height", "width", and, where boxes or classes are given or in training,
                "instances" (gt_boxes, gt_classes) and "relations" (R, 3), in whose stead
                MODEL.DISTANT labels images that are marked "distant". "detections"
                (pred_boxes, scores, pred_classes) stand in for the detector, and at test time
                for "instances".

        Returns:
            In training {"loss_*": scalar}; else for each image {"instances": Instances with
            pred_boxes, pred_classes, scores; "relations": Instances with pairs (P, 2),
            predicate_probs (P, K + 1) and predicate_scores (P, K)}.

        Raises:
            NotFiniteError: a score is infinite or not a number.
        """
        # Training alone: what is evaluated is what a checkpoint gives anywhere else, in float32.
        # Without it an autocast around the model is left as it is.
        context = contextlib.nullcontext()
        if self.autocast_dtype is not None and self.training:
            context = torch.autocast(self.device.type, dtype=self.autocast_dtype)
        with context:
            return self._forward(batched_inputs)

    def _forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        entities = [self.entities(example) for example in batched_inputs]
        if self.training:
            sampled = [
                self.training_pairs(example, entity)
                for example, entity in zip(batched_inputs, entities, strict=True)
            ]
            return self.losses(batched_inputs, entities, sampled)
        pairs = [self.pairs(entity) for entity in entities]
        predictions = self.predict(batched_inputs, entities, pairs)
        for example, prediction in zip(batched_inputs, predictions, strict=True):
            self._check_scores(example, prediction)
        pairs = [
            candidates if prediction.pairs is None else prediction.pairs
            for candidates, prediction in zip(pairs, predictions, strict=True)
        ]
        if self.restrict:
            predictions = [self._restricted(*row) for row in zip(predictions, pairs, strict=True)]
        return [
            self.output(*row)
            for row in zip(batched_inputs, entities, pairs, predictions, strict=True)
        ]

    @abstractmethod
    def losses(
        self, batched_inputs: list[dict], entities: list[Entities], sampled: list[TrainingPairs]
    ) -> dict[str, Tensor]:
        """Return losses of a batch; each connected to the graph also where there is no pair."""

    @abstractmethod
    def predict(
        self, batched_inputs: list[dict], entities: list[Entities], pairs: list[Tensor]
    ) -> list[PairPrediction]:
        """Return classes of entities and scores of predicates, one prediction an image."""

    def _check_scores(self, example: dict, prediction: PairPrediction) -> None:
        """Raise NotFiniteError unless all scores are finite: others would rank as anything."""
        finite = torch.isfinite(prediction.predicate_scores).all()
        if prediction.scores is not None:
            finite = finite & torch.isfinite(prediction.scores).all()
        if not finite:
            raise NotFiniteError(
                f"{self.weights_file or 'the weights of the model'}: scores of image "
                f"{example.get('file_name', example.get('image_id', ''))} are not finite, as after "
                "a training that diverged: take an earlier checkpoint"
            )

    def _restricted(self, prediction: PairPrediction, pairs: Tensor) -> PairPrediction:
        """Return the prediction less predicates that are no candidates of the pair's classes."""
        allowed = self.distant.candidates(prediction.classes, pairs)
        probs, scores = restrict(prediction.predicate_probs, prediction.predicate_scores, allowed)
        return replace(prediction, predicate_probs=probs, predicate_scores=scores)

    def entities(self, example: dict) -> Entities:
        """Return the entities of one image: given boxes, or detections."""
        gt, given = example.get("instances"), example.get("detections")
        if given is not None and self.task.boxes_given and not self.training:
            return self._given_entities(given)
        if gt is None and (self.task.boxes_given or self.training):
            raise ValueError(
                f"image {example.get('file_name', example.get('image_id'))}: the task "
                f"{self.task.value} needs given boxes, but the example has no 'instances'"
            )
        if self.task.boxes_given:
            boxes = gt.gt_boxes.tensor.to(self.device)
            return Entities(
                boxes=boxes,
                classes=gt.gt_classes.to(self.device) if self.task.classes_given else None,
                scores=boxes.new_ones(len(boxes)),
                gt_index=torch.arange(len(boxes), device=self.device),
            )
        found = self._detect(example) if given is None else self._given_entities(given)
        if not self.training:
            return found
        gt_boxes, gt_classes = gt.gt_boxes.tensor.to(self.device), gt.gt_classes.to(self.device)
        if self.add_gt_boxes:
            # Without them a weak detector leaves nearly no positive pair to learn from. There are
            # no logits and ROI features of them, so those of the detections are left out, too.
            found = Entities(
                boxes=torch.cat([found.boxes, gt_boxes]),
                classes=torch.cat([found.classes, gt_classes]),
                scores=torch.cat([found.scores, found.scores.new_ones(len(gt_boxes))]),
            )
        found.gt_index = match_entities(found.boxes, gt_boxes, iou_threshold=self.iou_threshold)
        return found

    @property
    def needs_classes(self) -> bool:
        """Return whether entities must come with their classes."""
        return self.task.classes_given or not self.task.boxes_given

    def with_detections(self, example: dict) -> dict:
        """Return the example with what the detector finds, so that it need not run again.

        The example itself, where boxes are given or detections are there already.
        """
        if self.task.boxes_given or "detections" in example:
            return example
        found = self._detect(example)
        detections = Instances(
            tuple(example["image"].shape[-2:]),
            pred_boxes=Boxes(found.boxes),
            pred_classes=found.classes,
            scores=found.scores,
        )
        for name in ("class_logits", "features"):
            if getattr(found, name) is not None:
                detections.set(name, getattr(found, name))
        return {**example, "detections": detections}

    def _given_entities(self, given: Instances) -> Entities:
        """Return "detections" as entities, with the optional fields of :class:`Entities`."""

        def field(name: str) -> Tensor | None:
            return given.get(name).to(self.device) if given.has(name) else None

        known = self.task.classes_given or not self.task.boxes_given
        return Entities(
            boxes=given.pred_boxes.tensor.to(self.device),
            classes=field("pred_classes") if known else None,
            scores=given.scores.to(self.device),
            class_logits=field("class_logits"),
            features=field("features"),
        )

    def _detect(self, example: dict) -> Entities:
        if self.detector is None:
            raise ValueError(
                f"image {example.get('file_name', example.get('image_id'))}: the model was built "
                "without a detector, because DATASETS.DETECTIONS has a row for every test set, and "
                'the example has no "detections": add a row for its dataset, or remove the rows'
            )
        # In float32: half precision rounds boxes to a pixel or two.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            detected = self.detector.inference([example], do_postprocess=False)[0]
        return Entities(detected.pred_boxes.tensor, detected.pred_classes, detected.scores)

    def pairs(self, entities: Entities) -> Tensor:
        """Return the candidate pairs (P, 2) of one image."""
        return candidate_pairs(entities.boxes, require_overlap=self.require_overlap)

    def training_pairs(self, example: dict, entities: Entities) -> TrainingPairs:
        """Label the candidate pairs of an image and draw a sample of them."""
        gt_classes = example["instances"].gt_classes.to(self.device)
        pairs = self.pairs(entities)
        if example.get("distant"):
            targets = self.distant.targets(
                example["image_id"], pairs, entities.gt_index, gt_classes
            )
        else:
            targets = label_pairs(
                pairs,
                entities.gt_index,
                example["relations"].to(self.device),
                len(gt_classes),
                len(self.vocabulary.predicates),
            )
        chosen = self.draw_pairs(example, entities, pairs, targets)
        none = gt_classes.new_tensor([len(self.vocabulary.objects)])
        # -1 picks the last row, the class of what stands for no object.
        classes = torch.cat([gt_classes, none])[entities.gt_index]
        return TrainingPairs(pairs, targets, chosen, classes)

    def draw_pairs(
        self, example: dict, entities: Entities, pairs: Tensor, targets: Tensor
    ) -> Tensor:
        """Return sorted indices of the pairs (P, 2), targets (P, K), that are trained on."""
        return sample_pairs(
            targets,
            batch_size=self.batch_size_per_image,
            positive_fraction=self.positive_fraction,
        )

    def output(
        self, example: dict, entities: Entities, pairs: Tensor, prediction: PairPrediction
    ) -> dict[str, Instances]:
        """Return the output of one image; no box is dropped, so that indices stay."""
        height, width = example["image"].shape[-2:]
        size = (int(example.get("height", height)), int(example.get("width", width)))
        boxes = Boxes(entities.boxes.clone())
        boxes.scale(size[1] / width, size[0] / height)
        instances = Instances(
            size, pred_boxes=boxes, pred_classes=prediction.classes, scores=prediction.scores
        )
        relations = Instances(
            size,
            pairs=pairs,
            predicate_probs=prediction.predicate_probs,
            predicate_scores=prediction.predicate_scores,
        )
        return {"instances": instances, "relations": relations}
