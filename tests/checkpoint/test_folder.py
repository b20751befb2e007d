"""A stopped training goes on from its newest whole checkpoint."""

import os
from pathlib import Path

import pytest
import torch

from vrd_d2.checkpoint.folder import check_output_folder, newest_checkpoint


def write(folder: Path, name: str, iteration: int, *, run: str = "a", at: int = 0, fill: float = 0):
    """A checkpoint as the trainer writes it, written at second `at`."""
    trainer = {"iteration": iteration, "run": run}
    content = {"model": {"weight": torch.full((300,), fill)}, "trainer": trainer}
    torch.save(content, folder / name)
    os.utime(folder / name, (at, at))


def tag(folder: Path, text: str | bytes, at: int = 100) -> None:
    (folder / "last_checkpoint").write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(folder / "last_checkpoint", (at, at))


def chosen(folder: Path, **options) -> tuple[str, str]:
    path, wrong = newest_checkpoint(folder, **options)
    assert not path or Path(path).parent == folder
    return Path(path).name if path else "", wrong


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints of one run; the last is named."""
    for number in (1, 3, 5):
        write(tmp_path, f"model_000000{number}.pth", number, at=number)
    tag(tmp_path, "model_0000005.pth")
    return tmp_path


def test_the_named_one_without_a_word(folder: Path) -> None:
    assert chosen(folder) == ("model_0000005.pth", "")
    tag(folder, "model_0000003.pth\n")  # an earlier one may be chosen by hand
    assert chosen(folder) == ("model_0000003.pth", "")


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert chosen(tmp_path) == ("", "")
    torch.save({"model": {}}, tmp_path / "detector.pth")  # the user's
    assert chosen(tmp_path) == ("", "")
    assert newest_checkpoint(tmp_path / "nowhere") == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"model_0000009.pth", b"../model_0000005.pth", b"/etc/passwd", b"."),
        *(b"a" * 5000, b"\xff\xfe\x00", b"\x00" * 17, b"model_0000005.pth\nmodel_0000003.pth"),
    ],
)
def test_an_odd_last_checkpoint(folder: Path, content: bytes) -> None:
    tag(folder, content)
    name, wrong = chosen(folder)
    assert name == "model_0000005.pth" and "last_checkpoint" in wrong and "\n" not in wrong


def test_last_checkpoint_is_missing(folder: Path) -> None:
    (folder / "last_checkpoint").unlink()
    assert chosen(folder) == ("model_0000005.pth", "")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-700])


def flip(file: Path) -> None:
    """Change a number among the weights; the form of the file stays."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 - 400] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.write_bytes(b""), "is empty"),
        (cut, "cut short or damaged"),
        (lambda file: file.write_bytes(os.urandom(3000)), "cut short or damaged"),
        (lambda file: file.write_bytes(b"\x00" * file.stat().st_size), "cut short or damaged"),
        (lambda file: file.write_bytes(b"PK\x05\x06" + b"\x00" * 18), "cut short or damaged"),
        (flip, "damaged"),
        (lambda file: torch.save([1, 2], file), "damaged"),
        (lambda file: torch.save({"model": {}}, file), "no state of a training"),
        (lambda file: torch.save({"trainer": {"iteration": True}}, file), "no state of a training"),
        (lambda file: write(file.parent, file.name, -5), "no state of a training"),
        (lambda file: torch.save({"trainer": {"iteration": 5}}, file), "holds no weights"),
        (lambda file: write(file.parent, file.name, 5, fill=float("nan")), "not finite (weight)"),
        (lambda file: write(file.parent, file.name, 5, fill=float("inf")), "not finite (weight)"),
        (lambda file: (file.unlink(), file.mkdir()), "names model_0000005.pth"),
    ],
)
def test_a_broken_newest_one_is_named_and_passed_over(folder: Path, damage, reason: str) -> None:
    damage(folder / "model_0000005.pth")
    name, wrong = chosen(folder, parameters={"weight"})
    assert name == "model_0000003.pth"
    assert "model_0000005.pth" in wrong and reason in wrong and "\n" not in wrong


def test_masks_may_be_infinite(folder: Path) -> None:
    write(folder, "model_0000005.pth", 5, fill=float("-inf"))
    assert chosen(folder, parameters={"other"})[0] == "model_0000005.pth"


def test_none_is_whole(folder: Path) -> None:
    for file in folder.glob("model_*"):
        file.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model_0000001\.pth.*model_0000003\.pth.*--resume"):
        newest_checkpoint(folder)
    for file in folder.glob("model_*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"last_checkpoint.*model_0000005\.pth"):
        newest_checkpoint(folder)


def test_written_and_not_yet_named(folder: Path) -> None:
    """Killed between the two files."""
    write(folder, "model_0000007.pth", 7, at=200)
    assert chosen(folder) == ("model_0000007.pth", "")
    write(folder, "model_0000007.pth", 7, at=50)  # named when it was there: by hand
    assert chosen(folder) == ("model_0000005.pth", "")


def test_the_best_and_the_final_one(folder: Path) -> None:
    write(folder, "model_best.pth", 3, at=90)
    write(folder, "model_final.pth", 9, at=80)
    tag(folder, "")
    assert chosen(folder)[0] == "model_final.pth"
    (folder / "model_final.pth").write_bytes(b"")
    assert chosen(folder)[0] == "model_0000005.pth"  # later than the best, written before it


def test_files_of_an_earlier_and_longer_run_do_not_count(folder: Path) -> None:
    write(folder, "model_final.pth", 900, run="before", at=0)
    tag(folder, "")
    assert chosen(folder)[0] == "model_0000005.pth"
    write(folder, "model_0000899.pth", 899, run="before", at=200)
    tag(folder, "model_0000005.pth")
    assert chosen(folder)[0] == "model_0000005.pth"


def test_checkpoints_of_version_0_1_and_of_old_torch(tmp_path: Path) -> None:
    content = {"model": {"weight": torch.zeros(3)}, "trainer": {"iteration": 4}}
    torch.save(content, tmp_path / "model_0000004.pth", _use_new_zipfile_serialization=False)
    assert chosen(tmp_path) == ("model_0000004.pth", "")


@pytest.mark.parametrize("name", ["last_checkpoint", "log.txt", "model_final.pth", "inference"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_a_training_cannot_replace_is_told_before_it(tmp_path: Path, name: str, make) -> None:
    make(tmp_path / name)
    if (name, make) == ("inference", os.mkdir):
        check_output_folder(tmp_path)
        return
    with pytest.raises(ValueError, match=f"OUTPUT_DIR.*{name}"):
        check_output_folder(tmp_path)


@pytest.mark.parametrize("output", ["", "/dev/null", "/dev/null/x", "/proc/x", "n" * 300])
def test_an_output_folder_that_is_none(output: str) -> None:
    with pytest.raises(ValueError, match=f"OUTPUT_DIR.*{output}"):
        check_output_folder(output)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda tag: tag.symlink_to("/dev/zero")])
def test_last_checkpoint_is_no_file(folder: Path, make) -> None:
    (folder / "last_checkpoint").unlink()
    make(folder / "last_checkpoint")
    name, wrong = chosen(folder)
    assert name == "model_0000005.pth" and "last_checkpoint" in wrong


def test_last_checkpoint_with_a_byte_order_mark(folder: Path) -> None:
    tag(folder, b"\xef\xbb\xbfmodel_0000003.pth\r\n")
    assert chosen(folder) == ("model_0000003.pth", "")
