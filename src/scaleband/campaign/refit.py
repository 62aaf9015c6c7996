"""The posterior of a campaign's data, sampled once per data and kept in the campaign's folder by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.campaign.diverged import PARTICLES, weighed
from scaleband.campaign.proposers import target_of
from scaleband.campaign.settings import Settings
from scaleband.campaign.storage import write_json
from scaleband.errors import UserError
from scaleband.inference.released import prior_path
from scaleband.laws import LawDraws

if TYPE_CHECKING:
    import pandas as pd

FITS = "fits"
_LOOKS_AT = ("run_id", "source", "arch", "data", "n_params", "n_active", "n_tokens", "seq_len", "lr_peak",
             "batch_tokens", "loss", "loss_se", "status", "trunk")  # fmt: skip

_OF_A_NEW_CAMPAIGN = (
    " (these belong to `campaign init`: write the runs with `campaign status --runs-out RUNS.csv`, and start a new "
    "campaign with those that ended: --runs RUNS.csv)"
)


@dataclass(frozen=True)
class Posterior:
    """What a campaign knows at some moment.

    Attributes
    ----------
    draws
        Of the laws, given the data and the prior.
    digest
        SHA-256 of data, prior and sampler settings: the name of the cached file.
    n_runs
        Runs behind it; 0: it is the prior.
    gate_messages
        What the diagnostic gate says; empty if it passed.
    conflicts
        Where prior and data disagree, one sentence each.
    n_completed
        Those of the runs that have a loss; 0: it is the prior, weighted by the runs that diverged.
    """

    draws: LawDraws
    digest: str
    n_runs: int
    gate_messages: tuple[str, ...]
    conflicts: tuple[str, ...]
    n_completed: int = 0


def check_prior(settings: Settings) -> None:
    """Read the prior now, so that a campaign never starts with one that cannot be used.

    Raises
    ------
    UserError
        It cannot be read, or was fitted to some of the given runs already.
    """
    if not settings.prior:
        return
    from scaleband.inference.store import read_draws

    prior = read_draws(prior_path(settings.prior))
    given = settings.given_frame()
    if given is None:
        return
    from scaleband.inference.prior import overlapping_runs
    from scaleband.runs.defaults import is_filled

    twice = overlapping_runs(prior, [i for i in map(str, given["run_id"]) if not is_filled(i)])
    if twice:
        raise UserError(
            f"{len(twice):,} of the given runs (run_id {twice[0]}, ...) are among those that {settings.prior} was "
            "fitted to and would count twice; leave them out, or start without a prior"
        )


def posterior_for(
    folder: Path,
    history: pd.DataFrame | None,
    settings: Settings,
    progress: Callable[[str, int, int], None] | None = None,
) -> Posterior:
    """The posterior given a run table; the prior where the table has none of use.

    Groups without a completed run are not fitted, for want of a level; what their diverged runs say of rate and batch
    is weighed in afterwards (`diverged.weighed`).

    Parameters
    ----------
    folder
        The campaign's; `fits/` in it holds what was sampled before.
    history
        Run table, or None.
    settings
        Prior, trust, form, sampler, seed.
    progress
        Called with (stage, done, total) while sampling.

    Raises
    ------
    UserError
        The prior cannot be read, or the cache cannot be written.
    """
    from scaleband.runs import without_level

    key = data_digest(history, settings)
    blown = None if history is None else without_level(history)
    n_blown = 0 if blown is None else len(blown)
    completed = 0 if history is None else int((history["status"] == "completed").sum())
    if history is None or not completed:
        count = max(PARTICLES, settings.draws * settings.chains) if n_blown else None
        found = Posterior(prior_draws_of(settings, key, count), key, n_blown, (), ())
    else:
        n_runs = int(history["status"].isin(("completed", "diverged")).sum())
        path = folder / FITS / f"{key[:32]}.nc"
        if not _kept(path):
            _sample(path, history, settings, progress)
        found = _read(path, key, n_runs, completed)
    if blown is None or not n_blown:
        return found
    draws = weighed(found.draws, blown, settings.draws * settings.chains, [settings.seed, int(key[:8], 16)])
    gate: Any = draws.meta["gate"]
    return replace(found, draws=draws, gate_messages=tuple(gate["messages"]))


def known_posterior(folder: Path, history: pd.DataFrame | None, settings: Settings) -> Posterior | None:
    """The posterior if it costs nothing: sampled before, or the prior; else None."""
    key = data_digest(history, settings)
    if (
        history is None
        or not (history["status"] == "completed").any()
        or _kept(folder / FITS / f"{key[:32]}.nc")
    ):
        return posterior_for(folder, history, settings)
    return None


def _kept(path: Path) -> bool:
    return path.is_file() and path.with_suffix(".json").is_file()


def _read(path: Path, key: str, n_runs: int, n_completed: int) -> Posterior:
    from scaleband.inference.store import read_draws

    draws = read_draws(path)
    gate: Any = draws.meta["gate"]
    said = [m + _OF_A_NEW_CAMPAIGN if "try --" in m else m for m in gate["messages"]]
    draws = replace(draws, meta={**draws.meta, "gate": {**gate, "messages": said}})
    conflicts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["conflicts"]
    return Posterior(draws, key, n_runs, tuple(said), tuple(conflicts), n_completed)


def _sample(
    path: Path, history: pd.DataFrame, settings: Settings, progress: Callable[[str, int, int], None] | None
) -> None:
    from scaleband.inference.fitting import fit, tree_of
    from scaleband.inference.prior import prior_data_conflict
    from scaleband.inference.sampler import SamplerSettings
    from scaleband.inference.store import write_netcdf

    sampler = SamplerSettings(
        draws=settings.draws, tune=settings.tune, chains=settings.chains, seed=settings.seed
    )
    fitted = fit(
        history, form=settings.form, settings=sampler, beliefs=_beliefs(settings), progress=progress
    )  # fmt: skip
    fitted = replace(fitted, meta={**fitted.meta, "name": f"campaign {settings.name}"})
    conflicts = prior_data_conflict(fitted) if settings.prior else []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_netcdf(tree_of(fitted), path)
        write_json(path.with_suffix(".json"), {"conflicts": conflicts})
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__}); free some space, or mend its "
            "permissions"
        ) from None


def _beliefs(settings: Settings) -> Callable[[Any], Any] | None:
    if not settings.prior:
        return None
    from scaleband.inference.prior import beliefs_from
    from scaleband.inference.store import read_draws
    from scaleband.laws import FORMS

    prior = read_draws(prior_path(settings.prior))
    return lambda design: beliefs_from(prior, design, FORMS[settings.form], settings.trust)


def prior_draws_of(settings: Settings, key: str, count: int | None = None) -> LawDraws:
    """The stated beliefs, or those of the released model at the given trust, as draws with the target as one cell.

    `count` draws, by default as many as a fit has.
    """
    from scaleband.bayes import default_beliefs
    from scaleband.bayes.beliefs import fixed_offset_scales
    from scaleband.bayes.simulate import simulate_states
    from scaleband.laws import FORMS, design_for

    cells = target_of(settings.target)
    design = design_for(cells)
    make = _beliefs(settings)
    beliefs = default_beliefs(design, FORMS[settings.form]) if make is None else make(design)
    rng = np.random.default_rng([settings.seed, int(key[:8], 16)])
    count = settings.draws * settings.chains if count is None else count
    flat = simulate_states(cells, design, beliefs, rng, count)
    meta: dict[str, object] = {
        "name": f"campaign {settings.name}, nothing told yet", "prior": beliefs.origin, "conventions": {},
        "gate": {"passed": True, "messages": []}, "n_runs": 0, "n_cells": 0,
        "form": beliefs.form or settings.form,
    }  # fmt: skip
    sources = tuple(sorted(set(cells.source)))
    return LawDraws.of(flat, fixed_offset_scales(), design=design, cells=cells, sources=sources, meta=meta)


def _digest_of(prior: Path) -> str:
    try:
        return hashlib.sha256(prior.read_bytes()).hexdigest()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"{prior}: the fit that this campaign starts from cannot be read ({why}); put it back there (runs are told "
            "without it, nothing is proposed or recommended)"
        ) from None


def data_digest(history: pd.DataFrame | None, settings: Settings) -> str:
    """SHA-256 of everything that decides a posterior, but for the code and the machine; raises UserError where a
    prior's file is gone."""
    rows: Any = []
    if history is not None:
        used = history[history["status"].isin(("completed", "diverged"))]
        rows = [[c, [repr(v) for v in used[c].tolist()]] for c in _LOOKS_AT if c in used]
    prior = _digest_of(prior_path(settings.prior)) if settings.prior else ""
    names = ("trust", "form", "draws", "tune", "chains", "seed")
    how = [prior, *(getattr(settings, k) for k in names)]
    if not rows:
        how.append(sorted(settings.target.items()))
    return hashlib.sha256(json.dumps([how, rows]).encode()).hexdigest()
