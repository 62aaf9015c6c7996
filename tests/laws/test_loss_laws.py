"""Loss laws by identities: the reference point, limits, closed forms against a search, one text for two libraries."""

from __future__ import annotations

import numpy as np
import pytest

from scaleband.laws.loss import GENERAL, LAWS, Covariates, minimise_each
from scaleband.laws.loss.chinchilla import from_published, to_published
from scaleband.laws.loss.moe import optimal_size as moe_optimum
from scaleband.laws.loss.three_term import optimal_batch

ZERO = Covariates(0.0, 0.0, 0.0, 0.0, 0.0)


def some_values(name: str, seed: int = 0, count: int = 40) -> dict[str, np.ndarray]:
    """Parameters drawn from a law's stated beliefs."""
    rng = np.random.default_rng(seed)
    return {p.name: p.value(np, p.mean + p.sd * rng.standard_normal(count)) for p in LAWS[name].parameters}


def at(n: object = 0.0, d: object = 0.0, s: object = 0.0, b: object = 0.0, u: object = None) -> Covariates:
    return Covariates(*np.broadcast_arrays(*(np.asarray(v, float) for v in (n, d, s, b, d if u is None else u))))


@pytest.mark.parametrize("name", [n for n in LAWS if n != "repetition"])
def test_the_reference_point_is_one(name: str) -> None:
    np.testing.assert_allclose(LAWS[name].relative(np, some_values(name), at()), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", list(LAWS))
def test_parameters_survive_the_way_to_the_unbounded_scale_and_back(name: str) -> None:
    for p in LAWS[name].parameters:
        z = p.mean + p.sd * np.linspace(-2, 2, 9)
        np.testing.assert_allclose(p.unbounded(p.value(np, z)), z, rtol=1e-9, atol=1e-12)
        assert p.why


@pytest.mark.parametrize("name", [n for n in LAWS if n not in ("farseer", "interaction")])
def test_more_size_and_more_tokens_never_hurt(name: str) -> None:
    values, grid = some_values(name), np.linspace(-3, 5, 25)[:, None]
    for x in (at(n=grid), at(d=grid)):
        loss = LAWS[name].relative(np, values, x)
        assert (np.diff(loss, axis=0) <= 1e-12).all()
        assert (loss > 0).all()


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "interaction", "overtraining", "moe", "repetition",
                                  "own-exponents"])
def test_with_everything_in_plenty_the_irreducible_loss_is_left(name: str) -> None:
    values = some_values(name)
    left = LAWS[name].relative(np, values, at(n=500.0, d=500.0))
    np.testing.assert_allclose(left, 1 - values["reducible"], rtol=1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "overtraining"])
def test_closed_optimum_is_the_one_that_a_search_finds(name: str) -> None:
    law, values = LAWS[name], some_values(name)
    c = np.full(40, 6.0)
    closed = law.optimal_size(values, c)  # type: ignore[misc]
    found = minimise_each(lambda n: law.relative(np, values, at(n=n, d=c - n)), closed - 7, closed + 9)
    np.testing.assert_allclose(found, closed, atol=2e-3)


def test_moe_optimum_is_the_one_that_a_search_finds() -> None:
    values, c, s = some_values("moe"), np.full(40, 4.0), 1.7
    closed = moe_optimum(values, c, s)
    law = LAWS["moe"]
    found = minimise_each(lambda n: law.relative(np, values, at(n=n, d=c - n, s=s)), closed - 7, closed + 9)
    np.testing.assert_allclose(found, closed, atol=2e-3)


def test_best_batch_of_the_three_terms() -> None:
    values, law = some_values("three-term"), LAWS["three-term"]
    closed = optimal_batch(values, np.full(40, 2.0))
    found = minimise_each(lambda b: law.relative(np, values, at(d=2.0, b=b)), closed - 5, closed + 6)
    np.testing.assert_allclose(found, closed, atol=2e-3)
    slope = (optimal_batch(values, np.full(40, 3.0)) - closed) / 1.0
    expected = values["steps_exponent"] / (values["steps_exponent"] + values["batch_exponent"])
    np.testing.assert_allclose(slope, expected)


def test_a_batch_that_is_not_stated_is_the_best_one() -> None:
    values, law = some_values("three-term"), LAWS["three-term"]
    x = at(d=np.full(40, 3.0), b=np.where(np.arange(40) < 20, np.nan, 1.5))
    tuned = law.tuned(values, x)
    np.testing.assert_allclose(tuned.b[:20], optimal_batch(values, x.d)[:20])
    np.testing.assert_array_equal(tuned.b[20:], 1.5)
    told = law.relative(np, values, tuned)
    assert (told[:20] < law.relative(np, values, at(d=x.d, b=np.zeros(40)))[:20]).all()
    assert LAWS["chinchilla"].tuned(values, x) is x


def test_published_constants_round_trip_and_give_the_published_loss() -> None:
    published = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    level, values = from_published(1.69, 406.4, 410.7, 0.34, 0.28, 4e8, 1e10)
    back = to_published(np.asarray(level), values, 4e8, 1e10)
    for name, value in published.items():
        assert float(back[name]) == pytest.approx(value, rel=1e-10)
    n, d = 7e10, 1.4e12
    x = at(n=np.log(n / 4e8), d=np.log(d / 1e10))
    expected = 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28
    assert float(level * LAWS["chinchilla"].relative(np, values, x)) == pytest.approx(expected, rel=1e-10)


def test_special_cases_are_chinchilla() -> None:
    values = some_values("chinchilla")
    x = at(n=np.linspace(-2, 3, 11)[:, None], d=np.linspace(3, -2, 11)[:, None])
    expected = LAWS["chinchilla"].relative(np, values, x)
    same = {
        "kaplan": {"gamma": np.ones(40)},
        "interaction": {"interaction": np.full(40, 0.9)},
        "moe": {"total_share": np.full(40, 0.5)},
        "repetition": {"repeat_decay": np.full(40, 1e12), "excess_decay": np.full(40, 1e12)},
    }
    for name, more in same.items():
        np.testing.assert_allclose(LAWS[name].relative(np, values | more, x), expected, rtol=1e-5, err_msg=name)
    own = {"size_exponent": values["alpha"], "tokens_exponent": values["beta"]}
    np.testing.assert_allclose(LAWS["own-exponents"].relative(np, values | own, x), expected)
    eta = values["alpha"] / 2
    both = {"reducible": values["reducible"], "balance": values["balance"]}
    np.testing.assert_allclose(
        LAWS["overtraining"].relative(np, both | {"eta": eta}, x),
        LAWS["chinchilla"].relative(np, both | {"alpha": 2 * eta, "beta": 2 * eta}, x),
    )


def test_farseer_is_the_published_form() -> None:
    a1, b1, alpha, a2, b2, beta, a3, b3, gamma = 0.02, -1.4, 0.1, 120.0, 1.0, -0.2, -0.05, 1.5, 0.12
    n_ref, d_ref, n, d = 4e8, 1e10, 3e9, 2e11

    def published(n: float, d: float) -> float:
        return float(np.exp(a3 * n**gamma + b3) + np.exp(a2 * n**beta + b2) * d ** -np.exp(a1 * n**alpha + b1))

    exponent = np.exp(a1 * n_ref**alpha + b1)
    token = np.exp(a2 * n_ref**beta + b2) * d_ref**-exponent
    level = published(n_ref, d_ref)
    w = a1 * alpha * n_ref**alpha  # d log exponent / d log n at the reference
    x = at(n=np.log(n / n_ref), d=np.log(d / d_ref))
    # D^-B(N) = D_ref^-B(N) e^(-B(N) d): the first factor changes with N and belongs to the amplitude.
    shift = np.log(d_ref) * (np.exp(a1 * n**alpha + b1) - exponent)
    amplitude = a2 * n**beta - a2 * n_ref**beta - shift
    values = {
        "token_share": token / level, "size_slope": -a3 * gamma * n_ref**gamma, "size_bend": gamma,
        "amplitude_slope": -amplitude / float(x.n), "amplitude_bend": 1e-9,
        "token_exponent": exponent, "exponent_slope": w, "exponent_bend": alpha,
    }  # fmt: skip
    assert float(level * LAWS["farseer"].relative(np, values, x)) == pytest.approx(published(n, d), rel=1e-8)


def test_repeated_tokens_are_worth_less_and_saturate() -> None:
    law, values = LAWS["repetition"], some_values("repetition")
    epochs = np.log(np.array([1.0, 2.0, 4.0, 16.0, 1e3, 1e6]))[:, None]
    repeated = law.relative(np, values, at(n=-2.0, d=epochs, u=np.zeros_like(epochs)))
    fresh = law.relative(np, values, at(n=-2.0, d=epochs))
    assert (np.diff(repeated, axis=0) <= 1e-12).all()
    assert (repeated >= fresh - 1e-12).all()
    np.testing.assert_allclose(repeated[0], fresh[0])
    np.testing.assert_allclose(repeated[-1], repeated[-2], rtol=1e-6)


@pytest.mark.parametrize("name", list(LAWS))
def test_pytensor_reads_the_same_text(name: str) -> None:
    import pytensor.tensor as pt

    rng = np.random.default_rng(3)
    values = {k: v[:8] for k, v in some_values(name).items()}
    x = Covariates(*rng.normal(size=(5, 8)))
    x = x._replace(s=np.abs(x.s), u=np.minimum(x.u, x.d))
    symbolic = LAWS[name].relative(
        pt, {k: pt.as_tensor(v) for k, v in values.items()}, Covariates(*(pt.as_tensor(v) for v in x))
    )
    np.testing.assert_allclose(symbolic.eval(), LAWS[name].relative(np, values, x), rtol=1e-10)


def test_general_laws_need_no_more_than_size_and_tokens() -> None:
    assert all(not LAWS[name].needs for name in GENERAL)
