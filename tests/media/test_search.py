"""Images and videos by file, folder and pattern: what is found, and what is refused."""

import os
from pathlib import Path

import pytest

from vrd_d2.media.images import read_image
from vrd_d2.media.search import find_media


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def test_folders_patterns_and_files_each_once(tmp_path, monkeypatch):
    names = [
        "b/2.JPG",
        "b/1.png",
        "a.mp4",
        "b/notes.txt",
        "b/.hidden.png",
        ".git/x.png",
        "c[1].gif",
    ]
    two, one, video, notes, hidden, _, bracket = touch(tmp_path, *names)
    found = find_media([tmp_path])
    assert found.files == [video, one, two, bracket] and found.passed_over == [notes]
    assert find_media([tmp_path / "b", two, tmp_path / "b/../b/1.png"]).files == [one, two]
    assert find_media([str(tmp_path / "**/*.png")]).files == [one]
    assert find_media([bracket, hidden]).files == [bracket, hidden]
    # A file that is named is tried, whatever its suffix; one that a pattern matches is not.
    assert find_media([notes]).files == [notes]
    assert find_media([str(tmp_path / "b/*")]).files == [one, two]
    monkeypatch.chdir(tmp_path / "b")
    assert find_media(["../b", "."]).files == [Path("../b/1.png"), Path("../b/2.JPG")]


def test_results_are_not_searched(tmp_path):
    touch(tmp_path, "a.png", "out/drawings/a.png", "out/settings.json")
    found = find_media([tmp_path], exclude=tmp_path / "out")
    assert found.files == [tmp_path / "a.png"] and found.passed_over == []
    with pytest.raises(ValueError, match=tmp_path.name):
        find_media([tmp_path], exclude=tmp_path)


def test_links_are_followed_and_lead_nowhere_twice(tmp_path):
    (real,) = touch(tmp_path, "elsewhere/a.png")
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    (folder / "album").symlink_to(real.parent)
    (folder / "below/back").symlink_to(folder)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing")
    found = find_media([folder]).files
    assert found == [folder / "album/a.png", folder / "gone.png", folder / "loop.png"]
    for path in found[1:]:
        with pytest.raises(ValueError, match=path.name):
            read_image(path)


def test_folders_that_cannot_be_read_are_reported(tmp_path, monkeypatch):
    (readable, _) = touch(tmp_path, "a.png", "locked/b.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_media([tmp_path])
    (reason,) = found.unreadable
    assert found.files == [readable] and str(tmp_path / "locked") in reason
    with pytest.raises(ValueError, match=r"locked.*Permission denied"):
        find_media([tmp_path / "locked"])


@pytest.mark.parametrize(
    "given, message",
    [
        ("missing.jpg", r"missing\.jpg"),
        ("*.tif", r"\*\.tif"),
        ("empty", r"empty.*\.jpg"),
    ],
)
def test_an_input_without_images_is_an_error(tmp_path, given, message):
    touch(tmp_path, "empty/readme.txt")
    with pytest.raises(ValueError, match=message):
        find_media([str(tmp_path / given)])
