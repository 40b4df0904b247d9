"""Rectangles that overlap made into one, as OpenCV's groupRectangles does it."""

import numpy as np


def group_rectangles(
    rectangles: np.ndarray, neighbors: int, slack: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of similar rectangles, each by its mean.

    Two rectangles are similar when each of their sides differs by at most `slack` times half of the sum of the smaller
    width and the smaller height; clusters are what similarity connects. A cluster stays if it has more than `neighbors`
    rectangles and does not lie inside another, better one.

    Args:
      rectangles: [n, 4] integers, x, y, width, height.
      neighbors: 0 keeps all rectangles as they are.

    Returns:
      Means [k, 4] int64, rounded, in the order of their first rectangle; and the numbers [k] of rectangles in them.
    """
    rectangles = np.asarray(rectangles, np.int64).reshape(-1, 4)
    if neighbors <= 0 or not len(rectangles):
        return rectangles, np.ones(len(rectangles), np.int64)
    labels = _clusters(rectangles, slack)
    counts = np.bincount(labels)
    sums = np.stack([np.bincount(labels, weights=side) for side in rectangles.T], 1)
    # Single precision, in which OpenCV computes this, decides how halves are rounded.
    boxes = np.rint(sums.astype(np.float32) * (np.float32(1) / counts.astype(np.float32))[:, None]).astype(
        np.int64
    )
    enough = counts > neighbors
    boxes, counts = boxes[enough], counts[enough]
    kept = ~_inside_better(boxes, counts, slack)
    return boxes[kept], counts[kept]


def _clusters(rectangles: np.ndarray, slack: float) -> np.ndarray:
    """The number [n] of each rectangle's cluster, in the order in which clusters begin."""
    from scipy.sparse import coo_array  # takes long to import, and every run knows of faces
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1)
    rows, columns = [], []
    for start in range(0, len(rectangles), 512):
        part = slice(start, start + 512)
        smaller = np.minimum(rectangles[part, None, 2:], rectangles[None, :, 2:]).sum(-1)
        difference = np.abs(ends[part, None] - ends[None]).max(-1)
        row, column = np.nonzero(difference <= slack * 0.5 * smaller)
        rows.append(row + start)
        columns.append(column)
    places = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(places[0]), bool), places), shape=(len(rectangles), len(rectangles)))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _inside_better(boxes: np.ndarray, counts: np.ndarray, slack: float) -> np.ndarray:
    """Which boxes [k] lie in another one, enlarged by `slack`, of more than three rectangles and more than theirs."""
    room = (boxes[:, 2:] * slack).round().astype(np.int64)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (low[:, None] >= (low - room)[None]).all(-1) & (high[:, None] <= (high + room)[None]).all(-1)
    better = (counts[None] > np.maximum(3, counts)[:, None]) | (counts[:, None] < 3)
    return (inside & better & ~np.eye(len(boxes), dtype=bool)).any(1)
