"""A byte order mark, deep nesting and what is no UTF-8, in every kind of text file."""

import json

import pytest

from vrd_d2.commands.evaluate import read_counts
from vrd_d2.data.captions.files import CaptionFile
from vrd_d2.data.csv_files import read_csv
from vrd_d2.data.image_existence import read_name_list
from vrd_d2.data.names import read_aliases
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.evaluation.ground_truth_files import read_ground_truth
from vrd_d2.evaluation.human.ratings import read_manifest
from vrd_d2.evaluation.json_lines import read_json_lines
from vrd_d2.inference.coco_boxes import load_given_boxes


def captions(kind):
    return lambda path: [c for record in CaptionFile(path, kind).records() for c in record]


NAMES = {"objects": ["a", "b"], "predicates": ["p"]}
DOCUMENT = {
    "images": [{"id": 1, "file_name": "1.png", "width": 9, "height": 9}],
    "categories": [{"id": 1, "name": "a"}],
    "predicates": [{"id": 1, "name": "p"}],
    "annotations": [],
    "relations": [],
}
LINE = {"image_id": 1, "gt_boxes": [], "gt_classes": [], "gt_relations": []}
# Reader, text, and a part of what it returns.
READERS = {
    "lines": (lambda path: list(read_json_lines(path)), json.dumps(LINE), "image_id"),
    "lines of truth": (lambda path: list(read_ground_truth(path).images), json.dumps(LINE), "1"),
    "truth": (lambda path: read_ground_truth(path).vocabulary, json.dumps(DOCUMENT), "p"),
    "vocabulary": (get_vocabulary, json.dumps(NAMES), "'a', 'b'"),
    "given boxes": (lambda path: load_given_boxes(path).of("1.png", (9, 9)), json.dumps(DOCUMENT),
                    "[]"),
    "counts": (read_counts, "[1, 2, 3]", "[1, 2, 3]"),
    "captions in JSON": (captions("json"), '["a man"]', "['a man']"),
    "captions in lines": (captions("jsonl"), '{"caption": "a man"}', "['a man']"),
    "captions as text": (captions("text"), "a man", "['a man']"),
    "captions in columns": (captions("tsv"), "a man\thttp://x", "['a man']"),
    "names": (read_name_list, "1.png", "['1.png']"),
    "aliases": (read_aliases, "man,guy", "'guy': 'man'"),
    "csv": (lambda path: list(read_csv(path, [("a",)])), "a,b\n1,2", "(2, ['1'])"),
}  # fmt: skip
JSON = {name: row for name, row in READERS.items() if row[1][0] in "[{"}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name):
    read, text, wanted = READERS[name]
    (tmp_path / "plain.file").write_text(text, encoding="utf-8")
    (tmp_path / "bom.file").write_text(text, encoding="utf-8-sig")
    plain, found = read(tmp_path / "plain.file"), read(tmp_path / "bom.file")
    assert found == plain and wanted in str(found)


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_utf_8_is_named(tmp_path, name):
    path = tmp_path / "odd.file"
    path.write_bytes(READERS[name][1].encode() + b"\n\xff\xfe\xff")
    if name.startswith("captions") and name != "captions in JSON":
        file = CaptionFile(path, {"as text": "text", "in lines": "jsonl"}.get(name[9:], "tsv"))
        assert [c for record in file.records() for c in record] == ["a man"]
        assert file.broken == 1 and "record 2" in file.first_broken
        return
    with pytest.raises(ValueError, match=r"odd\.file"):
        READERS[name][0](path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"image_id": ' + "[" * 9**5])
@pytest.mark.parametrize("name", JSON)
def test_deep_nesting_is_named(tmp_path, name, text):
    path = tmp_path / "odd.file"
    path.write_text(text)
    if name == "captions in lines":
        file = CaptionFile(path, "jsonl")
        assert list(file.records()) == [[]] and file.broken == 1
        return
    with pytest.raises(ValueError, match=r"odd\.file") as error:
        JSON[name][0](path)
    assert len(str(error.value)) < 1000


def test_ratings_are_read_by_the_same_reader(tmp_path):
    path = tmp_path / "odd.json"
    for text in ("[" * 100_000, "{", '{"format": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"odd\.json"):
            read_manifest(path)
