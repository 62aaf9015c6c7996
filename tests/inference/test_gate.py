"""The gate: draws made to fail each criterion, and whether it names the right one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scaleband.inference.gate import ESS_MIN, REPORTED, Gate, diagnose, more_draws, nearly

CHAINS, DRAWS = 2, 1000
FINE = np.zeros((CHAINS, DRAWS), bool)


@pytest.fixture
def posterior() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dims = {
        "angle": (2,), "skew": (2,), "rho": (), "nu": (), "sigma": (2,), "scatter_level": (2,), "scatter_ratio": (2, 2),
        "scatter": (9,), "offset_scale": (2, 6),
        "state": (9, 3), "trunk_scale": (), "law": (9, 5),
    }  # fmt: skip
    return {name: rng.standard_normal((CHAINS, DRAWS, *shape)) for name, shape in dims.items()}


def test_independent_draws_pass(posterior: dict[str, np.ndarray]) -> None:
    gate = diagnose(posterior, FINE)
    assert gate.passed
    assert gate.messages == ()
    assert gate.rhat[0] < 1.01
    assert min(gate.ess_bulk[0], gate.ess_tail[0]) > ESS_MIN
    assert json.loads(json.dumps(gate.as_dict(), allow_nan=False))["passed"] is True


def test_chains_that_disagree_are_named(posterior: dict[str, np.ndarray]) -> None:
    posterior["state"][1, :, 2, 1] += 1.0
    gate = diagnose(posterior, FINE, names={"state": ["cell a", "cell b", "cell c"]})
    assert not gate.passed
    assert gate.rhat[0] > 1.05
    assert gate.rhat[1] == "state[2, cell b]"
    assert "the chains disagree" in gate.messages[0]
    assert "state[2, cell b]" in gate.messages[0]


def test_sticky_draws_are_named(posterior: dict[str, np.ndarray]) -> None:
    rng, x = np.random.default_rng(1), np.zeros((CHAINS, DRAWS))
    for i in range(1, DRAWS):
        x[:, i] = 0.97 * x[:, i - 1] + rng.standard_normal(CHAINS)
    posterior["offset_scale"][:, :, 1, 4] = x
    gate = diagnose(posterior, FINE)
    assert not gate.passed
    assert gate.ess_bulk[1] == "offset_scale[1, 4]"
    assert any("too few effective draws" in message for message in gate.messages)


def test_sticky_tails_are_named(posterior: dict[str, np.ndarray]) -> None:
    """Rare long visits to a tail: the middle mixes, the tail does not."""
    for start in (200, 900):
        posterior["rho"][:, start : start + 60] = 4 + 0.01 * np.random.default_rng(2).standard_normal((CHAINS, 60))
    gate = diagnose(posterior, FINE)
    assert gate.ess_tail[1] == "rho"
    assert gate.ess_tail[0] < ESS_MIN
    assert any(message.startswith("tail ESS") for message in gate.messages)


def test_one_divergence_fails(posterior: dict[str, np.ndarray]) -> None:
    diverging = FINE.copy()
    diverging[1, 7] = True
    gate = diagnose(posterior, diverging)
    assert not gate.passed
    assert gate.divergences == 1
    assert gate.messages[0].startswith("1 divergent transitions")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_draws_that_are_not_finite_fail(posterior: dict[str, np.ndarray], value: float) -> None:
    posterior["sigma"][0, 3, 1] = value
    gate = diagnose(posterior, FINE)
    assert not gate.passed
    assert any("not finite" in message for message in gate.messages)
    assert "not finite" in json.dumps(gate.as_dict(), allow_nan=False), "a fit that failed is still written"


def test_a_constant_is_not_judged(posterior: dict[str, np.ndarray]) -> None:
    posterior["nu"][:] = 0.1  # not a binary fraction: its mean over draws is not quite itself
    posterior["offset_scale"][..., 5] = 0.0
    assert diagnose(posterior, FINE).passed


def test_chains_stuck_at_two_values_fail(posterior: dict[str, np.ndarray]) -> None:
    posterior["rho"][0], posterior["rho"][1] = 1.0, 2.0
    gate = diagnose(posterior, FINE)
    assert not gate.passed
    assert any("rho" in message for message in gate.messages)


def test_one_chain_is_told_that_r_hat_compares_chains(posterior: dict[str, np.ndarray]) -> None:
    one = {name: value[:1] for name, value in posterior.items()}
    gate = diagnose(one, FINE[:1])
    assert not gate.passed
    assert any("it compares chains" in message for message in gate.messages)


def test_coefficients_of_the_law_are_not_judged_twice(posterior: dict[str, np.ndarray]) -> None:
    posterior["law"][1] += 5.0
    assert diagnose(posterior, FINE).passed
    assert "law" not in REPORTED


@pytest.mark.parametrize("name", [name for name in REPORTED if name != "theta"])  # theta: loss laws
def test_everything_reported_is_judged_and_labelled(posterior: dict[str, np.ndarray], name: str) -> None:
    last = tuple(n - 1 for n in posterior[name].shape[2:])
    posterior[name][(1, slice(None), *last)] += 1.0
    gate = diagnose(posterior, FINE)
    assert gate.rhat[1] == (f"{name}[{', '.join(str(i) for i in last)}]" if last else name)


@pytest.mark.parametrize(
    ("rhat", "bulk", "tail", "divergences", "wanted"),
    [
        (1.005, 500.0, 450.0, 0, None),  # passed
        (1.005, 230.0, 250.0, 0, 6600),
        (1.012, 390.0, 420.0, 0, 5000),  # hardly short: twice as many all the same
        (1.08, 230.0, 250.0, 0, 6600),
        (1.2, 230.0, 250.0, 0, None),  # chains apart
        (1.005, 230.0, 250.0, 2, None),
        (1.005, 60.0, 250.0, 0, 25000),
        (1.005, 20.0, 250.0, 0, None),  # more than 24 times as many
        (np.nan, 230.0, 250.0, 0, None),
        (1.005, np.nan, 250.0, 0, None),
    ],
)
def test_more_draws_are_asked_for_only_where_they_help(
    rhat: float, bulk: float, tail: float, divergences: int, wanted: int | None
) -> None:
    failed = wanted is not None or rhat != 1.005 or bulk < ESS_MIN or divergences > 0
    gate = Gate(not failed, (rhat, "rho"), (bulk, "rho"), (tail, "nu"), divergences, ())
    assert more_draws(gate, 2500) == wanted


@pytest.mark.parametrize(
    ("rhat", "ess", "divergences", "near"),
    [
        (1.005, 500.0, 0, False),  # passed
        (1.012, 420.0, 0, True),
        (1.005, 230.0, 0, True),
        (1.005, 230.0, 1, False),
        (1.08, 230.0, 0, False),
        (1.005, 60.0, 0, False),
        (np.nan, 230.0, 0, False),
    ],
)
def test_moves_go_on_only_where_the_gate_is_near(rhat: float, ess: float, divergences: int, near: bool) -> None:
    passed = rhat <= 1.01 and ess >= ESS_MIN and not divergences
    assert nearly(Gate(passed, (rhat, "rho"), (ess, "rho"), (ess, "nu"), divergences, ())) == near
