"""Scene-graph recall as a Detectron2 evaluator."""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from vrd_d2.evaluation.image import evaluate_image, ground_truth_rows
from vrd_d2.evaluation.json_lines import prediction_line
from vrd_d2.evaluation.prediction_file import PredictionFile
from vrd_d2.evaluation.protocols import Protocol, get_protocol
from vrd_d2.evaluation.recall import DEFAULT_KS, RowStore, Summary, checked_ks, summarize
from vrd_d2.evaluation.records import Prediction, ground_truth_from_dict
from vrd_d2.evaluation.report import flat_results, results_json, results_table, write_json
from vrd_d2.tasks import Task

logger = logging.getLogger(__name__)


class RelationEvaluator(DatasetEvaluator):
    """Recall@K and its relatives for a model of this package, image by image.

    Only some 21 bytes a ground-truth row are stored of an image, so memory does not depend on the
    number of pairs and predicates. Under several processes those are gathered, and an image that
    several of them saw counts once.

    The model's output of an image is {"instances": Instances with pred_boxes, pred_classes,
    scores; "relations": Instances with pairs (P, 2) and predicate_scores (P, K)} in the
    coordinates of the original image.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        task: Task | str,
        protocol: Protocol | str = "sgb",
        annotated_pairs: bool | None = None,
        output_dir: str | None = None,
        zero_shot: Iterable[Sequence[int]] | None = None,
        distributed: bool = True,
        write_predictions: bool = False,
        ks: Sequence[int] = DEFAULT_KS,
        training_counts: Sequence[int] | None = None,
        bootstrap: int = 1000,
        evaluated: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered dataset whose dicts hold "relations" (R, 3). Metadata:
                predicate_classes, thing_classes.
            task: where boxes and classes come from.
            protocol: a name in PROTOCOLS, or a Protocol.
            annotated_pairs: rank the annotated pairs alone, where the task gives boxes; None as
                the protocol has it. Another choice has a name of its own, see ``get_protocol``.
            output_dir: folder for relations_<task>_<protocol>.json; None writes nothing.
            zero_shot: (subject class, object class, predicate) triplets unseen in training, for
                zR; by default the metadata's zero_shot_triplets.
            distributed: whether to gather the counts of all processes.
            write_predictions: also write predictions.jsonl.gz to output_dir, from which
                tools/evaluate.py gives the same figures. Large: pairs times predicates numbers.
            ks: the K of Recall@K.
            training_counts: (K,) frequency of the predicates in training, which divides them
                into head, body and tail; by default that of the evaluated ground truth.
            bootstrap: resamples for the 95 % intervals in the table; 0 for none.
            evaluated: which weights these are, for the results file: {"weights": path}, or
                {"iteration": trained so far, "max_iter": of how many} in training.

        Raises:
            ValueError: the dataset is not annotated with relations, or holds an image twice; or
                annotated pairs are asked for where boxes are detected.
        """
        self.task = Task(task)
        self.protocol = get_protocol(protocol, annotated_pairs=annotated_pairs, task=self.task)
        self._name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        if write_predictions and output_dir is None:
            raise ValueError("write_predictions needs an output_dir")
        self._file = PredictionFile(output_dir, comm.get_rank()) if write_predictions else None
        self._ks = checked_ks(ks)
        self._training_counts = training_counts
        self._bootstrap = bootstrap
        self._evaluated = None if evaluated is None else dict(evaluated)
        # Names and number of classes and predicates, and the zero-shot list.
        dicts = DatasetCatalog.get(dataset_name)  # before the metadata, which it may set
        metadata = MetadataCatalog.get(dataset_name)
        predicates = metadata.get("predicate_classes")
        if predicates is None and any(len(record.get("relations", ())) for record in dicts):
            raise ValueError(
                f"dataset {dataset_name!r} has no predicate_classes in its metadata: set "
                f"MetadataCatalog.get({dataset_name!r}).predicate_classes to their names"
            )
        self._predicates = list(predicates or ())
        classes = metadata.get("thing_classes")
        self._num_classes = None if classes is None else len(classes)
        if zero_shot is None:
            zero_shot = metadata.get("zero_shot_triplets")
        self._with_zero_shot = zero_shot is not None
        self._zero_shot = frozenset(tuple(int(i) for i in triplet) for triplet in zero_shot or ())
        # A number for each image; every image is annotated, and has one id.
        self._key_of: dict[object, int] = {}
        self._dicts = dicts
        self._annotated = False
        for key, record in enumerate(dicts):
            if "relations" not in record:
                raise ValueError(
                    f"dataset {dataset_name!r}, image {record.get('image_id')!r}: no "
                    '"relations"; give an (R, 3) array, empty where there are none'
                )
            self._annotated |= len(record["relations"]) > 0
            if self._key_of.setdefault(record["image_id"], key) != key:
                raise ValueError(
                    f"dataset {dataset_name!r} holds image_id {record['image_id']!r} twice: "
                    "ids must be unique"
                )
        self.summary: Summary | None = None
        self.reset()

    @property
    def results_files(self) -> list[Path]:
        """Return the files that :meth:`evaluate` writes."""
        if self._output_dir is None:
            return []
        name = f"relations_{self.task.value}_{self.protocol.name}.json"
        found = [Path(self._output_dir) / name]
        return found if self._file is None else [*found, self._file.path]

    def reset(self) -> None:
        """Forget the images seen."""
        self._store = RowStore()
        self.summary = None
        if self._file is not None:
            self._file.discard()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Evaluate the images of one batch.

        Raises:
            ValueError: naming the image, where it is not in the dataset or its predictions
                cannot be evaluated.
        """
        for example, output in zip(inputs, outputs, strict=True):
            key = self._key(example["image_id"])
            if key in self._store:
                continue
            try:
                prediction = prediction_from_model(output)
                self._evaluate_image(key, prediction)
                if self._file is not None:
                    self._file.write(prediction_line(example["image_id"], prediction))
            except ValueError as error:
                raise ValueError(f"{self._name}, image {example['image_id']!r}: {error}") from error

    def _key(self, image_id: object) -> int:
        if image_id not in self._key_of:
            some = ", ".join(repr(known) for known in list(self._key_of)[:3])
            raise ValueError(
                f"image_id {image_id!r} is not in dataset {self._name!r} "
                f"({len(self._key_of)} images: {some}, ...)"
            )
        return self._key_of[image_id]

    def _evaluate_image(self, key: int, prediction: Prediction) -> None:
        ground_truth = ground_truth_from_dict(self._dicts[key])
        num_predicates = len(self._predicates) or None  # boxes only: whatever the model has
        ground_truth.check(num_predicates, self._num_classes)
        prediction.check(num_predicates, self._num_classes)
        given = self.task.classes_given and len(prediction.pairs)
        if given and not np.array_equal(ground_truth.classes, prediction.classes):
            log_first_n(
                logging.WARNING,
                f"{self._name}: PredCls gives the classes, but the model's output has others; is "
                "the order of its boxes that of the ground truth?",
                name=__name__,
            )
        rows, pairs = evaluate_image(
            ground_truth,
            prediction,
            protocol=self.protocol,
            task=self.task,
            limit=self._ks[-1],
            zero_shot=self._zero_shot,
        )
        self._store.add(key, rows, pairs)

    def finish(self) -> None:
        """End the file of this process, which may fail, before processes wait for each other."""
        if self._file is not None:
            self._file.close()

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return results of all processes, in percent, on the main process; {} on the others.

        Returns:
            {"relations": {"R@20": ..., "ng-R@50": ..., "mR@100": ..., ...}}; under another
            protocol than sgb the key is "relations_<protocol>". ``summary`` holds everything.
            {} where the dataset has no relations, which is logged.
        """
        self.finish()
        states = [self._store.state()]
        if not self._annotated:
            return self._without_ground_truth()
        if self._distributed:
            comm.synchronize()
            states = comm.gather(states[0])
            if not comm.is_main_process():
                return {}
        images, rows = self._with_missing(*RowStore.merge(states))
        self.summary = summarize(
            images,
            rows,
            num_predicates=len(self._predicates),
            protocol=self.protocol,
            task=self.task,
            ks=self._ks,
            with_zero_shot=self._with_zero_shot,
            training_counts=self._training_counts,
            bootstrap=self._bootstrap,
        )
        logger.info(
            results_table(self.summary, protocol=self.protocol, task=self.task, title=self._name)
        )
        if self._output_dir is not None:
            self._write()
        key = "relations" if self.protocol.name == "sgb" else f"relations_{self.protocol.name}"
        return OrderedDict({key: flat_results(self.summary.metrics)})

    def _without_ground_truth(self) -> dict:
        """Log that there is nothing to evaluate, rather than evaluating to 0."""
        if self._distributed:
            comm.synchronize()
            if not comm.is_main_process():
                return {}
        remedy = "TEST.RELATION.WRITE_PREDICTIONS writes the predictions to a file"
        if self._file is not None:
            self._join_file()
            remedy = f"the predictions are in {self._output_dir}"
        logger.warning(
            "%s: none of its %d images has relations, so there is nothing to evaluate; %s",
            self._name,
            len(self._dicts),
            remedy,
        )
        return {}

    def _join_file(self) -> None:
        self._file.join(comm.get_world_size() if self._distributed else 1)

    def _with_missing(self, images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the images that no process was given, as ones without predicted pairs."""
        missing = sorted(set(range(len(self._dicts))) - set(images["key"].tolist()))
        if not missing:
            return images, rows
        logger.warning(
            "%s: %d of %d images were not evaluated; they count as without predicted pairs",
            self._name,
            len(missing),
            len(self._dicts),
        )
        store = RowStore()
        for key in missing:
            ground_truth = ground_truth_from_dict(self._dicts[key])
            ground_truth.check(len(self._predicates), self._num_classes)
            store.add(key, ground_truth_rows(ground_truth, self.protocol, self._zero_shot), 0)
        return RowStore.merge([(images, rows), store.state()])

    def _write(self) -> None:
        if self._file is not None:
            self._join_file()
        results = results_json(
            self.summary,
            protocol=self.protocol,
            task=self.task,
            predicate_names=self._predicates,
        )
        if self._evaluated is not None:
            results["evaluated"] = self._evaluated
        write_json(results, self.results_files[0])


def prediction_from_model(output: dict) -> Prediction:
    """Return predictions of a model of this package, as arrays in single precision.

    Raises:
        ValueError: a field is missing.
    """
    for name, fields in (
        ("instances", ("pred_boxes", "pred_classes", "scores")),
        ("relations", ("pairs", "predicate_scores")),
    ):
        absent = [f for f in fields if name not in output or not output[name].has(f)]
        if absent:
            raise ValueError(f'the output\'s "{name}" have no {", ".join(absent)}')
    instances, relations = output["instances"], output["relations"]
    return Prediction(
        instances.pred_boxes.tensor.float().cpu().numpy(),
        instances.pred_classes.cpu().numpy(),
        instances.scores.float().cpu().numpy(),
        pairs=relations.pairs.cpu().numpy(),
        predicate_scores=relations.predicate_scores.float().cpu().numpy(),
    )
