"""Panoptic Scene Graph: a made-up psg.json, panoptic PNGs, and every way of being wrong."""

import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from published_documents import PSG_FILE, draw, existing, spoiled, write

from vrd_d2.data.datasets.panoptic_scene_graph import (
    load_panoptic_scene_graph,
    panoptic_scene_graph_vocabulary,
    segment_boxes,
)
from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.vocabulary import PSG, get_vocabulary


def load(tmp_path, document, split="val", **options):
    path = write(tmp_path / "psg.json", document)
    return load_panoptic_scene_graph(path, split=split, **options)


def draw_panoptic(path, segments, size=(40, 30)):
    """Segments {id: (x1, y1, x2, y2)} of pixels, the last ones excluded, drawn in their order."""
    owner = np.zeros((size[1], size[0]), np.int64)
    for number, (x1, y1, x2, y2) in segments.items():
        owner[y1:y2, x1:x2] = number
    rgb = np.stack([owner % 256, owner // 256 % 256, owner // 65536], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb.astype(np.uint8)).save(path)


def test_boxes_and_relations_as_annotated(tmp_path):
    (record,) = load(tmp_path, PSG_FILE)
    assert record["file_name"] == str(tmp_path / "train2017/1.jpg")
    assert (record["image_id"], record["width"], record["height"]) == ("101", 40, 30)
    found = [(a["category_id"], a["bbox"], a["id"]) for a in record["annotations"]]
    assert found == [(1, [1, 2, 11.5, 12], 1), (2, [0, 0, 40, 30], 2)]
    assert record["relations"].tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0]]
    names = panoptic_scene_graph_vocabulary(PSG_FILE)
    assert names.objects == ("person", "dog", "grass-merged")
    assert names.predicates == ("on", "holding")


def test_splits_share_no_image(tmp_path):
    def ids(split, **options):
        return [record["image_id"] for record in load(tmp_path, PSG_FILE, split, **options)]

    assert (ids("train"), ids("val"), ids("test")) == (["102"], ["101"], ["103"])
    assert ids("train", num_val=0) == ["101", "102"]
    with pytest.raises(ValueError, match=r"psg\.json: there is no image for val"):
        ids("val", num_val=0)
    with pytest.raises(ValueError, match="split is 'all': choose one of train, val, test"):
        ids("all")


def test_boxes_around_segments_where_there_are_none(tmp_path):
    document = spoiled(PSG_FILE, ["data", 0, "annotations"])
    # Id 70000 is R 112, G 17, B 1; segment 7 lies in two parts upon it.
    path = tmp_path / "panoptic_train2017/1.png"
    draw_panoptic(path, {70000: (0, 5, 40, 30), 7: (3, 6, 9, 11), 1: (4, 6, 8, 11)})
    (record,) = load(tmp_path, document)
    assert [a["bbox"] for a in record["annotations"]] == [[3, 6, 9, 11], [0, 5, 40, 30]]
    assert [a["category_id"] for a in record["annotations"]] == [1, 2]
    assert segment_boxes(path, [1]) == ([[4, 6, 8, 11]], (40, 30))
    with pytest.raises(ValueError, match=r"1\.png belongs to segment 8"):
        segment_boxes(path, [8])
    draw_panoptic(path, {70000: (0, 0, 40, 20), 7: (0, 0, 9, 9)}, size=(40, 20))
    with pytest.raises(ValueError, match="has 40 x 20 pixels, but the image 40 x 30"):
        load(tmp_path, document)
    path.write_text("no PNG")
    with pytest.raises(ValueError, match=r"psg\.json: image '101': .*1\.png.* is no image"):
        load(tmp_path, document)


def test_missing_images(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 1 images are missing: .*train2017/1\.jpg"):
        load(tmp_path, PSG_FILE, select=existing("error"))
    assert len(load(tmp_path, PSG_FILE, select=existing("skip"))) == 0
    draw(tmp_path / "coco/train2017/1.jpg")
    found = load(tmp_path, PSG_FILE, image_root=tmp_path / "coco", select=existing("error"))
    assert found[0]["file_name"] == str(tmp_path / "coco/train2017/1.jpg")


def test_the_built_in_names_are_cocos():
    things = [entry["name"] for entry in COCO_CATEGORIES if entry["isthing"]]
    stuff = [entry["name"] for entry in COCO_CATEGORIES if not entry["isthing"]]
    assert list(PSG.objects) == things + stuff and get_vocabulary("psg") is PSG
    assert len(PSG.predicates) == 56


def test_registered(tmp_path):
    register_builtin_datasets(tmp_path, missing_images="keep")
    try:
        assert MetadataCatalog.get("psg_val").predicate_classes == list(PSG.predicates)
        with pytest.raises(ValueError, match=r"'psg_val' needs .*psg\.json"):
            DatasetCatalog.get("psg_val")
        write(tmp_path / "psg/psg.json", PSG_FILE)
        with pytest.raises(ValueError, match="its 3 classes and 2 predicates are not the 133 and"):
            DatasetCatalog.get("psg_val")
        names = {
            "thing_classes": PSG.objects[:80],
            "stuff_classes": PSG.objects[80:],
            "predicate_classes": PSG.predicates,
        }
        write(tmp_path / "psg/psg.json", PSG_FILE | names)
        (record,) = DatasetCatalog.get("psg_test")
        assert record["file_name"] == str(tmp_path / "coco/val2017/3.jpg")
        assert record["relations"].tolist() == [[0, 0, 1]]
    finally:
        register_builtin_datasets()


FIRST = ["data", 0]
BAD = [
    ("{", "is no complete JSON file"),
    ([], "[] must be an object with the key 'thing_classes'"),
    (spoiled(PSG_FILE, ["stuff_classes"]), "the key 'stuff_classes' is missing"),
    (spoiled(PSG_FILE, ["predicate_classes"], []), "predicates of a vocabulary are empty"),
    (spoiled(PSG_FILE, ["thing_classes", 0], "dog"), "repeats the name 'dog'"),
    (spoiled(PSG_FILE, ["thing_classes", 0], [3]), "every name must be a non-empty string"),
    (spoiled(PSG_FILE, ["test_image_ids"]), "the key 'test_image_ids' is missing"),
    (spoiled(PSG_FILE, ["test_image_ids"], [[]]), "test_image_ids[0] is []"),
    (spoiled(PSG_FILE, ["data"], {}), "data is {}: it must be of type list"),
    (spoiled(PSG_FILE, ["data"], []), "there is no image for val: data has 0 images"),
    (spoiled(PSG_FILE, FIRST, 3), "data[0]: 3 must be an object with the key 'image_id'"),
    (spoiled(PSG_FILE, [*FIRST, "image_id"]), "data[0]: the key 'image_id' is missing"),
    (spoiled(PSG_FILE, [*FIRST, "image_id"], 1.5), "data[0]: image_id is 1.5"),
    (spoiled(PSG_FILE, [*FIRST, "image_id"], "103"), "data[2]: has the image_id '103' of data[0]"),
    (spoiled(PSG_FILE, [*FIRST, "file_name"], 1), "data[0]: file_name is 1"),
    (spoiled(PSG_FILE, [*FIRST, "relations"]), "data[0]: the key 'relations' is missing"),
    (spoiled(PSG_FILE, [*FIRST, "width"]), "image '101': the key 'width' is missing"),
    (spoiled(PSG_FILE, [*FIRST, "width"], -40), "size -40 x 30: both must be positive"),
    (spoiled(PSG_FILE, [*FIRST, "height"], 30.0), "height is 30.0: it must be of type int"),
    (spoiled(PSG_FILE, [*FIRST, "annotations"], 3), "annotations is 3"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 1]), "1 annotations for 2 segments_info"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 1], 3), "annotations[1]: 3 must be an object"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 1, "bbox_mode"], 2), "bbox_mode is 2: it must be"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 1, "bbox"], [1, 2]), "box [1, 2]: it must be [x, y"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 1, "bbox", 3], -1), "not ending before it begins"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 0, "bbox", 0], 12), "[x1, y1, x2, y2], four finite"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 0, "bbox", 0], float("nan")), "four finite"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 0, "category_id"], 3), "object 0: category_id is 3"),
    (spoiled(PSG_FILE, [*FIRST, "annotations", 0, "category_id"]), "object 0: the key 'category"),
    (spoiled(PSG_FILE, [*FIRST, "relations", 0], [0, 1]), "relations[0]: [0, 1] must be [subject"),
    (spoiled(PSG_FILE, [*FIRST, "relations", 0, 0], 2), "relations[0]: subject is 2: it must"),
    (spoiled(PSG_FILE, [*FIRST, "relations", 0, 1], -1), "relations[0]: object is -1"),
    (spoiled(PSG_FILE, [*FIRST, "relations", 0, 2], 2), "relations[0]: predicate is 2"),
    (spoiled(PSG_FILE, [*FIRST, "relations", 0, 2], True), "relations[0]: predicate is True"),
    (spoiled(PSG_FILE, ["data", 2, "annotations"], []), "3.png cannot be read"),
    (spoiled(PSG_FILE, ["data", 2, "segments_info"], {}), "segments_info is {}"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_what_is_wrong_is_named_with_file_and_record(tmp_path, document, message):
    split = "test" if message.startswith(("3.png", "segments_info")) else "val"
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        load(tmp_path, document, split)
    assert str(info.value).startswith(str(tmp_path / "psg.json"))


def test_images_without_objects_have_no_ends(tmp_path):
    document = spoiled(PSG_FILE, ["data", 1, "relations"], [[0, 0, 0]])
    with pytest.raises(
        ValueError, match=r"image '102': relations\[0\]: subject is 0: there is none"
    ):
        load(tmp_path, document, "val", num_val=2)
