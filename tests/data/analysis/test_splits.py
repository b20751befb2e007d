"""Splits by image and the triplets that a split leaves unseen."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES, tiny_images

from vrd_d2.data.analysis.splits import split_indices, write_zero_shot, zero_shot_names
from vrd_d2.data.datasets.loading import load_zero_shot
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.vocabulary import Vocabulary

TINY = Vocabulary(TINY_OBJECTS, TINY_PREDICATES)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"test": 0.3, "val": 0.1}, (31, 10, 62)),  # of 103, rounded
        ({"test": 30, "val": 0.5}, (30, 52, 21)),
        ({"test": 0, "val": 103}, (0, 103, 0)),
        ({"test": 1.0, "val": 0.0}, (103, 0, 0)),
    ],
)
def test_every_image_is_in_one_part(parts, sizes):
    found = split_indices(103, parts, rest="train", seed=1)
    assert list(found) == ["test", "val", "train"]
    assert tuple(map(len, found.values())) == sizes
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(103))
    assert all((np.diff(part) > 0).all() for part in found.values())


def test_shares_that_are_all_leave_nothing():
    """Two halves of five: the last one gets what is left."""
    for count in range(12):
        for parts in ({"test": 0.5, "val": 0.5}, {"test": 0.25, "val": 0.75}, {"test": 1.0}):
            found = split_indices(count, parts, rest="train")
            assert len(found["train"]) == 0
            together = sorted(i for part in found.values() for i in part.tolist())
            assert together == list(range(count))


def test_the_seed_decides():
    def split(seed):
        return split_indices(50, {"test": 0.4}, rest="train", seed=seed)["test"].tolist()

    assert split(0) == split(0) != split(1)
    # Written down once: a split must be the same on every machine and in every version.
    assert split(0)[:6] == [1, 2, 3, 4, 6, 10]
    chosen = Counter(i for seed in range(200) for i in split(seed))
    assert min(chosen.values()) > 50 and max(chosen.values()) < 110  # 80 expected


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"test": 1.5}, "test is 1.5: a share must be in 0..1"),
        ({"test": -0.1}, "test is -0.1: a share must be in 0..1"),
        ({"test": float("nan")}, "a share must be in 0..1"),
        ({"val": -3}, "val is -3: a number of images must not be negative"),
        ({"test": 8, "val": 0.5}, "test 8, val 5 are more than the 10 images"),
    ],
)
def test_sizes_that_cannot_be(parts, message):
    with pytest.raises(ValueError, match=message):
        split_indices(10, parts, rest="train")


def triplets(records):
    found = set()
    for record in records:
        classes = [a["category_id"] for a in record["annotations"]]
        for s, o, p in record["relations"].tolist():
            found.add((TINY_OBJECTS[classes[s]], TINY_PREDICATES[p], TINY_OBJECTS[classes[o]]))
    return found


@pytest.mark.parametrize("pack", [list, PackedRecords.pack])
def test_unseen_triplets_by_name(tmp_path, pack):
    records = tiny_images(tmp_path)
    train, test = records[:2], records[2:]
    rows = zero_shot_names(pack(train), pack(test), TINY)
    assert set(map(tuple, rows)) == triplets(test) - triplets(train) == {("man", "on", "dog")}
    assert zero_shot_names(train, train, TINY) == []


def test_the_file_is_what_the_loader_reads(tmp_path):
    records = tiny_images(tmp_path)
    path = tmp_path / "new" / "zero_shot.json"
    write_zero_shot(zero_shot_names(records[3:4], records[:1], TINY), path)
    assert len(json.loads(path.read_text())) == 3
    assert set(load_zero_shot(path, TINY)) == {(0, 1, 1), (0, 1, 3), (0, 2, 2)}
