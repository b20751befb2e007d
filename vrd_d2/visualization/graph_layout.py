"""Where the nodes of a scene graph go: near to how the image has them, without overlap.

The layout is stress majorization (Gansner, Koren and North, "Graph Drawing by Stress Majorization",
2004): distances on the page come near to distances in the graph. It begins with the positions of
the boxes, so that what is left in the image tends to be left in the graph. Nothing is random.
"""

from collections.abc import Sequence

import networkx
import numpy as np

_ITERATIONS = 60
_NEAR_THE_START = 0.15  # weight of staying where the image has an entity
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


def layout_graph(
    sizes: np.ndarray,
    edges: Sequence[tuple[int, int]],
    area: tuple[float, float],
    *,
    start: np.ndarray | None = None,
    gap: float = 10.0,
    edge_length: float = 220.0,
) -> np.ndarray:
    """Return the centres of the nodes.

    Args:
        sizes: (N, 2) width and height of the nodes.
        edges: pairs of node numbers; direction and repetition do not matter.
        area: width and height of the page.
        start: (N, 2) positions in any unit, y downwards; None begins on a spiral.
        gap: free pixels between nodes and to the border, where there is room.
        edge_length: pixels of an edge at most, about: few nodes do not fill a large page.

    Returns:
        float (N, 2), y downwards. Nodes lie inside the area and do not overlap if it has room.
    """
    sizes = np.asarray(sizes, dtype=float).reshape(-1, 2)
    count = len(sizes)
    if not count:
        return np.zeros((0, 2))
    centres = _majorize(_start(start, count), _distances(count, edges))
    low = sizes / 2 + gap
    high = np.maximum(np.array(area) - low, low)
    max_factor = edge_length / _edge(count)
    centres = _stretch(centres, low.max(0), np.maximum(high.min(0), low.max(0)), max_factor)
    return _separate(centres, sizes + gap, low, high)


def _start(start: np.ndarray | None, count: int) -> np.ndarray:
    """Return positions about the origin, no two alike."""
    angle = _GOLDEN_ANGLE * np.arange(count)
    spiral = np.sqrt(np.arange(count) / count)[:, None] * np.stack(
        [np.cos(angle), np.sin(angle)], 1
    )
    if start is None:
        return spiral
    positions = np.asarray(start, dtype=float).reshape(-1, 2)
    spread = float(np.ptp(positions, axis=0).max()) or 1.0
    return 2 * (positions - positions.mean(0)) / spread + 0.05 * spiral


def _distances(count: int, edges: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the steps from node to node (N, N); unconnected nodes lie one step beyond the rest."""
    graph = networkx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from((a, b) for a, b in edges if a != b)
    distances = np.full((count, count), np.inf)
    for source, lengths in networkx.all_pairs_shortest_path_length(graph):
        distances[source, list(lengths)] = list(lengths.values())
    finite = np.isfinite(distances)
    distances[~finite] = min(distances[finite].max() + 1, 4)
    return distances


def _edge(count: int) -> float:
    """Return the wanted length of an edge: how far nodes of a page two units wide are apart."""
    return 2 / max(1.0, np.sqrt(count))


def _majorize(positions: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Lower the stress by SMACOF steps, in which each node is drawn a little to its start."""
    if len(positions) < 2:
        return positions
    wanted = distances * _edge(len(positions))
    weights = 1 / np.maximum(distances, 1) ** 2
    np.fill_diagonal(weights, 0)
    total = weights.sum(1)[:, None]
    at_start = _NEAR_THE_START * total
    start = positions
    for _ in range(_ITERATIONS):
        difference = positions[:, None] - positions[None]
        length = np.maximum(np.hypot(difference[..., 0], difference[..., 1]), 1e-9)
        pull = positions[None] + (wanted / length)[..., None] * difference
        positions = ((weights[..., None] * pull).sum(1) + at_start * start) / (total + at_start)
    return positions


def _stretch(
    positions: np.ndarray, low: np.ndarray, high: np.ndarray, max_factor: float
) -> np.ndarray:
    """Fill the page from low to high, each way by its own factor, up to a largest one."""
    smallest, largest = positions.min(0), positions.max(0)
    extent = largest - smallest
    # A nearly straight layout must not be torn apart across.
    factor = (high - low) / np.maximum(np.maximum(extent, 0.35 * extent.max()), 1e-9)
    factor = np.minimum(factor, max_factor)
    return (low + high) / 2 + (positions - (smallest + largest) / 2) * factor


def _separate(
    centres: np.ndarray, sizes: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Push overlapping nodes apart, by the shorter way, until none overlap or no room is left."""
    half = (sizes[:, None] + sizes[None]) / 2
    centres = np.clip(centres, low, high)
    order = np.arange(len(centres))
    for _ in range(300):
        difference = centres[:, None] - centres[None]
        overlap = half - np.abs(difference)
        np.fill_diagonal(overlap[..., 0], -1)
        touching = (overlap > 1e-6).all(-1)
        if not touching.any():
            break
        # Where two coincide, the later one goes on.
        later = np.sign(order[:, None] - order[None])[..., None]
        sign = np.where(difference == 0, later, np.sign(difference))
        vertical = overlap[..., 1] < overlap[..., 0]
        push = np.zeros_like(difference)
        push[..., 1] = np.where(touching & vertical, overlap[..., 1] * sign[..., 1], 0)
        push[..., 0] = np.where(touching & ~vertical, overlap[..., 0] * sign[..., 0], 0)
        centres = np.clip(centres + 0.55 * push.sum(1), low, high)
    return centres
