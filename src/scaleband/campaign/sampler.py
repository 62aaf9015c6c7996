"""The proposer as an Optuna sampler: for a study that exists already and wants its rates and batches chosen here."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from scaleband.campaign.proposers import PROPOSERS
from scaleband.campaign.refit import check_prior, posterior_for
from scaleband.campaign.settings import INPUTS, Settings, device_problems, plain_target
from scaleband.campaign.strategies import Request
from scaleband.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

KNOWN = ("lr_peak", "batch_tokens", "n_params", "n_tokens")
"""Names of parameters that this sampler chooses; a study's other parameters are sampled at random."""

_STEPS = {"lr_peak": 13, "batch_tokens": 9, "n_params": 5, "n_tokens": 5}


class ScalebandSampler(optuna.samplers.BaseSampler):
    """Chooses `lr_peak` and `batch_tokens` (and sizes, if they are searched too) of an Optuna study's trials.

    Every trial is a training run. Finished trials are the history (a pruned one, or one without a finite value,
    diverged), running ones are pending; the next trial's parameters are what the strategy proposes first. Where it
    proposes nothing, Optuna's random sampler takes over.

    Parameters
    ----------
    target
        The cell that the answer is for: source, data, n_params, n_tokens; arch and n_active.
    space
        Name (out of `KNOWN`) -> Optuna distribution, the same that the objective suggests from. `lr_peak` and
        `batch_tokens` must be there.
    strategy, options
        As in a campaign's settings. "evsi" samples a posterior after each told trial, which takes tens of seconds.
    fixed
        Run-table inputs of every trial that are not in `space`; those of the target by default.
    budget_flops
        What all trials of the study may cost together, FLOP, those that were made before included; no limit by default.
    device
        As in a campaign's settings: what a trial costs beside its training.
    prior, trust, draws, tune, chains, seed, target_runs
        As in a campaign's settings.
    cache
        Folder for sampled posteriors, made if it is not there; a temporary one by default.

    Raises
    ------
    UserError
        A strategy, a parameter or a prior that is not known.
    """

    def __init__(
        self,
        target: Mapping[str, str | float],
        space: Mapping[str, BaseDistribution],
        *,
        strategy: str = "evsi",
        options: Mapping[str, Any] | None = None,
        fixed: Mapping[str, str | float] | None = None,
        budget_flops: float = math.inf,
        device: Mapping[str, float | None] | None = None,
        prior: str = "",
        trust: float = 1.0,
        draws: int = 1000,
        tune: int = 500,
        chains: int = 2,
        seed: int = 1,
        target_runs: float = 1.0,
        cache: str | Path | None = None,
    ) -> None:
        unknown = sorted(set(space) - set(KNOWN))
        missing = [name for name in KNOWN[:2] if name not in space]
        if unknown or missing:
            raise UserError(f"the space has {sorted(space)}; this sampler chooses {', '.join(KNOWN)}, of which lr_peak "
                            "and batch_tokens must be there; leave other parameters to the study")  # fmt: skip
        if strategy not in PROPOSERS:
            raise UserError(f"there is no strategy {strategy!r}; choose one of {', '.join(PROPOSERS)}")
        self._settings = Settings(
            "study", plain_target(target), budget_flops, strategy=strategy, options=options or {}, prior=prior,
            trust=trust, draws=draws, tune=tune, chains=chains, seed=seed, target_runs=target_runs, device=device or {},
        )  # fmt: skip
        if problems := device_problems(self._settings.device):
            raise UserError(problems)
        check_prior(self._settings)
        self._space = dict(space)
        self._fixed = dict(fixed or {})
        self._cache: Path | None = None if cache is None else Path(cache)
        if self._cache is None:
            self._cache = Path(tempfile.mkdtemp(prefix="scaleband-"))
            weakref.finalize(self, shutil.rmtree, self._cache, True)
        self._random = optuna.samplers.RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        """Of the random sampler that fills in; proposals follow `seed` and the study."""
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The space that was given."""
        return dict(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the strategy proposes first, or nothing."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        request = self._request(trials, trial.number)
        answer = PROPOSERS[self._settings.strategy](request, 1)
        if not answer.proposals:
            return {}
        chosen = answer.proposals[0]
        study._storage.set_trial_system_attr(
            trial._trial_id,
            "scaleband",
            {"verdict": answer.to_json()["verdict"], "draws": answer.draws_digest},
        )
        return {name: self._external(name, float(chosen.inputs[name])) for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _request(self, trials: Sequence[FrozenTrial], number: int) -> Request:
        from scaleband.campaign.records import table_of

        done = [
            self._row(t)
            for t in trials
            if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and self._ours(t)
        ]
        out = [self._row(t) for t in trials if t.state is TrialState.RUNNING and self._ours(t)]

        def table(rows: list[dict[str, Any]]) -> pd.DataFrame | None:
            columns = {k: [row[k] for row in rows] for k in rows[0]} if rows else {}
            return table_of([], Settings("study", self._settings.target, 0.0, given=columns))

        history = table(done)
        folder = self._cache
        assert folder is not None  # made where none was given
        candidates = self._candidates()
        overhead = self._settings.overhead_flops
        spent = sum(row["flops"] + overhead for row in done + out)
        budget = min(self._settings.budget_flops - spent, float((candidates["flops"] + overhead).sum()))
        return Request(
            target=self._settings.target, candidates=candidates, limits={}, history=history, pending=table(out),
            given_up=frozenset(), budget_flops=max(budget, 0.0), target_runs=self._settings.target_runs,
            draws=lambda: posterior_for(folder, history, self._settings).draws,
            seed=int(np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0]),
            options=self._settings.options, overhead_flops=overhead,
        )  # fmt: skip

    def _ours(self, trial: FrozenTrial) -> bool:
        return all(name in trial.params for name in self._space)

    def _inputs(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        full = {**self._settings.target, **self._fixed, **{k: float(v) for k, v in chosen.items()}}
        if "n_active" not in self._fixed:  # the target's share of active parameters holds at every size
            share = float(self._settings.target["n_active"]) / float(self._settings.target["n_params"])
            full["n_active"] = float(full["n_params"]) * share
        return {k: full[k] for k in INPUTS}

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        from scaleband.runs import training_flops

        inputs = self._inputs({k: trial.params[k] for k in self._space})
        value = trial.value if trial.state is TrialState.COMPLETE else None
        finite = value is not None and math.isfinite(value)
        status = "running" if trial.state is TrialState.RUNNING else "completed" if finite else "diverged"
        flops = training_flops(float(inputs["n_active"]), float(inputs["n_tokens"]))
        return {
            "run_id": f"trial-{trial.number}",
            **inputs,
            "status": status,
            "loss": value if finite else None,
            "flops": flops,
        }

    def _candidates(self) -> pd.DataFrame:
        import pandas as pd

        from scaleband.runs import training_flops

        axes = [grid_of(name, d) for name, d in self._space.items()]
        rows = [self._inputs(dict(zip(self._space, values, strict=True))) for values in product(*axes)]
        frame = pd.DataFrame([r for r in rows if r["batch_tokens"] <= r["n_tokens"]])
        return frame.assign(flops=training_flops(frame["n_active"], frame["n_tokens"]))

    def _external(self, name: str, value: float) -> Any:
        """As the distribution writes it: a choice, or a whole number."""
        distribution = self._space[name]
        if isinstance(distribution, CategoricalDistribution):
            return min(distribution.choices, key=lambda c: abs(math.log(float(c) / value)))  # type: ignore[arg-type]
        return round(value) if isinstance(distribution, IntDistribution) else value


def grid_of(name: str, distribution: BaseDistribution) -> list[float]:
    """Values of one parameter that are on offer: every choice, every step, or some per range, evenly in log.

    Raises
    ------
    UserError
        A distribution that is not one of positive numbers.
    """
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        if not all(isinstance(v, int | float) and v > 0 for v in choices):
            raise UserError(
                f"the choices of {name} are not all positive numbers; give rates, tokens and counts as numbers"
            )
        return sorted(float(v) for v in choices if v is not None)
    if not isinstance(distribution, FloatDistribution | IntDistribution) or not distribution.low > 0:
        raise UserError(f"{name} needs a range of positive numbers; its lowest value is above 0")
    low, high, step = float(distribution.low), float(distribution.high), distribution.step
    steps = _STEPS[name]
    if step is not None and not distribution.log and (high - low) / step < steps:
        return [float(v) for v in np.arange(low, high + step / 2, step)]
    values = np.geomspace(low, high, steps)
    if isinstance(distribution, IntDistribution):
        unit = float(distribution.step or 1)
        values = np.unique(np.clip(low + np.round((values - low) / unit) * unit, low, high))
    elif step is not None:
        values = np.unique(low + np.round((values - low) / step) * step)
    return [float(v) for v in values]
