"""Reading of weights files of every format, as tensors, arrays and plain values, never as code."""

import pickle
import textwrap
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vrd_d2.checkpoint.array_pickle import read_array_pickle


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


def read_tensors(file: str) -> Mapping[str, Any]:
    """Read a file of torch. Raises ValueError: it is broken, or no dict of plain values."""
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "WeightsUnpickler" in line), first_line(error))
        raise ValueError(
            "the file holds more than weights, which is not loaded because it could run any "
            f"code ({reason.split('. ')[0]}): save the tensors alone, "
            'torch.save({"model": model.state_dict()}, path), or as .safetensors'
        ) from error
    except OSError:
        raise
    except Exception as error:  # what is broken may raise anything
        raise _broken(error) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"the file holds a {type(loaded).__name__}, no weights by name")
    return loaded


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
