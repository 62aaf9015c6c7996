"""Two groups at a budget: near the smallest one that leaves a model to train, too."""

from __future__ import annotations

import numpy as np
import pytest

from made_laws import made_laws
from scaleband.predict.comparison import compare

GROUPS = ("a/dense/code", "a/dense/web")


def test_small_budgets_are_compared_as_far_down_as_there_are_models() -> None:
    laws = made_laws(60)
    small, large = (compare(laws, *GROUPS, flops) for flops in (1e14, 1e20))
    assert small.p_a_better == large.p_a_better == 1.0  # code is far easier than web
    assert 1.9e10 < small.searched[0] < 5e10
    assert small.searched[1] == pytest.approx(1e18)
    assert large.searched == pytest.approx((1e16, 1e24))
    wide = compare(laws, *GROUPS, 1e18)
    near = compare(laws, *GROUPS, 1e18, decades=2.0, n_budgets=21)
    np.testing.assert_allclose(near.loss_a, wide.loss_a, rtol=1e-6)
