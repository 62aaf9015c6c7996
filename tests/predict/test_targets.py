"""Targets from plain values, how far they are from what was fitted, and how wide a band a new group gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scaleband.errors import UserError
from scaleband.laws import RESPONSES, ROLES, Cells, LawDraws, design_for
from scaleband.predict import basins, extrapolation, interval, target_cells
from scaleband.predict.targets import outside

FITTED = Cells(
    ("a", "a", "a", "b"), ("dense", "dense", "moe-1in8", "dense"), ("web", "web", "web", "code"),
    np.array([1e8, 1e9, 2e9, 3e9]), np.array([1e8, 1e9, 5e8, 3e9]), np.array([2e9, 2e10, 4e10, 1e11]),
)  # fmt: skip


@pytest.fixture
def draws() -> LawDraws:
    n, design, rng = 3000, design_for(FITTED), np.random.default_rng(0)
    scale = np.full((n, len(RESPONSES), len(ROLES)), 0.3)
    scale[:, :, 0] = 0.0
    return LawDraws(
        design=design, cells=FITTED, law=0.05 * rng.standard_normal((n, len(RESPONSES), len(design.columns))),
        scatter=np.full((n, len(RESPONSES)), 0.1), offset_scale=scale,
        state=0.05 * rng.standard_normal((n, len(RESPONSES), 4)), angle=np.zeros((n, 2)), skew=np.zeros((n, 2)),
        sigma=np.ones((n, 2)), rho=np.ones(n), nu=np.full(n, 5.0), sources=("a", "b"), shared=np.zeros((n, 1)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "verdict", "params", "tokens"),
    [
        ((1e8, 2e9), "fitted cell", 0.0, 0.0),
        ((3e8, 1e10), "inside", 0.0, 0.0),
        ((2e9, 1e10), "near", np.log10(2), 0.0),
        ((3e8, 1e9), "near", 0.0, -np.log10(2)),
        ((1e9, 2e11), "far", 0.0, 1.0),
        ((1e7, 2e8), "far", -1.0, -1.0),
    ],
)
def test_verdict_and_decades(draws: LawDraws, target: tuple, verdict: str, params: float, tokens: float) -> None:
    found = extrapolation(draws, target_cells(*target, source="a", data="web"))
    assert found.verdict == verdict
    assert found.against == "a/dense/web"
    assert found.decades_n_params == pytest.approx(params, abs=1e-3)
    assert found.decades_n_tokens == pytest.approx(tokens, abs=1e-3)
    assert found.unseen == ()


@pytest.mark.parametrize(
    ("target", "verdict", "apart"),
    [
        ((2e8, 4e9), "inside", 0.0),
        ((2e8, 8e9), "inside", 0.0),  # off the line by 0.2 decades
        ((5e7, 2e10), "far", np.log10(20) / np.sqrt(2)),
        ((1e9, 1e9), "far", np.log10(20) / np.sqrt(2)),
        ((1e10, 2e11), "far", 0.0),  # on the line, beyond its end
        ((2e9, 1e9), "far", np.log10(20) / np.sqrt(2)),
    ],
)
def test_a_size_and_tokens_that_were_not_run_together_are_far(target: tuple, verdict: str, apart: float) -> None:
    size = np.array([5e7, 2e8, 1e9])
    found = outside(target_cells(size, 20 * size), target_cells(*target))
    assert (found.verdict, found.decades_apart) == (verdict, pytest.approx(apart))
    assert ("not run together" in found.sentence()) == (apart > 0)
    assert found.farthest >= apart


def test_sizes_and_tokens_run_in_every_pairing_enclose_what_lies_between_them() -> None:
    size, tokens = (v.ravel() for v in np.meshgrid([1e7, 1e10], [1e9, 1e12]))
    fitted = target_cells(size, tokens)
    for target in ((3e8, 3e10), (1e7, 1e12), (1e10, 4e9), (9e9, 9e11)):
        assert outside(fitted, target_cells(*target)).verdict == "inside"
    without_a_corner = target_cells(size[:-1], tokens[:-1])
    assert outside(without_a_corner, target_cells(9e9, 9e11)).verdict == "far"
    assert outside(without_a_corner, target_cells(1e8, 1e11)).verdict == "inside"


def test_decades_are_against_the_closest_group_that_was_fitted(draws: LawDraws) -> None:
    moe = {"source": "z", "arch": "moe-1in64", "data": "web"}
    family = extrapolation(draws, target_cells(2e9, 4e10, n_active=5e8, **moe))
    assert family.against == "the fitted moe cells"
    assert family.verdict == "inside"
    assert family.unseen == ("source",)
    sparser = extrapolation(draws, target_cells(2e9, 4e10, n_active=5e7, **moe))
    assert sparser.decades_sparsity == pytest.approx(1.0, abs=1e-3)
    assert sparser.verdict == "far"
    assert "outside the fitted moe cells: 1 decades above in parameters per active one; far" in sparser.sentence()
    anything = extrapolation(draws, target_cells(2e9, 4e10, source="a", arch="ssm", data="books"))
    assert anything.against == "the fitted cells"
    assert anything.unseen == ("arch", "data")


def test_what_is_hardly_outside_is_not_named_beside_what_is(draws: LawDraws) -> None:
    near = extrapolation(draws, target_cells(1e8 / 1.005, 1e13, source="a", data="web"))
    assert -0.005 < near.decades_n_params < 0
    assert "2.7 decades above in tokens; such a size and token count" in near.sentence()
    assert "parameters" not in near.sentence()
    alone = extrapolation(draws, target_cells(1e8 / 1.005, 1e10, source="a", data="web"))
    assert alone.sentence().endswith("decades below in parameters")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (target_cells(1e8, 2e9, source="a", data="web"), "this cell was fitted"),
        (target_cells(3e8, 1e10, source="a", data="web"), "inside the sizes and token counts of a/dense/web"),
        (target_cells(1e7, 1e10, source="a", data="web"), "1 decades below in parameters; far"),
        (target_cells(3e8, 1e10), "source and data never seen"),
    ],
)
def test_sentences(draws: LawDraws, target: Cells, says: str) -> None:
    assert says in extrapolation(draws, target).sentence()


def test_the_less_is_known_the_wider_the_band(draws: LawDraws) -> None:
    def width(**group: str) -> float:
        band = interval(np.log(basins(draws, target_cells(3e8, 1e10, **group)).lr_peak()), 0.9)
        return float((band.upper - band.lower)[0])

    known = width(source="a", data="web")
    assert known < width(source="a", data="books") < width(source="z", data="books")
    assert width(source="z", data="books") < width(source="z", data="books", arch="ssm")
    assert width() == pytest.approx(width(source="z", data="books"), rel=0.1), "left out means never seen"
    own = interval(np.log(basins(draws, FITTED).lr_peak()), 0.9)
    as_new = interval(np.log(basins(draws, FITTED, as_new=True).lr_peak()), 0.9)
    assert (own.upper - own.lower < as_new.upper - as_new.lower).all()


def test_basins_are_the_state_in_its_units(draws: LawDraws) -> None:
    b = basins(draws, FITTED)
    np.testing.assert_allclose(b.lr_peak(), 1e-3 * np.exp(draws.state[:, 0]))
    np.testing.assert_allclose(b.batch_tokens(), 524_288 * np.exp(draws.state[:, 1]))
    np.testing.assert_allclose(b.curvature, np.exp(draws.state[:, 2:4]))
    np.testing.assert_array_equal(b.level, draws.state[:, RESPONSES.index("level")])
    np.testing.assert_array_equal(b.angle, draws.state[:, 5:7])
    np.testing.assert_array_equal(b.skew, draws.state[:, 7:9])
    wild = replace(draws, state=draws.state * 1e4)
    assert np.isfinite(basins(wild, FITTED).curvature).all()


def test_targets_broadcast_and_default() -> None:
    cells = target_cells([1e8, 1e9], 2e10, source=["a", "b"])
    assert (cells.source, cells.arch, cells.data) == (("a", "b"), ("dense",) * 2, ("unseen",) * 2)
    np.testing.assert_array_equal(cells.n_tokens, [2e10, 2e10])
    np.testing.assert_array_equal(cells.n_active, cells.n_params)


def test_impossible_targets_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="n_tokens = -1 cannot be"):
        target_cells(1e9, -1.0)
    with pytest.raises(UserError, match="is larger than n_params"):
        target_cells(1e9, 1e10, n_active=2e9)
    with pytest.raises(UserError, match="source has 2 entries for 3 targets"):
        target_cells([1e8, 1e9, 1e10], 1e10, source=["a", "b"])
    with pytest.raises(UserError, match=r"do not match \(n_params has 2, n_tokens has 3, n_active has 2\); give one"):
        target_cells([1e9, 2e9], [1e10, 2e10, 3e10])
    with pytest.raises(UserError, match="n_params = '1B' is no number"):
        target_cells("1B", 2e10)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="n_params = nan cannot be") as caught:
        target_cells(np.nan, np.inf)
    assert "n_tokens = inf cannot be" in str(caught.value)
