"""Nodes of drawn graphs: inside their page, apart from each other, near to where the boxes are."""

import networkx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vrd_d2.visualization.graph_layout import layout_graph


def overlaps(centres: np.ndarray, sizes: np.ndarray) -> int:
    """Brute force: pairs of nodes that share area."""
    count = 0
    for i in range(len(centres)):
        for j in range(i):
            apart = np.abs(centres[i] - centres[j]) - (sizes[i] + sizes[j]) / 2
            count += bool((apart < -1e-3).all())
    return count


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.booleans())
def test_nodes_do_not_overlap_and_stay_on_the_page(seed: int, count: int, same: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform((30, 15), (90, 22), (count, 2))
    edges = rng.integers(0, count, (2 * count, 2)).tolist()  # some loops and repetitions
    start = np.zeros((count, 2)) if same else rng.uniform(0, 500, (count, 2))
    area = (900.0, 700.0)
    centres = layout_graph(sizes, edges, area, start=start, gap=4)
    assert np.isfinite(centres).all() and not overlaps(centres, sizes)
    assert (centres - sizes / 2 >= 0).all() and (centres + sizes / 2 <= area).all()


def test_it_is_deterministic_and_keeps_left_and_right() -> None:
    sizes = np.full((4, 2), (60.0, 20.0))
    start = np.array([[0, 0], [300, 0], [0, 300], [300, 300.0]])
    edges = [(0, 1), (1, 3), (3, 2), (2, 0)]
    first, second = (layout_graph(sizes, edges, (600, 400), start=start) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first[0, 0] < first[1, 0] and first[2, 0] < first[3, 0]
    assert first[0, 1] < first[2, 1] and first[1, 1] < first[3, 1]


def test_neighbours_are_nearer_than_others() -> None:
    """On a path, the distance on the page grows with the steps between the nodes."""
    graph = networkx.path_graph(6)
    centres = layout_graph(np.full((6, 2), 10.0), list(graph.edges), (1000, 1000))
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    steps = dict(networkx.all_pairs_shortest_path_length(graph))
    one = [distance[a, b] for a in steps for b, n in steps[a].items() if n == 1]
    far = [distance[a, b] for a in steps for b, n in steps[a].items() if n >= 4]
    assert max(one) < min(far)


def test_few_nodes_do_not_fill_a_large_page() -> None:
    sizes = np.full((2, 2), (60.0, 20.0))
    start = np.array([[0, 0], [9, 1.0]])
    centres = layout_graph(sizes, [(0, 1)], (3000, 3000), start=start, edge_length=200)
    assert 100 < np.hypot(*(centres[1] - centres[0])) < 300
    assert layout_graph(np.zeros((0, 2)), [], (9, 9)).shape == (0, 2)


def test_too_small_a_page_still_holds_the_nodes() -> None:
    centres = layout_graph(np.full((9, 2), (60.0, 20.0)), [(0, 8)], (70, 30), gap=5)
    assert np.isfinite(centres).all() and (np.abs(centres - (35, 15)) <= 20).all()
