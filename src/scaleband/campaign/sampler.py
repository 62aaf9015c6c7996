"""The proposer as an Optuna sampler: for a study that exists already and wants its rates and batches chosen here."""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from scaleband.campaign.proposers import PROPOSERS
from scaleband.campaign.refit import check_prior, posterior_for
from scaleband.campaign.settings import INPUTS, Settings, plain_target, setting_key, setting_problems
from scaleband.campaign.strategies import Request, settings_in
from scaleband.errors import UserError
from scaleband.laws import CENSOR_ABOVE

if TYPE_CHECKING:
    import pandas as pd

KNOWN = ("lr_peak", "batch_tokens", "n_params", "n_tokens")
"""Names of parameters that this sampler chooses; a study's other parameters are sampled at random."""

_STOPPED = (TrialState.FAIL, TrialState.PRUNED)

_MARK = "scaleband"
"""System attribute of a trial: what was chosen for it, and why."""

_CHOOSING = threading.Lock()
"""Threads of a study choose one after another: at the same time they would all choose the same run."""

_STEPS = {"lr_peak": 13, "batch_tokens": 9, "n_params": 5, "n_tokens": 5}


class ScalebandSampler(optuna.samplers.BaseSampler):
    """Chooses `lr_peak` and `batch_tokens` (and sizes, if they are searched too) of an Optuna study's trials.

    Every trial is a training run, and the study minimises its loss. Completed trials are the history, running ones are
    pending; the next trial's parameters are what the strategy proposes first. Where it proposes nothing, Optuna's
    random sampler takes over.

    A trial that was pruned or failed tells nothing about the loss; its setting is not proposed again. It diverged,
    which is told, if the last loss that it reported is not finite, or 1.5 times as high as the lowest that a trial of
    its cell, itself included, had reported by that step. A completed trial diverged if its value is infinite.

    Threads of a study (`n_jobs`) choose one after another, each knowing what the others were given. Processes that
    share a storage know that of each other too, but two that ask at the same moment may choose the same run.

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
        A trial that was pruned or failed is charged up to the last step that it reported, where completed trials show
        that the study's steps are optimizer steps, else in full. One without a size that is searched has no price.
    device
        As in a campaign's settings: what a trial costs beside its training.
    prior, trust, draws, tune, chains, seed, target_runs
        As in a campaign's settings.
    cache
        Folder for sampled posteriors, made if it is not there; a temporary one by default.

    Raises
    ------
    UserError
        A strategy, a parameter or a prior that is not known, or a setting that a campaign would refuse.
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
        asked = Settings(
            "study", target, budget_flops, strategy=strategy, options=options or {}, prior=prior, trust=trust,
            draws=draws, tune=tune, chains=chains, seed=seed, target_runs=target_runs, device=device or {},
        )  # fmt: skip
        endless = budget_flops == math.inf  # no limit, which a campaign must have
        if problems := setting_problems(replace(asked, budget_flops=1.0) if endless else asked, list(PROPOSERS)):
            raise UserError(problems)
        self._settings = replace(asked, target=plain_target(target))
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
        with _CHOOSING:
            trials = [_as_given(t) for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            self._refuse_other_values(study, trials)
            request = self._request(trials, trial.number)
            answer = PROPOSERS[self._settings.strategy](request, 1)
            if not answer.proposals:
                return {}
            inputs = answer.proposals[0].inputs
            chosen = {name: self._external(name, float(inputs[name])) for name in search_space}
            study._storage.set_trial_system_attr(
                trial._trial_id,
                _MARK,
                {"verdict": answer.to_json()["verdict"], "draws": answer.draws_digest, "chosen": chosen},
            )
        return chosen

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _request(self, trials: Sequence[FrozenTrial], number: int) -> Request:
        from scaleband.campaign.records import table_of

        ours = [t for t in trials if self._ours(t)]
        stopped = {t.number for t in ours if t.state in _STOPPED and not self._diverged(t, ours)}
        told = [t for t in ours if t.state in (TrialState.COMPLETE, *_STOPPED) and t.number not in stopped]
        # What failed is given up, as in a campaign; what was pruned was made, and would be pruned again.
        keys = {state: {self._key(t) for t in ours if t.number in stopped and t.state is state} for state in _STOPPED}

        def table(some: Sequence[FrozenTrial]) -> pd.DataFrame | None:
            rows = [self._row(t) for t in some]
            columns = {k: [row[k] for row in rows] for k in rows[0]} if rows else {}
            return table_of([], Settings("study", self._settings.target, 0.0, given=columns))

        history = table(told)
        folder = self._cache
        assert folder is not None  # made where none was given
        candidates = self._candidates()
        overhead = self._settings.overhead_flops
        budget = min(self._settings.budget_flops - self._spent(trials), float((candidates["flops"] + overhead).sum()))
        return Request(
            target=self._settings.target, candidates=candidates, limits={}, history=history,
            pending=table([t for t in ours if t.state is TrialState.RUNNING]),
            given_up=frozenset(keys[TrialState.FAIL] - settings_in(history)), made=frozenset(keys[TrialState.PRUNED]),
            budget_flops=max(budget, 0.0), target_runs=self._settings.target_runs,
            draws=lambda: posterior_for(folder, history, self._settings).draws,
            seed=int(np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0]),
            options=self._settings.options, overhead_flops=overhead,
        )  # fmt: skip

    def _refuse_other_values(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        """A study's values are losses, or nothing can be learned from them."""
        if len(study.directions) > 1 or study.direction is optuna.study.StudyDirection.MAXIMIZE:
            has = f"has {len(study.directions)} objectives" if len(study.directions) > 1 else "maximises its value"
            raise UserError(f"the study {has}, and this sampler chooses for a loss; make a study with "
                            'direction="minimize" whose objective returns the loss alone')  # fmt: skip
        for t in trials:
            if t.state is TrialState.COMPLETE and self._ours(t) and t.value is not None and not t.value > 0:
                raise UserError(f"trial {t.number} has the value {t.value:g}, and a loss is positive; return the loss "
                                "itself, not its logarithm or its negative, in a new study")  # fmt: skip

    def _spent(self, trials: Sequence[FrozenTrial]) -> float:
        """What all trials that began cost, FLOP."""
        from scaleband.runs import training_flops

        ends = [
            self._share_seen(t)
            for t in trials
            if t.state is TrialState.COMPLETE and t.intermediate_values and self._ours(t)
        ]
        counted = bool(ends) and min(ends) > 0.5  # else a step may be an epoch, or anything
        spent = 0.0
        for t in trials:
            if t.state is TrialState.WAITING or not all(k in t.params for k in self._space if k in KNOWN[2:]):
                continue
            chosen = self._inputs({k: t.params[k] for k in self._space if k in t.params})
            cut = counted and t.state in _STOPPED and t.intermediate_values and self._ours(t)
            share = min(1.0, self._share_seen(t)) if cut else 1.0
            flops = training_flops(float(chosen["n_active"]), float(chosen["n_tokens"]))
            spent += share * flops + self._settings.overhead_flops
        return spent

    def _share_seen(self, trial: FrozenTrial) -> float:
        """The last step that a trial reported, as a share of its training, if it is an optimizer step."""
        chosen = self._inputs({k: trial.params[k] for k in self._space})
        return float(max(trial.intermediate_values) * chosen["batch_tokens"] / chosen["n_tokens"])

    def _diverged(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a trial that was stopped is known to end where a loss says only "at least that high"."""
        if not trial.intermediate_values:
            return False
        step = max(trial.intermediate_values)
        last = trial.intermediate_values[step]
        sizes = [k for k in self._space if k in KNOWN[2:]]
        # At an early step every loss is far above the best at the end: only what others had by then is a yardstick.
        by_then = [
            v
            for t in trials
            if all(t.params[k] == trial.params[k] for k in sizes)
            for s, v in t.intermediate_values.items()
            if s <= step and v > 0
        ]
        return not math.isfinite(last) or last >= math.exp(CENSOR_ABOVE / 100) * min(by_then, default=math.inf)

    def _key(self, trial: FrozenTrial) -> str:
        return setting_key(self._inputs({k: trial.params[k] for k in self._space}))

    def _ours(self, trial: FrozenTrial) -> bool:
        return all(name in trial.params for name in self._space)

    def _inputs(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of the run table; NaN for a rate or a batch that was not chosen."""
        full = {"lr_peak": math.nan, "batch_tokens": math.nan, **self._settings.target, **self._fixed}
        full |= {k: float(v) for k, v in chosen.items()}
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


def _as_given(trial: FrozenTrial) -> FrozenTrial:
    """A running trial with the parameters that it was given, also before its objective has asked for them."""
    given = {
        **trial.system_attrs.get(_MARK, {}).get("chosen", {}),
        **trial.system_attrs.get("fixed_params", {}),  # of an enqueued trial
    }
    if trial.state is not TrialState.RUNNING or not given:
        return trial
    out = copy.copy(trial)
    out.params = {**given, **trial.params}
    return out


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
