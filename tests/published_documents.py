"""Small files in the formats of the published datasets, and ways to spoil them."""

import copy
import json
import runpy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vrd_d2.data.image_existence import drop_missing_images

VRD_FILE = {
    "a.jpg": [
        {
            "subject": {"category": 0, "bbox": [10, 50, 5, 40]},
            "predicate": 1,
            "object": {"category": 6, "bbox": [12, 30, 8, 38]},
        },
        {
            "subject": {"category": 6, "bbox": [12, 30, 8, 38]},
            "predicate": 0,
            "object": {"category": 0, "bbox": [10, 50, 5, 40]},
        },
        {
            "subject": {"category": 0, "bbox": [10, 50, 5, 40]},
            "predicate": 2,
            "object": {"category": 6, "bbox": [12, 30, 8, 38]},
        },
        {
            "subject": {"category": 0, "bbox": [12, 30, 8, 38]},
            "predicate": 2,
            "object": {"category": 0, "bbox": [12, 30, 8, 38]},
        },
    ],
    "b.gif": [],
}

PSG_FILE = {
    "thing_classes": ["person", "dog"],
    "stuff_classes": ["grass-merged"],
    "predicate_classes": ["on", "holding"],
    "test_image_ids": ["103"],
    "data": [
        {
            "file_name": "train2017/1.jpg",
            "pan_seg_file_name": "panoptic_train2017/1.png",
            "image_id": "101",
            "width": 40,
            "height": 30,
            "segments_info": [
                {"id": 7, "category_id": 1, "isthing": 1, "iscrowd": 0, "area": 99},
                {"id": 70000, "category_id": 2, "isthing": 0, "iscrowd": 0, "area": 900},
            ],
            "annotations": [
                {"bbox": [1, 2, 11.5, 12], "bbox_mode": 0, "category_id": 1},
                {"bbox": [0, 0, 40, 30], "bbox_mode": 1, "category_id": 2},
            ],
            "relations": [[0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0]],
        },
        {
            "file_name": "train2017/2.jpg",
            "pan_seg_file_name": "panoptic_train2017/2.png",
            "image_id": "102",
            "width": 40,
            "height": 30,
            "segments_info": [],
            "annotations": [],
            "relations": [],
        },
        {
            "file_name": "val2017/3.jpg",
            "pan_seg_file_name": "panoptic_val2017/3.png",
            "image_id": "103",
            "width": 40,
            "height": 30,
            "segments_info": [{"id": 5, "category_id": 0, "isthing": 1, "iscrowd": 0, "area": 4}],
            "annotations": [{"bbox": [3, 4, 5, 6], "bbox_mode": 0, "category_id": 0}],
            "relations": [[0, 0, 1]],
        },
    ],
}

GQA_FILE = {
    "n12": {
        "width": 100,
        "height": 80,
        "objects": {
            "31": {
                "name": "man",
                "x": 10, "y": 20, "w": 30, "h": 40,
                "attributes": ["tall"],
                "relations": [
                    {"name": "to the left of", "object": "32"},
                    {"name": "wearing", "object": "33"},
                    {"name": "holding", "object": "32"},
                ],
            },
            "32": {
                "name": "cup",
                "x": 60, "y": 30, "w": 0, "h": 10,
                "relations": [{"name": "to the right of", "object": "31"}],
            },
            "33": {"name": "hat", "x": -2, "y": 0, "w": 5, "h": 5, "relations": []},
        },
    },
    "13": {"width": 50, "height": 60, "objects": {}},
}  # fmt: skip

OI_HEADER = (
    "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,"
    "RelationshipLabel"
)
OI_ROWS = [
    "im1,/m/man,/m/table,0.1,0.5,0.2,0.6,0.5,1.0,0.25,0.75,at",
    "im1,/m/table,/m/wooden,0.5,1.0,0.25,0.75,0.5,1.0,0.25,0.75,is",
    "im2,/m/girl,/m/ball,0,0.5,0,1,0.5,0.5,0.5,0.75,interacts_with",
    "im1,/m/man,/m/table,0.1,0.5,0.2,0.6,0.5,1.0,0.25,0.75,on",
    "im1,/m/man,/m/table,0.1,0.5,0.2,0.6,0.0,0.25,0.25,0.75,at",
]
OI_CLASSES = "LabelName,DisplayName\n/m/man,Man\n/m/table,Table\n/m/girl,Girl\n/m/ball,Ball\n"
OI_BOXES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n"
    "im1,xclick,/m/ball,1,0.25,0.5,0.5,1,0\n"
    "im1,xclick,/m/table,1,0.5,1.0,0.25,0.75,0\n"
    "im9,xclick,/m/unknown,1,0.5,1.0,0.25,0.75,0\n"
    "im1,xclick,/m/ball,1,0.25,0.5,0.5,1,0\n"
)


def spoiled(document: Any, path: Sequence, *value: Any) -> Any:
    """A copy with the value at `path` replaced; without a value the entry is deleted."""
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    if value:
        place[path[-1]] = value[0]
    else:
        del place[path[-1]]
    return document


def write(path: Path, document: Any) -> Path:
    """Write a document as JSON, or a text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def draw(path: Path, size: tuple[int, int] = (40, 30), **options: Any) -> Path:
    """A black image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)
    return path


def run_script(script: Path, *arguments: str, monkeypatch: Any) -> None:
    """Run a script in this process, as if from the command line."""
    monkeypatch.setattr("sys.argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code


def existing(missing_images: str) -> Callable[[Sequence[dict]], Sequence[dict]]:
    """What loaders take as `select`: the policy of missing images."""
    return partial(drop_missing_images, missing_images=missing_images, source="the file")
