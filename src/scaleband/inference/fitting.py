"""Fit a run table: beliefs, sampling, gate, and the DataTree that is saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import SHARED, Beliefs, ModelInputs, cells_of, default_beliefs, model_inputs
from scaleband.bayes.beliefs import fixed_offset_scales
from scaleband.bayes.coordinates import coordinates
from scaleband.bayes.one_batch import heard
from scaleband.bayes.simulate import prior_draws
from scaleband.errors import UserError
from scaleband.inference.gate import Gate, diagnose, nearly
from scaleband.inference.gibbs import run_terms
from scaleband.inference.sampler import Compiled, SamplerSettings, compile_model, moved_on, sample
from scaleband.inference.stacking import mix
from scaleband.inference.store import to_tree
from scaleband.inference.unpack import unpack
from scaleband.laws import (
    FORMS,
    HYPERPARAMETERS,
    RESPONSES,
    ROLES,
    LawDraws,
    design_for,
    run_log_density,
)
from scaleband.runs import cell_table, comparable, conventions, usable
from scaleband.runs.columns import GROUP

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

DEFAULT_FORM = "quadratic"

_TIMES_MOVED = 4
"""Draws that nothing but too few effective ones, or a little R-hat, keeps from the gate are moved on up to so often."""


_FEW_RUNS_ACCEPT = 0.9
"""Ten runs in seven cells: one divergence in 2,400 draws at 0.8, none in 2,000 at 0.9, for a fifth more steps."""

_NEEDED = ("run_id", *GROUP, "n_params", "n_active", "n_tokens", "lr_peak", "batch_tokens", "loss", "loss_se", "status",
           "trunk")  # fmt: skip
"""Columns that the model reads, all of which a checked run table has."""

_PRIOR_DRAWS = 200
"""Kept beside a posterior: enough for a picture; a megabyte for 33 cells."""


@dataclass(frozen=True)
class Fit:
    """A fitted table.

    Attributes
    ----------
    posterior
        Name -> (chain, draw, ...), see `inference.store`.
    stats
        Sampler statistics, (chain, draw).
    inputs, beliefs, gate
        What was fitted, from which prior, and whether the draws may be reported.
    meta
        Facts that travel with the fit.
    compiled
        For refits of the same cells without compiling.
    settings
        How it was sampled.
    parts
        Of a stack of forms (`inference.forms`): its forms' own fits. None: one form.
    prior_for
        How its prior is made for a design (`beliefs` of `fit`). None: the stated beliefs of its form.
    """

    posterior: dict[str, Array]
    stats: dict[str, NDArray[Any]]
    inputs: ModelInputs
    beliefs: Beliefs
    gate: Gate
    meta: dict[str, object]
    compiled: Compiled | None = None
    settings: SamplerSettings = field(default_factory=SamplerSettings)
    parts: Parts | None = None
    prior_for: Callable[[Any], Beliefs] | None = None

    def draws(self) -> LawDraws:
        """The posterior as draws for `predict`."""
        flat, i = {name: v.reshape(-1, *v.shape[2:]) for name, v in self.posterior.items()}, self.inputs
        return LawDraws.of(
            flat, fixed_offset_scales(), design=i.design, cells=i.cells, sources=i.sources, meta=self.meta,
            trunked=i.trunked, grid=grid_ends(i),
        )  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Fits of several forms to one table, and their stacking weights; all of these above 0."""

    fits: Mapping[str, Fit]
    weights: Mapping[str, float]

    def mixed(self, of: Callable[[Fit], Mapping[str, NDArray[Any]]], n_draws: int) -> dict[str, NDArray[Any]]:
        """What `of` gives of every form, (chain, draw, ...), as `n_draws` a chain in proportion to the weights."""
        return mix({form: of(fitted) for form, fitted in self.fits.items()}, self.weights, n_draws)


def ranges(cells: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """Per group the smallest and largest n_params and n_tokens that were fitted."""
    out: dict[str, dict[str, list[float]]] = {}
    for (source, arch, data), rows in cells.groupby(["source", "arch", "data"], sort=True):
        out[f"{source}/{arch}/{data}"] = {
            name: [float(rows[name].min()), float(rows[name].max())] for name in ("n_params", "n_active", "n_tokens")
        }
    return out


def facts(
    frame: pd.DataFrame, cells: pd.DataFrame, gate: Gate, beliefs: Beliefs, settings: SamplerSettings, form: str
) -> dict[str, object]:
    """The facts that are written into a fit and printed beside every answer."""
    return {
        "name": "own fit",
        "scaleband": version("scaleband"),
        "n_runs": len(frame),
        "n_cells": len(cells),
        "form": beliefs.form or form,
        "prior": beliefs.origin,
        "settings": {"draws": settings.draws, "tune": settings.tune, "chains": settings.chains, "seed": settings.seed,
                     "rounds": settings.rounds, "copies": settings.copies},
        "gate": gate.as_dict(),
        "conventions": conventions(frame),
        "ranges": ranges(cells),
        "run_ids_sha256": run_id_digests(frame["run_id"].tolist()),
    }


def run_id_digests(run_ids: list[str]) -> list[str]:
    """Short digests of run ids: enough to refuse an overlap, without shipping the ids."""
    import hashlib

    return sorted(hashlib.sha256(run_id.encode()).hexdigest()[:10] for run_id in run_ids)


def fit(
    frame: pd.DataFrame,
    *,
    form: str = DEFAULT_FORM,
    beliefs: Callable[[Any], Beliefs] | None = None,
    settings: SamplerSettings | None = None,
    cells: pd.DataFrame | None = None,
    reuse: Fit | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Fit:
    """Fit the hierarchical model to a validated run table.

    Parameters
    ----------
    frame
        `RunTable.frame`.
    form
        A name out of `laws.FORMS`.
    beliefs
        From a design to a prior (see `inference.prior`); the stated beliefs of `form` by default. A prior that brings a
        form of its own is what is fitted, and `meta` names that.
    settings
        Of the sampler. Where cells have fewer runs than numbers (`well_told`), draws of NUTS are kept once, and its
        target acceptance is at least 0.9.
    cells
        Cell table, for cells without rows; the frame's own by default.
    reuse
        An earlier fit of the same cells: its compiled model is used again.
    progress
        Called with (stage, done, total).

    Raises
    ------
    UserError
        Unknown form, or nothing to learn from.
    """
    settings = settings or SamplerSettings()
    frame, table, prior, inputs = prepared(frame, form, beliefs, cells)
    if not well_told(inputs):
        settings = replace(settings, copies=1, target_accept=max(settings.target_accept, _FEW_RUNS_ACCEPT))
    say = progress or (lambda stage, done, total: None)

    started = time.perf_counter()
    old = reuse.compiled if reuse is not None else None
    same = old is not None and _same_dims(old.inputs, inputs)
    if not same:
        say("compiling", 0, 1)
    compiled = old if same and old is not None else compile_model(inputs, prior, seed=settings.seed)
    compiled_at = time.perf_counter()
    raw = sample(
        compiled,
        settings,
        inputs=inputs if same else None,
        beliefs=prior if same else None,
        progress=say,
    )
    for again in range(1, _TIMES_MOVED + 1):
        posterior = unpack(raw, inputs, prior, seed=settings.seed)
        gate = diagnose(posterior, raw.stats["diverging"], names={"state": list(table["cell"])})
        if again == _TIMES_MOVED or not settings.rounds or not nearly(gate):
            break
        raw = moved_on(raw, settings, inputs=inputs, beliefs=prior, again=again, progress=say)
    meta = facts(frame, table, gate, prior, settings, form)
    meta["seconds"] = {"compile": compiled_at - started, "sample": time.perf_counter() - compiled_at}
    return Fit(posterior, raw.stats, inputs, prior, gate, meta, compiled, settings, prior_for=beliefs)


def prepared(
    frame: pd.DataFrame, form: str, beliefs: Callable[[Any], Beliefs] | None, cells: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, Beliefs, ModelInputs]:
    """The usable rows, their cells, the prior and the model's inputs; arguments and errors as in `fit`."""
    if form not in FORMS:
        raise UserError(f"unknown form {form!r}; choose one of {', '.join(FORMS)}")
    missing = [name for name in _NEEDED if name not in getattr(frame, "columns", ())]
    if missing:
        raise UserError(
            f"a fit reads the frame of a checked run table, and here {', '.join(missing[:4])} "
            f"{'are' if len(missing) > 1 else 'is'} missing; make one with runs.run_table or runs.read_runs, and give "
            "its .frame"
        )
    frame = usable(frame)
    if not (frame["status"] == "completed").any():
        raise UserError("no completed run in the table; a fit needs losses, add runs with status completed")
    frame = comparable(frame)
    table = cell_table(frame) if cells is None else cells
    design = design_for(cells_of(table))
    prior = default_beliefs(design, FORMS[form]) if beliefs is None else beliefs(design)
    return frame, table, prior, model_inputs(frame, design, cells=table)


def well_told(inputs: ModelInputs) -> bool:
    """Whether most cells have as many runs as numbers: nine, or four where one batch was run.

    Moves hold the laws fixed, then the states. Where runs say little, the cells of a new source go together, and only
    NUTS takes them far; such tables are small, and a draw of NUTS is cheap.
    """
    runs = np.bincount(inputs.cell, minlength=len(inputs.cells))
    numbers = np.where(np.isfinite(inputs.one_batch), 4, len(RESPONSES))
    return bool(np.median((runs / numbers)[runs > 0]) >= 1)


def _same_dims(a: ModelInputs, b: ModelInputs) -> bool:
    return (
        len(a.cells) == len(b.cells)
        and len(a.design.columns) == len(b.design.columns)
        and a.n_trunks == b.n_trunks
        and len(a.tied) == len(b.tied)
        and a.some_one_batch == b.some_one_batch
        and len(a.sources) == len(b.sources)
    )


def log_likelihood(fitted: Fit) -> Array:
    """log density of every run, (chain, draw, run), trunk effects included."""
    if fitted.parts is not None:
        # Where cells of one batch are sliced is every form's own.
        return fitted.parts.mixed(lambda one: {"run": log_likelihood(one)}, fitted.posterior["rho"].shape[1])["run"]
    p, i = fitted.posterior, fitted.inputs
    state, reference = np.moveaxis(p["state"], 2, 0), None  # (response, chain, draw, cell)
    if i.some_one_batch:
        reference = coordinates(i, fitted.beliefs).reference
        state = heard(state, i, reference)
    base, away = run_terms(state, i, reference)
    se = i.y_se
    if "trunk_effect" in p:
        none = np.zeros((*p["trunk_effect"].shape[:2], 1))
        base = base + np.concatenate([p["trunk_effect"], none], axis=2)[..., i.trunk]
        se = i.own_se(p["trunk_scale"])
    return run_log_density(
        i.y, base, away, p["sigma"][..., i.source], p["rho"][..., None], p["nu"][..., None], i.censored, se
    )


def grid_ends(inputs: ModelInputs) -> Array:
    """Lowest and highest log rate, then log batch, of each cell's runs, (4, cell); NaN where a cell has none."""
    grid = np.full((4, len(inputs.cells)), np.nan)
    for c in np.unique(inputs.cell):
        rows = inputs.cell == c
        grid[:, c] = (
            inputs.log_lr[rows].min(), inputs.log_lr[rows].max(),
            inputs.log_batch[rows].min(), inputs.log_batch[rows].max(),
        )  # fmt: skip
    return grid


def constants(inputs: ModelInputs) -> dict[str, tuple[tuple[str, ...], NDArray[Any]]]:
    """The constant_data group: name -> (dims, values)."""
    cells, text = inputs.cells, lambda names: np.array(list(names), dtype=object)
    return {
        "response": (("response",), text(RESPONSES)),
        "hyperparameter": (("hyperparameter",), text(HYPERPARAMETERS)),
        "role": (("role",), text(ROLES[1:])),
        "source": (("source",), text(inputs.sources)),
        "source_trunked": (("source",), np.isin(inputs.sources, inputs.trunked).astype(float)),
        "shared_parameter": (("shared_parameter",), text(SHARED)),
        "coefficient": (("coefficient",), text(inputs.design.columns)),
        "coefficient_role": (("coefficient",), text(inputs.design.roles)),
        "cell_source": (("cell",), text(cells.source)),
        "cell_arch": (("cell",), text(cells.arch)),
        "cell_data": (("cell",), text(cells.data)),
        "cell_n_params": (("cell",), cells.n_params),
        "cell_n_active": (("cell",), cells.n_active),
        "cell_n_tokens": (("cell",), cells.n_tokens),
        "cell_grid": (("edge", "cell"), grid_ends(inputs)),
        "fixed_offset_scale": (("response", "role"), fixed_offset_scales()),
    }


def tree_of(fitted: Fit, *, prior: Mapping[str, Array] | None = None) -> Any:
    """The fit as a DataTree with ArviZ's groups; `prior` are draws of the beliefs, as many as are looked at if None."""
    import xarray as xr

    def stated(one: Fit) -> dict[str, Array]:
        return prior_draws(one.inputs, one.beliefs, _PRIOR_DRAWS, one.settings.seed)

    if prior is None:
        prior = stated(fitted) if fitted.parts is None else fitted.parts.mixed(stated, _PRIOR_DRAWS)
    i = fitted.inputs
    run = np.array(i.run_ids, dtype=object)
    stats = {k: (("chain", "draw"), v) for k, v in fitted.stats.items() if v.ndim == 2 and v.dtype.kind in "fiub"}
    others = {
        "sample_stats": xr.Dataset(stats),
        "log_likelihood": xr.Dataset(
            {"log_loss": (("chain", "draw", "run"), log_likelihood(fitted).astype("float32"))}, {"run": run}
        ),
        "observed_data": xr.Dataset(
            {
                "log_loss": ("run", i.y),
                "censored": ("run", i.censored),
                "log_lr": ("run", i.log_lr),
                "log_batch": ("run", i.log_batch),
                "run_cell": ("run", i.cell),
            },
            {"run": run},
        ),
    }
    others["prior"] = to_tree(prior, {}, {})["posterior"].to_dataset()
    return to_tree(fitted.posterior, constants(i), fitted.meta, others=others)
