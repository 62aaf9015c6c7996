"""A fit moved on to a longer table: more runs in its cells, and new cells, without sampling from the start.

The posterior of a table that grew is near the old one, so the old draws are where its chains start: rounds of Gibbs
moves (`gibbs`) take them there. A new cell starts where its runs and its law put it (`mode.joint_mode`). Whether that
was enough is looked at, not assumed: every reported number must have forgotten its start, and the draws that are kept
may not drift; where they do not hold, the table is sampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import Beliefs, ModelInputs
from scaleband.bayes.beliefs import OWN, STATED
from scaleband.bayes.mode import Law, Rows, information, joint_mode, typical
from scaleband.errors import UserError
from scaleband.inference.fitting import DEFAULT_FORM, Fit, facts, fit, prepared
from scaleband.inference.gate import REPORTED, diagnose, nearly
from scaleband.inference.gibbs import Target, Values
from scaleband.inference.moves import move
from scaleband.inference.proposal import Proposal
from scaleband.inference.sampler import RawDraws, SamplerSettings
from scaleband.inference.unpack import own_std, scatters_of_cells, unpack
from scaleband.laws import FORMS, LEVEL, Cells

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_BURN = 20
"""Rounds before draws are kept; as many again, up to so often, until the start is forgotten."""
_BURNS = 6
_KEPT = 6
"""How often a draw is kept: few draws are moved many rounds."""
_KEEPS = 3
"""And so often again, from the last, while they drift or are too few."""
_SCATTERS = ("scatter", "scatter_level", "scatter_ratio")
_REMEMBERED = 0.35
"""Correlation of a reported number with where it started, after the burn: at most."""
_DRIFT = 0.3
"""Between the first and the last kept copy of the draws, in standard deviations: at most. Monte-Carlo error is 0.07."""


def refit(
    frame: pd.DataFrame,
    earlier: Fit,
    *,
    form: str | None = None,
    beliefs: Callable[[Any], Beliefs] | None = None,
    settings: SamplerSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Fit:
    """Fit a table that has the runs of an earlier fit, and more.

    Parameters
    ----------
    frame
        `RunTable.frame`: the earlier table, changed a little or grown.
    earlier
        A fit of the earlier table, of one form.
    form, beliefs
        As in `fitting.fit`; the earlier fit's where they are left out.
    settings, progress
        As in `fitting.fit`.

    Returns
    -------
    The fit. `meta["refit"]` says how: "moved", or "sampled" and why.

    Raises
    ------
    UserError
        As `fitting.fit`; the earlier fit is a stack of forms; its prior is not known, or has a form of its own.
    """
    settings = settings or SamplerSettings()
    form, beliefs = _as_earlier(earlier, form, beliefs)
    started = time.perf_counter()
    frame, table, prior, inputs = prepared(frame, form, beliefs)

    def sampled(why: str) -> Fit:
        done = fit(frame, form=form, beliefs=beliefs, settings=settings, reuse=earlier, progress=progress)
        done.meta["refit"] = f"sampled: {why}"
        return done

    known = _known(earlier.inputs.cells, inputs.cells)
    if inputs.some_one_batch or earlier.inputs.some_one_batch:
        return sampled("cells with one batch")
    if len(known) < len(earlier.inputs.cells):
        return sampled("cells of the earlier fit are gone")
    if not set(inputs.sources) <= set(earlier.inputs.sources):
        return sampled("a new source")
    rng = np.random.default_rng([settings.seed, 12])
    at, offered = _start(earlier, inputs, prior, known, max(settings.draws // _KEPT, 50), rng)
    first = unpack(RawDraws(at, {}), inputs, prior, seed=settings.seed)
    say = progress or (lambda stage, done, total: None)
    for burn in range(_BURNS):
        at, _ = move(
            at, inputs, prior, reference=None, rounds=_BURN, seed=settings.seed + 100 + burn,
            proposals=offered if burn == 0 else None,  # later on as the draws show them
            progress=lambda done, total: say("moving", done, total),
        )  # fmt: skip
        now = unpack(RawDraws(at, {}), inputs, prior, seed=settings.seed)
        remembered, where = _correlation(first, now)
        if remembered <= _REMEMBERED:
            break
    else:
        return sampled(f"after {_BURN * _BURNS} rounds {where} still remembers its start ({remembered:.2f})")
    for again in range(_KEEPS):
        kept, share = move(
            at, inputs, prior, reference=None, rounds=max(settings.rounds // 2, 1), copies=_KEPT,
            seed=settings.seed + 200 + again, progress=lambda done, total: say("keeping", done, total),
        )  # fmt: skip
        posterior = unpack(RawDraws(kept, {}), inputs, prior, seed=settings.seed)
        stats = {"diverging": np.zeros(share.shape, bool), "moved": share}
        gate = diagnose(posterior, stats["diverging"], names={"state": list(table["cell"])})
        drift, where = _drift(posterior)
        if drift <= _DRIFT and not nearly(gate):
            break
        at = {name: v[:, _KEPT - 1 :: _KEPT] for name, v in kept.items()}
    if drift > _DRIFT:
        return sampled(f"{where} still drifts ({drift:.2f} standard deviations)")
    meta = facts(frame, table, gate, prior, settings, form)
    meta["seconds"] = {"compile": 0.0, "sample": time.perf_counter() - started}
    meta["refit"] = "moved"
    same = len(inputs.cells) == len(earlier.inputs.cells)
    compiled = earlier.compiled if same else None
    return Fit(posterior, stats, inputs, prior, gate, meta, compiled, settings, prior_for=beliefs)


def _as_earlier(
    earlier: Fit, form: str | None, beliefs: Callable[[Any], Beliefs] | None
) -> tuple[str, Callable[[Any], Beliefs] | None]:
    """Form and prior: those given, else the earlier fit's."""
    before = str(earlier.meta["form"])
    if earlier.parts is not None:
        raise UserError(
            f"the earlier fit is a stack of {', '.join(earlier.parts.fits)}, each with draws of its own; fit the table "
            "again with inference.forms.fit_forms, or refit one of them: earlier.parts.fits[form]"
        )
    # Beside a prior that was made for the fit the form is not looked at, and need not be one that can be asked for.
    named = form or (before if before in FORMS else DEFAULT_FORM)
    if beliefs is not None:
        return named, beliefs
    origin = earlier.beliefs.origin
    if earlier.prior_for is None and origin != STATED:
        raise UserError(f"how the earlier fit's prior ({origin}) was made is not known; give beliefs")
    if earlier.prior_for is not None and form not in (None, before):
        raise UserError(
            f"the earlier fit's prior ({origin}) is of form {before}, not {form}; leave form out, or give beliefs too"
        )
    return named, earlier.prior_for


def _names(cells: Cells) -> list[tuple[Any, ...]]:
    return list(zip(cells.source, cells.arch, cells.data, cells.n_params, cells.n_active, cells.n_tokens, strict=True))


def _known(old: Cells, new: Cells) -> NDArray[np.int64]:
    """Where the old cells are among the new, those that still are."""
    place = {name: k for k, name in enumerate(_names(new))}
    return np.array([place[name] for name in _names(old) if name in place], dtype=np.int64)


def _start(
    earlier: Fit, inputs: ModelInputs, prior: Beliefs, known: NDArray[np.int64], n: int, rng: np.random.Generator
) -> tuple[Values, list[Proposal]]:
    """`n` of the earlier draws a chain as draws about the new table, and the proposals to begin with."""
    n_draws = earlier.posterior["rho"].shape[1]
    pick = np.unique(np.linspace(0, n_draws - 1, min(n, n_draws)).astype(int))
    old = {name: v[:, pick] for name, v in earlier.posterior.items()}
    shape = old["rho"].shape
    from_old = [earlier.inputs.sources.index(s) for s in inputs.sources]

    at = {
        "shared_std": np.linalg.solve(prior.shared_factor, (old["shared"] - prior.shared_mean)[..., None])[..., 0],
        "log_sigma_std": own_std("log_sigma", old["sigma"][..., from_old]),
        "log_scatter_level_std": own_std("log_scatter_level", old["scatter_level"][..., from_old]),
    }
    if inputs.several_sources:
        at["log_scatter_ratio_std"] = own_std("log_scatter_ratio", old["scatter_ratio"][..., from_old])
    if inputs.n_trunks:
        # Of trunks that are new nothing is known; draws of the prior let it be seen whether the start was forgotten.
        mean, sd, _ = OWN["log_trunk"]
        scale = old["trunk_scale"] if "trunk_scale" in old else np.exp(mean + sd * rng.standard_normal(shape))
        at["log_trunk_std"] = own_std("log_trunk", scale)
        at["trunk_effect"] = scale[..., None] * rng.standard_normal((*shape, inputs.n_trunks))
        before = dict(zip(earlier.inputs.run_ids, earlier.inputs.trunk.tolist(), strict=True))
        for run_id, trunk in zip(inputs.run_ids, inputs.trunk.tolist(), strict=True):
            was = before.get(run_id, earlier.inputs.n_trunks)
            if trunk < inputs.n_trunks and was < earlier.inputs.n_trunks:
                at["trunk_effect"][..., trunk] = old["trunk_effect"][..., was]

    # Known cells alone: what their draws show; then all cells, the new ones around the joint mode.
    chains, target = range(shape[0]), Target.of(inputs, prior, None)
    new = np.setdiff1d(np.arange(len(inputs.cells)), known)
    state = np.empty((*shape, len(earlier.posterior["state"][0, 0]), len(inputs.cells)))
    state[..., known] = old["state"]
    told, slope = _laplace(inputs, prior, earlier)
    proposals = []
    for k in chains:
        one = {name: v[k] for name, v in at.items()} | {"state": state[k]}
        spread = target.scatter(one)
        law = target.law(one, spread, rng, cells=known)[0]
        shown = Proposal.of(state[k][..., known], law[..., known], spread[..., known])
        every, pull = told.copy(), slope.copy()
        every[known], pull[known] = shown.told, shown.slope
        proposals.append(Proposal(every, pull))
        if new.size:
            factor = proposals[-1].factor(spread)
            centre = proposals[-1].centre(factor, law, spread)
            drawn = centre + (factor @ rng.standard_normal((*centre.shape, 1)))[..., 0]
            state[k][..., new] = drawn.transpose(0, 2, 1)[..., new]
    # Each chain is offered where the others are, as in `move`.
    others = proposals[1:] + proposals[:1]
    return at | {"state": state}, others


def _laplace(inputs: ModelInputs, prior: Beliefs, earlier: Fit) -> tuple[Array, Array]:
    """`Proposal.told` and `slope` of every cell at the joint mode, noise and scatters as the earlier fit has them."""
    p = earlier.posterior
    at = typical(prior, inputs)
    from_old = [earlier.inputs.sources.index(s) for s in inputs.sources]
    middle = {name: np.median(p[name], axis=(0, 1))[None] for name in _SCATTERS if name in p}
    middle |= {name: middle[name][..., from_old] for name in _SCATTERS[1:] if name in p}
    scatter = scatters_of_cells(middle, inputs)[0]
    at = replace(
        at, scatter=scatter, sigma=np.median(p["sigma"], axis=(0, 1))[from_old], rho=float(np.median(p["rho"])),
        nu=float(np.median(p["nu"])),
    )  # fmt: skip
    rows, law = Rows.of(inputs, at), Law(inputs, prior, at)
    start = law.mean.copy()
    start[[0, 1, LEVEL]] = inputs.best.T
    mode, errors = joint_mode(rows, law, start, np.zeros(inputs.n_trunks + 1))
    mean, e = rows.predicted(mode, None)
    less = information(at.nu) * at.nu / (at.nu + 1)  # as in `bayes.coordinates`
    weight = less * rows.weight(rows.y - mean - errors[rows.trunk], rows.own_variance(e))
    told = rows.precision(rows.jacobian(mode), weight)
    return told, np.einsum("crs,sc->cr", told, mode)


def _numbers(posterior: dict[str, Array]) -> list[tuple[str, Array]]:
    """Reported numbers that vary, scales as their logarithms: name, (chain, draw, ...)."""
    out = []
    for name in (n for n in REPORTED if n in posterior):
        value = posterior[name]
        flat = value.reshape(*value.shape[:2], -1)
        flat = np.log(np.where(flat > 0, flat, 1.0)) if name in ("scatter", "offset_scale", "sigma") else flat
        out += [(f"{name}[{k}]", flat[..., k]) for k in range(flat.shape[2]) if np.ptp(flat[..., k]) > 0]
    return out


def _correlation(before: dict[str, Array], after: dict[str, Array]) -> tuple[float, str]:
    """The largest, of a reported number with itself later, draw by draw."""
    pairs = zip(_numbers(before), _numbers(after), strict=True)
    return max((float(np.corrcoef(a.ravel(), b.ravel())[0, 1]), name) for (name, a), (_, b) in pairs)


def _drift(posterior: dict[str, Array]) -> tuple[float, str]:
    """The largest difference of means between first and last copies, in standard deviations."""

    def of(value: Array) -> float:
        first, last = value[:, ::_KEPT], value[:, _KEPT - 1 :: _KEPT]
        return float(abs(first.mean() - last.mean()) / value.std())

    return max((of(value), name) for name, value in _numbers(posterior))
