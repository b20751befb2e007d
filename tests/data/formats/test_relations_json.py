"""The interchange format: loading, saving, every message of the validation, and COCO tools."""

import contextlib
import copy
import gc
import io
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from relations_document import DOCUMENT, changed, write

from vrd_d2.data.boxes import check_layout
from vrd_d2.data.datasets.registrar import register_relations_json
from vrd_d2.data.formats.relations_json import (
    load_relations_json,
    save_relations_json,
    validate_relations_json,
)
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary

VOCABULARY = Vocabulary(["man", "horse", "hat"], ["riding", "wearing"])


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one, other = dict(one), dict(other)
        rows, expected_rows = one.pop("relations"), other.pop("relations")
        assert rows.dtype == np.int64 and rows.shape == expected_rows.shape
        assert (rows == expected_rows).all()
        assert one == other


def test_load_gives_detectron2_dicts_with_relations(tmp_path):
    first, second = load_relations_json(write(tmp_path, DOCUMENT))
    assert first.pop("relations").tolist() == [[1, 0, 0]]  # ids 4 and 9 are predicates 0 and 1
    assert first == {
        "file_name": str(tmp_path / "a.jpg"),
        "image_id": 7,
        "height": 80,
        "width": 100,
        "captions": ["a man"],
        "annotations": [
            {"id": 5, "bbox": [10, 20, 40, 60], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
            {"id": 4, "bbox": [0, 0, 50, 80], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
        ],
    }
    assert second["relations"].shape == (0, 3)
    assert second["relations"].dtype == np.int64
    assert second["annotations"][0]["iscrowd"] == 1
    assert "captions" not in second
    assert get_vocabulary(tmp_path / "data.json") == VOCABULARY


def test_image_root_may_be_another_folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    path = write(images, DOCUMENT).rename(tmp_path / "data.json")
    dicts = load_relations_json(path, images)
    assert dicts[1]["file_name"] == str(images / "sub/b.jpg")


boxes = st.tuples(*[st.integers(-200, 4000).map(lambda n: n / 4)] * 2).flatmap(
    lambda corner: st.tuples(*[st.integers(0, 4000).map(lambda n: n / 4)] * 2).map(
        lambda size: [*corner, corner[0] + size[0], corner[1] + size[1]]
    )
)


@st.composite
def images(draw, image_id):
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": draw(st.integers(0, 2))}
        for box in draw(st.lists(boxes, max_size=4))
    ]
    for annotation in annotations:
        if draw(st.booleans()):
            annotation["iscrowd"] = 1
    index = st.integers(0, max(len(annotations) - 1, 0))
    rows = st.tuples(index, index, st.integers(0, 1))
    relations = draw(st.lists(rows, max_size=6 if annotations else 0))
    record = {
        "file_name": draw(st.sampled_from(["a.jpg", "sub/b.jpg", "ü é.png"])),
        "image_id": image_id,
        "height": draw(st.integers(1, 2000)),
        "width": draw(st.integers(1, 2000)),
        "annotations": annotations,
        "relations": np.array(relations, np.int64).reshape(-1, 3),
    }
    if draw(st.booleans()):
        record["captions"] = draw(st.lists(st.text(max_size=8), max_size=2))
    return record


@st.composite
def datasets(draw):
    ids = draw(
        st.lists(st.integers(0, 10**6) | st.text("abc", min_size=1), unique=True, max_size=4)
    )
    dicts = [draw(images(image_id)) for image_id in ids]
    annotations = [annotation for record in dicts for annotation in record["annotations"]]
    numbers = draw(st.permutations(range(1, len(annotations) + 1)))
    for annotation, number in zip(annotations, numbers, strict=True):
        annotation["id"] = number
    return dicts


def in_pixels(dicts) -> bool:
    """Whether boxes drawn by chance do not look as if they were in another layout."""
    try:
        check_layout(dicts, "")
    except ValueError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(datasets().filter(in_pixels))
def test_loading_what_was_saved_gives_it_back(dicts):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sub").mkdir()
        for record in dicts:
            record["file_name"] = str(folder / record["file_name"])
            Path(record["file_name"]).touch()
        before = copy.deepcopy(dicts)
        path = folder / "made/data.json"
        save_relations_json(dicts, VOCABULARY, path, image_root=folder)
        assert_same(dicts, before)
        assert_same(load_relations_json(path, folder), dicts)
        assert str(folder) not in path.read_text()
        assert not [text for text in validate_relations_json(path, folder) if "error" in text]


def test_any_float_box_survives_to_the_last_bits(tmp_path):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1000, (200, 2, 2)), axis=1).reshape(-1, 4)
    record = dataset_dict(tmp_path, [box.tolist() for box in corners])
    path = tmp_path / "data.json"
    save_relations_json([record], VOCABULARY, path)
    found = [annotation["bbox"] for annotation in load_relations_json(path)[0]["annotations"]]
    np.testing.assert_allclose(found, corners, rtol=0, atol=1e-12)


def dataset_dict(folder: Path, boxes: list, *, mode: BoxMode = BoxMode.XYXY_ABS) -> dict:
    (folder / "a.jpg").touch()
    return {
        "file_name": str(folder / "a.jpg"),
        "image_id": 1,
        "height": 1000,
        "width": 1000,
        "annotations": [{"bbox": box, "bbox_mode": mode, "category_id": 0} for box in boxes],
    }


def test_save_numbers_annotations_that_have_no_ids_and_takes_any_box_mode(tmp_path):
    record = dataset_dict(tmp_path, [[1.1, 2, 30.7, 40], [5, 6, 7, 8]], mode=BoxMode.XYWH_ABS)
    path = tmp_path / "data.json"
    save_relations_json([record], VOCABULARY, path)
    (loaded,) = load_relations_json(path)
    assert [annotation["id"] for annotation in loaded["annotations"]] == [1, 2]
    # In single precision 31.8 would be off by 8e-7.
    np.testing.assert_allclose(
        loaded["annotations"][0]["bbox"], [1.1, 2, 31.8, 42], rtol=0, atol=1e-12
    )
    assert loaded["relations"].shape == (0, 3)


def test_a_image_outside_the_image_root_keeps_its_absolute_path(tmp_path):
    record = dataset_dict(tmp_path, [[0, 0, 1, 1]])
    path = tmp_path / "elsewhere/data.json"
    save_relations_json([record], VOCABULARY, path)
    assert load_relations_json(path)[0]["file_name"] == record["file_name"]


@pytest.mark.parametrize("row", [[0, 2, 0], [-1, 0, 0]])
def test_save_refuses_indices_that_point_at_no_box(tmp_path, row):
    record = dataset_dict(tmp_path, [[0, 0, 1, 1], [0, 0, 2, 2]])
    record["relations"] = np.array([[0, 1, 0], row])
    with pytest.raises(ValueError, match=r"a\.jpg.*relations\[1\] joins.*has 2 annotations"):
        save_relations_json([record], VOCABULARY, tmp_path / "data.json")
    assert not (tmp_path / "data.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 3}, "category_id 4 is not an id of categories"),
        ({"category_id": -1}, "category_id 0 is not an id of categories"),
        ({"bbox": [5, 5, 1, 9]}, r"bbox is \[5.0, 5.0, -4.0, 4.0\]"),
        ({"bbox": [float("nan"), 5, 1, 9]}, "four finite numbers"),
    ],
)
def test_save_refuses_what_load_would(tmp_path, change, message):
    record = dataset_dict(tmp_path, [[0, 0, 1, 1]])
    record["annotations"][0].update(change)
    path = tmp_path / "data.json"
    path.write_text("the file of before")
    with pytest.raises(ValueError, match=message):
        save_relations_json([record], VOCABULARY, path)
    assert path.read_text() == "the file of before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "data.json"]


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(ValueError, match=r"there is no file .*none\.json"):
        load_relations_json(path)
    assert validate_relations_json(path) == [f"error: there is no file {path}: check the path"]


def test_missing_images_are_named_or_skipped(tmp_path, caplog):
    path = write(tmp_path, DOCUMENT)
    (tmp_path / "sub/b.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images are missing: .*sub/b\.jpg"):
        load_relations_json(path)
    (text,) = validate_relations_json(path)
    assert text.startswith("error: ") and "images[1] (id 'x'): there is no image" in text
    with caplog.at_level(logging.WARNING):
        dicts = load_relations_json(path, missing_images="skip")
    assert [record["image_id"] for record in dicts] == [7]
    assert str(tmp_path / "sub/b.jpg") in caplog.text
    with pytest.raises(ValueError, match="missing_images is 'ignore'"):
        load_relations_json(path, missing_images="ignore")


def test_pycocotools_reads_the_file(tmp_path):
    record = dataset_dict(tmp_path, [[10, 20, 40, 60], [0, 0, 50, 80]])
    record["relations"] = np.array([[1, 0, 0]])
    path = tmp_path / "data.json"
    save_relations_json([record], VOCABULARY, path)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        "man", "horse", "hat",
    ]  # fmt: skip
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert (first["bbox"], first["area"]) == ([10, 20, 30, 40], 1200)


def test_registered_data_work_with_the_coco_evaluator(tmp_path):
    """Perfect detections give AP 100 only if class ids are turned back into the file's."""
    document = changed("annotations", 1, iscrowd=0)
    document["images"][1]["id"] = document["annotations"][1]["image_id"] = 8
    path = write(tmp_path, document)
    name = f"registered_{tmp_path.name}"
    register_relations_json(name, path, zero_shot_triplets=[(0, 1, 0)])
    assert MetadataCatalog.get(name).get("thing_classes") is None  # nothing has been read yet
    dicts = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["man", "horse", "hat"]
    assert metadata.predicate_classes == ["riding", "wearing"]
    assert metadata.evaluator_type == "relation"
    assert metadata.zero_shot_triplets == [(0, 1, 0)]
    assert (metadata.json_file, metadata.image_root) == (str(path), str(tmp_path))
    evaluator = COCOEvaluator(name, tasks=("bbox",), use_fast_impl=False, distributed=False)
    evaluator.reset()
    for record in dicts:
        instances = Instances((record["height"], record["width"]))
        annotations = record["annotations"]
        instances.pred_boxes = Boxes([annotation["bbox"] for annotation in annotations])
        instances.scores = np.ones(len(annotations))
        instances.pred_classes = np.array([annotation["category_id"] for annotation in annotations])
        evaluator.process([record], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_registering_again_is_harmless_and_a_taken_name_is_refused(tmp_path):
    path = write(tmp_path, DOCUMENT)
    name = f"again_{tmp_path.name}"
    register_relations_json(name, path)
    register_relations_json(name, path, missing_images="skip")
    MetadataCatalog.get(name).set(note="mine")
    (tmp_path / "a.jpg").unlink()
    assert len(DatasetCatalog.get(name)) == 1  # the second registration counts
    assert MetadataCatalog.get(name).thing_classes == ["man", "horse", "hat"]
    changed_names = json.loads(path.read_text())
    changed_names["categories"][0]["name"] = "woman"
    path.write_text(json.dumps(changed_names))
    register_relations_json(name, path, missing_images="skip")
    assert len(DatasetCatalog.get(name)) == 1
    assert MetadataCatalog.get(name).thing_classes == ["man", "horse", "woman"]
    assert MetadataCatalog.get(name).note == "mine"
    with pytest.raises(ValueError, match=f"{name}' is taken by .*data.json; choose another name"):
        register_relations_json(name, tmp_path / "other.json")
    with pytest.raises(ValueError, match="'coco_2017_val' is taken by"):
        register_relations_json("coco_2017_val", path)


def test_a_file_with_other_classes_than_registered_is_refused(tmp_path):
    path = write(tmp_path, DOCUMENT)
    name = f"other_{tmp_path.name}"
    register_relations_json(name, path, thing_classes=["man", "horse"])
    with pytest.raises(ValueError, match="3 thing_classes that differ from the 2"):
        DatasetCatalog.get(name)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "data.json"
    path.write_text("the file of before")
    write_text = Path.write_text

    def full_disk(self, text, **options):
        write_text(self, text[: len(text) // 2], **options)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_relations_json([dataset_dict(tmp_path, [])], VOCABULARY, path)
    assert path.read_text() == "the file of before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "data.json"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_before(tmp_path, enabled):
    broken = write(tmp_path, DOCUMENT).rename(tmp_path / "cut.json")
    broken.write_text("{")
    path = write(tmp_path, DOCUMENT)
    try:
        (gc.enable if enabled else gc.disable)()
        load_relations_json(path)
        assert gc.isenabled() == enabled
        with pytest.raises(ValueError, match="no complete JSON"):
            load_relations_json(broken)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
