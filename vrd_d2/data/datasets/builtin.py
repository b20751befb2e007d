"""The datasets that are known by name: one table, whose files lie below one folder."""

import os
from pathlib import Path

from vrd_d2.data.datasets import (
    gqa,
    open_images,
    panoptic_scene_graph,
    relations_json_dataset,
    stanford_vrd,
    visual_genome_h5,
    visual_genome_raw,
)
from vrd_d2.data.datasets.spec import DatasetSpec

SPECS: tuple[DatasetSpec, ...] = (
    *relations_json_dataset.SPECS,
    *visual_genome_h5.SPECS,
    visual_genome_raw.SPEC,
    stanford_vrd.SPEC,
    panoptic_scene_graph.SPEC,
    open_images.SPEC,
    gqa.SPEC,
)


def datasets_root() -> Path:
    """Return the folder of all datasets: $DETECTRON2_DATASETS, or ./datasets without it."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def builtin_names() -> dict[str, tuple[DatasetSpec, str]]:
    """Return the names in DatasetCatalog with spec and split, to load one without the catalog."""
    return {spec.dataset_name(split): (spec, split) for spec in SPECS for split in spec.splits}
