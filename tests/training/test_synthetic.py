"""The made-up law: as stated at ordinary scales, believable at any other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from scaleband.training import SyntheticAdapter
from scaleband.training.synthetic import GUESSING

MADE_UP = SyntheticAdapter()


def test_the_stated_law_at_ordinary_scales() -> None:
    lr, batch = MADE_UP.optimum(1e9, 2e10)
    level = 1.7 + 400.0 * 1e9**-0.34 + 410.0 * 2e10**-0.28
    assert MADE_UP.expected_loss(1e9, 2e10, lr, batch) == pytest.approx(level, rel=1e-12)
    excess = 0.01 * (math.log(2) ** 2 + math.log(4) ** 2)
    assert MADE_UP.expected_loss(1e9, 2e10, 2 * lr, 4 * batch) == pytest.approx(level * math.exp(excess), rel=1e-12)


@pytest.mark.parametrize(("n_params", "n_tokens"), [(1e5, 1e7), (5e4, 2048), (1e6, 1e6)])
def test_a_tiny_model_is_no_worse_than_guessing(n_params: float, n_tokens: float) -> None:
    lr, batch = MADE_UP.optimum(n_params, n_tokens)
    best, off, far = (MADE_UP.expected_loss(n_params, n_tokens, lr * k, batch) for k in (1, 10, 1e-9))
    assert 6 < best <= off <= far <= GUESSING < 12
    if best < 10.5:
        assert best < off  # the best setting stays the best


def test_losses_meet_where_they_begin_to_bend() -> None:
    sizes = [10 ** (4 + k / 200) for k in range(1000)]
    losses = [MADE_UP.expected_loss(n, 2e10, *MADE_UP.optimum(n, 2e10)) for n in sizes]
    steps = [a - b for a, b in pairwise(losses)]
    assert losses[0] > 10 > 3 > losses[-1]
    assert 0 < min(steps) <= max(steps) < 0.1
