"""Boxes in another layout than a file should have are told alike at every entrance."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from vrd_d2.commands import evaluate
from vrd_d2.data.boxes import check_layout
from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.data.detections import load_own_boxes
from vrd_d2.data.formats.coco import load_detections
from vrd_d2.data.formats.relations_json import load_relations_json, validate_relations_json
from vrd_d2.engine.checks import check_datasets
from vrd_d2.evaluation.files import evaluate_files
from vrd_d2.inference.coco_boxes import load_given_boxes
from vrd_d2.onnx_runtime import BoxLayout, checked_boxes
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.view import GraphView

WIDTH, HEIGHT = 320, 240
# Corners, in the lower right as well as in the upper left.
CORNERS = [
    [66, 130, 139, 155],
    [247, 122, 318, 180],
    [71, 72, 118, 156],
    [272, 180, 304, 232],
    [50, 18, 88, 77],
    [51, 90, 113, 170],
]
SIZES = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in CORNERS]
PARTS = [[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT] for x1, y1, x2, y2 in CORNERS]
PART_SIZES = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in PARTS]
# What stands in bbox of a COCO file, and a piece of the sentence about it.
WRONG_XYWH = {"corners": (CORNERS, "corners"), "parts": (PART_SIZES, "parts of the image"),
              "corners in parts": (PARTS, "parts of the image")}  # fmt: skip
# What stands where corners belong.
WRONG_XYXY = {"sizes": (SIZES, "width and height"), "parts": (PARTS, "parts of the image"),
              "sizes in parts": (PART_SIZES, "parts of the image")}  # fmt: skip


def document(boxes):
    """Two images, and a relation in each."""
    annotations = [
        {"id": i, "image_id": 1 + i // 3, "category_id": 1 + i % 3, "bbox": box, "area": 9.0,
         "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]  # fmt: skip
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("box", "disk", "bar"), 1)],
        "predicates": [{"id": 1, "name": "left of"}, {"id": 2, "name": "above"}],
        "annotations": annotations,
        "relations": [
            {"id": i, "image_id": i, "subject_id": 3 * i - 3, "object_id": 3 * i - 2,
             "predicate_id": 1}
            for i in (1, 2)
        ],
    }  # fmt: skip


def write(folder, content, name="all.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("kind", WRONG_XYWH)
def test_a_file_of_relations(tmp_path, dataset_tool, capsys, kind):
    boxes, words = WRONG_XYWH[kind]
    path = write(tmp_path, document(boxes))
    for i in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{i}.png")
    messages = validate_relations_json(path)
    (text,) = [text for text in messages if text.startswith("error: ")]
    assert str(path) in text and words in text and "[x, y, width, height]" in text
    with pytest.raises(ValueError) as error:
        load_relations_json(path)
    assert f"error: {error.value}" == text
    # the tools
    for command in (["check"], ["stats"], ["split", "--output", str(tmp_path / "out")]):
        assert dataset_tool.main([command[0], str(path), *command[1:]]) == 1
        captured = capsys.readouterr()
        assert text in captured.out + captured.err
        assert "reaches outside" not in captured.out  # the sentence stands for a line a box
    # and as ground truth of an evaluation
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text('{"image_id": 1, "triplets": []}\n')
    with pytest.raises(ValueError) as error:
        evaluate_files(path, predictions, task="predcls")
    assert f"error: {error.value}" == text
    good = write(tmp_path, document(SIZES), "good.json")
    assert len(load_relations_json(good)) == 2


@pytest.mark.parametrize("kind", WRONG_XYWH)
def test_results_of_a_detector(tmp_path, kind):
    boxes, words = WRONG_XYWH[kind]
    rows = [
        {"image_id": 1 + i // 3, "category_id": 1, "bbox": box, "score": 0.5}
        for i, box in enumerate(boxes)
    ]
    path = write(tmp_path, rows, "det.json")
    sizes = {1: (WIDTH, HEIGHT), 2: (WIDTH, HEIGHT)}
    with pytest.raises(ValueError, match=words) as error:
        load_detections(path, {1: 0}, sizes=sizes)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    # DATASETS.DETECTIONS, whose dataset says how large the images are
    for i in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{i}.png")
    from vrd_d2.data.datasets.registrar import register_relations_json

    name = f"layout_{tmp_path.name}"
    register_relations_json(name, write(tmp_path, document(SIZES)))
    with pytest.raises(ValueError) as again:
        load_own_boxes([[name, str(path)]], [name])
    assert str(again.value) == str(error.value)
    good = [{**row, "bbox": box} for row, box in zip(rows, SIZES, strict=True)]
    assert len(load_own_boxes([[name, str(write(tmp_path, good, "g.json"))]], [name])) == 2


@pytest.mark.parametrize("kind", WRONG_XYWH)
def test_a_file_of_given_boxes(tmp_path, kind):
    boxes, words = WRONG_XYWH[kind]
    path = write(tmp_path, document(boxes))
    with pytest.raises(ValueError, match=words) as error:
        load_given_boxes(path)
    assert str(path) in str(error.value)
    content = document(boxes)
    for image in content["images"]:
        del image["width"]
    given = load_given_boxes(write(tmp_path, content)) if kind == "corners" else None
    if given is not None:  # without sizes, it is seen where the image is
        with pytest.raises(ValueError, match="corners"):
            checked_boxes(given.of("1.png", (WIDTH, HEIGHT))[0], HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", WRONG_XYXY)
def test_predictions_and_ground_truth_as_lines(tmp_path, kind, capsys):
    boxes, words = WRONG_XYXY[kind]
    truth = write(tmp_path, document(SIZES))

    def line(image, boxes):
        chosen = boxes[3 * image - 3 : 3 * image]
        return {"image_id": image, "boxes": chosen, "classes": [0, 1, 2], "scores": [1, 1, 1],
                "triplets": [[0, 1, 0, 1.0]]}  # fmt: skip

    def lines(name, of):
        path = tmp_path / name
        path.write_text("".join(json.dumps(of(image)) + "\n" for image in (1, 2)))
        return path

    wrong = lines("wrong.jsonl", lambda image: line(image, boxes))
    good = lines("good.jsonl", lambda image: line(image, CORNERS))
    assert evaluate_files(truth, good, task="sgdet").summary.metrics["R"][20] == 1
    with pytest.raises(ValueError, match=words) as error:
        evaluate_files(truth, wrong, task="sgdet")
    assert str(wrong) in str(error.value)
    code = evaluate.main(
        ["--ground-truth", str(truth), "--predictions", str(wrong), "--bootstrap", "0"]
    )
    assert code == 1 and f"error: {error.value}\n" in capsys.readouterr().err

    def annotated(image, boxes):
        return {"image_id": image, "gt_boxes": boxes[3 * image - 3 : 3 * image],
                "gt_classes": [0, 1, 2], "gt_relations": [[0, 1, 0]]}  # fmt: skip

    wrong_truth = lines("truth.jsonl", lambda image: annotated(image, boxes))
    with pytest.raises(ValueError, match=words) as error:
        evaluate_files(wrong_truth, good, task="sgdet", num_predicates=2)
    assert str(wrong_truth) in str(error.value)
    both = lines("both.jsonl", lambda image: {**annotated(image, boxes), **line(image, CORNERS)})
    with pytest.raises(ValueError, match=words) as error:
        evaluate_files(both, both, task="sgdet", num_predicates=2)
    assert str(both) in str(error.value)


@pytest.mark.parametrize("kind", WRONG_XYXY)
def test_boxes_given_to_a_predictor(kind):
    boxes, words = WRONG_XYXY[kind]
    with pytest.raises(ValueError, match=words):
        checked_boxes(boxes[3:], HEIGHT, WIDTH)
    np.testing.assert_array_equal(checked_boxes(CORNERS, HEIGHT, WIDTH), CORNERS)


def test_a_dataset_of_the_users_own_loader(tmp_path):
    """Training and evaluation look at datasets that no reader of this package has seen."""
    records = [
        {"file_name": f"{i}.png", "image_id": i, "width": WIDTH, "height": HEIGHT,
         "relations": np.zeros((0, 3), np.int64),
         "annotations": [
             {"bbox": box, "bbox_mode": 1, "category_id": 0}  # XYWH_ABS
             for box in CORNERS[3 * i - 3 : 3 * i]
         ]}
        for i in (1, 2)
    ]  # fmt: skip
    name = f"own_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["a"], predicate_classes=["b"])
    with pytest.raises(ValueError, match="corners") as error:
        check_datasets([name])
    assert name in str(error.value)
    for record in records:
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = 0
    check_datasets([name])
    DatasetCatalog.remove(name)


OTHERS = {
    "of larger images": lambda x1, y1, x2, y2: [1.6 * x1, 1.6 * y1, 1.6 * x2, 1.6 * y2],
    "of smaller images": lambda x1, y1, x2, y2: [x1 / 2, y1 / 2, x2 / 2, y2 / 2],
    "percent": lambda x1, y1, x2, y2: [
        100 * x1 / WIDTH, 100 * y1 / HEIGHT, 100 * x2 / WIDTH, 100 * y2 / HEIGHT,
    ],
    "y first": lambda x1, y1, x2, y2: [y1, 1.3 * x1, y2, 1.3 * x2],  # of broader images
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_may_be_another_scale_or_order_is_a_warning(tmp_path, caplog, kind):
    """At the entrances where a file is read; a dataset may have such boxes."""
    boxes = [OTHERS[kind](*box) for box in CORNERS] * 4
    sizes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes]
    path = write(tmp_path, document(SIZES))
    content = {**document(SIZES), "relations": []}
    content["annotations"] = [
        {**content["annotations"][i % 6], "id": i, "bbox": box} for i, box in enumerate(sizes)
    ]
    other = write(tmp_path, content, "other.json")
    (text,) = [text for text in validate_relations_json(other) if "another size" in text]
    assert text.startswith("warning: ") and str(other) in text
    assert not [text for text in validate_relations_json(path) if "another size" in text]
    rows = [
        {"image_id": 1 + i % 2, "category_id": 1, "bbox": box, "score": 0.5}
        for i, box in enumerate(sizes)
    ]
    results = write(tmp_path, rows, "det.json")
    lines = tmp_path / "p.jsonl"
    lines.write_text(
        "".join(
            json.dumps({"image_id": i, "boxes": boxes, "classes": [0] * 24, "scores": [1] * 24,
                        "triplets": []}) + "\n"
            for i in (1, 2)
        )
    )  # fmt: skip
    for name, call in (
        (other, lambda: load_relations_json(other, missing_images="skip")),
        (
            results,
            lambda: load_detections(results, {1: 0}, sizes=dict.fromkeys((1, 2), (WIDTH, HEIGHT))),
        ),
        (lines, lambda: evaluate_files(path, lines, task="sgdet")),
    ):
        caplog.clear()
        call()
        (record,) = [r for r in caplog.records if "another size" in r.getMessage()]
        assert record.levelname == "WARNING" and str(name) in record.getMessage()


def test_what_is_no_other_layout():
    """Boxes that reach outside, few and large ones, and images whose size is not known."""
    rng = np.random.default_rng(0)
    low = rng.random((1000, 2)) * [280, 200]
    boxes = np.hstack([low, low + 30 + rng.random((1000, 2)) * 40])  # many beyond the edge
    for good in (boxes, [[0, 0, 320, 240]], [[5, 5, 325, 245]], np.zeros((3, 4)), []):
        layout = BoxLayout()
        layout.add(np.reshape(np.array(good, float), (-1, 4)), (WIDTH, HEIGHT))
        assert layout.problem() is None and layout.hint() is None
    layout = BoxLayout()
    layout.add(np.array([[0, 0, 1, 1]]), (2, 2))  # all of a tiny image
    assert layout.problem() is None
    layout.add(np.array(CORNERS) * 7)
    assert layout.problem() is None


@pytest.mark.filterwarnings("error")
def test_boxes_too_large_to_be_added():
    layout = BoxLayout()
    layout.add(np.full((2, 4), 1e308), (WIDTH, HEIGHT))
    assert layout.problem() is None


def test_one_box_is_enough_where_it_is_given_for_an_image():
    for box in ([0.1, 0.2, 0.9, 0.8], [0, 0, 1, 1]):
        with pytest.raises(ValueError, match="parts of the image"):
            checked_boxes([box], HEIGHT, WIDTH)
    layout = BoxLayout()
    layout.add(np.array([[0, 0, 1, 1]]), (WIDTH, HEIGHT))  # in a file, a single pixel
    assert layout.problem() is None


def test_hints_on_ids_that_count_from_1(tmp_path, caplog):
    truth = write(tmp_path, document(SIZES))
    rows = [
        {"image_id": i, "boxes": CORNERS[:2], "classes": [c, c + 1], "scores": [1, 1],
         "triplets": [[0, 1, p, 0.5]]}
        for i, c, p in ((1, 1, 1), (2, 1, 1))
    ]  # fmt: skip
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate_files(truth, path, task="sgdet")
    hints = [m for m in caplog.messages if "count from 1" in m and str(path) in m]
    assert len(hints) == 2 and "class 0" in hints[0] and "predicate 0" in hints[1]
    rows[1]["classes"] = [2, 3]  # of 3 classes: out of range
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"line 2: .*class 3 .*counted from 1"):
        evaluate_files(truth, path, task="sgdet")
    caplog.clear()
    rows[1].update(classes=[0, 1], triplets=[[0, 1, 0, 0.5]])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate_files(truth, path, task="sgdet")
    assert not [m for m in caplog.messages if "count from 1" in m]
    # a detector's results, of a dataset that counts from 0
    det = write(tmp_path, [{"image_id": 1, "category_id": 1, "bbox": SIZES[0]}], "det.json")
    load_detections(det, {0: 0, 1: 1})
    assert [m for m in caplog.messages if "count from 1" in m and str(det) in m]
    caplog.clear()
    load_detections(det, {1: 0, 2: 1})
    assert not caplog.messages


def test_ragged_boxes_are_named():
    for boxes, what in (
        ([[1, 2, 3, 4], [1, 2, 3]], r"boxes\[1\] is \[1, 2, 3\]"),
        ([[1, 2, 3, 4], ["a", 2, 3, 4]], r"boxes\[1\]"),
        ([[1, 2, 3, 4], None], r"boxes\[1\] is None"),
        ([[1, 2, 3, 10**400]], r"boxes\[0\]"),
        ([[1, 2, 3, [4]]], r"boxes\[0\]"),
        ([1, 2, 3, 4], r"boxes\[0\] is 1"),
        (7, "boxes are 7"),
        ({"a": 1}, r"boxes"),
    ):
        with pytest.raises(ValueError, match=what) as error:
            checked_boxes(boxes, HEIGHT, WIDTH)
        assert "inhomogeneous" not in str(error.value)
    for nothing in ([], np.zeros((0, 4)), ()):
        assert checked_boxes(nothing, HEIGHT, WIDTH).shape == (0, 4)


def test_ragged_boxes_of_datasets_and_graphs_are_named(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    mapper = RelationMapper(augmentations=(), image_format="RGB")
    good = {"bbox": [1, 2, 30, 40], "bbox_mode": 0, "category_id": 0}
    for wrong, what in (
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, 4, 5], "bbox_mode": 1}, r"bbox \[1, 2, 3, 4, 5\]"),
        ({"bbox": [1, 2, 3, "x"]}, "bbox"),
        ({"bbox": None}, "bbox None"),
        ({"bbox": [0.1, 0.1, 0.2, 0.2], "bbox_mode": 2}, "bbox_mode 2"),  # XYXY_REL
        ({"bbox": [1, 2, 3, 4], "bbox_mode": 99}, "bbox_mode 99"),
        ({"bbox": [1, 2, 3, 4], "bbox_mode": 4}, "bbox_mode 4"),  # rotated, of five numbers
    ):
        record = {"file_name": str(tmp_path / "a.png"), "image_id": 7}
        record["annotations"] = [good, {**good, **wrong}]
        with pytest.raises(ValueError, match=rf"a\.png.*{what}"):
            mapper(record)
        with pytest.raises(ValueError, match=rf"7.*{what}"):
            check_layout([record], "name")
    for key in ("bbox", "bbox_mode", "category_id"):
        record["annotations"] = [{k: v for k, v in good.items() if k != key}]
        with pytest.raises(ValueError, match=rf"a\.png.*{key}"):
            mapper(record)
    record["annotations"], record["relations"] = [good], [[0, 0, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"a\.png.*relations.*\(R, 3\)"):
        mapper(record)
    with pytest.raises(ValueError, match=r"box 1 is \[1, 2\]"):
        GraphView.of([[1, 2, 3, 4], [1, 2]], ["a", "b"], [])
    entities = [{"bbox": [1, 2, 3, 4], "label": "a"}, {"bbox": [1, 2], "label": "a"}]
    with pytest.raises(ValueError, match=r"boxes\[1\] is \[1, 2\]"):
        SceneGraph.from_dict({"entities": entities, "relations": []})


def test_images_of_different_sizes_in_one_call():
    records = SimpleNamespace(
        boxes=np.array(CORNERS * 2, float), sizes=np.array([[HEIGHT, WIDTH], [0, 0]]),
        box_counts=np.array([6, 6]),
    )  # fmt: skip
    check_layout(records, "name")
    records.boxes[:, 2:] += records.boxes[:, :2]
    records.sizes[1] = HEIGHT, WIDTH
    with pytest.raises(ValueError, match=r"name: .*corners"):
        check_layout(records, "name")
