"""A campaign's runs as frozen values, read from Optuna's trials; what they cost; the run table they make.

A run may need several attempts: each is one trial with the same run_id, and the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from scaleband.campaign.settings import STATED, Settings, setting_key

if TYPE_CHECKING:
    import pandas as pd

State = Literal["waiting", "pending", "completed", "diverged", "failed"]

PROPOSAL, RESULT, STARTED, WATCHED = "proposal", "result", "started", "watched"
"""Keys of a trial's user attributes; "watched" is that of one about to be handed out to a worker with signs of life."""

GIVEN_BACK, FOR_GOOD, LATE = "given_back", "for_good", "late"
"""Facts of a failure: it had not begun, so it is no try; it would fail again, so it does not come back. Of any result:
it is that of the attempt before, whose worker was taken for lost, so that attempt is not charged besides."""


ELSEWHERE = 0.01
"""A run whose tokens or size are further off than this is one of another cell than the one that was asked for."""


@dataclass(frozen=True)
class Result:
    """What was told about one attempt.

    Attributes
    ----------
    status
        "completed", "diverged" or "failed".
    loss, loss_se
        Nats per token; None where there is none.
    flops
        What the attempt trained, FLOP.
    order
        Position among all that was told in this campaign, from 1.
    facts
        What else came with it (device, seconds, reason, ...).
    """

    status: str
    loss: float | None
    loss_se: float
    flops: float
    order: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Attempt:
    """One trial."""

    trial_id: int
    number: int
    run_id: str
    state: str
    proposal: Mapping[str, Any]
    result: Result | None
    started: bool
    asked_at: datetime | None
    watched: bool = False
    ended_at: datetime | None = None

    @property
    def lost(self) -> bool:
        """It was out, and its worker fell silent."""
        return self.result is None and self.state == "FAIL"

    @property
    def over(self) -> bool:
        """It ended, or its result is written down."""
        return self.result is not None or self.state in ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Run:
    """One proposed run.

    Attributes
    ----------
    run_id, inputs
        Its name; columns of the run table, `seed` among them.
    state
        waiting (in the pool), pending (handed out), completed, diverged, or failed (given up).
    flops, overhead_flops
        What one attempt is expected to train, and what it costs besides; FLOP.
    spent_flops
        What all its ended attempts cost, FLOP.
    attempts
        How many there were, the present one included; runs that were given back unbegun do not count.
    result
        The last thing told.
    proposal
        Everything it was proposed with: EVSI, bundle, and the record of what it was based on.
    trial_id
        Of the last attempt.
    started
        Whether a worker gave a sign of life in the last attempt.
    asked_at
        When the last attempt was made.
    """

    run_id: str
    inputs: Mapping[str, Any]
    state: State
    flops: float
    overhead_flops: float
    spent_flops: float
    attempts: int
    result: Result | None
    proposal: Mapping[str, Any]
    trial_id: int
    started: bool
    asked_at: datetime | None

    @property
    def price_flops(self) -> float:
        """All that one attempt is expected to cost, FLOP."""
        return self.flops + self.overhead_flops

    @property
    def committed_flops(self) -> float:
        """What it will still cost, FLOP."""
        return self.price_flops if self.state in ("waiting", "pending") else 0.0

    @property
    def key(self) -> str:
        """Its setting as text."""
        return setting_key(self.inputs)


@dataclass(frozen=True)
class Account:
    """The budget, FLOP: in all, spent on attempts that ended, committed to runs that are out or waiting."""

    budget: float
    spent: float
    committed: float

    @property
    def left(self) -> float:
        """What can still be proposed; never below zero."""
        return max(0.0, self.budget - self.spent - self.committed)


def pays(left_flops: float, price_flops: float) -> bool:
    """Whether so much of a budget is enough. It is a sum of prices less some of them, which rounds."""
    return price_flops <= left_flops * (1 + 1e-12)


def attempts_of(trials: Iterable[Any]) -> list[Attempt]:
    """Optuna's trials as attempts, in their order; trials that are not of a campaign's making are passed over."""
    out = []
    for trial in trials:
        proposal = trial.user_attrs.get(PROPOSAL)
        if not isinstance(proposal, dict):
            continue
        told = trial.user_attrs.get(RESULT)
        result = Result(**told) if isinstance(told, dict) else None
        out.append(
            Attempt(trial._trial_id, trial.number, str(proposal["run_id"]), trial.state.name, proposal, result,
                    STARTED in trial.user_attrs, trial.datetime_start, WATCHED in trial.user_attrs,
                    trial.datetime_complete)
        )  # fmt: skip
    return out


def given_back(order: int) -> Result:
    """What is written of an attempt that had not begun."""
    return Result("failed", None, 0.0, 0.0, order, {GIVEN_BACK: True})


def count_told(attempts: Iterable[Attempt]) -> int:
    """How many things were told in a campaign: the largest `Result.order`."""
    return max((a.result.order for a in attempts if a.result is not None), default=0)


def attempt_cost(attempt: Attempt) -> float:
    """What an ended attempt cost, FLOP.

    A worker that was lost after a sign of life is charged in full, one that never gave any had not begun.
    """
    overhead = overhead_of(attempt.proposal)
    if attempt.result is not None:
        return 0.0 if GIVEN_BACK in attempt.result.facts else attempt.result.flops + overhead
    return float(attempt.proposal["flops"]) + overhead if attempt.started else 0.0


def told_late(tries: Sequence[Attempt]) -> list[Attempt]:
    """The lost attempts of a run whose workers told after all: what they cost is in what they told."""
    lost: list[Attempt] = []
    late = []
    for attempt in tries:
        if attempt.lost:
            lost.append(attempt)
        elif lost and attempt.result is not None and LATE in attempt.result.facts:
            late.append(lost.pop())
    return late


def overhead_of(proposal: Mapping[str, Any]) -> float:
    """What an attempt costs beside its training, FLOP."""
    return float(proposal.get("overhead_flops", 0.0))


def runs_of(attempts: Sequence[Attempt]) -> list[Run]:
    """Attempts put together into runs, in the order in which they were first proposed."""
    by_id: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_id.setdefault(attempt.run_id, []).append(attempt)
    return [_run(tries) for tries in by_id.values()]


def _run(tries: Sequence[Attempt]) -> Run:
    last = tries[-1]
    spent = sum(attempt_cost(a) for a in tries if a.over) - sum(attempt_cost(a) for a in told_late(tries))
    state: State
    if last.result is not None:
        state = last.result.status  # type: ignore[assignment]
    elif last.state in ("WAITING", "RUNNING"):
        state = "waiting" if last.state == "WAITING" else "pending"
    else:
        state = "failed"
    return Run(
        run_id=last.run_id,
        inputs=last.proposal["inputs"],
        state=state,
        flops=float(last.proposal["flops"]),
        overhead_flops=overhead_of(last.proposal),
        spent_flops=spent,
        attempts=sum(1 for a in tries if a.result is None or GIVEN_BACK not in a.result.facts),
        result=last.result,
        proposal=last.proposal,
        trial_id=last.trial_id,
        started=last.started,
        asked_at=last.asked_at,
    )


def account_of(runs: Iterable[Run], budget: float) -> Account:
    """Add up."""
    runs = list(runs)
    return Account(budget, sum(r.spent_flops for r in runs), sum(r.committed_flops for r in runs))


def told_runs(runs: Iterable[Run]) -> list[Run]:
    """Runs that say something (completed, diverged), in the order in which they were told."""
    told = [(r.result.order, r) for r in runs if r.result is not None and r.state in ("completed", "diverged")]
    return [r for _, r in sorted(told, key=lambda pair: pair[0])]


def row_of(run: Run, settings: Settings) -> dict[str, Any]:
    """A run as a row of the run table."""
    status = {"waiting": "running", "pending": "running"}.get(run.state, run.state)
    r = run.result
    return {
        "run_id": run.run_id, **run.inputs, **_otherwise(run), "status": status,
        "loss": None if r is None else r.loss, "loss_se": 0.0 if r is None else r.loss_se,
        "flops": run.flops if r is None or r.flops <= 0 else r.flops,
        **{k: settings.stated.get(k, "") for k in STATED},
    }  # fmt: skip


def _otherwise(run: Run) -> dict[str, float]:
    """Counts of what was really trained, where they are not those that were asked for.

    The rule of `training.table_row`, but sizes too are as asked where they came within 1 %: what was proposed for one
    cell stays in one.
    """
    facts = {} if run.result is None else run.result.facts
    counts = {k: facts.get(k) for k in ("n_params", "n_active", "n_tokens")}
    said = {k: float(v) for k, v in counts.items() if isinstance(v, int | float) and v > 0}
    if "n_params" in said:
        said.setdefault("n_active", said["n_params"])
    off = {k for k, v in said.items() if abs(v - run.inputs[k]) > ELSEWHERE * run.inputs[k]}
    wanted = {"n_params", "n_active"} if off & {"n_params", "n_active"} else set()
    if run.state == "completed":  # a run that stopped early keeps the cell that it was meant for
        wanted |= off & {"n_tokens"}
    return {k: v for k, v in said.items() if k in wanted}


def table_of(runs: Sequence[Run], settings: Settings) -> pd.DataFrame | None:
    """Given runs and these as the frame of a run table; None where there is no row at all.

    The rows were checked when they were told, or read; here they only get the table's defaults.
    """
    import numpy as np
    import pandas as pd

    from scaleband.runs.defaults import with_defaults
    from scaleband.runs.problems import Places

    given = settings.given_frame()
    rows: list[dict[Any, Any]] = [] if given is None else given.to_dict("records")
    rows += [row_of(r, settings) for r in runs]
    if not rows:
        return None
    # Column by column: a column that is empty in one part must not decide the type of the whole.
    frame = pd.DataFrame(
        {c: [row.get(c) for row in rows] for c in dict.fromkeys(k for row in rows for k in row)}
    )
    places = Places(("campaign",), np.zeros(len(frame), int), np.arange(1, len(frame) + 1))
    return with_defaults(frame, places)
