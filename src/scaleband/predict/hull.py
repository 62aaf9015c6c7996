"""How far a point of the plane lies from what some points enclose.

SciPy's convex hull refuses points on one line, the case that matters most here, and gives no distance to the region.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def corners(points: Array) -> Array:
    """Corners of the smallest convex region that holds `points` (point, 2), in order around it: (corner, 2).

    Points on one line leave its two ends, points on one spot leave that.
    """
    ordered = np.unique(points, axis=0)

    def chain(along: Array) -> list[Array]:
        kept: list[Array] = []
        for point in along:
            while len(kept) > 1 and _turn(kept[-2], kept[-1], point) <= 0:
                kept.pop()
            kept.append(point)
        return kept

    return ordered if len(ordered) < 3 else np.array(chain(ordered)[:-1] + chain(ordered[::-1])[:-1])


def distance(points: Array, at: Array) -> float:
    """Euclidean distance of `at` (2,) from the smallest convex region that holds `points` (point, 2); 0 inside."""
    here = corners(points)
    there = np.roll(here, -1, axis=0)
    if len(here) > 2 and all(_turn(a, b, at) >= 0 for a, b in zip(here, there, strict=True)):
        return 0.0
    along = there - here
    share = ((at - here) * along).sum(1) / np.maximum((along**2).sum(1), 1e-300)
    nearest = here + np.clip(share, 0.0, 1.0)[:, None] * along
    return float(np.sqrt(((at - nearest) ** 2).sum(1)).min())


def _turn(a: Array, b: Array, c: Array) -> float:
    """Above 0 where a, b, c turn left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
