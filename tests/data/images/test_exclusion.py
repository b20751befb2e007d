"""DATASETS.EXCLUDE: images that are left out by name, in every place that reads the dataset."""

import numpy as np
import pytest
from conftest import tiny_images
from detectron2.data import DatasetCatalog

from vrd_d2.data.datasets.registrar import exclude_images, register_relations_json
from vrd_d2.data.formats.relations_json import save_relations_json
from vrd_d2.data.image_existence import Exclusion, drop_missing_images, read_name_list
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.engine.trainer import Trainer

NAMES = Vocabulary(("man", "dog", "hat"), ("on", "holding", "wearing", "next to"))


@pytest.fixture
def two_sets(tmp_path):
    """Names of two datasets whose images lie in folders of their own, 0.png to 4.png."""
    names = []
    for kind in ("train", "test"):
        folder = tmp_path / kind
        folder.mkdir()
        save_relations_json(tiny_images(folder), NAMES, folder / "data.json")
        names.append(f"{kind}_{tmp_path.name}")
        register_relations_json(names[-1], folder / "data.json")
    yield names
    exclude_images("", names)


def listing(tmp_path, *lines):
    path = tmp_path / "bad.txt"
    path.write_text("\n".join(lines))
    return path


def left(name):
    return [record["file_name"][-5:-4] for record in DatasetCatalog.get(name)]


@pytest.mark.parametrize("end", ["1.png", "train/1.png", "{folder}/train/1.png", "./train/1.png"])
def test_a_name_or_the_end_of_a_path(two_sets, tmp_path, caplog, end):
    path = listing(tmp_path, end.format(folder=tmp_path), "# a remark", "")
    exclude_images(path, two_sets)
    with caplog.at_level("INFO"):
        assert left(two_sets[0]) == ["0", "2", "3", "4"]
    assert f"{two_sets[0]}: 1 images are left out by {path}; 4 remain" in caplog.text
    # "1.png" means every image of that name; more of the path means one.
    assert left(two_sets[1]) == (["0", "2", "3", "4"] if end == "1.png" else list("01234"))


def test_a_part_of_a_name_is_not_the_name(two_sets, tmp_path):
    exclude_images(listing(tmp_path, "0.png", ".png"), two_sets)
    with pytest.raises(ValueError, match=r"1 of 2 entries match no image.*: \.png; correct"):
        left(two_sets[0])


def test_an_entry_may_be_of_the_other_set(two_sets, tmp_path):
    exclude_images(listing(tmp_path, "train/0.png", "test/1.png"), two_sets)
    assert (left(two_sets[0]), left(two_sets[1])) == (list("1234"), list("0234"))


def test_an_entry_that_no_set_has_is_an_error(two_sets, tmp_path):
    path = listing(tmp_path, "train/0.png", "test/9.png")
    exclude_images(path, two_sets)
    for name in two_sets:
        with pytest.raises(ValueError, match=r"1 of 2 entries match no image of .*test/9\.png"):
            DatasetCatalog.get(name)


def test_listed_images_may_be_missing(two_sets, tmp_path):
    (tmp_path / "train/3.png").unlink()
    with pytest.raises(ValueError, match="1 of 5 images are missing"):
        DatasetCatalog.get(two_sets[0])
    exclude_images(listing(tmp_path, "train/3.png"), two_sets)
    assert left(two_sets[0]) == ["0", "1", "2", "4"]


def test_another_list_replaces_the_first(two_sets, tmp_path):
    exclude_images(listing(tmp_path, "0.png"), two_sets)
    exclude_images(listing(tmp_path, "1.png"), two_sets[:1])
    assert (left(two_sets[0]), left(two_sets[1])) == (list("0234"), list("01234"))
    exclude_images("", two_sets)
    assert left(two_sets[0]) == list("01234")


def test_loaders_of_others_are_told_as_well(tmp_path):
    name = f"own_{tmp_path.name}"
    records = tiny_images(tmp_path)
    DatasetCatalog.register(name, lambda: list(records))
    exclude_images(listing(tmp_path, "4.png"), [name])
    assert left(name) == list("0123")
    exclude_images("", [name])
    assert left(name) == list("01234")


def test_packed_records_stay_packed(tmp_path):
    packed = PackedRecords.pack(tiny_images(tmp_path))
    exclusion = Exclusion(["2.png"])
    left = drop_missing_images(packed, missing_images="keep", source="tiny", exclusion=exclusion)
    assert isinstance(left, PackedRecords) and exclusion.count == 1
    assert [record["image_id"] for record in left] == [1, 2, 4, 5]
    np.testing.assert_array_equal(left[3]["relations"], [[0, 2, 2], [3, 1, 0], [1, 3, 3]])


def test_a_config_leaves_them_out_everywhere(make_cfg, tmp_path):
    path = listing(tmp_path, "0.png", "4.png")
    cfg = make_cfg("relclip_predcls.yaml", "DATASETS.EXCLUDE", str(path))
    (name,) = cfg.DATASETS.TEST
    loader = Trainer.build_test_loader(cfg, name)
    assert [batch[0]["image_id"] for batch in loader] == [2, 3, 4]
    evaluator = Trainer.build_evaluator(cfg, name)._evaluators[0]
    assert list(evaluator._key_of) == [2, 3, 4]
    seen = iter(Trainer.build_train_loader(cfg))
    assert {x["image_id"] for _ in range(8) for x in next(seen)} == {2, 3, 4}
    make_cfg("relclip_predcls.yaml")  # a config without a list undoes it
    assert len(DatasetCatalog.get(name)) == 5


def test_nothing_left_is_an_error(make_cfg, tmp_path):
    path = listing(tmp_path, *(f"{i}.png" for i in range(5)))
    cfg = make_cfg("relclip_predcls.yaml", "DATASETS.EXCLUDE", str(path))
    with pytest.raises(ValueError, match=r"has no images .*EXCLUDE"):
        Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    make_cfg("relclip_predcls.yaml")


def test_a_list_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt.*an image's file name a line"):
        read_name_list(tmp_path / "none.txt")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=r"image\.png cannot be read"):
        read_name_list(tmp_path / "image.png")
