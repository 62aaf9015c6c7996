"""Basins made up for the tests of `predict`."""

from __future__ import annotations

import numpy as np

from scaleband.laws import Cells
from scaleband.predict import Basins


def made_basins(n: int = 300, targets: int = 3, *, spread: float = 0.4, seed: int = 0) -> Basins:
    """`n` draws of basins at several targets; `spread` 0 makes the posterior a point."""
    rng = np.random.default_rng(seed)

    def around(centre: np.ndarray, width: float) -> np.ndarray:
        return centre + spread * width * rng.standard_normal((n, *centre.shape))

    t = np.arange(targets)
    size = 1e8 * 4.0**t
    return Basins(
        cells=Cells(("a",) * targets, ("dense",) * targets, ("web",) * targets, size, size, 20 * size),
        optimum=around(np.stack([0.5 - 0.3 * t, -0.4 + 0.5 * t]), 1.0),
        curvature=np.exp(around(np.stack([1.0 + 0.1 * t, 0.3 - 0.1 * t]), 0.3)),
        level=around(90.0 - 5.0 * t, 0.5),
        angle=around(np.stack([-0.97 + 0 * t, 0.29 + 0 * t]), 0.1),
        skew=around(np.stack([0.5 + 0 * t, 0.9 + 0 * t]), 0.2),
    )


def one_target(b: Basins, t: int) -> Basins:
    """The basins of one target alone."""
    c, keep = b.cells, [t]
    cells = Cells(
        (c.source[t],), (c.arch[t],), (c.data[t],), c.n_params[keep], c.n_active[keep], c.n_tokens[keep]
    )
    return Basins(
        cells, b.optimum[..., keep], b.curvature[..., keep], b.level[..., keep], b.angle[..., keep], b.skew[..., keep]
    )
