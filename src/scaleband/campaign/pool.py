"""Trials in Optuna's storage: waiting, handed out, finished, and mended after a kill.

Whoever changes something holds the campaign's lock; every single change is one transaction of Optuna's, and what a
kill may leave between two of them is mended by the next process that looks (`mended`):

- a result that was written and not yet closed: the trial is closed with it;
- a failed attempt that has not come back yet: its successor is made, if tries and budget are left;
- a plan of which not all runs were made, so that half a bundle would wait: the others are made;
- a run that got a sign of life and was not handed out: another attempt takes its place, without that old sign.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scaleband.campaign.records import (
    FOR_GOOD,
    PROPOSAL,
    RESULT,
    STARTED,
    WATCHED,
    Attempt,
    Result,
    account_of,
    attempts_of,
    count_told,
    given_back,
    pays,
    runs_of,
)
from scaleband.campaign.settings import Settings
from scaleband.campaign.storage import Place

# What Optuna's own tools (dashboard, importance) show of a run: bounds wide enough for every run.
_SHOWN = {
    "lr_peak": (1e-12, 1e3),
    "batch_tokens": (1.0, 1e12),
    "n_params": (1.0, 1e15),
    "n_tokens": (1.0, 1e18),
}
PLAN = "plan"
_ENDS = {"completed": "COMPLETE", "diverged": "PRUNED", "failed": "FAIL"}


def attempts(place: Place) -> list[Attempt]:
    """All attempts, oldest first."""
    return attempts_of(place.study.get_trials(deepcopy=False))


def add(place: Place, record: Mapping[str, Any], result: Result | None = None) -> None:
    """One new trial, waiting (or, with a result, finished): a single transaction."""
    from datetime import datetime

    from optuna.distributions import FloatDistribution
    from optuna.trial import TrialState, create_trial

    inside = {
        k: float(v)
        for k, v in record["inputs"].items()
        if k in _SHOWN and _SHOWN[k][0] <= float(v) <= _SHOWN[k][1]
    }
    state = TrialState.WAITING if result is None else TrialState[_ENDS[result.status]]
    attrs: dict[str, Any] = {PROPOSAL: dict(record)}
    if result is not None:
        attrs[RESULT] = asdict(result)
    trial = create_trial(
        state=state,
        value=None if result is None or state is not TrialState.COMPLETE else result.loss,
        params=inside,
        distributions={k: FloatDistribution(*_SHOWN[k], log=True) for k in inside},
        user_attrs=attrs,
    )
    if trial.datetime_start is None:
        trial.datetime_start = datetime.now()
    place.storage.create_new_trial(place.study_id, template_trial=trial)


def plan(place: Place, records: Sequence[Mapping[str, Any]]) -> None:
    """Write down in one transaction what is proposed; `mended` makes it, now or after a kill."""
    place.storage.set_study_user_attr(place.study_id, PLAN, [dict(record) for record in records])


def take(place: Place, all_attempts: Sequence[Attempt], n: int, heartbeat: bool) -> list[str]:
    """Hand out up to `n` waiting runs: their ids."""
    from optuna.trial import TrialState

    out: list[str] = []
    for attempt in all_attempts:
        if len(out) == n:
            break
        if attempt.state != "WAITING":
            continue
        if heartbeat:  # first, so that a kill right after handing out is noticed
            place.storage.set_trial_user_attr(attempt.trial_id, WATCHED, True)
            place.storage.record_heartbeat(attempt.trial_id)
        if place.storage.set_trial_state_values(attempt.trial_id, TrialState.RUNNING):
            out.append(attempt.run_id)
    return out


def beat(place: Place, tries: Sequence[Attempt]) -> bool:
    """Record a sign of life for the last attempt of a run, if it is out."""
    import optuna

    if not tries or tries[-1].state != "RUNNING" or tries[-1].result is not None:
        return False
    try:
        place.storage.record_heartbeat(tries[-1].trial_id)
        if not tries[-1].started:
            place.storage.set_trial_user_attr(tries[-1].trial_id, STARTED, True)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False  # ended between looking and writing
    return True


def finish(place: Place, attempt: Attempt, result: Result) -> None:
    """Write a result: first what it is, then the state, so that a kill between the two loses nothing."""
    if attempt.over:
        # told after its worker was taken for lost and the run given up: one more attempt, finished as it is made
        add(place, attempt.proposal, result)
        return
    place.storage.set_trial_user_attr(attempt.trial_id, RESULT, asdict(result))
    _close(place, attempt.trial_id, result)


def _close(place: Place, trial_id: int, result: Result) -> None:
    from optuna.trial import TrialState

    values = [result.loss] if result.status == "completed" else None
    place.storage.set_trial_state_values(trial_id, TrialState[_ENDS[result.status]], values)


def mended(
    place: Place, settings: Settings, found: Sequence[Attempt], *, silent: bool = False
) -> list[Attempt]:
    """Finish what a killed process left half done, and (`silent`) take silent workers for lost: all attempts then."""
    half = [a for a in found if a.result is not None and a.state in ("WAITING", "RUNNING")]
    for attempt in half:
        _close(place, attempt.trial_id, attempt.result)  # type: ignore[arg-type]
    lost = silent and any(a.state == "RUNNING" for a in found)
    if lost:
        _fail_silent(place)
    order = 1 + count_told(found)
    held = [a for a in found if a.state == "WAITING" and a.watched and a.result is None]
    for k, attempt in enumerate(held):
        finish(place, attempt, given_back(order + k))
    made = {a.run_id for a in found}
    planned = place.storage.get_study_user_attrs(place.study_id).get(PLAN, ())
    missing = [record for record in planned if record["run_id"] not in made]
    for record in missing:
        add(place, record)
    now = attempts(place) if half or lost or held or missing else list(found)
    again = _comes_back(now, settings)
    for attempt in again:
        add(place, attempt.proposal)
    return attempts(place) if again else now


def _fail_silent(place: Place) -> None:
    """Optuna's own look for stale trials."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(place.study)


def _comes_back(found: Sequence[Attempt], settings: Settings) -> list[Attempt]:
    """Failed attempts that are proposed again: tries left, and the budget pays for it."""
    runs = runs_of(found)
    last = {a.run_id: a for a in found}
    left = account_of(runs, settings.budget_flops).left
    out = []
    for run in runs:
        for_good = run.result is not None and bool(run.result.facts.get(FOR_GOOD))
        if (
            run.state == "failed"
            and not for_good
            and run.attempts <= settings.retries
            and pays(left, run.price_flops)
        ):
            out.append(last[run.run_id])
            left -= run.price_flops
    return out
