"""Pickles of arrays, the form of Detectron2's model zoo, read without trusting them.

A pickle is a program. The names in it are looked up in this module alone, whose classes build
plain numbers out of plain bytes; neither numpy's own unpickling, which can be made to read foreign
memory, nor anything else is ever reached.
"""

import pickle
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np


class _Dtype:
    """Stands for numpy.dtype: integers, floats, booleans and text, but no objects."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?[biufSU]\d+", name):
            raise pickle.UnpicklingError(f"it holds numbers of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, order, *parts = state
        if parts[:3] != [None] * 3:
            raise pickle.UnpicklingError("it holds numbers of several parts")
        self.dtype = self.dtype.newbyteorder(order)

    def numbers(self, data: str | bytes) -> np.ndarray:
        # Python 2 wrote bytes as text.
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="))


class _Array:
    """Stands for what numpy.core.multiarray._reconstruct gives, and for numpy.ndarray."""

    def __init__(self, *_: Any) -> None:
        self.content: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        order = "F" if by_columns else "C"
        self.content = dtype.numbers(data).reshape(shape, order=order)


class _Scalar:
    """Stands for numpy.core.multiarray.scalar."""

    def __new__(cls, dtype: _Dtype, data: str | bytes) -> np.generic:
        (value,) = dtype.numbers(data)
        return value


class _Encoded:
    """Stands for _codecs.encode and bytes, by which old pickles write bytes and none."""

    def __new__(cls, text: str = "", *_: Any) -> bytes:
        return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _Encoded,
    ("__builtin__", "bytes"): _Encoded,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _STAND_INS[_module, "_reconstruct"] = _Array
    _STAND_INS[_module, "scalar"] = _Scalar


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it needs {module}.{name}")
        return _STAND_INS[module, name]


def read_array_pickle(file: BinaryIO) -> Mapping[str, Any]:
    """Read a pickled dict of arrays, numbers, text and containers of these.

    Raises:
        ValueError: there is anything else in it, or it is broken.
    """
    try:
        content = _plain(_Unpickler(file, encoding="latin1").load(), {})
    except Exception as error:  # a broken pickle raises nearly anything
        raise ValueError(
            f"the pickle is broken, or holds more than arrays ({error or type(error).__name__})"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"the pickle holds a {type(content).__name__}, no dict of arrays")
    return content


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Replace stand-ins by arrays; `known` has the results so far, by id.

    Without it a list that holds a list twice, which holds a list twice, would take forever.
    """
    if id(value) not in known:
        if isinstance(value, _Array):
            if value.content is None:
                raise pickle.UnpicklingError("an array has no content")
            known[id(value)] = value.content
        elif isinstance(value, dict):
            known[id(value)] = {key: _plain(part, known) for key, part in value.items()}
        elif isinstance(value, (list, tuple)):
            known[id(value)] = type(value)(_plain(part, known) for part in value)
        elif value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
            known[id(value)] = value
        else:
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
    return known[id(value)]
