"""Scatters of several sources' levels, the law integrated out: the density is a normal's, and both sides are seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from scaleband.bayes.beliefs import OWN
from scaleband.inference.level_scatters import LevelScatters


@pytest.fixture
def table() -> tuple[LevelScatters, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    source = np.repeat([0, 1], [7, 9])
    design = np.column_stack([np.ones(16), rng.normal(size=(16, 2)), np.zeros(16)])
    return LevelScatters.of(design, source), design, source


def test_the_density_is_that_of_a_normal(table: tuple) -> None:
    of, design, source = table
    rng = np.random.default_rng(1)
    levels, std = rng.normal(size=(5, 16)), rng.normal(size=(5, 2))
    mean, sd, _ = OWN["log_scatter_level"]
    slope = np.einsum("dc,sc,ck->dsk", levels, of.by_source, of.design)
    found = of.log_density(std, slope, levels**2 @ of.by_source.T)
    expected = [
        multivariate_normal(np.zeros(16), design @ design.T + np.diag(np.exp(2 * (mean + sd * z))[source])).logpdf(y)
        + norm.logpdf(z).sum()
        for y, z in zip(levels, std, strict=True)
    ]
    np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], rtol=1e-9)


def test_walks_change_sides_and_have_the_density_s_share_of_each() -> None:
    """Two teams whose levels cannot both lie on one line: either may be the one that scatters."""
    x = np.concatenate([np.linspace(-1, 1, 6), np.linspace(-1, 1, 6)])
    source = np.repeat([0, 1], 6)
    of = LevelScatters.of(np.column_stack([np.ones(12), x]), source)
    levels = np.where(source, x, -x)[None] + 0.05 * np.random.default_rng(2).normal(size=(1, 12))
    grid = np.linspace(-6, 6, 121)
    std = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    slope = np.repeat(np.einsum("dc,sc,ck->dsk", levels, of.by_source, of.design), len(std), 0)
    density = np.exp(of.log_density(std, slope, np.repeat(levels**2 @ of.by_source.T, len(std), 0)))
    first = density[std[:, 0] > std[:, 1]].sum() / density.sum()
    assert 0.05 < first < 0.95  # two sides, and a valley between
    draws = np.tile([1.5, -2.5], (4000, 1))
    rng = np.random.default_rng(3)
    for _ in range(15):
        draws = of.moved(draws, np.repeat(levels, len(draws), 0), rng)
    assert (draws[:, 0] > draws[:, 1]).mean() == pytest.approx(first, abs=0.03)
    assert draws.mean(axis=0) == pytest.approx(density @ std / density.sum(), abs=0.1)
