"""The models that are shipped: small, passed, described, and able to answer for every group they know."""

from __future__ import annotations

import numpy as np
import pytest

from scaleband.inference.released import model_card, model_names, model_path
from scaleband.inference.store import read_draws
from scaleband.predict import basins, recommend, target_cells

MAX_BYTES = 3_000_000


def test_what_is_released() -> None:
    assert model_names() == ["public-sweeps", "scaleband-tiny", "step-law"]


@pytest.mark.parametrize("name", model_names())
def test_a_released_model_is_small_passed_and_described(name: str) -> None:
    assert model_path(name).stat().st_size <= MAX_BYTES
    draws = read_draws(model_path(name))
    assert draws.meta["gate"]["passed"]
    assert draws.meta["gate"]["rhat"][0] <= 1.01
    assert min(draws.meta["gate"]["ess_bulk"][0], draws.meta["gate"]["ess_tail"][0]) >= 400
    card = model_card(name)
    for said in ("**Fitted to.**", "**Holds for.**", "**Diagnostics.** Gate passed", "**Licence.**", "**Refit.**"):
        assert said in card
    assert "Not measured yet" not in card


@pytest.mark.parametrize("name", model_names())
def test_a_released_model_answers_for_the_groups_it_knows(name: str) -> None:
    """A cell like a fitted one, from the law alone, beside that cell's own state: next to it, and within its band."""
    draws = read_draws(model_path(name))
    cells = draws.cells
    inside = []
    for c in range(0, len(cells), max(1, len(cells) // 12)):
        target = target_cells(
            cells.n_params[c], cells.n_tokens[c], source=cells.source[c], arch=cells.arch[c], data=cells.data[c],
            n_active=cells.n_active[c],
        )  # fmt: skip
        law = basins(draws, target, as_new=True).optimum[:, 0, 0]
        own = np.median(draws.state[:, 0, c])
        assert abs(np.median(law) - own) < 0.7, f"{name}: the rate of cell {c} is not where the law puts it"
        inside.append(abs(np.median(law) - own) < 3 * law.std())
        assert recommend(basins(draws, target)).expected_regret[0] < 0.3
    assert np.mean(inside) > 0.9
