"""COCO files: instances without relations as datasets, and results as boxes of one's own."""

import copy
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from vrd_d2.data.datasets.setup import register_user_datasets
from vrd_d2.data.detections import load_own_boxes, results_files
from vrd_d2.data.formats.coco import is_boxes_only, load_detections
from vrd_d2.data.formats.relations_json import load_relations_json, validate_relations_json
from vrd_d2.evaluation import RelationEvaluator
from vrd_d2.evaluation.detection import DetectionEvaluator

# As COCO's own files are: gaps in the ids of categories, other keys, no lists of relations.
INSTANCES = {
    "info": {},
    "licenses": [],
    "images": [
        {"id": 9, "file_name": "a.png", "width": 40, "height": 30, "license": 1},
        {"id": 4, "file_name": "b.png", "width": 20, "height": 50},
        {"id": 7, "file_name": "c.png", "width": 20, "height": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 18, "bbox": [2, 3, 10, 20], "area": 200,
         "iscrowd": 0, "segmentation": [[2, 3, 12, 3, 12, 23]]},
        {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 0, 20.5, 30], "area": 615,
         "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 18, "bbox": [5, 5, 30, 20], "area": 600,
         "iscrowd": 1},
    ],
    "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "man"}],
}  # fmt: skip
RESULTS = [
    {"image_id": 4, "category_id": 18, "bbox": [2.0, 3.5, 10, 20], "score": 0.9},
    {"image_id": 9, "category_id": 1, "bbox": [0, 0, 20, 30], "score": 0.25},
    {"image_id": 4, "category_id": 1, "bbox": [0, 0, 5, 5]},
    {"image_id": 1000, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 1},
]


@pytest.fixture
def instances(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(INSTANCES))
    for image in INSTANCES["images"]:
        size = image["width"], image["height"]
        Image.new("RGB", size).save(tmp_path / image["file_name"])
    return path


@pytest.fixture
def registered(instances, tmp_path):
    name = f"coco_{tmp_path.name}"
    register_user_datasets([[name, str(instances), ""]])
    return name


def write(folder, rows):
    path = folder / "results.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


def test_instances_without_relations_are_a_dataset(instances):
    records = load_relations_json(instances)
    coco = COCO(str(instances))
    for record in records:
        expected = coco.imgToAnns[record["image_id"]]
        assert [a["bbox"] for a in record["annotations"]] == [
            [x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in expected)
        ]
        assert record["relations"].shape == (0, 3)
    assert [record["image_id"] for record in records] == [9, 4, 7]
    assert [a["category_id"] for a in records[0]["annotations"]] == [0, 1]  # man, dog: by id
    assert records[0]["annotations"][1]["iscrowd"] == 1
    assert validate_relations_json(instances) == []


def test_a_list_of_images_needs_no_annotations(instances):
    document = {key: value for key, value in INSTANCES.items() if key != "annotations"}
    instances.write_text(json.dumps(document))
    assert [record["annotations"] for record in load_relations_json(instances)] == [[], [], []]


def test_half_of_the_lists_is_no_file_of_boxes(instances):
    for key in ("predicates", "relations"):
        instances.write_text(json.dumps({**INSTANCES, key: []}))
        with pytest.raises(ValueError, match="is missing: add a list"):
            load_relations_json(instances)
    assert not is_boxes_only([]) and not is_boxes_only({"images": []})


def test_metadata_of_boxes_only(registered):
    assert len(DatasetCatalog.get(registered)) == 3
    metadata = MetadataCatalog.get(registered)
    assert metadata.thing_classes == ["man", "dog"]
    assert metadata.get("predicate_classes") is None
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 18: 1}


def output(record, boxes, classes, scores):
    """What a model of three predicates might answer."""
    size = (record["height"], record["width"])
    instances = Instances(size, pred_boxes=Boxes(boxes))
    instances.pred_classes, instances.scores = classes, scores
    pairs = [(i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    relations = Instances(size, pairs=np_tensor(pairs, np.int64).reshape(-1, 2))
    relations.predicate_scores = np_tensor(np.full((len(pairs), 3), 0.3), np.float32)
    return {"instances": instances, "relations": relations}


def np_tensor(values, dtype):
    import torch

    return torch.from_numpy(np.array(values, dtype))


def annotated_output(record):
    boxes = np_tensor([a["bbox"] for a in record["annotations"]], np.float32).reshape(-1, 4)
    classes = np_tensor([a["category_id"] for a in record["annotations"]], np.int64)
    return output(record, boxes, classes, np_tensor(np.ones(len(classes)), np.float32))


@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
@pytest.mark.parametrize("keep", [False, True])
def test_the_evaluator_says_that_there_is_nothing_to_evaluate(
    registered, tmp_path, caplog, task, keep
):
    folder = tmp_path / "out"
    evaluator = RelationEvaluator(
        registered, task=task, output_dir=str(folder), write_predictions=keep
    )
    records = DatasetCatalog.get(registered)
    evaluator.process(records, [annotated_output(record) for record in records])
    with caplog.at_level("WARNING"):
        assert evaluator.evaluate() == {}
    assert "none of its 3 images has relations, so there is nothing to evaluate" in caplog.text
    assert (folder / "predictions.jsonl.gz").is_file() == keep
    assert not list(folder.glob("relations_*.json"))


def test_detection_ap_leaves_out_what_the_dataset_leaves_out(registered, instances, tmp_path):
    """An image that is missing and skipped is no image in which nothing was found."""
    (tmp_path / "b.png").unlink()
    register_user_datasets([[registered, str(instances), ""]], missing_images="skip")
    evaluator = DetectionEvaluator(registered, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    records = DatasetCatalog.get(registered)
    assert [record["image_id"] for record in records] == [9, 7]
    evaluator.process(records, [annotated_output(record) for record in records])
    assert evaluator.evaluate()["bbox"]["AP50"] == pytest.approx(100)


def test_detection_ap_of_images_without_boxes_is_not_given(instances, tmp_path):
    instances.write_text(json.dumps({**INSTANCES, "annotations": []}))
    name = f"empty_{tmp_path.name}"
    register_user_datasets([[name, str(instances), ""]])
    evaluator = DetectionEvaluator(name, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    first, *_ = DatasetCatalog.get(name)
    one = np_tensor([[0, 0, 9, 9]], np.float32), np_tensor([1], np.int64), np_tensor([0.5], "f4")
    evaluator.process([first], [output(first, *one)])
    assert evaluator.evaluate() == {}
    written = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert [row["category_id"] for row in written] == [18]


def test_results_by_image(tmp_path):
    found = load_detections(write(tmp_path, RESULTS), {1: 0, 18: 1})
    assert list(found) == [4, 9, 1000]
    np.testing.assert_array_equal(found[4].boxes, [[2, 3.5, 12, 23.5], [0, 0, 5, 5]])
    assert found[4].classes.tolist() == [1, 0]
    np.testing.assert_allclose(found[4].scores, [0.9, 1])


def test_the_same_file_as_pycocotools_reads(instances, tmp_path):
    complete = [row for row in RESULTS if row["image_id"] != 1000 and "score" in row]
    path = write(tmp_path, complete)
    loaded = COCO(str(instances)).loadRes(str(path))
    for image_id, found in load_detections(path, {1: 0, 18: 1}).items():
        rows = loaded.imgToAnns[image_id]
        xywh = np.array([row["bbox"] for row in rows])
        np.testing.assert_array_equal(found.boxes[:, 2:] - found.boxes[:, :2], xywh[:, 2:])
        np.testing.assert_array_equal(found.boxes[:, :2], xywh[:, :2])
        np.testing.assert_allclose(found.scores, [row["score"] for row in rows])


def test_boxes_of_a_dataset_by_file_name(registered, tmp_path, caplog):
    path = write(tmp_path, RESULTS)
    with caplog.at_level("INFO"):
        found = load_own_boxes([[registered, str(path)]], [registered, "another"])
    assert "3 boxes of" in caplog.text and "for 2 of 3 images; 1 of its image ids" in caplog.text
    a, b, c = (found[str(tmp_path / f"{name}.png")] for name in "abc")
    assert (len(a.boxes), len(b.boxes), len(c.boxes)) == (1, 2, 0)
    assert c.boxes.shape == (0, 4) and c.classes.shape == c.scores.shape == (0,)
    assert b.classes.tolist() == [1, 0]
    assert load_own_boxes([[registered, str(path)]], ["another"]) == {}


def test_what_detectron2_writes_is_what_is_read(registered, tmp_path):
    """coco_instances_results.json of an evaluation can be a row of DATASETS.DETECTIONS."""
    evaluator = DetectionEvaluator(registered, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    records = DatasetCatalog.get(registered)
    evaluator.process(records, [annotated_output(record) for record in records])
    evaluator.evaluate()
    path = tmp_path / "out/coco_instances_results.json"
    assert {row["category_id"] for row in json.loads(path.read_text())} == {1, 18}
    found = load_own_boxes([[registered, str(path)]], [registered])
    for record in records:
        detections = found[record["file_name"]]
        assert detections.classes.tolist() == [a["category_id"] for a in record["annotations"]]
        boxes = np.array([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)
        np.testing.assert_allclose(detections.boxes, boxes, atol=1e-4)


def test_without_a_json_category_ids_count_from_0(tmp_path):
    name = f"plain_{tmp_path.name}"
    record = {"file_name": "x.jpg", "image_id": "x", "annotations": [], "relations": []}
    DatasetCatalog.register(name, lambda: [copy.deepcopy(record)])
    MetadataCatalog.get(name).set(thing_classes=["man", "dog"])
    row = {"image_id": "x", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    found = load_own_boxes([[name, str(write(tmp_path, [row]))]], [name])
    assert found["x.jpg"].classes.tolist() == [1]


def changed(**values):
    return [RESULTS[0], {k: v for k, v in {**RESULTS[1], **values}.items() if v is not ...}]


BAD_RESULTS = [
    ("[{", "is no complete JSON file"),
    ({"annotations": []}, "is no list: it must be a COCO results file"),
    ([RESULTS[0], 3], "record 1: is 3"),
    (changed(bbox=...), "record 1: the key bbox is missing"),
    (changed(category_id=...), "record 1: the key category_id is missing"),
    (changed(image_id=[9]), r"record 1: image_id is \[9\]"),
    (changed(bbox=[0, 0, 5]), r"record 1: bbox is \[0, 0, 5\]: it must be \[x, y, width"),
    (changed(bbox=[0, 0, -5, 5]), "width and height not negative"),
    (changed(bbox=[0, 0, float("nan"), 5]), "four finite numbers"),
    (changed(bbox=[0, 0, "5", 5]), "four finite numbers"),
    (changed(score="high"), "record 1: score is 'high': it must be a number in 0..1"),
    (changed(score=1.5), "score is 1.5"),
    (changed(score=10**400), "score is 1000"),
    (changed(bbox=[0, 0, 10**400, 5]), "record 1: bbox is .* four finite"),
    (changed(category_id=2), "category_id is 2, but the dataset's are 1 to 18"),
    (changed(category_id=True), "category_id is True"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_RESULTS, ids=[m for _, m in BAD_RESULTS])
def test_bad_results_name_file_and_record(tmp_path, rows, message):
    path = write(tmp_path, rows)
    with pytest.raises(ValueError, match=message) as info:
        load_detections(path, {1: 0, 18: 1})
    assert str(path) in str(info.value)


def test_results_of_another_dataset_are_refused(registered, tmp_path):
    path = write(tmp_path, [{**row, "image_id": str(row["image_id"])} for row in RESULTS])
    with pytest.raises(ValueError, match=r"no image_id \('4', .*is one of dataset.*1 and '1'"):
        load_own_boxes([[registered, str(path)]], [registered])
    with pytest.raises(ValueError, match=r"nowhere\.json.*DATASETS\.DETECTIONS"):
        load_own_boxes([[registered, "nowhere.json"]], [registered])


@pytest.mark.parametrize("row", ["name", ["name"], ["name", 3], ["", "file.json"], ["a", "b", "c"]])
def test_bad_rows_of_a_config(row):
    with pytest.raises(ValueError, match=r"DATASETS\.DETECTIONS\[1\] is .*it must be"):
        results_files([["first", "file.json"], row])


def test_two_files_for_one_dataset():
    with pytest.raises(ValueError, match=r"DETECTIONS\[1\]: dataset 'a' already has x\.json"):
        results_files([["a", "x.json"], ["a", "y.json"]])
