"""Odd and hostile YAML, in files and in checkpoints: one line that names the file."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg

from vrd_d2.config import files
from vrd_d2.config.defaults import add_vrd_config
from vrd_d2.config.files import merge_dump, merge_file, merge_overrides
from vrd_d2.config.plain_yaml import read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)
ODD = {
    "deep": "A: " + "[" * 5000,
    "deep within limits of the parser": "A: " + "[" * 30 + "]" * 30,
    "deep sections": "\n".join(f"{' ' * level}a:" for level in range(3000)),
    "its own value": "A: &a [*a]",
    "its own section": "A: &a {B: *a}",
    "references by the million": BOMB,
    "a key twice": "SEED: 1\nMODEL: {}\nSEED: 2",
    "a key twice in a section": "MODEL: {DEVICE: cpu, DEVICE: cuda}",
    "no such date": "SEED: 2020-13-45",
    "a list as a key": "? [1, 2]\n: 3",
    "code": "SEED: !!python/object/apply:os.system ['true']",
    "two documents": "SEED: 1\n---\nSEED: 2",
    "a tab": "MODEL:\n\tDEVICE: cpu",
    "null": "null",
    "a number": "5",
    "a key without a value": "SEED:",
    "a section without a value": "MODEL:",
    "number as a key": "5: 6",
    "a value for Python's parser": f"OUTPUT_DIR: {'-' * 100000}1\nSEED: '{'(' * 1000}'",
    "not finite": "SEED: .nan",
}


def fresh():
    cfg = get_cfg()
    add_vrd_config(cfg)
    return cfg


@pytest.mark.parametrize("kind", ODD)
def test_odd_yaml_is_one_error_with_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(ODD[kind])
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        merge_file(fresh(), path)
    with pytest.raises(ValueError, match=r"model\.pth"):
        merge_dump(fresh(), ODD[kind], "model.pth")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    for content in (b"SEED: \xff\xfe", b"SEED: \x00", b"\x80\x81"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"odd\.yaml"):
            merge_file(fresh(), path)
    with pytest.raises(ValueError, match=tmp_path.name):
        merge_file(fresh(), tmp_path)


def test_a_repeated_key_names_its_line() -> None:
    with pytest.raises(ValueError, match=r"c\.yaml.*line 3.*SEED"):
        read_yaml("SEED: 1\nMODEL: {}\nSEED: 2", "c.yaml")


def test_references_and_merges_are_plain_values() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a"
    assert read_yaml(text, "c.yaml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
    }
    assert read_yaml("", "c.yaml") is None


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfSEED: 7\n")
    cfg = fresh()
    merge_file(cfg, tmp_path / "c.yaml")
    assert cfg.SEED == 7


@pytest.mark.parametrize("base", ["http://127.0.0.1:1/b.yaml", "file:///etc/b.yaml", "s3://b/c"])
def test_a_base_is_a_file_and_never_fetched(tmp_path: Path, base: str, monkeypatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"_BASE_: '{base}'\n")

    def connect(*args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", connect)
    with pytest.raises(ValueError, match=rf"c\.yaml.*{base}"):
        merge_file(fresh(), path)


@pytest.mark.parametrize("key", ["SEED", "SOLVER.BASE_LR", "DATASETS.TRAIN", "OUTPUT_DIR"])
def test_a_key_without_a_value_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        merge_overrides(fresh(), [key, "None"])


@pytest.mark.parametrize("key", ["SOLVER.WEIGHT_DECAY_BIAS", "TEST.RELATION.ANNOTATED_PAIRS"])
def test_keys_that_may_be_none_can_be_set_back(key: str) -> None:
    cfg = fresh()
    merge_overrides(cfg, [key, "True" if key.endswith("PAIRS") else "0.1"])
    merge_overrides(cfg, [key, "None"])
    assert dict(files._keys(cfg))[key] is None


def test_defaults_that_are_none_are_the_keys_that_may_be_none() -> None:
    assert {key for key, value in files._keys(fresh()) if value is None} == {*files._MAY_BE_NONE}


@pytest.mark.parametrize("value", ["-" * 100_000 + "1", "~" * 3000 + "1", "(" * 5000, "9" * 5000])
def test_values_of_overrides_that_the_parser_cannot_take(value: str) -> None:
    with pytest.raises(ValueError, match=r"SEED|overrides"):
        merge_overrides(fresh(), ["SEED", value])
