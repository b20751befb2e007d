"""Detection AP: COCO's own on clean data, and 100 for perfect boxes whatever the ids are."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from vrd_d2.data.datasets.setup import register_user_datasets
from vrd_d2.data.detections import load_own_boxes
from vrd_d2.evaluation.detection import DetectionEvaluator

SIZE = 400


def document(images=3, boxes=2, classes=2, seed=0):
    """Boxes in distinct places, all keys of COCO, ids from 1."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, images + 1):
        for number in range(boxes):
            x, y = 10 + 45 * (number % 8), 10 + 45 * (number // 8)
            w, h = rng.integers(8, 40, 2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1 + int(rng.integers(classes)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"thing {i}"} for i in range(1, classes + 1)],
        "predicates": [{"id": 1, "name": "on"}],
        "relations": [],
    }


def with_ids(section, key, ids):
    """`document` with other ids of a section, also where they are referred to."""

    def change():
        found = document()
        new = dict(zip([row["id"] for row in found[section]], ids, strict=False))
        for row in found[section]:
            row["id"] = new[row["id"]]
        for row in found["annotations"]:
            if key:
                row[key] = new[row[key]]
        return found

    return change


def with_values(*values):
    """`document` whose annotations have other values, one after the other; None: no such key."""

    def change():
        found = document()
        for row, changes in zip(found["annotations"], values, strict=False):
            row.update(changes)
            for key in [key for key, value in changes.items() if value is None]:
                del row[key]
        return found

    return change


ODD = {
    "annotation ids from 0": with_ids("annotations", None, range(9)),
    "annotation ids that are texts": with_ids("annotations", None, "abcdefgh"),
    "annotation ids of two types": with_ids("annotations", None, [0, "0", "1", 1, -1, ""]),
    "annotation ids that are negative": with_ids("annotations", None, range(-3, 9)),
    "annotation ids beyond 64 bits": with_ids("annotations", None, range(10**30, 10**30 + 9)),
    "image ids of two types": with_ids("images", "image_id", [7, "seven", "7"]),
    "image ids that are texts": with_ids("images", "image_id", ["b", "", "a/b.jpg"]),
    "image ids from 0 down": with_ids("images", "image_id", [0, -1, -2]),
    "image ids beyond 64 bits": with_ids("images", "image_id", [10**30, 2**63, 2**64]),
    "class ids from 0": with_ids("categories", "category_id", [1, 0]),
    "class ids that are huge and negative": with_ids("categories", "category_id", [10**30, -5]),
    "no area": with_values(*[{"area": None}] * 6),
    "no iscrowd": with_values(*[{"iscrowd": None}] * 6),
    "neither": with_values(*[{"iscrowd": None, "area": None}] * 6),
    "one has no area": with_values({"area": None}),
    "areas that are no numbers": with_values({"area": "large"}, {"area": False}, {"area": [3]}),
    "areas that are wrong": with_values({"area": 0}, {"area": -7}, {"area": 10**12}),
    "a crowd": with_values({"iscrowd": 1}),
    "crowds by other values": with_values({"iscrowd": True}, {"iscrowd": 0.0}, {"iscrowd": None}),
    "a box without area": with_values({"bbox": [5, 5, 0, 9]}, {"bbox": [5, 5, 0, 0]}),
    "boxes reaching outside": with_values({"bbox": [-20, -20, 60, 60]}, {"bbox": [0, 9, 900, 9]}),
}  # fmt: skip


def registered(folder, content):
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    name = f"detection_{folder.name}"
    register_user_datasets([[name, str(path), ""]], missing_images="keep")
    return name


def output(boxes, classes, scores=None):
    found = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.tensor(boxes).float().reshape(-1, 4)))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    found.scores = torch.ones(len(classes)) if scores is None else torch.tensor(scores)
    return {"instances": found}


def perfect(record):
    annotations = record["annotations"]
    return output([a["bbox"] for a in annotations], [a["category_id"] for a in annotations])


def evaluated(evaluator, name, outputs=perfect):
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [outputs(record)])
    return evaluator.evaluate()


@pytest.mark.parametrize("odd", ODD)
def test_perfect_boxes_have_an_ap_of_100(tmp_path, odd):
    name = registered(tmp_path, ODD[odd]())
    evaluator = DetectionEvaluator(name, output_dir=str(tmp_path / "out"))
    figures = evaluated(evaluator, name)["bbox"]
    assert [figures[key] for key in ("AP", "AP50", "AP75")] == pytest.approx([100] * 3)
    # What it wrote is read again for the same dataset, with the same ids.
    found = load_own_boxes([[name, str(*evaluator.results_files)]], [name])
    for record in DatasetCatalog.get(name):
        assert found[record["file_name"]].classes.tolist() == [
            a["category_id"] for a in record["annotations"]
        ]


def test_an_image_without_its_boxes_lowers_the_ap(tmp_path):
    name = registered(tmp_path, document(images=2, boxes=2, classes=1))
    missed = evaluated(
        DetectionEvaluator(name),
        name,
        lambda record: output([], []) if record["image_id"] == 2 else perfect(record),
    )
    # Precision 1 up to a recall of 1/2, which are 51 of COCO's 101 points.
    assert missed["bbox"]["AP"] == pytest.approx(100 * 51 / 101)
    nothing = evaluated(DetectionEvaluator(name), name, lambda record: output([], []))
    assert nothing["bbox"]["AP"] == 0
    unseen = DetectionEvaluator(name)
    unseen.reset()
    assert unseen.evaluate()["bbox"]["AP"] == 0


def test_clean_data_give_the_figures_of_detectron2(tmp_path):
    name = registered(tmp_path, document(images=12, boxes=9, classes=3, seed=1))
    rng = np.random.default_rng(2)
    outputs = {}
    for record in DatasetCatalog.get(name):
        boxes = np.array([a["bbox"] for a in record["annotations"]])
        classes = np.array([a["category_id"] for a in record["annotations"]])
        boxes = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), boxes[:4] + 3])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        classes = np.concatenate([classes, rng.integers(3, size=4)])
        scores = rng.random(len(boxes)).astype(np.float32)
        outputs[record["image_id"]] = output(boxes.tolist(), classes.tolist(), scores.tolist())
    ours, theirs = (
        evaluated(evaluator, name, lambda record: outputs[record["image_id"]])["bbox"]
        for evaluator in (
            DetectionEvaluator(name),
            COCOEvaluator(name, tasks=("bbox",), use_fast_impl=False),
        )
    )
    assert list(ours) == list(theirs) and 20 < ours["AP"] < 90
    assert ours == pytest.approx(theirs, abs=1e-3, nan_ok=True)
    assert math.isnan(ours["APl"])


def test_without_an_area_everywhere_there_is_no_ap(tmp_path, caplog):
    name = registered(tmp_path, with_values(*[{"bbox": [5, 5, 0, 9]}] * 6)())
    assert evaluated(DetectionEvaluator(name), name) == {}
    assert f"{name}: 6 annotated boxes have no area" in caplog.text


def test_an_image_that_two_processes_saw_counts_once(tmp_path):
    name = registered(tmp_path, document())
    evaluator = DetectionEvaluator(name, output_dir=str(tmp_path))
    evaluator.reset()
    for record in [*DatasetCatalog.get(name)] * 2:
        evaluator.process([record], [perfect(record)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert len(json.loads(evaluator.results_files[0].read_text())) == 6


def test_what_does_not_fit_the_dataset_is_named(tmp_path):
    name = registered(tmp_path, document())
    evaluator = DetectionEvaluator(name)
    (record, *_) = DatasetCatalog.get(name)
    with pytest.raises(ValueError, match=f"'1' is not in dataset '{name}'"):
        evaluator.process([{**record, "image_id": "1"}], [perfect(record)])
    with pytest.raises(ValueError, match="image 1: class 2 is out of range: 2 exist"):
        evaluator.process([record], [output([[0, 0, 1, 1]], [2])])
    DatasetCatalog.register(f"{name}_twice", lambda: [record, record])
    with pytest.raises(ValueError, match="holds image_id 1 twice"):
        DetectionEvaluator(f"{name}_twice")
