"""Columns of values in one piece of memory, for packed.py."""

import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np


def flat_ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return first[0], first[0] + 1, ... (counts[0] of them), first[1], ...: int64."""
    starts = np.cumsum(counts) - counts
    return np.repeat(np.asarray(first, np.int64) - starts, counts) + np.arange(counts.sum())


class JsonColumn:
    """Values that JSON can hold (texts, lists, None) in one buffer of bytes.

    Args:
        data: uint8, the JSON texts one behind the other.
        offsets: (N + 1,) int64, where they begin and the last one ends.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self.data = data
        self.offsets = offsets

    @classmethod
    def pack(cls, values: Iterable[Any]) -> "JsonColumn":
        """Pack some values."""
        offsets, data = array("q", [0]), bytearray()
        for value in values:
            data += json.dumps(value).encode()
            offsets.append(len(data))
        return cls(np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def values(self, start: int, stop: int) -> list:
        """Return values number start to stop - 1."""
        offsets = self.offsets[start : stop + 1].tolist()
        data = self.data[offsets[0] : offsets[-1]].tobytes()
        base = offsets[0]
        return [json.loads(data[a - base : b - base]) for a, b in pairwise(offsets)]

    def take(self, rows: np.ndarray) -> "JsonColumn":
        """Return a column of the values of these numbers."""
        counts = np.diff(self.offsets)[rows]
        data = self.data[flat_ranges(self.offsets[:-1][rows], counts)]
        return JsonColumn(data, offsets_of(counts))


class NumberColumn:
    """Integers, in the narrowest type that holds them."""

    def __init__(self, data: np.ndarray):
        self.data = narrow(data)

    def __len__(self) -> int:
        return len(self.data)

    def values(self, start: int, stop: int) -> list[int]:
        """Return values number start to stop - 1."""
        return self.data[start:stop].tolist()

    def take(self, rows: np.ndarray) -> "NumberColumn":
        """Return a column of the values of these numbers."""
        return NumberColumn(self.data[rows])


COLUMNS = (JsonColumn, NumberColumn)


def id_column(values: Sequence[Any] | np.ndarray) -> NumberColumn | JsonColumn:
    """Return a column of ids: of numbers if all are integers of 64 bits, else of JSON values."""
    if isinstance(values, np.ndarray) or all(type(value) is int for value in values):
        try:
            return NumberColumn(np.asarray(values, np.int64))
        except OverflowError:  # beyond 64 bits
            pass
    # numpy's integers are none to JSON.
    return JsonColumn.pack(v.item() if isinstance(v, np.generic) else v for v in values)


def narrow(data: np.ndarray) -> np.ndarray:
    """Return integers as int16 if they fit, or int32, or int64."""
    low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.ascontiguousarray(data, dtype)
    return np.ascontiguousarray(data, np.int64)


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Return 0 and the running sums of (N,) counts: (N + 1,) int64."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def read_only(data: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written to; the array itself stays as it is."""
    view = data.view()
    view.flags.writeable = False
    return view
