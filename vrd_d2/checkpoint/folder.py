"""The checkpoints in the folder of a training, and the newest whole one among them."""

import os
import re
import zipfile
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vrd_d2.checkpoint.weights_files import read_tensors
from vrd_d2.data.source_files import located, require_regular

# The file that names the checkpoint that was written last.
TAG = "last_checkpoint"
_LONGEST = 255  # characters of a name
# What else a training writes beside checkpoints.
_RESULTS, _WRITTEN = "inference", (TAG, "config.yaml", "log.txt", "metrics.json")
_NAME = re.compile(r"model_(\d+|final|best)\.pth")


@dataclass(frozen=True)
class _State:
    """What is known of a checkpoint before its weights are read.

    Attributes:
        iteration: that it was written after.
        run: of the training that wrote it; None in versions that did not store it.
        written: time of the file, in ns.
    """

    iteration: int
    run: str | None
    written: int


def check_output_folder(folder: str | os.PathLike) -> None:
    """Check what lies where a training is going to write, perhaps hours later.

    A pipe there would be waited for, and a folder cannot be replaced.

    Raises:
        ValueError: names OUTPUT_DIR, what lies there, and the remedy.
    """
    with located("OUTPUT_DIR"):
        if not str(folder):
            raise ValueError("it is empty: name a folder")
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{error}: name a folder that can be written to") from error
        if (folder / _RESULTS).exists() and not (folder / _RESULTS).is_dir():
            raise ValueError(f"{folder / _RESULTS} is no folder: move it away")
        for path in [*(folder / name for name in _WRITTEN), *folder.glob("model_*.pth")]:
            require_regular(path, "move it away")


def newest_checkpoint(
    folder: str | os.PathLike, *, parameters: Container[str] = ()
) -> tuple[str, str]:
    """Find the checkpoint that a stopped training goes on from.

    The file that last_checkpoint names, or one of the same run that was written after it was, just
    before a kill. If that file is not whole, the newest whole one.

    Args:
        folder: of the training.
        parameters: names of weights that must be finite; others, such as masks, may be infinite.

    Returns:
        its path, "" where no checkpoint was ever written; and what is not whole in the folder, in
        words, or "".

    Raises:
        ValueError: there are checkpoints, and none is whole: names them.
    """
    folder = Path(folder)
    names = {path.name for path in folder.glob("model_*") if _NAME.fullmatch(path.name)}
    broken: dict[str, str] = {}
    tagged, tagged_at = "", 0
    if (folder / TAG).exists():
        try:
            tagged = _tagged(folder / TAG)
            tagged_at = (folder / TAG).stat().st_mtime_ns
            names.add(tagged)
        except (ValueError, OSError) as error:
            broken[TAG] = str(error)
    if not names and not broken:
        return "", ""
    states: dict[str, _State] = {}
    for name in sorted(names):
        try:
            states[name] = _state(folder / name)
        except (ValueError, OSError) as error:
            broken[name] = str(error)
    while states:
        name = _newest(states, tagged, tagged_at)
        try:
            _check_content(folder / name, parameters)
        except (ValueError, OSError) as error:
            broken[name] = str(error)
            del states[name]
            continue
        return str(folder / name), _words(broken)
    raise ValueError(
        f"{folder} has no whole checkpoint to resume from ({_words(broken)}): put one there, or "
        "delete these files and start anew without --resume"
    )


def _words(broken: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {reason}" for name, reason in broken.items())


def _tagged(tag: Path) -> str:
    require_regular(tag)
    try:
        with tag.open(encoding="utf-8-sig") as file:
            name = file.read(_LONGEST + 1).strip()
    except UnicodeDecodeError as error:
        raise ValueError("is no text") from error
    if not name:
        raise ValueError("is empty")
    # A file of this folder: what is read from a folder must not lead out of it.
    if len(name) > _LONGEST or not name.isprintable() or Path(name).name != name:
        raise ValueError(f"names no file of the folder ({name[:80]!r})")
    if not (tag.parent / name).is_file():
        raise ValueError(f"names {name}, which is not there")
    return name


def _newest(states: Mapping[str, _State], tagged: str, tagged_at: int) -> str:
    def iteration(name: str) -> tuple[int, int]:
        return states[name].iteration, states[name].written

    if tagged in states:
        later = [
            name
            for name, state in states.items()
            if state.run == states[tagged].run
            and state.iteration > states[tagged].iteration
            and state.written > tagged_at
        ]
        return max(later, key=iteration, default=tagged)
    # Files of an earlier run may lie there, which went on for longer.
    latest = max(states, key=lambda name: (states[name].written, states[name].iteration))
    run = states[latest].run
    return max((name for name in states if states[name].run == run), key=iteration)


def _state(path: Path) -> _State:
    if not path.is_file():
        raise ValueError("is no file")
    written = path.stat()
    if not written.st_size:
        raise ValueError("is empty")
    trainer = _read(path).get("trainer")
    iteration = trainer.get("iteration") if isinstance(trainer, Mapping) else None
    if type(iteration) is not int or iteration < 0:
        raise ValueError("holds no state of a training")
    run = trainer.get("run")
    return _State(iteration, run if isinstance(run, str) else None, written.st_mtime_ns)


def _read(path: Path) -> Mapping[str, Any]:
    # Mapped: states are small, and weights are not read before the file is chosen.
    try:
        return read_tensors(str(path), mmap=zipfile.is_zipfile(path))
    except ValueError as error:
        raise ValueError("is cut short or damaged") from error


def _check_content(path: Path, parameters: Container[str]) -> None:
    """Read all of a checkpoint. Raises ValueError: it is damaged, or its weights are not finite."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError("is damaged") from error
        if damaged:
            raise ValueError("is damaged")
    weights = _read(path).get("model")
    if not isinstance(weights, Mapping):
        raise ValueError("holds no weights")
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor):
            continue
        if torch.isnan(weight).any() or (name in parameters and torch.isinf(weight).any()):
            raise ValueError(f"holds weights that are not finite ({name})")
