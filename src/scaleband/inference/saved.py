"""A saved fit as a fit again: draws out of the file, runs out of the table that they were fitted to.

A file holds everything of a fit but its runs. With the table it can be moved on to a longer one (`inference.refit`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import Beliefs, ModelInputs
from scaleband.bayes.beliefs import STATED
from scaleband.errors import UserError
from scaleband.inference.fitting import Fit, prepared
from scaleband.inference.gate import Gate
from scaleband.inference.kept_runs import seen_runs
from scaleband.inference.store import DIMS, read_draws
from scaleband.inference.stored import any_numbers, damaged, member, opened, texts
from scaleband.laws import FORMS

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_CELLS = ("source", "arch", "data", "n_params", "n_active", "n_tokens")


def read_fit(
    path: str | Path, frame: pd.DataFrame, *, beliefs: Callable[[Any], Beliefs] | None = None
) -> Fit:
    """Load a fit with its runs, so that it can be moved on: `refit(frame, read_fit(path, frame))`.

    Parameters
    ----------
    path
        A file that `scaleband fit` wrote.
    frame
        `RunTable.frame` with the runs of the fit, unchanged; of a longer table the others are left out.
    beliefs
        From a design to the prior that the fit had, where that was not the stated beliefs.

    Returns
    -------
    The fit as it was sampled, without a compiled model and the sampler's own record.

    Raises
    ------
    UserError
        As `store.read_draws`; a released model, which has no runs; a stack of forms; runs of the fit that the table has
        not, or has otherwise; a prior that is not the fit's.
    """
    path = Path(path)
    draws = read_draws(path)  # checks the file
    meta = {name: value for name, value in draws.meta.items() if name != "path"}
    form, origin, gate = meta.get("form"), meta.get("prior"), meta["gate"]
    if origin == STATED and form not in FORMS:
        raise UserError(f"{path}: this fit is of form {form}, not of one form; fit the longer table anew")
    if origin != STATED and beliefs is None:
        raise UserError(f"{path}: this fit's prior is {origin}; give beliefs that make it")
    with opened(path, "its runs") as file:
        seen = seen_runs(file, path)
        if seen is None:
            raise UserError(f"{path}: this file holds no runs (it is a released model); fit your table anew")
        posterior = {name: any_numbers(file["posterior"], name, path) for name in DIMS if name in file["posterior"]}
        runs = texts(member(file, "observed_data", path), "run", path)
    if len(runs) != len(seen["log_loss"]):
        raise damaged(path, "its runs differ in their number from their names")
    its_own = frame[frame["run_id"].isin(runs)]
    named = form if form in FORMS else next(iter(FORMS))  # not looked at beside a prior
    _, _, prior, inputs = prepared(its_own, str(named), beliefs)
    _check_runs(path, inputs, runs, seen)
    if any(list(getattr(draws.cells, name)) != list(getattr(inputs.cells, name)) for name in _CELLS):
        raise UserError(f"{path}: its cells are not those of the table's runs; fit the table anew")
    needed = {"scatter_level"} | ({"scatter_ratio"} if inputs.several_sources else set())
    needed |= {"trunk_scale", "trunk_effect"} if inputs.n_trunks else set()
    trunks = posterior["trunk_effect"].shape[-1] if "trunk_effect" in posterior else 0
    if not needed <= set(posterior) or trunks != inputs.n_trunks:
        raise UserError(f"{path}: written by an older scaleband, or its trunks are not the table's; fit the table anew")
    if prior.origin != origin:
        raise UserError(f"{path}: this fit's prior is {origin}, not {prior.origin}; give beliefs that make the fit's")
    stats = {"diverging": np.zeros(posterior["rho"].shape, bool)}
    return Fit(posterior, stats, inputs, prior, _gate(gate), meta, prior_for=beliefs)


def _check_runs(path: Path, inputs: ModelInputs, runs: tuple[str, ...], seen: dict[str, Array]) -> None:
    """Every run of the file is one of the table's, to the last digits."""
    gone = sorted(set(runs) - set(inputs.run_ids))
    if gone:
        raise UserError(
            f"{path}: {len(gone):,} of its {len(runs):,} runs are not in the table (run_id {gone[0]}); give the table "
            "that it was fitted to, or one that has its runs and more"
        )
    here = {
        "log_loss": inputs.y, "log_lr": inputs.log_lr, "log_batch": inputs.log_batch, "censored": inputs.censored,
        "run_cell": inputs.cell,
    }  # fmt: skip
    ours, theirs = np.argsort(inputs.run_ids), np.argsort(runs)
    for name, values in seen.items():
        wrong = ~np.isclose(here[name][ours], values[theirs], rtol=1e-9, atol=1e-9)
        if wrong.any():
            first = runs[theirs[np.argmax(wrong)]]
            raise UserError(
                f"{path}: {wrong.sum():,} of its runs are others in the table (run_id {first}, {name}); give the table "
                "that it was fitted to, and new runs under new names"
            )


def _gate(facts: Any) -> Gate:
    """The gate as `Gate.as_dict` wrote it: what could not be computed is None there."""

    def worst(name: str) -> tuple[float, str]:
        value, where = facts.get(name, (None, "nothing"))
        return np.nan if value is None else float(value), str(where)

    messages = tuple(facts["messages"])
    return Gate(
        facts["passed"], worst("rhat"), worst("ess_bulk"), worst("ess_tail"), int(facts.get("divergences", 0)), messages
    )
