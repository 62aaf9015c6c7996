"""Moves leave the posterior as it is: held against the prior, and against importance samples of weak data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_fits import as_raw, small_inputs
from scipy import stats

from scaleband.bayes import SHARED, Beliefs, ModelInputs
from scaleband.bayes.beliefs import OWN
from scaleband.bayes.simulate import prior_draws
from scaleband.inference.gibbs import MOVED, Block, Target, run_terms
from scaleband.inference.moves import move
from scaleband.laws import LEVEL, run_log_density

Values = dict[str, np.ndarray]
N = 2000
UNLIKELY = 1e-4  # of the least p of a hundred comparisons; the seeds are fixed


def weak_inputs(one_batch: bool, n_rates: int = 4) -> tuple[ModelInputs, Beliefs, np.ndarray | None]:
    """Runs that say a little of every cell, levels known to half a percent, shared parameters correlated; if asked,
    two cells that ran one batch, at `n_rates` rates."""
    inputs, beliefs = small_inputs(2)
    rng = np.random.default_rng(3)
    turn = np.eye(len(SHARED)) + 0.3 * np.tril(rng.standard_normal((len(SHARED), len(SHARED))), -1)
    law = 0.4 * beliefs.law_factor
    law[LEVEL] *= 0.025
    beliefs = replace(beliefs, law_factor=law, shared_factor=0.5 * beliefs.shared_factor @ turn)
    level = inputs.prior_mean(beliefs)[LEVEL, inputs.cell]
    censored = np.zeros(len(inputs.y), bool)
    censored[[3, 20, 41]] = True
    y = level + np.where(censored, 6.0, rng.gamma(2.0, 1.5, len(level)))
    one = np.isin(inputs.cell, [0, 3]) & one_batch
    rates = np.unique(inputs.log_lr)
    inputs = replace(
        inputs, y=y, y_se=np.full(len(y), 8.0), censored=censored, log_batch=np.where(one, 0.3, inputs.log_batch),
        log_lr=np.where(one, np.minimum(inputs.log_lr, rates[n_rates - 1]), inputs.log_lr),
    )  # fmt: skip
    return inputs, beliefs, inputs.prior_mean(beliefs) if one_batch else None


def posterior_draws(inputs: ModelInputs, beliefs: Beliefs, reference: np.ndarray | None, seed: int) -> Values:
    """`N` draws by importance resampling of the prior's, in the sampler's coordinates: (1, N, ...)."""
    raw = as_raw(prior_draws(inputs, beliefs, 60_000, seed), inputs, beliefs).values
    flat = {name: raw[name][0] for name in MOVED}
    shared = dict(zip(SHARED, (beliefs.shared_mean + flat["shared_std"] @ beliefs.shared_factor.T).T, strict=True))
    sigma = np.exp(np.log(0.1) + 0.7 * flat["log_sigma_std"])
    level, away = run_terms(flat["state"].transpose(1, 0, 2), inputs, reference)
    trunk = np.concatenate([flat["trunk_effect"], np.zeros((len(level), 1))], axis=1)[:, inputs.trunk]
    se = inputs.own_se(np.exp(OWN["log_trunk"][0] + OWN["log_trunk"][1] * flat["log_trunk_std"]))
    log_weight = run_log_density(
        inputs.y, level + trunk, away, sigma[:, inputs.source], np.exp(shared["log_rho"])[:, None],
        1 + np.exp(shared["log_nu_minus_1"])[:, None], inputs.censored, se,
    ).sum(axis=1)  # fmt: skip
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1 / (weight**2).sum() > 3 * N, f"the data are too strong for this check: {1 / (weight**2).sum():.0f}"
    at = np.random.default_rng(seed).choice(len(weight), N, p=weight)
    return {name: v[at][None] for name, v in flat.items()}


def least_p(a: Values, b: Values) -> tuple[float, str]:
    """Of two-sample Kolmogorov-Smirnov tests of every number."""
    found = []
    for name in MOVED:
        left, right = (v[name].reshape(-1, int(np.prod(v[name].shape[2:]))) for v in (a, b))
        pairs = enumerate(zip(left.T, right.T, strict=True))
        found += [(float(stats.ks_2samp(x, y).pvalue), f"{name} {k}") for k, (x, y) in pairs]
    return min(found)


KINDS = {"several batches": (False, 4), "cells with one batch": (True, 4), "cells of three rates": (True, 3)}


@pytest.fixture(scope="module", params=list(KINDS))
def weak(request: pytest.FixtureRequest) -> tuple:
    one_batch, n_rates = KINDS[request.param]
    inputs, beliefs, reference = weak_inputs(one_batch, n_rates)
    assert inputs.some_one_batch == one_batch
    assert (inputs.scatter_share < 1).any() == (n_rates == 3)
    return inputs, beliefs, reference, *(posterior_draws(inputs, beliefs, reference, seed) for seed in (1, 3))


def test_runs_alone_on_their_trunks_say_how_rough_trunks_are() -> None:
    """All else held, the trunks' scale has one density, which can be written down."""
    inputs, beliefs, _ = weak_inputs(False)
    one = as_raw(prior_draws(inputs, beliefs, 1, 1), inputs, beliefs).values
    at = {name: np.repeat(one[name][0], N, axis=0) for name in MOVED}
    level, away = run_terms(one["state"][0].transpose(1, 0, 2), inputs, None)
    trunk = np.append(one["trunk_effect"][0, 0], 0.0)[inputs.trunk]
    off = np.where(inputs.alone, 1.0, 0.0)  # ten times what trunks are believed to be off
    inputs = replace(inputs, y=(level + away)[0] + trunk + off, y_se=np.zeros(len(off)), censored=off > 1)
    block = Block(at, Target.of(inputs, beliefs, None), (), np.zeros(N, int), np.eye(4), np.random.default_rng(1))
    rho, sigma = np.exp(block.noise[0, 0]), np.exp(block.noise[0, 2:])
    for _ in range(12):
        block._trunk_scale()

    mean, sd, _ = OWN["log_trunk"]
    x = np.linspace(-6, 12, 4001)
    scale = np.exp(mean + sd * x)[:, None]
    wide = np.sqrt(sigma[inputs.source] ** 2 + (rho * away[0]) ** 2 + scale**2)[:, inputs.alone]
    log_density = -0.5 * x**2 + stats.norm.logpdf(one["trunk_effect"][0, 0], 0, scale).sum(axis=1)
    log_density += stats.t.logpdf(1.0, 1 + np.exp(block.noise[0, 1]), scale=wide).sum(axis=1)
    below = np.cumsum(np.exp(log_density - log_density.max()))
    assert stats.kstest(block.at["log_trunk_std"], lambda v: np.interp(v, x, below / below[-1])).pvalue > 1e-3
    np.testing.assert_array_equal(block.se, block.target.own_se(block.at))


def test_draws_of_the_posterior_stay_draws_of_it_and_forget_where_they_were(weak: tuple) -> None:
    inputs, beliefs, reference, draws, others = weak
    assert least_p(draws, others)[0] > UNLIKELY, "the check itself"
    moved, share = move(draws, inputs, beliefs, reference=reference, rounds=6, seed=1)
    assert least_p(moved, others)[0] > UNLIKELY
    assert 0.2 < share.mean() < 0.95
    assert (moved["state"] != draws["state"]).mean() > 0.9
    for name in ("log_sigma_std", "log_scatter_level_std", "log_trunk_std"):
        assert np.corrcoef(draws[name].ravel(), moved[name].ravel())[0, 1] < 0.9, name
    assert np.corrcoef(draws["trunk_effect"].ravel(), moved["trunk_effect"].ravel())[0, 1] < 0.9


def test_draws_that_are_off_come_back_to_the_posterior(weak: tuple) -> None:
    inputs, beliefs, reference, draws, others = weak
    off = {name: v.copy() for name, v in draws.items()}
    off["state"][:, :, 2, 1] += 0.4  # of a cell with a shape of its own: a law that holds others fast is NUTS's to move
    off["log_sigma_std"] = off["log_sigma_std"] + 1.0
    assert least_p(off, others)[0] < 1e-6
    # after forty rounds the cell is still a twentieth of its spread away, which shows with some seeds
    moved, _ = move(off, inputs, beliefs, reference=reference, rounds=80, seed=1)
    p, where = least_p(moved, others)
    assert p > UNLIKELY, where


def test_without_runs_the_prior_is_left_as_it_is() -> None:
    inputs, beliefs = small_inputs()
    rows = ("log_lr", "log_batch", "y", "y_se", "censored", "cell", "source", "trunk", "alone")
    empty = replace(inputs, **{name: getattr(inputs, name)[:0] for name in rows})
    draws, others = (as_raw(prior_draws(empty, beliefs, N, seed), empty, beliefs).values for seed in (1, 2))
    moved, share = move(draws, empty, beliefs, reference=None, rounds=4, seed=2)
    p, where = least_p(moved, others)
    assert p > UNLIKELY, where
    assert share.mean() > 0.2


def test_proposals_come_from_the_other_chains(weak: tuple) -> None:
    """With chains that stand apart, each is offered where the others are: both end as one."""
    inputs, beliefs, reference, draws, _ = weak


    def one_cell(v: np.ndarray) -> np.ndarray:
        return v[..., 8, 1] - v[..., 8, 2:].mean(axis=-1)  # a cell with a shape of its own

    order = np.argsort(one_cell(draws["state"][0]))
    half = {name: v[0, order].reshape(2, N // 2, *v.shape[2:]) for name, v in draws.items()}
    moved, _ = move(half, inputs, beliefs, reference=reference, rounds=20, seed=1)
    before, after = (float(np.ptp(one_cell(v["state"]).mean(axis=1))) for v in (half, moved))
    assert after < 0.2 * before


def test_a_draw_kept_twice_stands_beside_itself_some_rounds_apart(weak: tuple) -> None:
    inputs, beliefs, reference, draws, others = weak
    twice, share = move(draws, inputs, beliefs, reference=reference, rounds=3, copies=2, seed=1)
    once, _ = move(draws, inputs, beliefs, reference=reference, rounds=3, seed=1)
    assert share.shape == twice["log_trunk_std"].shape == (1, 2 * N)
    for name in MOVED:
        np.testing.assert_array_equal(twice[name][:, ::2], once[name])
    later = {name: v[:, 1::2] for name, v in twice.items()}
    assert (later["state"] != once["state"]).mean() > 0.7
    assert least_p(later, others)[0] > UNLIKELY


def test_the_seed_decides(weak: tuple) -> None:
    inputs, beliefs, reference, draws, _ = weak
    few = {name: v[:, :300] for name, v in draws.items()}
    one, same, other = (move(few, inputs, beliefs, reference=reference, rounds=2, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one["state"], same["state"])
    assert (one["state"] != other["state"]).any()


@pytest.mark.parametrize("what", ["no rounds", "few draws", "a draw that is not finite"])
def test_what_cannot_be_moved_stays(weak: tuple, what: str) -> None:
    inputs, beliefs, reference, draws, _ = weak
    few = {name: v[:, : 5 if what == "few draws" else 40].copy() for name, v in draws.items()}
    if what == "a draw that is not finite":
        few["state"][0, 7, 3, 2] = np.nan
    moved, share = move(few, inputs, beliefs, reference=reference, rounds=0 if what == "no rounds" else 3, seed=1)
    for name, value in few.items():
        np.testing.assert_array_equal(moved[name], value)
    assert not share.any()


def test_progress_is_told_and_an_interruption_ends_it(weak: tuple) -> None:
    inputs, beliefs, reference, draws, _ = weak
    told: list[tuple[int, int]] = []
    few = {name: v[:, :400] for name, v in draws.items()}
    move(
        few, inputs, beliefs, reference=reference, rounds=1, seed=1, progress=lambda *done: told.append(done)
    )
    assert told == [(k + 1, 4) for k in range(4)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(few, inputs, beliefs, reference=reference, rounds=1, seed=1, progress=stop)
