"""Values of records that come out of files."""

import numpy as np
import pytest

from vrd_d2.data.record_values import text_of


@pytest.mark.parametrize("text", ["", "é", "[1, 2]", "\U0010ffff" * 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_text_in_an_array(text: str, order: str) -> None:
    array = np.array(text)
    assert text_of(array.astype(array.dtype.newbyteorder(order))) == text


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array(3),
        np.array(b"a"),
        np.array([0x110000], np.uint32).view("U1").reshape(()),
        np.array([97, 2**31], np.uint32).view("U2").reshape(()),
    ],
)
def test_what_is_no_text_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"text"):
        text_of(array)
