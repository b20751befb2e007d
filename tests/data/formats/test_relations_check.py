"""Every message of the validation of relations_json, and what loading makes of it."""

import copy
import json
import re

import pytest
from relations_document import DOCUMENT, changed, without, write

from vrd_d2.data.formats.relations_json import load_relations_json, validate_relations_json

ERRORS = [
    (without("relations"), "relations: is missing: add a list"),
    ({**DOCUMENT, "predicates": {}}, "predicates: is no list"),
    ({**DOCUMENT, "images": [3]}, "images[0]: is no object"),
    ({**DOCUMENT, "predicates": [], "relations": []}, "predicates: is empty"),
    ([DOCUMENT], "top level: must be an object"),
    (changed("images", 1, width=None), "images[1] (id 'x'): the key width is missing"),
    (changed("images", 1, id=None), "images[1]: the key id is missing"),
    (changed("images", 0, height="80"), "images[0] (id 7): height is '80': it must be of type int"),
    (changed("images", 0, height=0), "images[0] (id 7): size 100 x 0: both must be positive"),
    (changed("images", 0, file_name=3), "file_name is 3: it must be of type str"),
    (changed("images", 0, captions="a man"), "images[0] (id 7): captions must be a list"),
    (changed("images", 1, id=7), "images[1] (id 7): has the same id as images[0]"),
    (changed("annotations", 2, id=5), "annotations[2] (id 5): has the same id as annotations[0]"),
    (changed("relations", 0, id=True), "id is True: it must be of type int or str"),
    (changed("categories", 1, id="10"), "id is '10': it must be of type int"),
    (changed("categories", 1, name="hat"), "categories[1] (id 10): repeats the name 'hat'"),
    (changed("predicates", 1, name=" "), "predicates[1] (id 4): its name ' ' is empty"),
    (changed("annotations", 0, image_id=8), "annotations[0] (id 5): image_id 8 is not an id of"),
    (changed("annotations", 1, category_id=3), "category_id 3 is not an id of categories"),
    (changed("annotations", 1, category_id=1.0), "category_id is 1.0: it must be of type int"),
    (changed("annotations", 1, bbox=None), "annotations[1] (id 3): the key bbox is missing"),
    (changed("annotations", 1, bbox=[1, 2, 3]), "annotations[1] (id 3): bbox is [1, 2, 3]"),
    (changed("annotations", 1, bbox=[1, 2, "3", 4]), "bbox is [1, 2, '3', 4]"),
    (changed("annotations", 1, bbox=[1, 2, True, 4]), "bbox is [1, 2, True, 4]"),
    (changed("annotations", 1, bbox=[1, 2, -3, 4]), "bbox is [1, 2, -3, 4]"),
    (changed("annotations", 1, bbox=[1, 2, 3, float("nan")]), "bbox is [1, 2, 3, nan]"),
    (changed("annotations", 1, bbox=[1, 2, 3, float("inf")]), "bbox is [1, 2, 3, inf]"),
    (changed("annotations", 1, bbox=[-(10**400), 2, 3, 4]), "four finite numbers"),
    (changed("relations", 0, predicate_id=1), "relations[0] (id 1): predicate_id 1 is not an id"),
    (changed("relations", 0, subject_id=9), "subject_id 9 is not an id of annotations"),
    (changed("relations", 0, object_id=9), "object_id 9 is not an id of annotations"),
    (changed("relations", 0, image_id="y"), "image_id 'y' is not an id of images"),
    (
        changed("relations", 0, object_id=3),
        "object_id 3 is in image 'x', the relation in image 7: subject and object must be",
    ),
    (changed("images", 0, width=10**25), "images[0] (id 7): size 10000000000000000000000000 x 80"),
    (changed("images", 0, width=10**400), "images[0] (id 7): size 1000"),
    (changed("images", 0, width=-(10**400)), "images[0] (id 7): size -1000"),
    (changed("annotations", 0, iscrowd="0"), "annotations[0] (id 5): iscrowd is '0'"),
    (changed("annotations", 0, iscrowd=[0]), "annotations[0] (id 5): iscrowd is [0]"),
    (json.dumps(DOCUMENT)[:-20], "is no complete JSON file"),
    ("[" + "9" * 5000 + "]", "is no complete JSON file"),
    ("[" * 5000, "is no complete JSON file"),
    ("", "is no complete JSON file"),
]  # fmt: skip


@pytest.mark.parametrize("crowd", [0, 1, False, True, 0.0, 1.0, None])
def test_what_says_that_a_box_is_of_a_crowd(tmp_path, crowd):
    document = copy.deepcopy(DOCUMENT)
    document["annotations"][0]["iscrowd"] = crowd
    record = load_relations_json(write(tmp_path, document))[0]
    assert record["annotations"][0].get("iscrowd", 0) == (crowd or 0)


@pytest.mark.parametrize(("document", "message"), ERRORS, ids=[m[:40] for _, m in ERRORS])
def test_every_error_names_file_record_and_remedy(tmp_path, document, message):
    path = write(tmp_path, document)
    messages = [text for text in validate_relations_json(path) if text.startswith("error: ")]
    assert any(message in text for text in messages), messages
    assert all(str(path) in text for text in messages)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_relations_json(path)


WARNINGS = [
    (changed("annotations", 0, bbox=[10, 20, 0, 40]), "annotations[0] (id 5): box [10, 20, 0, 40]"),
    (changed("annotations", 0, bbox=[10, 20, 91, 40]), "reaches outside the image of 100 x 80"),
    (changed("annotations", 0, bbox=[-1, 20, 9, 40]), "reaches outside the image of 100 x 80"),
    (changed("annotations", 0, bbox=[500, 20, 9, 40]), "reaches outside the image of 100 x 80"),
    (changed("relations", 0, object_id=4), "annotation 4 is related to itself"),
    ({**DOCUMENT, "relations": [DOCUMENT["relations"][0], {**DOCUMENT["relations"][0], "id": 2}]},
     "relations[1] (id 2): repeats an earlier relation"),
    (changed("annotations", 0, area=None), "1 have no 'area'"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "message"), WARNINGS, ids=[m[:40] for _, m in WARNINGS])
def test_what_real_data_contain_is_a_warning_and_kept(tmp_path, document, message):
    path = write(tmp_path, document)
    (text,) = validate_relations_json(path)
    assert text.startswith(f"warning: {path}: ") and message in text
    record = load_relations_json(path)[0]
    assert len(record["annotations"]) == 2
    assert len(record["relations"]) == len(document["relations"])


def test_a_box_without_area_does_not_shift_indices(tmp_path):
    path = write(tmp_path, changed("annotations", 0, bbox=[10, 20, 0, 0]))
    record = load_relations_json(path)[0]
    assert record["relations"].tolist() == [[1, 0, 0]]
    assert record["annotations"][0]["bbox"] == [10, 20, 10, 20]


def test_a_box_on_the_border_is_inside(tmp_path):
    assert validate_relations_json(write(tmp_path, DOCUMENT)) == []
    path = write(tmp_path, changed("annotations", 0, bbox=[0.1, 0.1, 99.9 + 1e-6, 79.9]))
    assert validate_relations_json(path) == []


def test_an_exception_quotes_a_few_messages_and_counts_the_rest(tmp_path):
    document = {**DOCUMENT, "annotations": [{"id": i} for i in range(4)]}
    with pytest.raises(ValueError, match=r"and 7 more \(validate_relations_json") as info:
        load_relations_json(write(tmp_path, document))
    assert len(str(info.value).splitlines()) == 6


def test_a_file_without_relations_is_told(tmp_path):
    (text,) = validate_relations_json(write(tmp_path, {**DOCUMENT, "relations": []}))
    assert text.startswith("warning: ") and "relations: there is none" in text


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("categories", 1, name="\ud800"), r"categories[1] (id 10): its name '\ud800'"),
        (changed("predicates", 0, name="a\nb"), r"predicates[0] (id 9): its name 'a\nb'"),
        (changed("predicates", 0, name="\u3000"), r"predicates[0] (id 9): its name '\u3000'"),
        (changed("categories", 1, name=" hat"), "categories[1] (id 10): its name ' hat'"),
        (changed("images", 0, file_name="\ud800.jpg"), r"images[0] (id 7): file_name '\ud800.jpg'"),
        (changed("images", 1, file_name="a\0.jpg"), r"images[1] (id 'x'): file_name 'a\x00.jpg'"),
        (changed("images", 1, file_name=""), "images[1] (id 'x'): file_name ''"),
        (changed("images", 1, file_name="  "), "images[1] (id 'x'): file_name '  '"),
    ],
)
def test_odd_texts_are_refused_in_a_line_that_can_be_printed(tmp_path, document, message):
    path = write(tmp_path, document)
    (text,) = validate_relations_json(path)
    assert text.startswith(f"error: {path}: ") and message in text
    assert text.isascii()
    with pytest.raises(ValueError, match=re.escape(message)):
        load_relations_json(path)


def test_names_that_differ_by_case_are_told(tmp_path, caplog):
    path = write(tmp_path, changed("categories", 1, name="Hat"))
    (text,) = validate_relations_json(path)
    assert text.startswith("warning: ") and "'Hat'" in text and "'hat'" in text
    load_relations_json(path)
    assert [r for r in caplog.records if r.levelname == "WARNING" and "'Hat'" in r.getMessage()]
