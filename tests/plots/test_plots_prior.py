"""Prior against posterior: its numbers, then one drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scaleband.errors import UserError
from scaleband.plots import plot_prior, prior_data, save


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    prior = {name: rng.normal(0, 1, 4000) for name in ("untouched", "learned", "prior only")}
    posterior = {"untouched": rng.normal(0, 1, 1000), "learned": rng.normal(0.5, 0.1, 1000), "own": np.ones(5)}
    return prior, posterior


def test_densities_and_what_was_learned(both) -> None:
    data = prior_data(*both)
    assert data.names == ("learned", "untouched")
    np.testing.assert_allclose(data.learned, [0.99, 0.0], atol=0.1)
    for density in (data.prior, data.posterior):
        np.testing.assert_allclose(np.trapezoid(density, data.x, axis=1), 1, atol=0.02)
    assert data.x[0][data.posterior[0].argmax()] == pytest.approx(0.5, abs=0.1)


def test_a_constant_has_no_density(both) -> None:
    data = prior_data({"a": both[0]["learned"]}, {"a": np.full(10, 0.3)})
    assert data.learned[0] == 1.0
    assert (data.posterior == 0).all()


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="share no name"):
        prior_data({"a": np.zeros(3)}, {"b": np.zeros(3)})
    with pytest.raises(UserError, match="draws of a are not finite"):
        prior_data({"a": np.zeros(3)}, {"a": np.array([1.0, np.nan])})


def test_it_draws(both, tmp_path: Path) -> None:
    figure = plot_prior(*both)
    assert save(figure, tmp_path / "prior.png").stat().st_size > 5_000
    assert len(figure.axes) == 2
