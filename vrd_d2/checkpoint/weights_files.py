"""Weights files of every format, read as tensors, arrays and plain values and never as code."""

import os
import pickle
import textwrap
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vrd_d2.checkpoint.array_pickle import read_array_pickle
from vrd_d2.data.atomic_files import atomic_write


class NotFiniteError(FloatingPointError, ValueError):
    """Weights, losses or scores are infinite or not a number: a training has diverged."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where there is none.

    A long one is cut between words.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return textwrap.shorten(lines[0], 200, placeholder=" ...")


def read_safetensors(file: str) -> Mapping[str, torch.Tensor]:
    """Read a .safetensors file. Raises ValueError: it is broken."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _broken(error) from error


def read_tensors(file: str, *, mmap: bool = False) -> Mapping[str, Any]:
    """Read a file of torch.

    Args:
        file: what ``torch.save`` wrote.
        mmap: read tensors only where they are used.

    Raises:
        ValueError: it is broken, or no dict of plain values.
    """
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if not _begins_as_weights(file):
            raise _broken(error) from error
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "WeightsUnpickler" in line), first_line(error))
        raise ValueError(
            "the file holds more than weights, which is not loaded because it could run any "
            f"code ({reason.split('. ')[0]}): save the tensors alone, "
            'torch.save({"model": model.state_dict()}, path), or as .safetensors'
        ) from error
    except OSError as error:
        if error.filename is None:  # torch reads on where a cut file has nothing
            raise _broken(error) from error
        raise
    except Exception as error:  # what is broken may raise anything
        raise _broken(error) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"the file holds a {type(loaded).__name__}, no weights by name")
    return loaded


def _begins_as_weights(file: str) -> bool:
    """Return whether a file begins as an archive or a pickle; torch calls all else a pickle."""
    with open(file, "rb") as opened:
        return opened.read(2).startswith((b"PK", b"\x80"))


def write_tensors(content: Mapping[str, Any], file: str | os.PathLike) -> None:
    """Write what :func:`read_tensors` reads, complete or not at all.

    Raises:
        OSError: names the file; the disk is full, say.
    """
    with atomic_write(file) as unfinished, open(unfinished, "wb") as opened:
        sink = _Sink(opened)
        torch.save(content, sink)
        if sink.error is not None:
            raise sink.error


class _Sink:
    """A file that stores the first error of writing.

    Within torch.save it would become a RuntimeError, or end the process.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""


def check_finite(model: nn.Module) -> None:
    """Raise NotFiniteError, which names it, if a weight of a model is not finite.

    Buffers may be infinite: masks are.
    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise NotFiniteError(f"the weight {name} is not finite")
    for name, values in model.named_buffers():
        if torch.isnan(values).any():
            raise NotFiniteError(f"the buffer {name} is not a number")


def _broken(error: Exception) -> ValueError:
    return ValueError(f"the file is broken or no checkpoint ({first_line(error)}): get it again")


def read_zoo_pickle(file: BinaryIO) -> dict[str, Any]:
    """Read a .pkl of Detectron2's model zoo, or of Caffe2's, which has other names."""
    try:
        content = read_array_pickle(file)
    except ValueError as error:
        raise ValueError(
            f"{error}; it is not loaded because it could run any code: only files of Detectron2's "
            "model zoo are taken as .pkl"
        ) from error
    if "model" in content and "__author__" in content:
        return dict(content)
    blobs = content.get("blobs", content)
    if isinstance(blobs, Mapping):
        blobs = {n: blob for n, blob in blobs.items() if not str(n).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
