"""The model's density against independent ones: SciPy's normals and Student-t, and the laws in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import stats
from small_table import Simulated, simulated

from scaleband.bayes import basin, default_beliefs
from scaleband.bayes import model as model_module
from scaleband.bayes.beliefs import OWN, SHARED
from scaleband.bayes.coordinates import ORDER, _dense_messages, _messages, coordinates
from scaleband.bayes.mode import Law, Rows, at_anchor, joint_mode, plain, typical
from scaleband.bayes.model import (
    _run_logp,
    build_model,
    factored,
    initial_point,
    model_data,
    padded_length,
    pooled_law,
    settled_law,
)
from scaleband.bayes.stop_gradient import translate
from scaleband.laws import (
    FORMS,
    HYPERPARAMETERS,
    RESPONSES,
    ROLES,
    SPONTANEOUS,
    along_rate,
    conditional_log_lr,
    excess,
    linex,
    run_log_density,
)

pytestmark = pytest.mark.filterwarnings("ignore:Skipping Assert:UserWarning")  # as in the sampler: JAX has no asserts

FAST = "FAST_COMPILE"  # the graph as written, nothing compiled: seconds instead of minutes
Point = dict[str, np.ndarray]


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {rv.name: tuple(int(n) for n in rv.shape.eval()) for rv in model.free_RVs}


def log_density(model: Any) -> Callable[[Point], float]:
    function = model.compile_fn(model.logp(jacobian=False), mode=FAST, inputs=model.value_vars)
    return lambda point: float(function(point))


def computed(model: Any) -> Callable[[Point], list[np.ndarray]]:
    """The coefficients, the cells' states and the trunks' effects at a point of the sampler.

    Asked for hundreds of times (`log_volume`): compiled, as the sampler has it.
    """
    jax.config.update("jax_enable_x64", True)
    translate()
    function = model.compile_fn(
        [model["coefficient"], model["state"], model["trunk_effect"]],
        mode="JAX",
        inputs=model.free_RVs,
        point_fn=True,
        on_unused_input="ignore",
    )
    return lambda point: [np.asarray(value) for value in function(point)]


@pytest.fixture(scope="module")
def values(model: Any) -> Callable[[Point], list[np.ndarray]]:
    return computed(model)


@pytest.fixture(scope="module")
def table() -> Simulated:
    return simulated(0)


@pytest.fixture(scope="module")
def model(table: Simulated) -> Any:
    return build_model(table.inputs, table.beliefs)


@pytest.fixture(scope="module")
def density(model: Any) -> Callable[[Point], float]:
    return log_density(model)


def scatter_and_design(table: Simulated, point: Point, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Scatter of a response by cell, and its scaled design, at a point."""
    inputs, beliefs, name = table.inputs, table.beliefs, RESPONSES[r]
    shared = dict(zip(SHARED, beliefs.shared_mean + beliefs.shared_factor @ point["shared_std"], strict=True))
    if name == "level":
        mean, sd, _ = OWN["log_scatter_level"]
        of_source = np.exp(mean + sd * point["log_scatter_level_std"])
        scatter = np.array([of_source[inputs.sources.index(s)] for s in inputs.cells.source])
    else:
        one = np.exp(shared[f"log_scatter_{name}" if r < 4 else f"log_scatter_{name[:-2]}"])
        scatter = np.full(len(inputs.cells), one)
        for c in np.flatnonzero(np.isfinite(inputs.one_batch)):
            if r > 1 and len(set(inputs.log_lr[inputs.cell == c])) == 3:
                scatter[c] *= 0.1  # its shape is its law's
        if r < len(HYPERPARAMETERS) and len(inputs.sources) > 1:
            scatter *= np.exp(0.3 * point["log_scatter_ratio_std"][r][inputs.cell_source])
    sd = np.ones(len(inputs.design.columns))
    for k, role in enumerate(inputs.design.roles):
        if r < len(HYPERPARAMETERS) and role != "shared":
            sd[k] = np.exp(shared[f"log_offset_{role}_{name}"])
    return scatter, inputs.x @ beliefs.law_factor[r] * sd


def log_volume(values: Callable[[Point], list[np.ndarray]], point: Point) -> float:
    """log |d (coefficients, states, trunks) / d (what the sampler moves in)| by central differences."""
    columns = []
    for name in ("law_std", "state_std", "trunk_std"):
        for k in range(point[name].size):
            ends = []
            for step in (1e-5, -1e-5):
                moved = point[name].copy()
                moved.flat[k] += step
                ends.append(np.concatenate([v.ravel() for v in values(point | {name: moved})]))
            columns.append((ends[0] - ends[1]) / 2e-5)
    sign, log_det = np.linalg.slogdet(np.stack(columns))
    assert sign != 0
    return float(log_det)


def straight_line(mode: np.ndarray, state: np.ndarray, log_batch: float) -> float:
    """The best rate at a batch beside the optimum's, for a state, along the tangent at the mode."""

    def best(z: np.ndarray) -> float:
        return float(conditional_log_lr(log_batch - z[1], z[5:7], np.exp(z[2:4]), z[7:9]))

    towards = (state - mode) * 1e-4
    return best(mode) + (best(mode + towards) - best(mode - towards)) / 2e-4


def expected_density(table: Simulated, point: Point, values: Callable[[Point], list[np.ndarray]]) -> float:
    """The joint density, told from the head of the model and not from its code.

    What the sampler moves in is turned into coefficients, states and trunks by the model: how is the choice of
    coordinates, and only its volume counts.
    """
    inputs, beliefs = table.inputs, table.beliefs
    coefficient, state, trunk = values(point)
    shared = dict(zip(SHARED, beliefs.shared_mean + beliefs.shared_factor @ point["shared_std"], strict=True))
    total = sum(stats.norm.logpdf(point[k]).sum() for k in point if k.startswith(("shared", "log_")))

    def own(name: str) -> np.ndarray:
        return np.exp(OWN[name][0] + OWN[name][1] * point[f"{name}_std"])

    total += stats.norm.logpdf(coefficient).sum()
    for r in range(len(RESPONSES)):
        scatter, w = scatter_and_design(table, point, r)
        mean = inputs.x @ beliefs.law_mean[r] + w @ coefficient[r]
        total += stats.norm.logpdf(state[r], mean, scatter).sum()

    reference = coordinates(inputs, beliefs).reference
    trunk_scale = own("log_trunk")
    total += stats.norm.logpdf(trunk, 0, trunk_scale).sum()
    sigma, rho, nu = own("log_sigma"), np.exp(shared["log_rho"]), 1 + np.exp(shared["log_nu_minus_1"])
    for i in range(len(inputs.y)):
        c = inputs.cell[i]
        angle, curvature, skew = state[5:7, c], np.exp(state[2:4, c]), state[7:9, c]
        x, batch = inputs.log_lr[i] - state[0, c], inputs.log_batch[i] - state[1, c]
        base = state[4, c]
        if np.isfinite(inputs.one_batch[c]):
            # One LINEX around the best rate at that batch; curvature and skew follow the shape of the state in a
            # straight line from the mode.
            best, mode = conditional_log_lr(batch, angle, curvature, skew), reference[:, c]
            if len(set(inputs.log_lr[inputs.cell == c])) == 3:
                best = straight_line(mode, state[:, c], inputs.one_batch[c])
            own, moved = along_rate(mode[5:7], np.exp(mode[2:4]), mode[7:9]), (state[:, c] - mode)[[2, 3, 5, 6, 7, 8]]
            e = linex(x - best, np.exp(own.log_h + own.log_h_slope @ moved), own.skew + own.skew_slope @ moved)
        else:
            e = excess(x, batch, angle, curvature, skew)
        if inputs.trunk[i] < inputs.n_trunks:
            base = base + trunk[inputs.trunk[i]]
        at = inputs.y[i] - base if inputs.censored[i] else e
        of_trunk = trunk_scale if inputs.alone[i] else 0.0
        scale = np.sqrt(sigma[inputs.source[i]] ** 2 + inputs.y_se[i] ** 2 + of_trunk**2 + (rho * at) ** 2)
        if inputs.censored[i]:
            total += np.log(SPONTANEOUS + (1 - SPONTANEOUS) * stats.logistic.sf((inputs.y[i] - base - e) / scale))
        else:
            total += stats.t.logpdf(inputs.y[i], nu, base + e, scale)
    return float(total) + log_volume(values, point)


def test_the_table_has_everything_in_it(table: Simulated) -> None:
    inputs = table.inputs
    assert inputs.n_trunks == 4
    assert inputs.alone.sum() == 14
    assert len(inputs.sources) == 2
    assert 3 <= inputs.censored.sum() < len(inputs.y) / 2
    assert (inputs.y_se > 0).any()
    assert {"variant", "exponent", "size"} <= set(inputs.design.roles)


@pytest.mark.parametrize("seed", range(2))
def test_joint_density_is_the_one_written_by_hand(
    table: Simulated, model: Any, density: Callable[[Point], float], values: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    start = initial_point(shapes_of(model), 0)
    point = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in start.items()}
    assert density(point) == pytest.approx(expected_density(table, point, values), rel=1e-7, abs=1e-4)


def test_joint_density_with_settled_laws_is_the_same(
    table: Simulated, values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "MANY_CELLS", 1)
    settled = build_model(table.inputs, table.beliefs)
    rng = np.random.default_rng(2)
    start = initial_point(shapes_of(settled), 0)
    point = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in start.items()}
    got = computed(settled)
    assert log_density(settled)(point) == pytest.approx(expected_density(table, point, got), rel=1e-7, abs=1e-4)
    assert not np.allclose(got(point)[0], values(point)[0], atol=1e-3), "other coordinates, or this test shows nothing"


@pytest.mark.parametrize("n_rates", [3, 4])
def test_joint_density_of_cells_with_one_batch(table: Simulated, n_rates: int) -> None:
    """A dense cell and one that trunks tie, each left with one batch, among others that keep four."""
    batch, rate = table.inputs.log_batch, table.inputs.log_lr
    few = (batch == np.sort(np.unique(batch))[1]) & (rate < np.sort(np.unique(rate))[n_rates - 1] + 1e-9)
    keep = ~np.isin(table.inputs.cell, (0, 4)) | few
    rows = ("log_lr", "log_batch", "y", "censored", "y_se", "cell", "source", "trunk", "alone")
    inputs = replace(table.inputs, **{name: getattr(table.inputs, name)[keep] for name in rows})
    assert list(np.flatnonzero(np.isfinite(inputs.one_batch))) == [0, 4]
    assert (inputs.scatter_share[:, [0, 4]] < 1).any() == (n_rates == 3)
    cut = replace(table, inputs=inputs)
    model = build_model(inputs, table.beliefs)
    rng, start = np.random.default_rng(3), initial_point(shapes_of(model), 0)
    point = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in start.items()}
    got = computed(model)
    assert log_density(model)(point) == pytest.approx(expected_density(cut, point, got), rel=1e-7, abs=1e-4)


def test_what_a_settled_law_is_told_along_its_axes_is_exact() -> None:
    """Weights that change cell by cell: an axis that one cell alone is about is as wide as that cell says."""
    weight = np.array([100.0, 0.5])
    zero, one, eye = np.zeros(2), np.ones(2), np.eye(2)
    args = [pt.as_tensor(v) for v in (one, zero, eye, one, weight, zero, zero, eye, eye)]
    wide, _, half_log_det = (v.eval(mode=FAST) for v in settled_law(*args))
    np.testing.assert_allclose(wide, 1 / np.sqrt(1 + weight))
    assert half_log_det == pytest.approx(0.5 * np.log(1 + weight).sum())


def test_a_cell_without_runs_follows_its_law(table: Simulated, model: Any, values: Any) -> None:
    """Two cells lose their runs: each is then the law, and its own standard normal times the scatter."""
    keep = ~np.isin(table.inputs.cell, (1, 4))
    rows = ("log_lr", "log_batch", "y", "censored", "y_se", "cell", "source", "trunk", "alone")
    inputs = replace(table.inputs, **{name: getattr(table.inputs, name)[keep] for name in rows})
    assert (np.sort(coordinates(inputs, table.beliefs).precision, axis=1)[:, :2] < 1e-9).all()
    old = {name: model[name].get_value() for name in model_data(inputs, table.beliefs)}
    for name, value in model_data(inputs, table.beliefs).items():
        model[name].set_value(value.astype(old[name].dtype))
    try:
        point = initial_point(shapes_of(model), 3)
        where = coordinates(inputs, table.beliefs)
        assert not np.isin(where.tied, (1, 4)).any()
        coefficient, state, _ = values(point)
        for r in range(len(RESPONSES)):
            scatter, w = scatter_and_design(table, point, r)
            law = inputs.x @ table.beliefs.law_mean[r] + w @ coefficient[r]
            unit = point["state_std"][r]
            np.testing.assert_allclose(state[r, [1, 4]], (law + scatter * unit)[[1, 4]], rtol=1e-6, atol=1e-6)
    finally:
        for name, value in old.items():
            model[name].set_value(value)


def test_exact_messages_make_the_sampler_move_in_standard_normals() -> None:
    """Cells that see their response with Gaussian noise: what `pooled_law` makes of N(0, I) is the posterior."""
    rng = np.random.default_rng(1)
    n_cells, columns, scatter = 5, 3, 0.4
    w, prior = rng.normal(size=(n_cells, columns)), rng.normal(size=n_cells)
    precision = np.array([0.0, 0.5, 2.0, 10.0, 1e4])
    seen = rng.normal(size=n_cells)
    covariance = np.linalg.inv(np.eye(columns) + w.T @ ((precision / (1 + precision * scatter**2))[:, None] * w))
    mean = covariance @ (w.T @ (precision * (seen - prior) / (1 + precision * scatter**2)))
    stds = np.vstack([np.zeros(columns), np.eye(columns)])
    share = 1 + precision * scatter**2
    made = factored(pt.as_tensor((precision / share)[None]), pt.as_tensor(w[None]))
    inverse, half_log_det = (v.eval(mode=FAST)[0] for v in made)
    args = [pt.as_tensor(v) for v in (prior, w, inverse, share, precision, precision * seen)]
    got = [[v.eval(mode=FAST) for v in pooled_law(pt.as_tensor(std), *args)] for std in stds]
    np.testing.assert_allclose(got[0][0], mean, rtol=1e-9)
    spread = np.stack([coefficient - got[0][0] for coefficient, _ in got[1:]], axis=1)
    np.testing.assert_allclose(spread @ spread.T, covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got[0][1], prior + w @ mean, rtol=1e-9)
    assert -half_log_det == pytest.approx(0.5 * np.linalg.slogdet(covariance)[1], rel=1e-9)


@pytest.mark.parametrize("louder", [0.3, 1.0, 40.0])
def test_a_settled_law_is_the_pooled_one_where_all_weights_change_alike(louder: float) -> None:
    rng = np.random.default_rng(5)
    n_cells, columns, scatter = 6, 3, 0.4
    w, prior, start = rng.normal(size=(n_cells, columns)), rng.normal(size=n_cells), rng.normal(size=columns)
    typical = rng.uniform(0.1, 2.0, n_cells)
    share = 1 / (1 - louder * typical * scatter**2 / 40)
    precision, std = louder * typical * share, rng.normal(size=columns)
    slope = precision * rng.normal(size=n_cells)
    inverse, half_log_det = (v.eval(mode=FAST)[0] for v in factored(
        pt.as_tensor((precision / share)[None]), pt.as_tensor(w[None])))  # fmt: skip
    expected = [v.eval(mode=FAST) for v in pooled_law(
        pt.as_tensor(np.zeros(columns)), *(pt.as_tensor(v) for v in (prior, w, inverse, share, precision, slope))
    )]  # fmt: skip
    axes = np.linalg.eigh(w.T @ (typical[:, None] * w))[1]
    args = [pt.as_tensor(v) for v in (prior, w, share, precision, slope, start, axes, ((w @ axes) ** 2).T)]
    at_zero = [v.eval(mode=FAST) for v in settled_law(pt.as_tensor(np.zeros(columns)), *args)]
    for got, told in zip(at_zero, (*expected, half_log_det), strict=True):
        np.testing.assert_allclose(got, told, rtol=1e-8, atol=1e-10)
    moved = settled_law(pt.as_tensor(std), *args)[0].eval(mode=FAST) - at_zero[0]
    inner = np.eye(columns) + louder * w.T @ (typical[:, None] * w)
    assert moved @ inner @ moved == pytest.approx(std @ std, rel=1e-9)


def test_messages_are_the_schur_complements_of_a_gaussian_cell() -> None:
    """Message of a response plus its law is its marginal given those before, the later ones integrated out."""
    rng = np.random.default_rng(2)
    n, scatter = len(RESPONSES), np.exp(rng.normal(size=len(RESPONSES)))
    half = rng.normal(size=(n, 5))  # five runs: they leave four directions open
    runs, slope, away = half @ half.T, rng.normal(size=n), rng.normal(size=n)
    precision, told, lean = (v[..., 0] for v in _messages(runs[None], slope[None], away[:, None], scatter))
    joint = runs + np.diag(scatter**-2.0)
    right = slope + away / scatter**2
    order = list(ORDER)
    for k, r in enumerate(order):
        before, after = order[:k], order[k + 1 :]
        rest = np.linalg.inv(joint[np.ix_(after, after)])
        up = joint[np.ix_([r, *before], after)] @ rest
        block = joint[np.ix_([r, *before], [r, *before])] - up @ joint[np.ix_(after, [r, *before])]
        assert precision[r] + scatter[r] ** -2 == pytest.approx(block[0, 0], rel=1e-6)
        np.testing.assert_allclose(lean[r, before], block[0, 1:], rtol=1e-6, atol=1e-9)
        assert told[r] + away[r] / scatter[r] ** 2 == pytest.approx(right[r] - up[0] @ right[after], rel=1e-6)


def test_messages_of_tied_cells_are_schur_complements_with_the_laws_in_them(table: Simulated) -> None:
    """As above for all cells at once: a matrix over the cells in place of each number."""
    inputs, n, c = table.inputs, len(RESPONSES), len(table.inputs.cells)
    law, rng = Law(inputs, table.beliefs, typical(table.beliefs, inputs)), np.random.default_rng(3)
    half = rng.normal(size=(n * c, 2 * c))
    runs, slope, mode = half @ half.T, rng.normal(size=(n, c)), rng.normal(size=(n, c))
    turn, precision, told, lean = _dense_messages(
        runs.reshape(n, c, n, c), slope, law.pull(mode), law.precision, law.low, law.alike
    )
    alike = law.alike[:, None] == law.alike
    assert not alike.all()
    assert not turn[:, ~alike].any()
    prior = [np.diag(law.precision[r]) - law.low[r] @ law.low[r].T for r in range(n)]
    joint, right, order = runs.copy(), (slope - law.pull(mode)).ravel(), list(ORDER)
    for r in range(n):
        joint[r * c : (r + 1) * c, r * c : (r + 1) * c] += prior[r]

    def at(responses: list[int]) -> np.ndarray:
        return np.concatenate([np.arange(r * c, (r + 1) * c) for r in responses] or [np.zeros(0, int)])

    for k, r in enumerate(order):
        own, before, after = at([r]), at(order[:k]), at(order[k + 1 :])
        up = joint[np.ix_(own, after)] @ np.linalg.inv(joint[np.ix_(after, after)])
        block = joint[np.ix_(own, np.concatenate([own, before]))]
        block = block - up @ joint[np.ix_(after, np.concatenate([own, before]))]
        told_alone = np.where(alike, block[:, :c] - prior[r], 0.0)
        np.testing.assert_allclose(turn[r] * precision[r] @ turn[r].T, told_alone, rtol=1e-5, atol=1e-5)
        got = [turn[r] @ lean[r, m] for m in order[:k]]
        sides = np.concatenate([np.zeros((c, 0)), *got], axis=1)
        np.testing.assert_allclose(sides, block[:, c:], rtol=1e-5, atol=1e-5)
        pulled = right[own] - up @ right[after]
        np.testing.assert_allclose(turn[r] @ told[r] - law.pull(mode)[r], pulled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 30, 129, 666, 2619, 100_000])
def test_tables_of_nearly_the_same_length_are_padded_to_the_same(n: int) -> None:
    assert n <= padded_length(n) <= max(n + 15, 1.13 * n)
    assert padded_length(padded_length(n)) == padded_length(n)


def test_the_joint_mode_has_the_trunks_in_it(table: Simulated) -> None:
    """Neither a cell's state nor a trunk's error can be moved to a better fit."""
    inputs = table.inputs
    at = typical(table.beliefs, inputs)
    law, keep = Law(inputs, table.beliefs, at), ~inputs.censored
    names = ("log_lr", "log_batch", "y", "y_se", "cell", "source", "trunk", "alone")
    columns = [getattr(inputs, name) for name in names]
    rows = Rows(*(column[keep] for column in columns), inputs.one_batch, len(inputs.cells), inputs.n_trunks, at)
    start = law.mean.copy()
    start[[0, 1, 4]] = inputs.best.T
    z, errors = joint_mode(rows, law, start, np.zeros(inputs.n_trunks + 1))
    assert errors[-1] == 0
    assert (np.abs(errors[:-1]) > 1e-3).any()

    def objective(z: np.ndarray, errors: np.ndarray) -> float:
        prior = ((z - law.mean) * law.pull(z)).sum() + (errors**2).sum() / at.trunk**2
        return rows.loss(z, errors) + 0.5 * float(prior)

    best, rng = objective(z, errors), np.random.default_rng(0)
    for _ in range(50):
        moved = errors + np.append(rng.normal(0, 0.1, inputs.n_trunks), 0.0)
        assert objective(z + rng.normal(0, 0.02, z.shape), moved) > best - 0.02


def test_the_reference_is_a_mode(table: Simulated) -> None:
    """No cell's messages pull it away from its reference by more than the last damped step left open."""
    where = coordinates(table.inputs, table.beliefs)
    width = np.sqrt(1 / (where.precision + 1e-2))
    pull = where.slope * width
    assert np.isfinite(where.reference).all()
    assert np.median(np.abs(pull)) < 3.0


def test_messages_of_runs_alone_scale_with_the_trunks_variance_too(table: Simulated) -> None:
    inputs = table.inputs
    free = np.setdiff1d(inputs.cell, inputs.tied)[:2]
    whole = np.isin(inputs.cell, free) & ~inputs.censored
    half = whole & ((inputs.cell == free[0]) | (np.arange(len(whole)) % 2 == 0))
    where = coordinates(replace(inputs, alone=half), table.beliefs)
    np.testing.assert_allclose(where.trunked[:, free[0]], 1.0)
    assert (where.trunked[:, free[1]] < 0.9).all()
    assert (where.trunked[:, free[1]] > 0.1).all()
    rest = np.setdiff1d(inputs.cell, [*inputs.tied, *free])
    assert not where.trunked[:, rest].any()


def test_at_the_anchor_and_back() -> None:
    rng = np.random.default_rng(0)
    z, anchor = rng.normal(size=(len(RESPONSES), 7)) * 0.5, rng.normal(size=(2, 7)) * 0.5
    one_batch = np.where(np.arange(7) < 5, np.nan, anchor[1])
    there = at_anchor(z, anchor, one_batch)
    np.testing.assert_allclose(plain(there, anchor, one_batch), z, atol=1e-12)
    best = z[0] + conditional_log_lr(anchor[1] - z[1], z[5:7], np.exp(z[2:4]), z[7:9])
    np.testing.assert_allclose(there[0, 5:], best[5:])
    for c in range(5):
        at = excess(*(anchor[:, c] - z[:2, c]), z[5:7, c], np.exp(z[2:4, c]), z[7:9, c])
        assert there[4, c] == pytest.approx(z[4, c] + at), "the level at the anchor is the loss there"


def test_density_is_finite_at_every_start(table: Simulated, model: Any, density: Callable[[Point], float]) -> None:
    starts = [initial_point(shapes_of(model), seed) for seed in range(5)]
    values = [density(point) for point in starts]
    assert np.isfinite(values).all()
    assert len(set(values)) == 5, "chains start in different places"


def test_names_dims_and_coords(table: Simulated, model: Any) -> None:
    n_cells = len(table.inputs.cells)
    assert shapes_of(model) == {
        "shared_std": (len(SHARED),), "log_sigma_std": (2,), "log_scatter_level_std": (2,),
        "log_scatter_ratio_std": (2, 2),
        "state_std": (len(RESPONSES), n_cells), "law_std": (len(RESPONSES), len(table.inputs.design.columns)),
        "log_trunk_std": (), "trunk_std": (4,),
    }  # fmt: skip
    assert list(model.coords["shared"]) == list(SHARED)
    assert list(model.coords["source"]) == ["team-a", "team-b"]
    assert len(model.coords["cell"]) == n_cells
    assert [v.name for v in model.observed_RVs] == ["log_loss"]


def test_shared_offset_scales_are_read_in_the_order_of_the_roles() -> None:
    names = [name for name in SHARED if name.startswith("log_offset_")]
    assert names == [f"log_offset_{role}_{hyper}" for hyper in HYPERPARAMETERS for role in ROLES[1:]]
    first = list(SHARED).index(names[0])
    assert list(SHARED)[first : first + len(names)] == names
    first = list(SHARED).index("log_scatter_log_lr")
    assert list(SHARED)[first : first + 4] == [f"log_scatter_{r}" for r in RESPONSES[:4]]


def test_runs_are_student_t_or_at_least_that_high() -> None:
    rng = np.random.default_rng(0)
    y, mean, scale, nu = rng.normal(size=8), rng.normal(size=8), np.exp(rng.normal(size=8)), 3.4
    censored, counts = np.arange(8) % 2 == 1, np.ones(8)

    def density(*values: np.ndarray) -> np.ndarray:
        return _run_logp(*(pt.as_tensor(v) for v in values)).eval(mode=FAST)

    got = density(y, mean, scale, np.float64(nu), censored, counts)
    assert (density(y, mean, scale, np.float64(nu), censored, 0 * counts) == 0).all()
    np.testing.assert_allclose(got[~censored], stats.t.logpdf(y, nu, mean, scale)[~censored], rtol=1e-12)
    assert (got[censored] < 0).all()
    e = np.abs(rng.normal(size=8)) * 3
    level, sigma, rho, se = 0.4, 0.2, 0.3, 0.1
    noise = np.sqrt(sigma**2 + se**2 + (rho * np.where(censored, y - level, e)) ** 2)
    got = density(y, level + e, noise, np.float64(nu), censored, counts)
    np.testing.assert_allclose(got, run_log_density(y, level, e, sigma, rho, nu, censored, se), rtol=1e-12)


def test_linex_and_its_slope_are_those_of_the_laws() -> None:
    v, s = pt.dvector(), pt.dscalar()
    function = pytensor.function([v, s], [basin.linex(v, 1.7, s), pt.grad(basin.linex(v, 1.7, s).sum(), v)], mode=FAST)
    grid = np.linspace(-4, 4, 41)
    for skew in (-1.1, -1e-8, 0.0, 2e-3, 0.6):
        value, slope = function(grid, skew)
        np.testing.assert_allclose(value, linex(grid, 1.7, skew), rtol=1e-7, atol=1e-12)
        step = 1e-6
        expected = (linex(grid + step, 1.7, skew) - linex(grid - step, 1.7, skew)) / (2 * step)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", ["form", "rows", "prior"])
def test_swapping_data_is_building_anew(
    table: Simulated, model: Any, density: Callable[[Point], float], change: str
) -> None:
    inputs, beliefs = table.inputs, table.beliefs
    if change == "form":
        beliefs = default_beliefs(inputs.design, FORMS["group-exponents"])
    elif change == "rows":
        keep = np.arange(len(inputs.y)) % 3 != 0
        rows = ("log_lr", "log_batch", "y", "censored", "y_se", "cell", "source", "trunk", "alone")
        inputs = replace(inputs, **{name: getattr(inputs, name)[keep] for name in rows})
    else:
        beliefs = replace(beliefs, shared_mean=beliefs.shared_mean + 0.2, law_mean=beliefs.law_mean - 0.1)
    point = initial_point(shapes_of(model), 1)
    anew, before = build_model(inputs, beliefs), density(point)
    expected = log_density(anew)(point)
    old = {name: model[name].get_value() for name in model_data(inputs, beliefs)}
    try:
        for name, value in model_data(inputs, beliefs).items():
            model[name].set_value(value.astype(old[name].dtype))
        assert density(point) == pytest.approx(expected, rel=1e-10)
    finally:
        for name, value in old.items():
            model[name].set_value(value)
    assert abs(expected - before) > 1e-3, "the change must matter, or this test shows nothing"


@pytest.mark.parametrize("what", ["reference", "precision", "slope", "lean", "lean_tied", "anchor", "far", "shares"])
def test_coordinates_are_no_part_of_the_posterior(
    table: Simulated, model: Any, density: Callable[[Point], float], values: Any, what: str
) -> None:
    """Other coordinates: the density still belongs to the coefficients, states and trunks."""
    point = initial_point(shapes_of(model), 2)
    before, old, prior = values(point)[1], model[what].get_value(), model["prior"].get_value()
    try:
        model[what].set_value(old * 1.1 + 0.05 * (old != 0))
        if what == "reference":  # the law is told from there
            moved, t = model[what].get_value() - old, model["tied"].get_value()
            moved[:, t] = np.einsum("rcm,rc->rm", model["turn"].get_value(), moved[:, t])
            model["prior"].set_value(prior - moved)
        assert density(point) == pytest.approx(expected_density(table, point, values), rel=1e-7, abs=1e-4)
        after = values(point)[1]
    finally:
        model[what].set_value(old)
        model["prior"].set_value(prior)
    assert not np.allclose(before, after, atol=1e-3), "the change must matter, or this test shows nothing"
