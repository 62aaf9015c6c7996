"""`LawDraws.at`: fitted cells speak for themselves, new ones get the spread that the model gives them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scaleband.laws import LEVEL, RESPONSES, ROLES, Cells, Design, LawDraws, design_for
from scaleband.laws import draws as draws_module
from scaleband.runs import cells as cells_module

N = 4000
CELLS = Cells(
    ("a", "a", "b"), ("dense", "moe-1in8", "dense"), ("web", "web", "code"),
    np.array([1e8, 4e8, 1e9]), np.array([1e8, 1e8, 1e9]), np.array([2e10, 5e9, 4e10]),
)  # fmt: skip


def cells(source: str = "a", arch: str = "dense", data: str = "web", n: float = 1e8, d: float = 3e10) -> Cells:
    return Cells((source,), (arch,), (data,), np.array([n]), np.array([n]), np.array([d]))


@pytest.fixture
def draws() -> LawDraws:
    """Coefficients that are known exactly (no posterior spread) with one scatter and one scale per role."""
    design, rng = design_for(CELLS), np.random.default_rng(0)
    n_r, n_k = len(RESPONSES), len(design.columns)
    scale = np.zeros((N, n_r, len(ROLES)))
    scale[:, :, 1:] = 0.3 + 0.1 * np.arange(len(ROLES) - 1)
    return LawDraws(
        design=design, cells=CELLS, law=np.broadcast_to(rng.normal(size=(n_r, n_k)), (N, n_r, n_k)).copy(),
        scatter=np.full((N, n_r), 0.2), offset_scale=scale, state=rng.normal(size=(N, n_r, len(CELLS))),
        angle=np.zeros((N, 2)), skew=np.zeros((N, 2)), sigma=np.ones((N, 2)), rho=np.ones(N), nu=np.full(N, 5.0),
        sources=("a", "b"), shared=np.zeros((N, 1)),
    )  # fmt: skip


def law_of(draws: LawDraws, target: Cells) -> np.ndarray:
    return draws.law[0] @ draws.design.matrix(target)[0]


def test_a_fitted_cell_speaks_for_itself(draws: LawDraws) -> None:
    np.testing.assert_array_equal(draws.at(CELLS), draws.state)
    near = cells(n=1e8 * 1.0004, d=2e10 * 0.9996)
    np.testing.assert_array_equal(draws.at(near)[:, :, 0], draws.state[:, :, 0])


def test_a_target_is_the_cell_that_a_run_there_would_be_in(draws: LawDraws) -> None:
    """Token counts are often steps times batch: they differ by a part of a step, in a table and in a question."""
    assert (draws_module.PARAMS_TOLERANCE, draws_module.TOKENS_TOLERANCE) == (
        cells_module.PARAMS_TOLERANCE, cells_module.TOKENS_TOLERANCE
    )  # fmt: skip
    for factor, match in ((1.004, 0), (0.996, 0), (1.006, None)):
        assert draws.matching_cell(cells(d=2e10 * factor), 0) == match
    sparse = replace(cells(arch="moe-1in8", n=4e8, d=5e9), n_active=np.array([1.0005e8]))
    assert draws.matching_cell(sparse, 0) == 1
    assert draws.matching_cell(replace(sparse, n_active=np.array([4e8])), 0) is None, "no such model was run"
    two = Cells(("a",) * 2, ("dense",) * 2, ("web",) * 2, *(np.array([1e8, 1e8]),) * 2, np.array([1e10, 1.006e10]))
    close = replace(draws, cells=two)
    assert close.matching_cell(cells(d=1.004e10), 0) == 1
    assert close.matching_cell(cells(d=1.002e10), 0) == 0


@pytest.mark.parametrize("changed", [{"source": "b"}, {"arch": "moe"}, {"data": "code"}, {"n": 1.02e8}, {"d": 2.1e10}])
def test_another_group_size_or_horizon_is_another_cell(draws: LawDraws, changed: dict) -> None:
    target = cells(**({"d": 2e10} | changed))
    assert not np.allclose(draws.at(target)[:, :, 0], draws.state[:, :, 0])


def test_the_noise_of_a_run_is_its_sources_and_its_trunks(draws: LawDraws) -> None:
    sigma = np.tile([0.1, 0.4], (N, 1))
    trunks = replace(draws, sigma=sigma, trunk_scale=np.linspace(0.5, 1.5, N), trunked=("b",))
    np.testing.assert_array_equal(trunks.run_noise("a", np.random.default_rng(0)), [sigma[:, 0], np.zeros(N)])
    np.testing.assert_array_equal(trunks.run_noise("b", np.random.default_rng(0)), [sigma[:, 1], trunks.trunk_scale])
    both = np.stack(trunks.run_noise("new", np.random.default_rng(0)))
    assert 0.45 < (both[0] == 0.4).mean() < 0.55
    np.testing.assert_array_equal(both[1], np.where(both[0] == 0.4, trunks.trunk_scale, 0.0))
    few = trunks.take(np.array([5, 5, 7]))
    np.testing.assert_array_equal(few.trunk_error()[:, 1], trunks.trunk_error()[[5, 5, 7], 1])
    assert not draws.trunk_error().any()


def test_a_fitted_cell_as_new_comes_from_the_law_alone(draws: LawDraws) -> None:
    state = draws.at(CELLS, as_new=True)
    for c in range(len(CELLS)):
        expected = draws.law[0] @ draws.design.matrix(CELLS)[c]
        np.testing.assert_allclose(state[:, :, c].mean(0), expected, atol=5 * 0.2 / np.sqrt(N))
        np.testing.assert_allclose(state[:, :, c].std(0), 0.2, rtol=0.05)
    a, b = state[:, 0, 0] - state[:, 0, 0].mean(), state[:, 0, 1] - state[:, 0, 1].mean()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.08, "two cells have effects of their own"


def test_a_new_cell_of_known_levels_has_the_cell_scatter(draws: LawDraws) -> None:
    target = cells(d=7e10)
    state = draws.at(target)[:, :, 0]
    np.testing.assert_allclose(state.mean(0), law_of(draws, target), atol=5 * 0.2 / np.sqrt(N))
    np.testing.assert_allclose(state.std(0), 0.2, rtol=0.05)


@pytest.mark.parametrize(
    ("target", "role"),
    [
        (cells(data="books", d=7e10), "data"),
        (cells(n=1.3e8), "size"),
        (cells(arch="moe-1in64", n=4e8), "variant"),
    ],
)
def test_a_new_level_spreads_by_its_offset_scale(draws: LawDraws, target: Cells, role: str) -> None:
    extra = {"variant": ("variant", "size")}.get(role, (role,))  # a new variant's sizes are new too
    scales = [draws.offset_scale[0, 0, ROLES.index(r)] for r in extra]
    expected = np.sqrt(0.2**2 + sum(s**2 for s in scales))
    np.testing.assert_allclose(draws.at(target)[:, :, 0].std(0), expected, rtol=0.05)


def test_a_new_source_spreads_by_its_offset_its_exponents_and_its_size(draws: LawDraws) -> None:
    target = cells(source="c", n=4e9, d=2e11)
    source, size, exponent = (draws.offset_scale[0, 0, ROLES.index(r)] for r in ("source", "size", "exponent"))
    n, d = np.log(4e9 / 5e8), np.log(2e11 / 2e10)
    expected = np.sqrt(0.2**2 + source**2 + size**2 + exponent**2 * (n**2 + d**2))
    np.testing.assert_allclose(draws.at(target)[:, :, 0].std(0), expected, rtol=0.05)


def test_a_new_family_spreads_by_its_offset_and_its_exponents(draws: LawDraws) -> None:
    target = cells(arch="ssm", n=4e9, d=2e11)
    family, size, exponent = (draws.offset_scale[0, 0, ROLES.index(r)] for r in ("family", "size", "exponent"))
    n, d = np.log(4e9 / 5e8), np.log(2e11 / 2e10)
    expected = np.sqrt(0.2**2 + family**2 + size**2 + exponent**2 * (n**2 + d**2 + d**4))
    np.testing.assert_allclose(draws.at(target)[:, :, 0].std(0), expected, rtol=0.05)


def test_one_new_source_is_one_draw_in_every_question(draws: LawDraws) -> None:
    quiet = draws.without_scatter()
    alone = quiet.at(cells(source="c", d=7e10))[:, :, 0]
    sizes, tokens = np.array([1e8, 1e8]), np.array([7e10, 7e10])
    both = quiet.at(Cells(("a", "c"), ("dense",) * 2, ("web",) * 2, sizes, sizes, tokens))
    np.testing.assert_array_equal(both[:, :, 1], alone)
    np.testing.assert_array_equal(quiet.at(cells(source="c", d=7e10))[:, :, 0], alone)
    other = quiet.at(cells(source="d", d=7e10))[:, :, 0]
    assert abs(np.corrcoef(alone[:, 0], other[:, 0])[0, 1]) < 0.08


def test_two_cells_of_a_new_source_share_its_offset(draws: LawDraws) -> None:
    scale = draws.offset_scale.copy()
    scale[:, :, ROLES.index("exponent")] = 0.0
    quiet = replace(draws.without_scatter(), offset_scale=scale)
    one, two = quiet.at(cells(source="c", d=7e10))[:, :, 0], quiet.at(cells(source="c", d=1e12))[:, :, 0]
    difference = law_of(draws, cells(source="c", d=1e12)) - law_of(draws, cells(source="c", d=7e10))
    np.testing.assert_allclose(two - one, np.broadcast_to(difference, one.shape), atol=1e-12)


def test_responses_of_a_new_level_are_independent(draws: LawDraws) -> None:
    correlation = np.corrcoef(draws.at(cells(source="c", d=7e10))[:, :, 0].T)
    np.testing.assert_allclose(correlation, np.eye(len(RESPONSES)), atol=0.09)


def test_levels_of_a_source_scatter_as_its_own_and_those_of_a_new_one_as_the_common(draws: LawDraws) -> None:
    own = np.repeat([[3.0, 0.5]], draws.n_samples, axis=0)[:, : len(draws.sources)]
    wide = replace(draws, scatter_level=own)
    known = cells(source=draws.sources[0], d=7e10)
    away = wide.at(known)[:, :, 0] - wide.without_scatter().at(known)[:, :, 0]
    assert away[:, LEVEL].std() == pytest.approx(3.0, rel=0.05)
    np.testing.assert_array_equal(np.delete(away, LEVEL, 1), np.delete(
        draws.at(known)[:, :, 0] - draws.without_scatter().at(known)[:, :, 0], LEVEL, 1))  # fmt: skip
    np.testing.assert_array_equal(wide.cell_scatter("never seen"), draws.scatter)
    np.testing.assert_array_equal(wide.take(slice(None, 7)).scatter_level, own[:7])


def test_rates_and_batches_of_a_source_scatter_by_its_own_ratio_and_those_of_a_new_one_by_any(draws: LawDraws) -> None:
    own = np.tile([[2.0, 0.7], [0.5, 1.5]], (draws.n_samples, 1, 1))[:, :, : len(draws.sources)]
    wide = replace(draws, scatter_ratio=own)
    for s, source in enumerate(draws.sources):
        np.testing.assert_allclose(wide.cell_scatter(source)[:, :2], draws.scatter[:, :2] * own[:, :, s])
        np.testing.assert_array_equal(wide.cell_scatter(source)[:, 2:], draws.cell_scatter(source)[:, 2:])
    new = wide.cell_scatter("never seen")
    log_ratio = np.log(new[:, :2] / draws.scatter[:, :2])
    assert log_ratio.std(axis=0) == pytest.approx(0.3, rel=0.1)
    np.testing.assert_array_equal(new, wide.cell_scatter("never seen"))
    np.testing.assert_array_equal(new[:, 2:], draws.scatter[:, 2:])
    np.testing.assert_array_equal(wide.take(slice(None, 7)).scatter_ratio, own[:7])
    assert not wide.without_scatter().cell_scatter("never seen").any()


def test_a_model_without_bends_of_families_gives_a_new_one_none(draws: LawDraws) -> None:
    """Files of before exponents of families could bend."""
    kept = [k for k, name in enumerate(draws.design.columns) if not name.startswith("exponent:d2:")]
    design = Design(tuple(draws.design.columns[k] for k in kept), tuple(draws.design.roles[k] for k in kept))
    old = replace(draws, design=design, law=draws.law[:, :, kept])
    target = cells(arch="ssm", d=1e12)
    n, d = target.n()[0], target.d()[0]
    family, size, exponent = (draws.offset_scale[0, 0, ROLES.index(r)] for r in ("family", "size", "exponent"))
    expected = np.sqrt(0.2**2 + family**2 + size**2 + exponent**2 * (n**2 + d**2))
    assert old.at(target)[:, 0, 0].std() == pytest.approx(expected, rel=0.03)


def test_a_form_without_bends_gives_a_new_family_none(draws: LawDraws) -> None:
    law = draws.law.copy()
    law[:, :, [c.startswith("exponent:d2:") for c in draws.design.columns]] = 0.0
    target = cells(arch="ssm", d=1e12)
    n, d = target.n()[0], target.d()[0]
    family, size, exponent = (draws.offset_scale[0, 0, ROLES.index(r)] for r in ("family", "size", "exponent"))
    expected = np.sqrt(0.2**2 + family**2 + size**2 + exponent**2 * (n**2 + d**2))
    assert replace(draws, law=law).at(target)[:, 0, 0].std() == pytest.approx(expected, rel=0.03)
