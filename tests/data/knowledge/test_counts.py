"""Triplet counts out of a JSON, and the frequency baseline on them."""

import json

import pytest
import torch
from conftest import TINY_OBJECTS, TINY_PREDICATES
from detectron2.data import DatasetCatalog

from vrd_d2.data.knowledge.counts import load_triplet_counts
from vrd_d2.data.vocabulary import VG150, Vocabulary
from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling.frequency import count_relations, training_counts

TINY = Vocabulary(TINY_OBJECTS, TINY_PREDICATES)


def write(folder, content):
    path = folder / "counts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


COUNTS = {"man|on|dog": 3, "man|next to|dog": 1, "Man|ON|dog": 2, "hat|on|hat": 5, "ant|on|dog": 9}


@pytest.mark.parametrize("below", [False, True])
def test_names_become_ids(tmp_path, caplog, below):
    content = {"train": COUNTS, "test": {"man|on|man": 1}} if below else COUNTS
    with caplog.at_level("INFO"):
        table = load_triplet_counts(write(tmp_path, content), TINY)
    assert table.shape == (3, 3, 5)
    assert table[0, 1].tolist() == [5, 0, 0, 1, 0]  # "Man|ON|dog" is the same triplet
    assert table[2, 2].tolist() == [5, 0, 0, 0, 0]
    assert table.sum() == 11 and table[..., -1].sum() == 0
    assert "4 of 5 triplets, 11 relations; 1 names are not in the vocabulary, 'ant'" in caplog.text


def test_a_public_file_of_counts(samples):
    path = samples / "vg150/vg150_triplet_counts_decoded.json"
    counts = json.loads(path.read_text())["train"]
    table = load_triplet_counts(path, VG150)
    assert table.sum() == sum(counts.values())  # every name is known
    for triplet in list(counts)[::1000]:
        subject, predicate, object_ = triplet.split("|")
        place = VG150.object_id(subject), VG150.object_id(object_), VG150.predicate_id(predicate)
        assert table[place] == counts[triplet]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no complete JSON file"),
        ([], "is no object: it must be"),
        ({"man|on": 3}, r"entry 'man\|on': 3: it must be"),
        ({"man|on|dog": "3"}, r"entry 'man\|on\|dog': '3'"),
        ({"man|on|dog": -1}, r"entry 'man\|on\|dog': -1"),
        ({"ant|on|bee": 3}, r"knows none of its 1 triplets, such as 'ant\|on\|bee': set MODEL"),
        ({}, "knows none of its 0 triplets"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as info:
        load_triplet_counts(path, TINY)
    assert str(path) in str(info.value)
    with pytest.raises(ValueError, match=r"MODEL\.PREDICATE_PRIOR\.COUNTS: "):
        load_triplet_counts(tmp_path / "none.json", TINY)


def test_counts_of_the_dataset_give_its_own_baseline(make_cfg, tmp_path):
    """Written down as triplets, the foreground is that of counting the dataset."""
    name = "quickstart/frequency_predcls.yaml"
    cfg = make_cfg(name)
    counted = training_counts(cfg)
    triplets = {
        f"{TINY_OBJECTS[s]}|{TINY_PREDICATES[p]}|{TINY_OBJECTS[o]}": int(counted[s, o, p])
        for s, o, p in counted[..., :-1].nonzero().tolist()
    }
    path = write(tmp_path, triplets)
    with_file = make_cfg(name, "MODEL.PREDICATE_PRIOR.COUNTS", str(path), "DATASETS.TRAIN", ())
    table = training_counts(with_file)
    torch.testing.assert_close(table[..., :-1], counted[..., :-1])
    results = Trainer.test(with_file, build_trained_model(with_file))["relations"]
    assert results["R@100"] > 50


def test_with_and_without_overlap(make_cfg):
    name, key = "quickstart/frequency_predcls.yaml", "MODEL.RELATION.REQUIRE_OVERLAP"
    pairs = {}
    for overlap in (False, True):
        cfg = make_cfg(name, key, overlap)
        model = build_trained_model(cfg)
        (dataset,) = cfg.DATASETS.TEST
        records = DatasetCatalog.get(dataset)
        torch.testing.assert_close(
            model.counts, count_relations(records, TINY, require_overlap=overlap)
        )
        loader = Trainer.build_test_loader(cfg, dataset)
        with torch.no_grad():
            pairs[overlap] = [len(model(batch)[0]["relations"]) for batch in loader]
    assert pairs[False] == [6, 6, 2, 0, 12]
    assert pairs[True] == [4, 2, 2, 0, 6]
