"""Two groups at a budget: near the smallest one that leaves a model to train, too."""

from __future__ import annotations

import numpy as np
import pytest

from made_laws import made_laws
from scaleband.errors import UserError
from scaleband.predict.allocation import Limits, allocate, tokens_to_reach
from scaleband.predict.comparison import budget_for, compare
from scaleband.predict.targets import target_cells

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


def test_of_the_budgets_that_reach_a_loss_the_nearest_one_answers() -> None:
    logs = np.linspace(0.0, 6.0, 7)
    falling = np.array([4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0])
    goals = np.array([3.2, 2.5, 1.1, 0.9, 4.1])
    found = budget_for(goals, np.tile(falling, (5, 1)), logs, 3)
    np.testing.assert_allclose(np.log(found[:3]), [1.6, 3.0, 5.8])
    assert (found[3], found[4]) == (np.inf, 0.0)
    odd = np.array([[2.4, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0]])  # far below its runs a law need not fall
    np.testing.assert_allclose(np.log(budget_for(np.array([2.45]), odd, logs, 3)), 3.1)
    np.testing.assert_allclose(np.log(budget_for(np.array([2.75]), odd, logs, 3)), 2.5)


def test_the_one_split_for_all_draws_lies_where_the_best_ones_were_searched() -> None:
    least = allocate(made_laws(60), GROUPS[1], 1e12)
    assert least.chosen[0] == pytest.approx(np.median(least.n_params), rel=1e-3)  # the smallest model of all
    assert (least.loss_at_chosen >= least.loss * (1 - 1e-6)).all()


def test_a_given_size_that_was_fitted_has_its_luck_and_a_chosen_one_has_not() -> None:
    laws = made_laws(60)
    given, new = (allocate(laws, GROUPS[1], 6 * n * 3e10, Limits(n_params=n)) for n in (2e9, 4e9))
    cells = target_cells([2e9, 4e9], [3e10, 3e10], source="a", data="web")
    told, alone = laws.log_loss(cells), laws.log_loss(cells, size_effects=False)
    np.testing.assert_allclose(np.log(given.loss), told[:, 0], rtol=1e-9)
    np.testing.assert_allclose(np.log(new.loss), alone[:, 1], rtol=1e-9)
    assert np.median(told[:, 0] - alone[:, 0]) > 0.005
    goal = float(np.median(given.loss))
    own, chosen = (tokens_to_reach(laws, cells, goal, size_effects=e) for e in (True, False))
    assert np.median(own[:, 0]) == pytest.approx(3e10, rel=0.01)
    assert np.median(chosen[:, 0]) < 0.97 * np.median(own[:, 0])
    np.testing.assert_array_equal(own[:, 1], chosen[:, 1])


@pytest.mark.parametrize(
    ("group", "flops", "limits", "says"),
    [
        ("a/dense/web", -1.0, Limits(), "flops = -1 is no budget"),
        ("a/dense/web", float("nan"), Limits(), "flops = nan is no budget"),
        ("web", 1e21, Limits(), "group = 'web' is not written source/arch/data; the fit knows a/dense/code"),
        ("a/dense/web", 1e21, Limits(max_tokens=0.5), "max_tokens = 0.5 cannot be"),
        ("a/dense/web", 1e21, Limits(unique_tokens=0.0), "unique_tokens = 0 cannot be"),
        ("a/dense/web", 1e21, Limits(n_params=float("nan")), "n_params = nan cannot be"),
        ("a/dense/web", 1e21, Limits(inference_tokens=-1.0), "inference_tokens = -1 cannot be"),
        ("a/dense/web", 1e21, Limits(sparsity=0.0), "sparsity = 0 cannot be"),
    ],
)
def test_a_budget_a_group_or_a_limit_that_cannot_be_is_refused(
    group: str, flops: float, limits: Limits, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        allocate(made_laws(4), group, flops, limits)
