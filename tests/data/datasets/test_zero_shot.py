"""Lists of zero-shot triplets: names or ids, each in its own order, and nothing else."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from relations_document import DOCUMENT, write

from vrd_d2.data.datasets.loading import load_zero_shot
from vrd_d2.data.datasets.opening import open_dataset
from vrd_d2.data.datasets.setup import register_source
from vrd_d2.data.vocabulary import Vocabulary

TINY = Vocabulary(("man", "horse", "hat"), ("riding", "wearing"))
# Names that look like ids, and one that is both a class and a predicate.
DIGITS = Vocabulary(("0", "1", "on"), ("on", "2"))


def load(folder, rows, vocabulary=TINY, **counts):
    path = folder / "zero_shot.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return load_zero_shot(path, vocabulary, **counts)


def test_names_and_ids_of_the_same_triplets(tmp_path):
    names = [["man", "riding", "horse"], ["hat", "wearing", "man"]]
    assert load(tmp_path, names) == load(tmp_path, [[0, 1, 0], [2, 0, 1]])
    assert load(tmp_path, names) == [(0, 1, 0), (2, 0, 1)]
    assert load(tmp_path, []) == []


def test_texts_are_names_also_where_they_look_like_ids(tmp_path):
    assert load(tmp_path, [["1", "2", "0"], ["on", "on", "on"]], DIGITS) == [(1, 0, 1), (2, 2, 0)]
    assert load(tmp_path, [[1, 2, 0]], DIGITS) == [(1, 2, 0)]


def test_ids_without_names(tmp_path):
    assert load(tmp_path, [[7, 9, 3]], None) == [(7, 9, 3)]
    assert load(tmp_path, [[7, 9, 3]], None, num_classes=10, num_predicates=4) == [(7, 9, 3)]


BAD = [
    ([["man", "riding", "horse"], [3, 0, 0]], ["row 1", "in all"]),
    ([[0, 0, 0], ["man", "riding", "horse"]], ["row 1", "in all"]),
    ([[0, 0, 0], [3, 0, 0]], ["row 1", "subject class 3", "3 exist"]),
    ([[0, 3, 0]], ["row 0", "object class 3"]),
    ([[0, 0, 2]], ["row 0", "predicate 2", "2 exist"]),
    ([[0, 999, 0]], ["999"]),
    ([[0, -1, 0]], ["object class -1"]),
    ([[0, 0, 10**30]], ["predicate 1000"]),
    ([["man", "horse", "riding"]], ["row 0", "horse", "in this order"]),
    ([["man", "ridding", "horse"]], ["ridding", "'riding'"]),
    ([["Man", "riding", "horse"]], ["'Man'"]),
    ([["man", "riding", "horse"], ["man", "riding"]], ["row 1", "subject name"]),
    ([[0, 0, 0.0]], ["row 0"]),
    ([[0, 0, True]], ["row 0"]),
    ([[0, 0, None]], ["row 0"]),
    ([0, 0, 0], ["row 0"]),
    ([[]], ["row 0"]),
    (["abc"], ["row 0"]),
    ({"man": 1}, ["is no list"]),
    ("[[", ["is no complete JSON"]),
]


@pytest.mark.parametrize(("rows", "parts"), BAD, ids=[str(row)[:40] for row, _ in BAD])
def test_a_row_that_is_none_is_named(tmp_path, rows, parts):
    with pytest.raises(ValueError, match=r"zero_shot\.json") as info:
        load(tmp_path, rows)
    assert all(part in str(info.value) for part in parts), str(info.value)


def test_names_that_nothing_explains(tmp_path):
    with pytest.raises(ValueError, match=r"row 0.*--vocabulary"):
        load(tmp_path, [["man", "riding", "horse"]], None)
    with pytest.raises(ValueError, match="no predicate 3 "):
        load(tmp_path, [[0, 0, 3]], None, num_predicates=3)


def test_the_list_beside_a_file_is_found_by_tools_as_by_training(tmp_path):
    path = write(tmp_path, DOCUMENT)
    assert open_dataset(path).zero_shot() is None
    (tmp_path / "zero_shot.json").write_text('[["man", "riding", "horse"]]')
    names = list(open_dataset(path).objects), list(open_dataset(path).predicates)
    expected = [(names[0].index("man"), names[0].index("horse"), names[1].index("riding"))]
    assert open_dataset(path).zero_shot() == expected
    name = register_source(path)
    DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).zero_shot_triplets == expected
