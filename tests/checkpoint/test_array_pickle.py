"""Pickles of arrays: what numpy itself reads, and nothing that could do harm."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from vrd_d2.checkpoint.array_pickle import read_array_pickle

CONTENT = OrderedDict(
    weight=np.arange(6, dtype=np.float32).reshape(2, 3),
    columns=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    big_endian=np.arange(3, dtype=">i4"),
    empty=np.zeros((0, 4), np.uint8),
    flags=np.array([True, False]),
    texts=np.array(["man", "ü"]),
    scalar=np.float32(2.5),
    nested={"list": [1, 2.5, None], "tuple": ("a", b"\xff")},
)

# What Python 2 wrote: text where Python 3 has bytes. Names, then an array of two float32.
PYTHON_2 = (
    b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80\x3f\x00\x00\x20\xc0tbs."
)


def same(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert type(found) is type(expected) and found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        if isinstance(found, np.ndarray):
            assert found.flags.writeable and found.flags.f_contiguous == expected.flags.f_contiguous
    else:
        assert type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_reads_what_numpy_reads(protocol: int) -> None:
    content = dict(CONTENT)
    if protocol == 0:
        del content["nested"]  # its bytes are written in yet another way
    data = pickle.dumps(content, protocol)
    same(read_array_pickle(io.BytesIO(data)), pickle.loads(data, encoding="latin1"))


def test_reads_what_python_2_wrote() -> None:
    found = read_array_pickle(io.BytesIO(PYTHON_2))
    same(found, pickle.loads(PYTHON_2, encoding="latin1"))
    np.testing.assert_array_equal(found["a"], np.array([1, -2.5], np.float32))


def test_shared_parts_are_read_once() -> None:
    """Some hundred bytes, which would be read 2 ** 60 times."""
    content: list = [1]
    for _ in range(60):
        content = [content, content]
    found = read_array_pickle(io.BytesIO(pickle.dumps({"a": content})))["a"]
    assert found[0] is found[1]
    content.append(content)
    with pytest.raises(ValueError, match="pickle"):
        read_array_pickle(io.BytesIO(pickle.dumps({"a": content})))


class Other:
    """Anything that is no array."""


def forged(kind: bytes) -> bytes:
    """A scalar of "objects" whose pointers the file chooses; numpy follows them and crashes."""
    dtype = b"cnumpy\ndtype\nX" + len(kind).to_bytes(4, "little") + kind + b"\x89\x88\x87R"
    flags = b"(K\x03X\x01\x00\x00\x00|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    text = b"X\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86R"
    scalar = b"cnumpy._core.multiarray\nscalar\n"
    return (
        b"\x80\x02"
        + dtype
        + flags
        + b"q\x00"
        + scalar
        + b"h\x00c_codecs\nencode\n"
        + text
        + (b"\x86R.")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pickle.dumps({"a": print}), r"builtins\.print"),
        (pickle.dumps({"a": Other()}), r"test_array_pickle\.Other"),
        (pickle.dumps({"a": np.array([None, {}])}, 2), "O8"),
        (pickle.dumps({"a": np.zeros(2, [("x", "f4")])}, 2), "V4"),
        (forged(b"O8"), "O8"),
        (pickle.dumps({"a": np.ndarray}), "type"),
        (b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.", "array"),
        (b"\x80\x02}U\x01acnumpy\ndtype\nU\x02f4K\x00K\x01\x87Rs.", "_Dtype"),
        # Ten numbers are said to be there, and two are.
        (PYTHON_2.replace(b"(K\x01K\x02", b"(K\x01K\x0a"), "reshape"),
        (pickle.dumps([1, 2]), "list"),
        (pickle.dumps({"a": np.arange(9)}, 2)[:-20], "pickle"),
        (b"", "pickle"),
        (b"hello", "pickle"),
    ],
)
def test_everything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_array_pickle(io.BytesIO(data))
