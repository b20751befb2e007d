"""Writing files at once, whatever is killed or full."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vrd_d2.data import atomic_files
from vrd_d2.data.atomic_files import atomic_write, write_bytes, write_text

LEFT = ".0123456789abcdef.unfinished"


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
from vrd_d2.data.atomic_files import atomic_write
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
        atomic_files._remove_leftovers.cache_clear()
        write_text(tmp_path / "b", "x")
        assert sorted(os.listdir(tmp_path)) == sorted([other, ".mine.unfinished", LEFT, "b"])
    finally:
        for process in (killed, alive):
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_file_that_is_taken_for_a_leftover_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    lock, times = atomic_files.try_lock, []

    def late(handle: int) -> bool:
        if not times:  # another process was between the two lines
            (taken,) = tmp_path.iterdir()
            taken.unlink()
        times.append(handle)
        return lock(handle)

    atomic_files._remove_leftovers(tmp_path)
    monkeypatch.setattr(atomic_files, "try_lock", late)
    write_text(tmp_path / "a", "x")
    assert len(times) == 2
    assert (tmp_path / "a").read_text() == "x"
