"""Boxes of a file in place of the detector's or the annotation's: DATASETS.DETECTIONS."""

import logging
from collections.abc import Sequence

from vrd_d2.data.formats.coco import Detections, load_detections, no_detections

logger = logging.getLogger(__name__)


def results_files(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return dataset name -> results file.

    Args:
        rows: DATASETS.DETECTIONS, rows of [dataset name, COCO results file].

    Raises:
        ValueError: a row is not two strings, or a dataset comes twice.
    """
    files: dict[str, str] = {}
    for index, row in enumerate(rows):
        if (
            not isinstance(row, list | tuple)
            or len(row) != 2
            or not all(isinstance(part, str) and part for part in row)
        ):
            raise ValueError(
                f"DATASETS.DETECTIONS[{index}] is {row!r}: it must be [dataset name, COCO results "
                "file]"
            )
        name, path = row
        if name in files:
            raise ValueError(
                f"DATASETS.DETECTIONS[{index}]: dataset {name!r} already has {files[name]}: keep "
                "one row a dataset"
            )
        files[name] = path
    return files


def load_own_boxes(
    rows: Sequence[Sequence[str]], dataset_names: Sequence[str]
) -> dict[str, Detections]:
    """Read the boxes of those datasets that have a row.

    Category ids are those of the dataset's file, as in COCO's results: those of its
    JSON, or, for a dataset that is not read from one, 0-based ids of the vocabulary. These are
    the ids that Detectron2's COCOEvaluator writes into ``coco_instances_results.json``, too.

    Args:
        rows: DATASETS.DETECTIONS.
        dataset_names: of a loader.

    Returns:
        Image's file name -> boxes, in pixels of the image; every image of such a dataset is there.

    Raises:
        ValueError: a file cannot be used, see :func:`~vrd_d2.data.formats.coco.load_detections`; or
            none of its image ids is one of the dataset.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    files = results_files(rows)
    found: dict[str, Detections] = {}
    for name in dict.fromkeys(dataset_names):
        if name not in files:
            continue
        image_ids, sizes = {}, {}
        for record in DatasetCatalog.get(name):
            image_ids[record["file_name"]] = record["image_id"]
            sizes[record["image_id"]] = record.get("width") or 0, record.get("height") or 0
        metadata = MetadataCatalog.get(name)  # after the catalog, which may set it
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {
            i: i for i in range(len(metadata.get("thing_classes", ())))
        }
        by_image = load_detections(files[name], ids, sizes=sizes)
        known = by_image.keys() & set(image_ids.values())
        if by_image and not known:
            raise ValueError(
                f"{files[name]}: no image_id ({', '.join(map(repr, list(by_image)[:3]))}, ...) is "
                f"one of dataset {name!r} "
                f"({', '.join(map(repr, list(image_ids.values())[:3]))}, ...): give the results "
                "of this very dataset; 1 and '1' differ"
            )
        logger.info(
            "%s: %d boxes of %s for %d of %d images; %d of its image ids are not in the dataset",
            name, sum(len(by_image[i].boxes) for i in known), files[name], len(known),
            len(image_ids), len(by_image) - len(known),
        )  # fmt: skip
        nothing = no_detections()
        for file_name, image_id in image_ids.items():
            found[file_name] = by_image.get(image_id, nothing)
    return found
