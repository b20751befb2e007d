"""COCO files of boxes for single images: found by name, or refused with the record."""

import copy
import json

import numpy as np
import pytest

from vrd_d2.inference.coco_boxes import load_given_boxes
from vrd_d2.onnx_runtime import checked_boxes

GOOD = {
    "images": [{"id": 7, "file_name": "in/a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 40]},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 0]},
    ],
    "categories": [{"id": 1, "name": "man"}, {"id": 2, "name": "hat"}],
}


def write(folder, document):
    file = folder / "boxes.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_boxes_by_image(tmp_path):
    boxes = load_given_boxes(write(tmp_path, GOOD))
    assert boxes.of("elsewhere/a.jpg", (60, 50)) == ([[1, 2, 31, 42], [0, 0, 5, 0]], ["man", "hat"])
    assert boxes.of("b.jpg", (6, 5)) == ([], [])
    with pytest.raises(ValueError, match=r"boxes\.json.*c\.jpg"):
        boxes.of("c.jpg", (60, 50))


def test_boxes_of_another_size_are_refused(tmp_path):
    document = copy.deepcopy(GOOD)
    document["images"][0] |= {"width": 120, "height": 100}
    document["images"][1] |= {"width": None, "height": None}
    boxes = load_given_boxes(write(tmp_path, document))
    assert boxes.of("b.jpg", (6, 5)) == ([], [])
    assert len(boxes.of("a.jpg", (120, 100))[0]) == 2
    with pytest.raises(ValueError, match=r"a\.jpg.*120 x 100.*60 x 50"):
        boxes.of("a.jpg", (60, 50))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["images"], None, "'images'"),
        (["images", 0], "a.jpg", r"images\[0\].*a\.jpg.*file_name"),
        (["images", 1, "id"], 7, r"images\[1\].*\b7\b"),
        (["images", 0, "file_name"], 5, r"images\[0\].*file_name"),
        (["images", 0], {"id": 7}, r"images\[0\].*file_name"),
        (["images", 0, "id"], [7], r"images\[0\].*file_name"),
        (["images", 1, "file_name"], "other/a.jpg", "'a.jpg'"),
        (["categories", 0], "man", r"categories\[0\].*man"),
        (["categories", 1, "id"], 1, r"categories\[1\].*\b1\b"),
        (["categories", 0, "name"], None, r"categories\[0\].*name"),
        (["annotations", 0], 5, r"annotations\[0\].*5"),
        (["annotations", 0, "image_id"], 9, r"annotations\[0\].*image_id"),
        (["annotations", 0, "image_id"], {}, r"annotations\[0\]"),
        (["annotations", 0, "category_id"], 9, r"annotations\[0\]"),
        (["annotations", 0, "bbox"], [1, 2, 3], r"annotations\[0\]"),
        (["annotations", 0, "bbox"], [1, 2, -3, 4], r"annotations\[0\].*bbox"),
        (["annotations", 0, "bbox"], [1, 2, float("nan"), 4], r"annotations\[0\].*bbox"),
        (["annotations", 0, "bbox"], [1, 2, 10**400, 4], r"annotations\[0\]"),
        (["annotations", 0, "bbox"], ["x", 2, 3, 4], r"annotations\[0\]"),
        (["annotations", 0, "bbox"], "1234", r"annotations\[0\].*bbox"),
        (["annotations", 0, "bbox"], ["1", "2", "3", "4"], r"annotations\[0\].*bbox"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, path, value, message):
    document = copy.deepcopy(GOOD)
    *folders, last = path
    part = document
    for key in folders:
        part = part[key]
    part[last] = value
    with pytest.raises(ValueError, match=message):
        load_given_boxes(write(tmp_path, document))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "5", "null", "[]"])
def test_what_is_no_coco_file(tmp_path, text):
    with pytest.raises(ValueError, match=r"boxes\.json"):
        load_given_boxes(write(tmp_path, text))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([20, 20, 1e39, 1e39], r"\[1\]"),
        ([-1e7, 0, 5, 5], r"\[1\]"),
        ([5, 5, 4, 9], r"\[1\].*x1, y1, x2, y2"),
        ([200, 5, 300, 9], r"\[1\].*100 x 50"),
    ],
)
def test_boxes_that_no_image_has(box, message):
    with pytest.raises(ValueError, match=rf"boxes{message}"):
        checked_boxes([[0, 0, 9, 9], box], 50, 100)
    np.testing.assert_array_equal(checked_boxes([[-9, -9, 900, 90]], 50, 100), [[-9, -9, 900, 90]])
