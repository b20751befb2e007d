"""Reading text and JSON."""

import json
from pathlib import Path

import pytest

from vrd_d2.data import source_files
from vrd_d2.data.source_files import parse_json, read_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_of_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "names.json"
    path.write_bytes('{"名": ["é", 1]}'.encode(encoding))
    assert read_json(path) == {"名": ["é", 1]}


def test_a_text_with_a_mark_is_parsed() -> None:
    assert parse_json("\ufeff[1]") == parse_json(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize("levels", [101, 900, 100_000])
@pytest.mark.parametrize("piece", ["[", '{"a":', "[[],"])
def test_deep_json_is_refused_by_name(tmp_path: Path, levels: int, piece: str) -> None:
    path = tmp_path / "deep.json"
    path.write_text(piece * levels)
    with pytest.raises(ValueError, match=r"deep\.json.*100"):
        read_json(path)


def test_brackets_in_names_are_not_levels() -> None:
    names = ["[" * 300, '\\"[' * 300, "{[" * 300]
    assert parse_json(json.dumps(names)) == names
    deep = "[" * 100 + "]" * 100
    assert json.dumps(parse_json(deep)) == deep


def test_depth_is_counted_over_the_parts_of_a_long_text(monkeypatch) -> None:
    monkeypatch.setattr(source_files, "_CHUNK", 7)
    assert source_files._depth("[[[[[" + "]" * 5 + "[" * 9) == 9
    assert parse_json(json.dumps({"a": [{"b": [1, 2]}] * 30})) == {"a": [{"b": [1, 2]}] * 30}
    with pytest.raises(ValueError, match="100"):
        parse_json("[" * 101 + "]" * 101)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfa", b'{"a": 1', b"[" + b"9" * 5000 + b"]"])
def test_what_is_no_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.json.*get it again"):
        read_json(tmp_path / "odd.json")
