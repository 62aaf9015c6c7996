"""How far `allocate` and `compare` say that their splits lie from the runs behind the loss laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command import Command

from made_laws import made_laws
from scaleband.inference.loss_store import write_loss

BUDGET = ("--model", "step-law", "--flops", "1e21")


@pytest.mark.parametrize(
    ("words", "against", "decades", "says"),
    [
        (("--params", "1e15"), "dense", "decades_n_params", "6 decades above in parameters"),
        (("--tokens-max", "1e10"), "dense", "decades_n_params", "1.2 decades above in parameters; far"),
        (("--arch", "moe-1in8"), "moe-1in8", "decades_n_tokens", "0.7 decades above in tokens"),
    ],
)
def test_a_split_is_measured_in_parameters_and_tokens_against_its_own_group(
    words: tuple[str, ...], against: str, decades: str, says: str, scaleband: Command
) -> None:
    where = scaleband("allocate", *BUDGET, *words, "--json").json()["extrapolation"]
    assert where["against"] == f"step-law/{against}/steplaw_main"
    assert where["verdict"] == "far"
    assert where[decades] > 0.5
    assert says in where["sentence"]
    assert says in scaleband("allocate", *BUDGET, *words).out


def test_the_largest_run_is_that_of_the_group(scaleband: Command) -> None:
    dense = scaleband("allocate", *BUDGET, "--json").json()["extrapolation"]
    moe = scaleband("allocate", *BUDGET, "--arch", "moe-1in8", "--json").json()["extrapolation"]
    assert moe["largest_fitted_flops"] < dense["largest_fitted_flops"]
    assert moe["decades_flops"] > dense["decades_flops"] > 0


def test_a_split_among_the_runs_is_inside(scaleband: Command) -> None:
    words = ("allocate", "--model", "step-law", "--flops", "1e20")
    where = scaleband(*words, "--json").json()["extrapolation"]
    assert (where["verdict"], where["decades_flops"]) == ("inside", 0.0)
    assert "inside the sizes and token counts of step-law/dense/steplaw_main\n" in scaleband(*words).out


DENSE, MOE = "step-law/dense/steplaw_main", "step-law/moe-1in8/steplaw_main"


def test_a_comparison_says_how_far_it_goes_and_under_which_conventions(scaleband: Command) -> None:
    words = ("compare", "--model", "step-law", "--a", MOE, "--b", DENSE, "--flops", "1e30")
    answer = scaleband(*words, "--json").json()
    assert {name: where["against"] for name, where in answer["extrapolation"].items()} == {"a": MOE, "b": DENSE}
    assert min(where["decades_flops"] for where in answer["extrapolation"].values()) > 9
    assert set(answer["conventions"]) == {MOE, DENSE}
    lines = scaleband(*words).out.splitlines()
    assert any(line.startswith("extrapolation      a: outside") and "far: check" in line for line in lines)
    assert any(line.startswith("conventions  ") for line in lines)
    crossing = next(line for line in lines if line.startswith("crossover"))
    assert "decades beyond the largest budget that both were run at" in crossing


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("allocate", *BUDGET, "--sparsity", "4"), "--sparsity is 4, and dense uses all parameters; add --arch moe"),
        (("compare", *BUDGET, "--a", MOE, "--b", DENSE, "--sparsity-b", "5"), "name a moe group in --b"),
    ],
)
def test_a_dense_model_is_not_sparse(words: tuple[str, ...], says: str, scaleband: Command) -> None:
    done = scaleband(*words)
    assert (done.code, done.out) == (2, "")
    assert says in " ".join(done.err.split())


def test_a_recipe_that_is_far_better_is_worth_more_than_was_searched(scaleband: Command, tmp_path: Path) -> None:
    fit = tmp_path / "fit.nc"
    write_loss(made_laws(40, of_cells=False), fit)
    words = ("compare", "--fit", fit, "--flops", "1e20", "--a", "a/dense/code", "--b", "a/dense/web")
    answer = scaleband(*words, "--json").json()
    worth, told = answer["compute_multiplier"], scaleband(*words).out
    assert worth["searched"] == pytest.approx([1e-4, 1e4])
    assert worth["lower"] == worth["upper"] == worth["searched"][1]
    assert "b needs more than 1e+04 times a's compute\n" in told
    difference = answer["difference_percent"]["median"]
    assert difference == pytest.approx(100 * (1.6 / 2.7 - 1), abs=0.5)
    assert f"{difference:.4g} (" in told
    assert "% of b's loss" in told
    assert answer["shared_exponents"] == 1.0
    assert "exponents          the same for all groups in 100 % of the draws" in told


def test_a_comparison_of_losses_of_no_stated_kind_is_doubted(scaleband: Command, tmp_path: Path) -> None:
    laws = made_laws(4, of_cells=False)
    silent = {group: {"loss_kind": "not stated"} for group in laws.groups()}
    for name, conventions in (("stated", laws.meta["conventions"]), ("silent", silent)):
        write_loss(replace(laws, meta={**laws.meta, "conventions": conventions}), tmp_path / f"{name}.nc")
        words = ("--fit", tmp_path / f"{name}.nc", "--flops", "1e20", "--a", "a/dense/code", "--b", "a/dense/web")
        assert ("do not state loss_kind" in scaleband("compare", *words).err) == (name == "silent")
