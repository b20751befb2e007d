"""Documents and files spoiled at random, for tests of what reads them (hypothesis draws)."""

import copy
import math

from hypothesis import strategies as st

ODD = [
    None, True, -1, 0, 1, 10**25, 0.5, 1e308, math.nan, math.inf, "", " ", "1", "\0", "\ud800",
    "a/b", "x" * 300, "x" * 300 + "/y", [], [[]], {}, {"id": 1}, [1, 2, 3, 4], [[[[[[[[0]]]]]]]],
    "../../x", "/dev/zero", 2**63, -(2**63) - 1, 10**400, "NaN", {"a": {"b": [None]}},
]  # fmt: skip
ODD_BYTES = [
    *(b"", b"\xff", b"\0", b'"', b",", b"\n", b"{", b"[", b"\xef\xbb\xbf", b"\xed\xa0\x80"),
    *(b"9" * 5000, b"[" * 5000, b"NaN", b"\x80\x02c", b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
]


def places(document, prefix=()):
    """Paths of everything in a JSON document, from the outside in."""
    keys = range(len(document)) if isinstance(document, list) else list(document)
    for key in keys:
        yield (*prefix, key)
        if isinstance(document[key], list | dict):
            yield from places(document[key], (*prefix, key))


def spoil(document, data):
    """One to three random changes of a document, in place."""
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places(document)) or [()])) or [None]
        if last is None:
            return
        place = document
        for key in path:
            place = place[key]
        kind = data.draw(st.sampled_from(["delete", "replace", "number", "repeat"]))
        if kind == "delete":
            del place[last]
        elif kind == "number":
            place[last] = data.draw(st.integers(-5, 200) | st.floats())
        elif kind == "repeat" and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        else:
            place[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))


def damaged(content: bytes, data) -> bytes:
    """Cut short, or with some bytes replaced or put in."""
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(start + 3, len(content))))
    end = data.draw(st.sampled_from([b"", content[stop:]]))
    return content[:start] + data.draw(st.sampled_from(ODD_BYTES)) + end
