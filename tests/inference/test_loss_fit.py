"""Loss laws fitted to simulated tables: density, recovery, gate, stacking, file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_losses import TRUTH, repeated_losses, simulated_losses, three_term_losses, true_loss
from scipy.stats import multivariate_normal, t

from scaleband.bayes.loss_model import (
    fitted_log_loss,
    layout_for,
    log_prior,
    model_arrays,
    pooled,
    row_log_density,
    sheared,
)  # fmt: skip
from scaleband.errors import UserError
from scaleband.inference.loss_fit import (
    fit_loss,
    held_out_scores,
    laws_for,
    mixed,
    quick_stack,
    refit,
    scales_of,
)
from scaleband.inference.loss_mode import importance_sample, unsheared
from scaleband.inference.loss_sampler import CompiledLoss, sample_loss
from scaleband.inference.loss_store import read_loss, write_loss
from scaleband.inference.loss_table import table_from_runs
from scaleband.inference.sampler import SamplerSettings
from scaleband.laws.loss import GENERAL, LAWS
from scaleband.laws.loss.draws import LossDraws
from scaleband.laws.loss.table import LossTable, reference_of
from scaleband.predict.allocation import Limits, allocate, allocation_exponent, share_of_form, tokens_to_reach
from scaleband.predict.comparison import compare, shared_exponents
from scaleband.predict.downstream import fit_downstream
from scaleband.predict.targets import target_cells
from scaleband.runs import column_map, run_table

WEB, CODE = "sim/dense/web", "sim/dense/code"


@pytest.fixture(scope="module")
def table() -> LossTable:
    return table_from_runs(run_table(simulated_losses(), purpose="loss").frame)


@pytest.fixture(scope="module")
def stacked(table: LossTable) -> LossDraws:
    return quick_stack(table, ["chinchilla", "overtraining"])[0]


def test_the_pooled_density_is_the_integral_over_the_common_mean() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        values, mean, sd, spread = rng.normal(size=count), 0.3, 0.8, 0.4
        full = multivariate_normal(np.full(count, mean), spread**2 * np.eye(count) + sd**2).logpdf(values)
        ours = pooled(np, list(values), mean, sd, np.log(spread)) - 0.5 * count * np.log(2 * np.pi)
        assert ours == pytest.approx(full)


@pytest.mark.parametrize("law", ["chinchilla", "farseer"])
def test_the_density_of_a_row_is_students(table: LossTable, law: str) -> None:
    layout = layout_for(table, LAWS[law])
    arrays = model_arrays(table, layout)
    theta = 0.1 * np.random.default_rng(1).standard_normal((3, len(layout.names)))
    scale = np.exp(theta[:, layout.block("log_sigma")])
    nu = 1 + np.exp(theta[:, layout.at("log_nu_minus_1"), None])
    expected = t(nu, fitted_log_loss(np, theta, layout, arrays), scale).logpdf(arrays["y"])
    np.testing.assert_allclose(row_log_density(np, theta, layout, arrays), expected, rtol=1e-9)


def test_coordinates_move_nothing_but_the_exponents(table: LossTable) -> None:
    layout = layout_for(table, LAWS["kaplan"])
    z = np.random.default_rng(2).standard_normal((4, len(layout.names)))
    theta = sheared(np, z, layout)
    moved = {layout.names[k] for k in np.flatnonzero(np.any(theta != z, axis=0))}
    assert moved == {"alpha", "beta"}
    np.testing.assert_allclose(sheared(np, unsheared(theta, layout), layout), theta)
    jacobian = np.stack([(sheared(np, z[0] + 1e-5 * e, layout) - sheared(np, z[0] - 1e-5 * e, layout)) / 2e-5
                         for e in np.eye(z.shape[1])])  # fmt: skip
    assert np.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-6)


def test_every_row_of_the_posterior_is_there_in_pytensor_too(table: LossTable) -> None:
    from scaleband.bayes.loss_model import build_loss_model, log_density

    layout = layout_for(table, LAWS["kaplan"])
    arrays = model_arrays(table, layout)
    centre = 0.1 * np.random.default_rng(3).standard_normal(len(layout.names))
    model = build_loss_model(layout, arrays, centre, 0.1 * np.eye(len(centre)))
    unit = np.linspace(-1, 1, len(centre))
    z = centre + 0.1 * unit
    expected = log_density(np, sheared(np, z, layout), layout, arrays)
    assert float(model.compile_logp()({"theta_std": unit})) == pytest.approx(float(expected), rel=1e-9)


def test_importance_sampling_recovers_the_truth(table: LossTable) -> None:
    layout = layout_for(table, LAWS["chinchilla"])
    found = importance_sample(layout, model_arrays(table, layout))
    assert found.pareto_k < 0.7
    for name in ("alpha", "beta"):
        draws = np.exp(found.theta[:, layout.at(name)])
        low, high = np.quantile(draws, [0.005, 0.995])
        assert low < TRUTH[name] < high
        assert high / low < 2


@pytest.mark.parametrize(
    ("name", "column", "truth", "third", "asked"),
    [
        ("repetition", "unique_tokens", repeated_losses, (1, 4, 16), (1e11, 1e10)),
        ("three-term", "batch_tokens", three_term_losses, (65_536, 524_288, 4_194_304), (5e5, 8e6)),
    ],
)
def test_laws_of_repeats_and_of_batches_find_their_truth(
    name: str, column: str, truth: Callable[..., np.ndarray], third: tuple[float, ...], asked: tuple[float, float]
) -> None:
    n, d, x = (v.ravel() for v in np.meshgrid(np.geomspace(5e7, 2e9, 4), np.geomspace(2e9, 8e10, 4), third))
    x = d / x if name == "repetition" else x
    noise = np.random.default_rng(1).standard_normal(len(n))
    frame = pd.DataFrame({"source": "sim", "arch": "dense", "data": "web", "n_params": n, "n_tokens": d, column: x,
                          "loss": truth(n, d, x) * np.exp(0.001 * noise)})  # fmt: skip
    table = table_from_runs(run_table(frame, purpose="loss").frame)
    layout = layout_for(table, LAWS[name])
    theta = importance_sample(layout, model_arrays(table, layout)).theta
    draws = mixed({name: theta[None]}, {name: layout.names}, {name: 1.0}, table, reference_of(table), {}, 1000)
    told = draws.log_loss(table.cells, batch_tokens=table.batch_tokens, unique_tokens=table.unique_tokens)
    assert np.sqrt(np.mean((table.log_loss - np.median(told, axis=0)) ** 2)) < 0.0012
    for value in asked:
        there = target_cells(3e9, 1e11, source="sim", data="web")
        low, high = np.quantile(np.exp(draws.log_loss(there, **{column: np.array([value])})), [0.01, 0.99])
        assert low < truth(3e9, 1e11, np.array(value)) < high
        assert high / low < 1.02
    size = np.geomspace(1e9, 1e11, 4001)
    tokens = 1e22 / 6 / size
    if name == "repetition":
        best = [(Limits(unique_tokens=u), truth(size, tokens, np.minimum(tokens, u or np.inf))) for u in (None, 2e10)]
    else:
        best = [(Limits(), np.min([truth(size, tokens, b) for b in np.geomspace(1e5, 1e8, 201)], axis=0))]
    for limits, loss in best:
        low, high = np.quantile(allocate(draws, "sim/dense/web", 1e22, limits).n_params, [0.01, 0.99])
        assert low < size[loss.argmin()] < high


def test_nuts_passes_its_gate_and_agrees_with_importance_sampling(table: LossTable) -> None:
    fitted = fit_loss(table, laws=["chinchilla"], settings=SamplerSettings(draws=700, tune=300, chains=2, seed=2))
    assert fitted.gates["chinchilla"].passed, fitted.gates["chinchilla"].messages
    layout = layout_for(table, LAWS["chinchilla"])
    quick = importance_sample(layout, model_arrays(table, layout)).theta
    nuts = fitted.theta["chinchilla"].reshape(-1, quick.shape[1])
    for name in ("alpha", "beta", f"level:{WEB}", "log_sigma:sim"):
        k = layout.at(name)
        width = nuts[:, k].std()
        assert abs(nuts[:, k].mean() - quick[:, k].mean()) < 0.3 * width
        assert 0.7 < quick[:, k].std() / width < 1.4


def test_scales_are_the_budgets_of_an_isoflop_table(table: LossTable) -> None:
    scale = scales_of(table)
    compute = np.round(np.log10(table.cells.n_params * table.cells.n_tokens), 3)
    for s in np.unique(scale):
        for other in np.unique(scale):
            if s < other:
                assert compute[scale == s].max() <= compute[scale == other].min()
    assert len(np.unique(scale)) >= 4


def test_a_scale_that_was_left_out_is_scored_by_a_fit_that_never_saw_it(table: LossTable) -> None:
    scale = scales_of(table)
    settings = SamplerSettings()
    honest = held_out_scores(table, "chinchilla", scale, settings)
    last = scale == scale.max()
    broken = table.log_loss + np.where(last, 0.5, 0.0)
    import dataclasses

    shifted = held_out_scores(dataclasses.replace(table, log_loss=broken), "chinchilla", scale, settings)
    assert np.isfinite(honest).all()
    assert (shifted[last] < honest[last] - 5).all()


def test_stacking_prefers_the_law_that_made_the_runs(table: LossTable) -> None:
    wrong = {"alpha": 0.15, "beta": 0.6}  # far from a common exponent
    frame = simulated_losses(noise=0.001)
    frame["loss"] = [
        float(true_loss(n, d, g, **wrong)) for n, d, g in zip(frame.n_params, frame.n_tokens, frame.data, strict=True)
    ] * np.exp(0.001 * np.random.default_rng(4).standard_normal(len(frame)))
    _, weights = quick_stack(table_from_runs(run_table(frame, purpose="loss").frame), ["chinchilla", "overtraining"])
    assert weights["chinchilla"] > 0.9


def test_allocation_finds_the_true_split(stacked: LossDraws) -> None:
    flops = 3e21
    best = allocate(stacked, WEB, flops)
    np.testing.assert_allclose(6 * best.n_active * best.n_tokens, flops, rtol=1e-9)
    grid = np.exp(np.linspace(np.log(1e8), np.log(1e11), 4001))
    truth = true_loss(grid, flops / 6 / grid, "web")
    low, high = np.quantile(best.n_params, [0.005, 0.995])
    assert low < grid[truth.argmin()] < high
    assert abs(np.median(best.loss) / truth.min() - 1) < 0.01
    a = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    assert abs(np.median(allocation_exponent(stacked, WEB, flops)) - a) < 0.05
    assert 0 <= share_of_form(np.log(best.loss), best.law_of_sample) <= 1
    # The one split for all draws is at most as good as each draw's own.
    assert (best.loss_at_chosen >= best.loss * (1 - 1e-9)).all()


def test_constraints_bind(stacked: LossDraws) -> None:
    free = allocate(stacked, WEB, 1e21)
    fixed = allocate(stacked, WEB, 1e21, Limits(n_params=1e8))
    np.testing.assert_allclose(fixed.n_params, 1e8, rtol=1e-12)
    assert (fixed.loss >= free.loss * (1 - 1e-9)).all()
    capped = allocate(stacked, WEB, 1e21, Limits(max_tokens=1e9))
    assert (capped.n_tokens <= 1e9 * (1 + 1e-9)).all()
    served = allocate(stacked, WEB, 1e21, Limits(inference_tokens=1e12))
    assert (served.n_params < free.n_params).all()
    paid = 6 * served.n_active * served.n_tokens + 2 * served.n_active * 1e12
    np.testing.assert_allclose(paid, 1e21, rtol=1e-9)
    repeated = allocate(stacked, WEB, 1e21, Limits(unique_tokens=1e9))
    assert (repeated.loss > free.loss).all()  # a billion distinct tokens are not enough for this budget
    capped_loss = allocate(stacked, WEB, 1e21, Limits(max_tokens=1e9)).loss
    assert (repeated.loss < capped_loss).all()  # and repeats are better than stopping there
    plenty = allocate(stacked, WEB, 1e21, Limits(unique_tokens=1e13))
    np.testing.assert_allclose(plenty.n_params, free.n_params)
    with pytest.raises(UserError, match="leaves no tokens"):
        allocate(stacked, WEB, 1e15, Limits(n_params=1e15))


def test_comparison_of_groups(stacked: LossDraws) -> None:
    found = compare(stacked, CODE, WEB, 1e21, n_budgets=9)
    assert found.p_a_better == 1.0  # 1.4 nats against 3
    assert not np.isfinite(found.crossover).any()
    same = compare(stacked, WEB, WEB, 1e21, n_budgets=9)
    np.testing.assert_allclose(same.compute_multiplier, 1.0, rtol=1e-6)
    with pytest.raises(UserError, match="was not fitted"):
        compare(stacked, "sim/dense/books", WEB, 1e21)


def test_recipes_with_exponents_of_their_own_are_compared_by_a_law_that_lets_them() -> None:
    recipes = {"web": (1.8, 420.0, 1500.0, 0.34, 0.355), "code": (1.65, 200.0, 1200.0, 0.29, 0.335)}

    def loss_of(data: str, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        e, a, b, alpha, beta = recipes[data]
        return e + a * n**-alpha + b * d**-beta

    frame = simulated_losses()
    clean = [loss_of(g, n, d) for g, n, d in zip(frame["data"], frame.n_params, frame.n_tokens, strict=True)]
    frame["loss"] = np.array(clean) * np.exp(0.002 * np.random.default_rng(6).standard_normal(len(frame)))
    made = table_from_runs(run_table(frame, purpose="loss").frame)
    flops, size = 1e22, np.exp(np.linspace(np.log(1e9), np.log(1e12), 2001))
    truth = np.log(loss_of("web", size, flops / 6 / size).min() / loss_of("code", size, flops / 6 / size).min())
    below = {}
    for law in ("chinchilla", "own-exponents"):
        theta = refit(made, law, np.ones(len(made)), settings=SamplerSettings(seed=1))[0]
        names = layout_for(made, LAWS[law]).names
        draws = mixed({law: theta}, {law: names}, {law: 1.0}, made, reference_of(made), {}, 400)
        found = compare(draws, WEB, CODE, flops, n_budgets=3)
        below[law] = float((np.log(found.loss_a / found.loss_b) < truth).mean())
        assert shared_exponents(draws) == (law == "chinchilla")
    assert below["chinchilla"] > 0.99  # it knows better, and does not
    assert 0.05 < below["own-exponents"] < 0.95


def test_losses_of_two_kinds_are_not_compared(stacked: LossDraws) -> None:
    import dataclasses

    kinds = ["a" if d == "web" else "b" for d in stacked.table.cells.data]
    other = dataclasses.replace(stacked, table=dataclasses.replace(stacked.table, kind=kinds))
    with pytest.raises(UserError, match="two kinds"):
        compare(other, WEB, CODE, 1e21)


def test_tokens_to_reach_a_loss_come_back(stacked: LossDraws) -> None:
    cells = target_cells(1e9, 1e10, source="sim", data="web")
    goal = float(true_loss(np.array(1e9), np.array(3e10), "web"))
    tokens = tokens_to_reach(stacked, cells, goal)[:, 0]
    assert 2e10 < np.median(tokens) < 4.5e10
    never = tokens_to_reach(stacked, cells, 0.5)
    assert np.isinf(never).all()
    with pytest.raises(UserError, match="must be positive, not nan"):
        tokens_to_reach(stacked, cells, float("nan"))


def test_a_new_group_is_uncertain_about_its_level(stacked: LossDraws) -> None:
    known = stacked.log_loss(target_cells(1e9, 2e10, source="sim", data="web"))
    new = stacked.log_loss(target_cells(1e9, 2e10, source="sim", data="books"))
    assert new.std() > 10 * known.std()
    np.testing.assert_array_equal(new, stacked.log_loss(target_cells(1e9, 2e10, source="sim", data="books")))


def test_held_out_runs_lie_inside_their_bands(table: LossTable) -> None:
    scale = scales_of(table)
    keep = (scale < scale.max()).astype(float)
    draws, _ = quick_stack(table, ["chinchilla", "kaplan"], keep=keep)
    left = np.flatnonzero(keep == 0)
    out = table.take(left)
    logs = draws.log_loss(out.cells, new_run=True)
    low, high = np.quantile(logs, [0.05, 0.95], axis=0)
    inside = ((out.log_loss > low) & (out.log_loss < high)).mean()
    assert inside > 0.6
    assert np.abs(np.median(logs, axis=0) - out.log_loss).max() < 0.02


def test_a_file_round_trips(stacked: LossDraws, tmp_path: Path) -> None:
    import dataclasses

    draws = dataclasses.replace(stacked, meta=dict(stacked.meta) | {"gate": {"passed": True, "messages": []}})
    write_loss(draws, tmp_path / "fit.nc")
    back = read_loss(tmp_path / "fit.nc")
    assert back is not None
    assert back.reference == draws.reference
    cells = target_cells(2e9, 2e10, source="sim", data="web")
    np.testing.assert_allclose(back.log_loss(cells), draws.log_loss(cells), atol=1e-5)
    assert back.groups() == [CODE, WEB]


def test_damaged_files_are_refused(stacked: LossDraws, tmp_path: Path) -> None:
    import dataclasses

    import h5py

    path = tmp_path / "fit.nc"
    with pytest.raises(UserError, match="no such file"):
        read_loss(path)
    path.write_text("x")
    with pytest.raises(UserError, match="not a NetCDF"):
        read_loss(path)
    draws = dataclasses.replace(stacked, meta=dict(stacked.meta) | {"gate": {"passed": True, "messages": []}})

    def broken(change: object) -> None:
        write_loss(draws, path)
        with h5py.File(path, "a") as file:
            change(file["loss"])  # type: ignore[operator]
        with pytest.raises(UserError, match="loss laws"):
            read_loss(path)

    broken(lambda g: g.attrs.__setitem__("version", 9))
    broken(lambda g: g.attrs.__setitem__("meta", "[]"))
    broken(lambda g: g["cells"].__delitem__("kind"))

    def linked(name: str) -> None:
        """The same group, in another file: what is not in this one is not read."""

        def change(group: h5py.Group) -> None:
            group.file.copy(group[name], h5py.File(tmp_path / "other.nc", "w"), name="moved")
            del group[name]
            group[name] = h5py.ExternalLink(str(tmp_path / "other.nc"), "/moved")

        broken(change)

    for name in ("cells", "draws", "draws/chinchilla"):
        linked(name)

    def stated(**facts: object) -> None:
        def change(group: h5py.Group) -> None:
            meta = json.loads(group.attrs["meta"]) | facts
            group.attrs["meta"] = json.dumps({name: v for name, v in meta.items() if v is not None})

        broken(change)

    stated(weights=None)
    stated(weights={"chinchilla": "much"})
    stated(conventions={"sim/dense/web": "cosine"})
    stated(gate={"passed": True})
    broken(lambda g: g["cells/n_params"].__setitem__(0, -1.0))
    broken(lambda g: g["draws/chinchilla/theta"].__setitem__((0, 0), np.inf))
    broken(lambda g: g["draws/chinchilla"].__delitem__("entry"))


def test_laws_say_what_they_need(table: LossTable) -> None:
    assert laws_for(table, None) == list(GENERAL)
    with pytest.raises(UserError, match="unknown loss law"):
        laws_for(table, ["hoffmann"])
    with pytest.raises(UserError, match="n_active varies"):
        laws_for(table, ["moe"])
    with pytest.raises(UserError, match="too few"):
        table_from_runs(run_table(simulated_losses().head(3), purpose="loss").frame)


def test_a_law_is_stacked_where_the_table_tells_its_covariate() -> None:
    def laws(**more: object) -> list[str]:
        frame = simulated_losses().assign(**more)
        return laws_for(table_from_runs(run_table(frame, purpose="loss").frame), None)

    n, d = (simulated_losses()[name].to_numpy() for name in ("n_params", "n_tokens"))
    one = np.arange(len(n))
    # a group with a sparsity of its own says nothing of sparsity, nor does a batch that size and tokens fix
    by_data = (simulated_losses()["data"] == simulated_losses()["data"].iloc[0]).to_numpy()
    assert laws(arch=np.where(by_data, "moe-1in4", "dense"), n_active=n / np.where(by_data, 4, 1)) == list(GENERAL)
    assert laws(batch_tokens=1e5 * np.sqrt(d / 1e9)) == list(GENERAL)
    assert laws(arch="moe", n_active=n / (1 + one % 4)) == [*GENERAL, "moe"]
    same = {"n_params": np.repeat(n[::2], 2), "n_tokens": np.repeat(d[::2], 2)}
    assert laws(**same, batch_tokens=np.where(one % 2, 1e5, 1e6)) == [*GENERAL, "three-term"]


def test_downstream_error_follows_the_loss() -> None:
    rng = np.random.default_rng(5)
    loss = np.linspace(2.2, 4.0, 14)
    error = 0.85 - 2.0 * np.exp(-0.9 * loss) + 0.004 * rng.standard_normal(14)
    stage = fit_downstream(loss, error)
    draws = stage.error(np.full(2000, 2.0))
    low, high = np.quantile(draws, [0.01, 0.99])
    assert low < 0.85 - 2.0 * np.exp(-1.8) < high
    assert high - low < 0.1
    with pytest.raises(UserError, match="between 0 and 1"):
        fit_downstream(loss, 100 * error)
    with pytest.raises(UserError, match="1 of 14 runs have no finite loss"):
        fit_downstream(np.where(loss == loss[3], np.nan, loss), error)
    with pytest.raises(UserError, match="14 losses and 13 errors"):
        fit_downstream(loss, error[:-1])


def test_runs_that_do_not_tell_how_the_error_bends_leave_that_to_its_belief() -> None:
    loss = np.linspace(2.9, 3.1, 12)
    stage = fit_downstream(loss, 0.6 + 0.02 * np.random.default_rng(2).standard_normal(12), n_draws=4000)
    middle = np.log(stage.gamma)
    assert abs(middle.mean()) < 0.06
    assert middle.std() == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("name", GENERAL)
def test_priors_are_finite_and_fall_off(table: LossTable, name: str) -> None:
    layout = layout_for(table, LAWS[name])
    theta = 0.3 * np.random.default_rng(0).standard_normal((5, len(layout.names)))
    near, far = (log_prior(np, scale * theta, layout) for scale in (1.0, 100.0))
    assert np.isfinite(near).all()
    assert (far < near - 100).all(), "no direction is left free"


def test_unique_tokens_are_a_column_of_the_run_table(table: LossTable) -> None:
    frame = simulated_losses().astype({"n_tokens": float})
    empty = table_from_runs(run_table(frame.assign(unique_tokens="-"), purpose="loss").frame)
    assert laws_for(empty, None) == laws_for(table, None)
    plan = column_map({"columns": {"unique_tokens": "corpus"}, "scale": {"unique_tokens": 1e9}})
    repeated = run_table(frame.assign(corpus=frame["n_tokens"] / 4e9), purpose="loss", mapping=plan)
    told = table_from_runs(repeated.frame)
    np.testing.assert_allclose(told.unique_tokens, told.cells.n_tokens / 4)
    assert laws_for(told, None) == ["repetition"]


def cells_table() -> LossTable:
    """Levels of cells: seven sizes, each with luck of its own, four horizons."""
    import pandas as pd

    rng = np.random.default_rng(8)
    rows = []
    for n in np.geomspace(6e7, 1e9, 7):
        luck = 0.004 * rng.standard_normal()
        for d in (2e9, 6e9, 2e10, 6e10):
            loss = float(true_loss(n, d, "web")) * np.exp(luck + 0.0003 * rng.standard_normal())
            rows.append({"source": "sim", "arch": "dense", "data": "web", "n_params": n, "n_tokens": d, "loss": loss})
    import dataclasses

    table = table_from_runs(run_table(pd.DataFrame(rows), purpose="loss").frame)
    return dataclasses.replace(table, of_cells=True, log_loss_se=np.full(len(rows), 3e-4))


def test_effects_of_sizes_are_integrated_out_exactly() -> None:
    from scaleband.bayes.loss_model import cells_log_density

    table = cells_table()
    layout = layout_for(table, LAWS["chinchilla"])
    assert len(layout.sizes) == 7
    arrays = model_arrays(table, layout)
    theta = np.zeros(len(layout.names))
    theta[layout.block("level")] = np.log(3.0)
    theta[layout.block("log_sigma")], theta[layout.at("log_size_scale")] = np.log(0.02), np.log(0.05)
    mean = fitted_log_loss(np, theta, layout, arrays)
    covariance = np.diag(0.02**2 + table.log_loss_se**2) + 0.05**2 * arrays["of_size"] @ arrays["of_size"].T
    exact = multivariate_normal(mean, covariance)
    assert float(cells_log_density(np, theta, layout, arrays)) == pytest.approx(exact.logpdf(table.log_loss))
    # A row left out: its density given the others is the quotient of two joint ones.
    weight = np.ones(len(table))
    weight[5] = 0.0
    alone = row_log_density(np, theta, layout, arrays | {"weight": weight})[5]
    rest = np.flatnonzero(weight)
    fewer = multivariate_normal(mean[rest], covariance[np.ix_(rest, rest)]).logpdf(table.log_loss[rest])
    assert float(alone) == pytest.approx(exact.logpdf(table.log_loss) - fewer)


def test_a_size_seen_elsewhere_is_foretold_better_than_a_new_one() -> None:
    table = cells_table()
    long = np.asarray(table.cells.n_tokens) > 5e10
    draws, _ = quick_stack(table, ["chinchilla", "kaplan"], keep=np.where(long, 0.0, 1.0))
    out = table.take(np.flatnonzero(long))
    logs = draws.log_loss(out.cells, new_run=True)
    assert np.abs(np.median(logs, axis=0) - out.log_loss).max() < 0.004
    new = draws.log_loss(target_cells(7e8, 6e10, source="sim", data="web"), new_run=True)
    assert new.std() > 1.3 * logs.std(0).max()


def test_one_size_in_a_group_has_no_effect_beside_its_level() -> None:
    table = cells_table()
    one = table.take(np.flatnonzero(np.isclose(table.cells.n_params, 1e9)))
    assert layout_for(one, LAWS["chinchilla"]).sizes == ()


def test_weights_are_drawn_towards_equal_ones() -> None:
    from scaleband.inference.stacking import stacking_weights

    scores = np.stack([np.zeros(10), np.full(10, -0.5)], axis=1)
    free, pulled = stacking_weights(scores), stacking_weights(scores, prior_count=1.0)
    assert free[1] == 0.0
    assert 0.05 < pulled[1] < 0.5
    assert stacking_weights(scores, prior_count=1e6)[1] == pytest.approx(0.5, abs=0.01)


def test_the_far_surface_travels_with_the_file(stacked: LossDraws, tmp_path: Path) -> None:
    import dataclasses

    import h5py

    from scaleband.laws.far import FarDraws

    meta = dict(stacked.meta) | {"gate": {"passed": True, "messages": []}}
    far = FarDraws(np.random.default_rng(0).standard_normal((40, 6)))
    write_loss(dataclasses.replace(stacked, meta=meta, far=far), tmp_path / "fit.nc")
    back = read_loss(tmp_path / "fit.nc")
    assert back is not None
    assert back.far is not None
    np.testing.assert_allclose(back.far.theta, far.theta, atol=1e-6)
    with h5py.File(tmp_path / "fit.nc", "a") as file:
        file["loss/far/theta"][0, 0] = np.nan
    with pytest.raises(UserError, match="far surface"):
        read_loss(tmp_path / "fit.nc")


def test_an_interrupt_leaves_no_draws(table: LossTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nutpie blocks, it answers an interrupt with the draws so far."""
    import nutpie

    class Running:
        cancelled = False

        def wait(self) -> None:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            self.cancelled = True

    running = Running()

    def sample(code: object, *, blocking: bool = True, **_: object) -> Running:
        assert not blocking
        return running

    monkeypatch.setattr(nutpie, "sample", sample)
    layout = layout_for(table, LAWS["chinchilla"])
    compiled = CompiledLoss(
        layout, model_arrays(table, layout), np.zeros(1), np.eye(1), None
    )
    with pytest.raises(KeyboardInterrupt):
        sample_loss(compiled, SamplerSettings(draws=20, tune=20))
    assert running.cancelled
