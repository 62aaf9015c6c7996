"""Draws from the prior: inside the stated beliefs, in the names of a posterior, and runs that follow their truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from small_table import Simulated, settings, simulated

from scaleband.bayes import SHARED, beliefs_table, cells_of, default_beliefs, model_inputs
from scaleband.bayes.beliefs import fixed_offset_scales
from scaleband.bayes.simulate import (
    prior_draws,
    simulate_losses,
    simulate_runs,
    simulate_states,
    with_simulated_losses,
)
from scaleband.inference.store import DIMS
from scaleband.laws import CENSOR_ABOVE, FEATURES, FORMS, LEVEL, RESPONSES, ROLES, Cells, design_for, excess
from scaleband.runs import cell_table

N = 20_000


@pytest.fixture(scope="module")
def table() -> Simulated:
    return simulated(1, form="quadratic")


@pytest.fixture(scope="module")
def drawn(table: Simulated) -> dict[str, np.ndarray]:
    beliefs = default_beliefs(table.inputs.design, FORMS["quadratic"])
    return {name: value[0] for name, value in prior_draws(table.inputs, beliefs, N, 3).items()}


def named_draws(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Prior draws under the names of the beliefs' table."""
    out = {"rho": drawn["rho"], "nu": drawn["nu"], "trunk": drawn["trunk_scale"], "sigma": drawn["sigma"][:, 0]}
    out["scatter_level"] = drawn["scatter_level"][:, 0]
    out["scatter_ratio"] = drawn["scatter_ratio"][:, 1, 1]
    for r, response in enumerate(RESPONSES):
        if r < 4:
            out[f"scatter_{response}"] = drawn["scatter"][:, r]
        if r > 4:
            out[f"scatter_{response[:-2]}"] = drawn["scatter"][:, r]
        for k, feature in enumerate(FEATURES):
            out[f"{response}: {feature}"] = drawn["law"][:, r, k]
        if r < 2:
            for role in ROLES[1:]:
                name = f"offset_{role}_{response}"
                out[name] = np.exp(drawn["shared"][:, list(SHARED).index(f"log_{name}")])
    return out


def test_draws_have_the_quantiles_that_the_beliefs_table_states(drawn: dict[str, np.ndarray]) -> None:
    by_name, checked = named_draws(drawn), 0
    for row in beliefs_table():
        if row["parameter"].endswith(" offset"):
            continue  # in the next test: an offset is one column a level
        draws = by_name[row["parameter"]]
        low, high = (float(v) for v in row["90 %"].split(" to "))
        for bound, mass in ((low, 0.05), (high, 0.95)):
            found = (draws < bound).mean()  # the table rounds to three digits
            assert found == pytest.approx(mass, abs=0.01), f"{row['parameter']}: {found:.3f} below {bound}"
        checked += 1
    assert checked > 60


def test_offsets_have_the_stated_spread(table: Simulated, drawn: dict[str, np.ndarray]) -> None:
    design, fixed = table.inputs.design, fixed_offset_scales()
    for k, role in enumerate(design.roles):
        if role == "shared":
            continue
        at = ROLES.index(role) - 1
        for r in range(len(RESPONSES)):
            column = drawn["law"][:, r, k]
            if design.columns[k].startswith("exponent:d2:"):
                assert (column == 0).all()  # this form has no bends
            elif r >= 2:
                assert column.std() == pytest.approx(fixed[r, at], rel=0.03, abs=1e-12)
            elif role != "exponent":  # switched off in this form
                assert (column / drawn["offset_scale"][:, r, at]).std() == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("form", ["linear", "group-exponents"])
def test_a_role_that_the_form_switches_off_has_no_offset_for_a_new_level(table: Simulated, form: str) -> None:
    """Else a new source's band would hold exponents that no fitted source may have."""
    beliefs = default_beliefs(table.inputs.design, FORMS[form])
    scale = prior_draws(table.inputs, beliefs, 50, 1)["offset_scale"][0]
    for k, role in enumerate(ROLES[1:]):
        assert (scale[:, :, k] > 0).all() == (role != "exponent" or form == "group-exponents"), role
    assert (scale[:, :, ROLES.index("exponent") - 1] == 0).all() == (form == "linear")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_form_switches_off_what_it_leaves_out(table: Simulated, form: str) -> None:
    design = table.inputs.design
    beliefs = default_beliefs(design, FORMS[form])
    law = prior_draws(table.inputs, beliefs, 50, 1)["law"][0]
    for r, allowed in enumerate((FORMS[form].lr, FORMS[form].batch)):
        for k, (name, role) in enumerate(zip(design.columns, design.roles, strict=True)):
            own = "bend" if ":d2:" in name else "exponent"
            on = name in allowed if role == "shared" else role != "exponent" or own in allowed
            assert (law[:, r, k].std() > 0) == on, name


def test_a_form_with_bends_has_them_in_rates_batches_and_levels(table: Simulated) -> None:
    design = table.inputs.design
    law = prior_draws(table.inputs, default_beliefs(design, FORMS["quadratic-exponents"]), 50, 1)["law"][0]
    bends = [k for k, name in enumerate(design.columns) if name.startswith("exponent:d2:family:")]
    assert bends
    for r, response in enumerate(RESPONSES):
        assert (law[:, r, bends].std(axis=0) > 0).all() == (response in ("log_lr", "log_batch", "level")), response


def test_names_and_dims_are_those_of_a_posterior(table: Simulated) -> None:
    inputs = table.inputs
    draws = prior_draws(inputs, table.beliefs, 7, 1)
    sizes = {
        "direction": 2, "source": len(inputs.sources), "response": len(RESPONSES), "hyperparameter": 2,
        "role": len(ROLES) - 1, "cell": len(inputs.cells), "coefficient": len(inputs.design.columns),
        "shared_parameter": len(table.beliefs.shared_mean), "trunk": inputs.n_trunks,
    }  # fmt: skip
    assert {name: value.shape for name, value in draws.items()} == {
        name: (1, 7, *(sizes[dim] for dim in dims)) for name, dims in DIMS.items()
    }
    again, other = prior_draws(inputs, table.beliefs, 7, 1), prior_draws(inputs, table.beliefs, 7, 2)
    np.testing.assert_array_equal(draws["law"], again["law"])
    assert not np.array_equal(draws["law"], other["law"])


def test_a_table_of_one_source_has_no_ratio_of_scatters() -> None:
    frame = settings()
    cells = cells_of(cell_table(frame[frame["source"] == frame["source"].iloc[0]]))
    design = design_for(cells)
    draws = simulate_states(cells, design, default_beliefs(design, FORMS["linear"]), np.random.default_rng(0), 3)
    assert "scatter_ratio" not in draws


def test_states_scatter_around_the_law(table: Simulated, drawn: dict[str, np.ndarray]) -> None:
    centre = drawn["law"] @ table.inputs.x.T
    scatter = np.repeat(drawn["scatter"][:, :, None], len(table.inputs.cells), axis=2)
    scatter[:, LEVEL] = drawn["scatter_level"][:, table.inputs.cell_source]
    scatter[:, :2] *= drawn["scatter_ratio"][:, :, table.inputs.cell_source]
    z = (drawn["state"] - centre) / scatter
    assert z.std(0) == pytest.approx(np.ones(z.shape[1:]), abs=0.03)
    assert z.mean(0) == pytest.approx(np.zeros(z.shape[1:]), abs=0.04)


def test_offsets_of_fitted_cells_do_not_depend_on_columns_that_are_not_theirs() -> None:
    """A design with a new source beside them has the same law for the old cells: the same spread."""
    frame = settings()
    cells = cells_of(cell_table(frame))
    wide = Cells(
        (*cells.source, "new"), (*cells.arch, "dense"), (*cells.data, "web"),
        *(np.append(v, 1e9) for v in (cells.n_params, cells.n_active)), np.append(cells.n_tokens, 2e10),
    )  # fmt: skip
    spread = []
    for c in (cells, wide):
        design = design_for(c)
        draws = simulate_states(c, design, default_beliefs(design, FORMS["linear"]), np.random.default_rng(0), N)
        spread.append(draws["state"][:, :, : len(cells)].std(0))
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.05)


def test_simulated_runs_are_student_t_around_their_basin(table: Simulated) -> None:
    inputs = model_inputs(settings(), table.inputs.design)
    truth, rng = table.truth, np.random.default_rng(0)
    z = []
    for _ in range(80):
        y = simulate_losses(inputs, truth, rng)
        state = truth["state"][:, inputs.cell]
        e = excess(
            inputs.log_lr - state[0], inputs.log_batch - state[1], state[5:7], np.exp(state[2:4]), state[7:9]
        )
        trunk = np.append(truth["trunk_effect"], 0.0)[inputs.trunk]
        scale = np.sqrt(truth["sigma"][inputs.source] ** 2 + inputs.y_se**2 + (truth["rho"] * e) ** 2)
        z.append((y - state[4] - trunk - e) / scale)
    assert stats.kstest(np.ravel(z), stats.t(truth["nu"]).cdf).pvalue > 1e-3


def test_runs_are_those_that_a_run_table_would_give() -> None:
    """The same losses written to a table and read again: same values, thresholds and starting points."""
    table, frame = simulated(0), settings()
    frame["loss_se"] = 0.0
    inputs = model_inputs(frame, table.inputs.design)
    direct = simulate_runs(inputs, table.truth, np.random.default_rng(0))
    read = model_inputs(with_simulated_losses(frame, inputs, table.truth, np.random.default_rng(0)), inputs.design)
    assert 0 < direct.censored.sum() < len(direct.y)
    for name in ("y", "censored", "y_se", "best"):
        np.testing.assert_allclose(getattr(direct, name), getattr(read, name), rtol=1e-12, err_msg=name)
    best = direct.best[direct.cell, 2]
    np.testing.assert_allclose(direct.y[direct.censored], best[direct.censored] + CENSOR_ABOVE)
    free = simulate_runs(inputs, table.truth, np.random.default_rng(0), censor_above=np.inf)
    assert not free.censored.any()
    np.testing.assert_allclose(free.y[~direct.censored], direct.y[~direct.censored])
    assert (free.y >= direct.y).all()


def test_a_simulated_table_keeps_its_relative_errors(table: Simulated) -> None:
    done = table.frame[table.frame["status"] == "completed"]
    share = (done["loss_se"] / done["loss"]).round(9)
    assert set(share[done["source"] == "team-b"]) == {0.001}
    assert set(share[done["source"] == "team-a"]) == {0.0}
    assert done["loss"].between(0, 1100).all()
