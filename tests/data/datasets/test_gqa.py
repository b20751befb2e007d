"""GQA: made-up scene graphs, and every way of being wrong."""

import logging
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from published_documents import GQA_FILE, draw, existing, run_script, spoiled, write

from vrd_d2.data.datasets.gqa import gqa_vocabulary, load_gqa
from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary

NAMES = Vocabulary(["man", "hat", "cup"], ["wearing", "to the left of", "to the right of"])


def load(tmp_path, document, vocabulary=NAMES, missing_images="keep"):
    path = write(tmp_path / "train_sceneGraphs.json", document)
    return existing(missing_images)(load_gqa(path, vocabulary=vocabulary))


def test_scene_graph_by_hand(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first, second = load(tmp_path, GQA_FILE)
    assert first["file_name"] == str(tmp_path / "images/n12.jpg")
    assert (first["image_id"], first["width"], first["height"]) == ("n12", 100, 80)
    found = [(a["id"], a["category_id"], a["bbox"]) for a in first["annotations"]]
    assert found == [
        ("31", 0, [10, 20, 40, 60]),
        ("32", 2, [60, 30, 60, 40]),  # no area: kept
        ("33", 1, [-2, 0, 3, 5]),  # outside: kept
    ]
    assert first["relations"].tolist() == [[0, 1, 1], [0, 2, 0], [1, 0, 2]]
    assert second["annotations"] == [] and second["image_id"] == "13"
    assert "covers 3 of 3 objects (left out most: none) and 3 of 4 relations" in caplog.text
    assert "'holding' 1" in caplog.text


def test_what_the_vocabulary_lacks_is_left_out_and_indices_follow(tmp_path):
    first, _ = load(tmp_path, GQA_FILE, Vocabulary(["hat", "man"], ["wearing", "holding"]))
    assert [(a["id"], a["category_id"]) for a in first["annotations"]] == [("31", 1), ("33", 0)]
    assert first["relations"].tolist() == [[0, 1, 0]]


def test_the_most_frequent_names(tmp_path):
    path = write(tmp_path / "train_sceneGraphs.json", GQA_FILE)
    everything = gqa_vocabulary(path)
    assert everything.objects == ("cup", "hat", "man")  # once each, so by name
    assert everything.predicates == ("holding", "to the left of", "to the right of", "wearing")
    document = spoiled(GQA_FILE, ["n12", "objects", "33", "name"], "man")
    relations = [{"name": "wearing", "object": "31"}]
    write(path, spoiled(document, ["n12", "objects", "33", "relations"], relations))
    some = gqa_vocabulary(path, num_objects=1, num_predicates=2)
    assert (some.objects, some.predicates) == (("man",), ("wearing", "holding"))
    with pytest.raises(ValueError, match=r"Graphs\.json: 9 object classes are asked for: choose 1"):
        gqa_vocabulary(path, num_objects=9)


def test_images_of_visual_genome_folders_and_missing_ones(tmp_path):
    draw(tmp_path / "VG_100K_2/13.jpg")
    with pytest.raises(ValueError, match=r"1 of 2 images are missing: .*n12\.jpg"):
        load(tmp_path, GQA_FILE, missing_images="error")
    (record,) = load(tmp_path, GQA_FILE, missing_images="skip")
    assert record["file_name"] == str(tmp_path / "VG_100K_2/13.jpg")


def test_registered_with_the_vocabulary_that_the_script_writes(
    tmp_path, repository, monkeypatch, capsys
):
    register_builtin_datasets(tmp_path, missing_images="keep")
    try:
        assert MetadataCatalog.get("gqa_train").get("thing_classes") is None
        write(tmp_path / "gqa/train_sceneGraphs.json", GQA_FILE)
        with pytest.raises(ValueError, match=r"vocabulary\.json.*prepare_vocabulary\.py gqa"):
            DatasetCatalog.get("gqa_train")
        script = repository / "datasets/prepare_vocabulary.py"
        run_script(
            script, "gqa", "--root", str(tmp_path), "--predicates", "2", monkeypatch=monkeypatch
        )
        printed = capsys.readouterr().out
        assert "3 object classes, 2 predicates" in printed
        names = get_vocabulary(tmp_path / "gqa/vocabulary.json")
        assert names.predicates == ("holding", "to the left of")
        first, _ = DatasetCatalog.get("gqa_train")
        assert first["relations"].tolist() == [[0, 1, 1], [0, 1, 0]]
        assert MetadataCatalog.get("gqa_train").thing_classes == ["cup", "hat", "man"]
        content = {"objects": ["man"], "predicates": ["holding"]}
        write(tmp_path / "gqa/vocabulary.json", content)
        with pytest.raises(ValueError, match=r"gqa/vocabulary\.json has 1 .* 'gqa_train'"):
            DatasetCatalog.get("gqa_train")
    finally:
        register_builtin_datasets()


MAN = ["n12", "objects", "31"]
BAD = [
    ("{", "is no complete JSON file"),
    ('{"1": {}, "1": {}}', "has the key '1' twice"),
    ([], "it must be an object {image id"),
    ({}, "with at least one image"),
    (spoiled(GQA_FILE, ["13"], []), "image '13': [] must be an object with the key 'width'"),
    (spoiled(GQA_FILE, ["13", "width"]), "image '13': the key 'width' is missing"),
    (spoiled(GQA_FILE, ["13", "height"], 0), "image '13': size 50 x 0"),
    (spoiled(GQA_FILE, ["13", "height"], "60"), "height is '60'"),
    (spoiled(GQA_FILE, ["13", "objects"], []), "objects is []: it must be of type dict"),
    (spoiled(GQA_FILE, MAN, 3), "image 'n12': object '31': 3 must be an object"),
    (spoiled(GQA_FILE, [*MAN, "name"]), "object '31': the key 'name' is missing"),
    (spoiled(GQA_FILE, [*MAN, "name"], " "), "object '31': its name is empty"),
    (spoiled(GQA_FILE, [*MAN, "x"]), "object '31': the key 'x' is missing"),
    (spoiled(GQA_FILE, [*MAN, "x"], "10"), "object '31': x is '10'"),
    (spoiled(GQA_FILE, [*MAN, "y"], float("inf")), "object '31': box [10, inf, 30, 40]"),
    (spoiled(GQA_FILE, [*MAN, "w"], float("nan")), "four finite numbers"),
    (spoiled(GQA_FILE, [*MAN, "w"], -1), "box [10, 20, -1, 40]: it must be [x, y, w, h]"),
    (spoiled(GQA_FILE, [*MAN, "relations"]), "object '31': the key 'relations' is missing"),
    (spoiled(GQA_FILE, [*MAN, "relations", 1], 3), "object '31': 3 must be an object with the key"),
    (spoiled(GQA_FILE, [*MAN, "relations", 1, "name"], ""), "relations[1]: its name is empty"),
    (spoiled(GQA_FILE, [*MAN, "relations", 1, "object"], 33), "object is 33: it must be of type"),
    (
        spoiled(GQA_FILE, [*MAN, "relations", 1, "object"], "34"),
        "relations[1]: object '34' is not an object of this image",
    ),
]


@pytest.mark.parametrize(("document", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_what_is_wrong_is_named_with_file_and_record(tmp_path, document, message):
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        load(tmp_path, document)
    assert str(info.value).startswith(str(tmp_path / "train_sceneGraphs.json"))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*val_sceneGraphs\.json"):
        load_gqa(tmp_path / "val_sceneGraphs.json", vocabulary=NAMES)
