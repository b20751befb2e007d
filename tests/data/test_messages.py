"""Messages are counted by kind, so that a rare one is not hidden by a thousand others."""

from vrd_d2.data.messages import by_kind, lines_by_kind

OUTSIDE = [
    f"/a/b{i}.json: annotations[{i}] (id {i * 7!r}): box [{i}, 2.5, 3, 4] reaches outside the "
    f"image of {100 + i} x 80; it is kept"
    for i in range(1000)
]
SELF = ["/a/b1.json: relations[5] (id 'x'): annotation 'y' is related to itself; it is kept"]


def test_a_kind_is_what_remains_without_names_and_numbers():
    missing = [
        f"there is no image images/{name}: put it there" for name in ("a.jpg", "sub/b c.png")
    ]
    groups = by_kind([*OUTSIDE, *SELF, *missing])
    assert [len(group) for group in groups] == [1000, 1, 2]
    assert groups[0] == OUTSIDE


def test_one_line_a_kind_with_its_count_and_first_example():
    lines = lines_by_kind([*OUTSIDE[:500], *SELF, *OUTSIDE[500:]])
    assert len(lines) == 2
    assert lines[0] == f"{OUTSIDE[0]} (and 999 more like this)"
    assert lines[1] == SELF[0]
