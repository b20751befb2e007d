"""Reading JSON, and writing files at once."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vrd_d2.data import source_files
from vrd_d2.data.source_files import atomic_write, parse_json, read_json, write_bytes, write_text

LEFT = ".0123456789abcdef.unfinished"


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


def test_a_file_is_complete_or_the_one_of_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    write_bytes(path, b"before")
    with pytest.raises(RuntimeError, match="broken"), atomic_write(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise RuntimeError("broken")
    assert path.read_bytes() == b"before"
    write_text(path, "after")
    assert path.read_text() == "after"
    assert os.listdir(path.parent) == ["a.bin"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    path, synced = tmp_path / "a", []

    def fsync(handle: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{handle}"), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "x")
    (first, before), (second, after) = synced
    assert Path(first).name.endswith(".unfinished")
    assert (before, after) == (False, True)
    assert second == str(tmp_path)
    write_text(path, "y", sync=False)
    assert len(synced) == 2


@pytest.mark.parametrize("where", ["write", "sync", "rename"])
def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch, where: str) -> None:
    path = tmp_path / "model.pth"
    write_text(path, "before")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if where != "write":
        name = {"sync": "fsync", "rename": "replace"}[where]
        monkeypatch.setattr(os if where == "sync" else Path, name, full)
    with pytest.raises(OSError, match=r"No space.*model\.pth'$"), atomic_write(path) as unfinished:
        unfinished.write_text("after")
        if where == "write":
            full()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic_write(tmp_path / "a"):
        (tmp_path / "other").read_bytes()


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    with pytest.raises(OSError, match=r"a/b'$"):
        write_text(tmp_path / "a" / "b", "y")


def test_devices_are_written_and_stay(tmp_path: Path) -> None:
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "link").symlink_to("outside")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


WRITE = """
import sys, time
from vrd_d2.data.source_files import atomic_write
with atomic_write(sys.argv[1]) as unfinished:
    unfinished.write_text("half")
    print(unfinished.name, flush=True)
    time.sleep(60)
"""


def test_what_killed_processes_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "a")]
    killed, alive = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        left, other = killed.stdout.readline().strip(), alive.stdout.readline().strip()
        assert sorted(os.listdir(tmp_path)) == sorted([left, other])
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        (tmp_path / ".mine.unfinished").touch()
        (tmp_path / LEFT).symlink_to(".mine.unfinished")
        source_files._remove_leftovers.cache_clear()
        write_text(tmp_path / "b", "x")
        assert sorted(os.listdir(tmp_path)) == sorted([other, ".mine.unfinished", LEFT, "b"])
    finally:
        for process in (killed, alive):
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_file_that_is_taken_for_a_leftover_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    lock, times = source_files._lock, []

    def late(handle: int) -> bool:
        if not times:  # another process was between the two lines
            (taken,) = tmp_path.iterdir()
            taken.unlink()
        times.append(handle)
        return lock(handle)

    source_files._remove_leftovers(tmp_path)
    monkeypatch.setattr(source_files, "_lock", late)
    write_text(tmp_path / "a", "x")
    assert len(times) == 2
    assert (tmp_path / "a").read_text() == "x"
