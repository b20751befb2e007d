"""Configs that ship are found from any folder; nothing else is taken for one."""

import pytest

from vrd_d2 import assets
from vrd_d2.config.loading import load_config


def test_shipped_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = assets.config_path("configs/relclip_sgdet.yaml")
    assert found.is_absolute() and found.is_file()
    assert assets.shipped_config("../configs/datasets/vrd.yaml").is_file()


@pytest.mark.parametrize("name", ["mine/configs/relclip_sgdet.yaml", "relclip_sgdet.yaml"])
def test_other_paths_are_no_shipped_configs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert assets.shipped_config(name) is None
    with pytest.raises(ValueError, match=name):
        load_config(name)


def test_a_base_is_not_taken_from_the_folder_of_the_process(tmp_path, monkeypatch):
    for name in ("configs", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs/common.yaml").write_text("SEED: 77\n")
    config = tmp_path / "elsewhere/a.yaml"
    config.write_text("_BASE_: configs/common.yaml\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"elsewhere/configs/common\.yaml"):
        load_config(config)


def test_files_of_detectron2s_first_version_may_lack_the_version(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("MODEL:\n  WEIGHT: weights.pkl\n")
    assert load_config(path).MODEL.WEIGHTS == "weights.pkl"
    path.write_text("MODEL:\n  WEIHGT: weights.pkl\n")
    with pytest.raises(ValueError, match=r"MODEL\.WEIHGT"):
        load_config(path)
