"""Detection AP of the images and boxes that a dataset really has."""

import contextlib
import io
import itertools
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.boxes import annotation_xyxy

logger = logging.getLogger(__name__)

# The first figures of COCO's summary: of all boxes, and of small, medium and large ones.
_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")

# Of one image: its number in the dataset, boxes (M, 4) XYWH, classes (M,), scores (M,).
_Found = tuple[int, np.ndarray, np.ndarray, np.ndarray]


class DetectionEvaluator(DatasetEvaluator):
    """COCO's AP, by its official implementation, of the boxes of a registered dataset.

    Detectron2's own evaluator hands the annotation file to COCO's code as it is. That code takes an
    annotation with id 0 for no match, sorts ids, which may be numbers and texts, and asks for area
    and iscrowd. Here it gets a ground truth of its own, made of the dataset dicts: images,
    annotations and classes are numbered from 1, the area is width times height, and a crowd is
    what the dataset marks as one. So an image that the dataset leaves out (DATASETS.EXCLUDE,
    DATASETS.MISSING_IMAGES) does not count as one in which nothing was found.

    A box without area overlaps with none, itself included, so it counts neither among the
    annotated boxes nor among the found ones.
    """

    def __init__(
        self, dataset_name: str, *, output_dir: str | None = None, distributed: bool = True
    ) -> None:
        """
        Args:
            dataset_name: a registered dataset. Metadata: thing_classes, and
                thing_dataset_id_to_contiguous_id where the file's class ids are others.
            output_dir: folder for coco_instances_results.json; None writes nothing.
            distributed: whether to gather the boxes of all processes.

        Raises:
            ValueError: the dataset holds an image twice.
        """
        self._name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._records = DatasetCatalog.get(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)  # after the catalog, which may set it
        self._classes: Sequence[str] | None = metadata.get("thing_classes")
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._file_class = {number: file_id for file_id, number in ids.items()}
        self._image_ids = [_plain(record["image_id"]) for record in self._records]
        self._number_of = {image_id: i for i, image_id in enumerate(self._image_ids)}
        if len(self._number_of) < len(self._image_ids):
            twice = next(x for i, x in enumerate(self._image_ids) if self._number_of[x] != i)
            raise ValueError(
                f"dataset {dataset_name!r} holds image_id {twice!r} twice: ids must be unique"
            )
        self._found: list[_Found] = []

    @property
    def results_files(self) -> list[Path]:
        """Return the files that :meth:`evaluate` writes."""
        return [Path(self._output_dir) / "coco_instances_results.json"] if self._output_dir else []

    def reset(self) -> None:
        """Forget the boxes seen."""
        self._found = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Store what was found in the images of one batch.

        Raises:
            ValueError: an image is not in the dataset, or a class does not exist.
        """
        for example, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                continue
            image_id = _plain(example["image_id"])
            if image_id not in self._number_of:
                raise ValueError(f"image_id {image_id!r} is not in dataset {self._name!r}")
            instances = output["instances"].to("cpu")
            boxes = instances.pred_boxes.tensor.float().numpy().copy()
            boxes[:, 2:] -= boxes[:, :2]
            classes = instances.pred_classes.numpy()
            count = len(self._classes or ()) or math.inf
            if len(classes) and not 0 <= classes.min() <= classes.max() < count:
                raise ValueError(
                    f"{self._name}, image {image_id!r}: class "
                    f"{classes.min() if classes.min() < 0 else classes.max()} is out of range: "
                    f"{count} exist, counted from 0"
                )
            scores = instances.scores.float().numpy()
            self._found.append((self._number_of[image_id], boxes, classes, scores))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return COCO's figures over all images, in percent, on the main process.

        Returns:
            {"bbox": {"AP": ..., "AP50": ..., ..., "AP-<class>": ...}}, NaN where there is nothing
            to find; {} on other processes, and where the dataset has no boxes to find at all.
        """
        found = self._found
        if self._distributed:
            comm.synchronize()
            found = list(itertools.chain(*comm.gather(found)))
            if not comm.is_main_process():
                return {}
        found = list({image[0]: image for image in reversed(found)}.values())[::-1]
        for path in self.results_files:
            write_text(path, json.dumps(self._results(found)))
        truth = self._annotations()
        if not any(not row["iscrowd"] for row in truth):
            logger.info("%s: there are no boxes to find, and so no AP", self._name)
            return {}
        return OrderedDict(bbox=self._figures(truth, _detections(found)))

    def _results(self, found: Sequence[_Found]) -> list[dict[str, Any]]:
        """Return boxes in COCO's format of results, with the ids of the dataset's file."""
        return [
            {
                "image_id": self._image_ids[number],
                "category_id": self._file_class.get(category, category),
                "bbox": box,
                "score": score,
            }
            for number, *columns in found
            for box, category, score in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def _annotations(self) -> list[dict[str, Any]]:
        """Return the dataset's boxes as COCO's code wants them."""
        rows, without_area = [], 0
        for number, record in enumerate(self._records):
            for annotation in record.get("annotations", ()):
                x1, y1, x2, y2 = annotation_xyxy(annotation)
                if x2 <= x1 or y2 <= y1:
                    without_area += 1
                    continue
                crowd = int(bool(annotation.get("iscrowd", 0)))
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append(_row(len(rows), number, annotation["category_id"], box, crowd))
        if without_area:
            logger.warning(
                "%s: %d annotated boxes have no area, so that none can be found; AP leaves them "
                "out",
                self._name,
                without_area,
            )
        return rows

    def _figures(self, truth: list[dict], found: list[dict]) -> dict[str, float]:
        classes = len(self._classes or ()) or 1 + max(
            row["category_id"] - 1 for row in [*truth, *found]
        )
        index = [_indexed(rows, len(self._image_ids), classes) for rows in (truth, found)]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            evaluation = COCOeval(*index, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        figures = dict(zip(_FIGURES, map(_percent, evaluation.stats), strict=False))
        logger.info("%s, AP of boxes in percent:\n%s", self._name, create_small_table(figures))
        if self._classes is not None and len(self._classes) > 1:
            # (IoU, recall, class, area, detections): all areas, and the most detections.
            precision = evaluation.eval["precision"][:, :, :, 0, -1]
            for number, name in enumerate(self._classes):
                of_class = precision[:, :, number]
                of_class = of_class[of_class > -1]
                figures[f"AP-{name}"] = _percent(of_class.mean() if of_class.size else -1)
        return figures


def _detections(found: Sequence[_Found]) -> list[dict[str, Any]]:
    """Return found boxes that have an area as COCO's code wants them."""
    rows: list[dict[str, Any]] = []
    for number, *columns in found:
        for box, category, score in zip(*(c.tolist() for c in columns), strict=True):
            if box[2] > 0 and box[3] > 0:
                rows.append({**_row(len(rows), number, category, box), "score": score})
    return rows


def _row(index: int, image: int, category: int, box: list[float], crowd: int = 0) -> dict[str, Any]:
    return {
        "id": index + 1,  # 0 would be taken for no match
        "image_id": image + 1,
        "category_id": int(category) + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": crowd,
    }


def _indexed(rows: list[Mapping], images: int, classes: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "annotations": rows,
        "categories": [{"id": number, "name": str(number)} for number in range(1, classes + 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _percent(share: float) -> float:
    """Return a figure of COCO's, which is -1 where there is nothing to find."""
    return 100 * float(share) if share >= 0 else math.nan


def _plain(image_id: Any) -> Any:
    """Return an id as JSON can hold it."""
    return image_id.item() if isinstance(image_id, np.generic) else image_id
