"""The whole loop: ask, submit, collect, tell, and again, until the budget is spent or the verdict is stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from scaleband.campaign.campaign import Campaign, Progress
from scaleband.campaign.records import FOR_GOOD, Attempt, Run, pays
from scaleband.campaign.results import CONFIRM
from scaleband.errors import UserError
from scaleband.labels import flops_label
from scaleband.training import Adapter, Limits, RunResult, RunSpec, submit
from scaleband.training.command import LOG_FILE
from scaleband.training.running import finished

if TYPE_CHECKING:
    from scaleband.design import Verdict

RUNS = "runs"
WHOLE_STEPS = 5e-3
"""A training ends with a whole step, so its tokens differ a little from what was asked and paid for: within half a
percent, which is one cell too (`runs.cell_table`), it cost its price, and a budget is met to the FLOP."""

SET_UP_S = 60.0
"""A failure that says nothing of tokens had not begun to train if it came within so many seconds."""

IN_THE_PROGRAM = (
    "convert it in the training program; one that is right all the same is told by hand (campaign ask, tell --sure)"
)
"""What can be done about a loss that a training program gave and a campaign refuses."""

IN_A_ROW = 3
"""So many failures one after another and nothing else: something is wrong with the set-up, not with a run."""


@dataclass(frozen=True)
class Outcome:
    """Why a loop ended, and what it did.

    Attributes
    ----------
    why
        "budget" (no candidate is affordable, or none is left), "given up" (what is left of the budget would pay for
        runs that failed too often), "verdict" (the next runs are not worth their price), "failures" (several in a
        row), or "asked" (somebody stopped it).
    sentence
        The same in words.
    completed, diverged, failed
        What was told by this loop.
    """

    why: str
    sentence: str
    completed: int
    diverged: int
    failed: int


def spec_of(run: Run, campaign: Campaign, limits: Limits) -> RunSpec:
    """A run as the specification of a training.

    Raises
    ------
    UserError
        The inputs make no training, such as a batch larger than all tokens.
    """
    return _spec(run.run_id, run.inputs, campaign, limits)


def _spec(run_id: str, i: Mapping[str, Any], campaign: Campaign, limits: Limits) -> RunSpec:
    stated = dict[str, Any](campaign.settings.stated)
    return RunSpec(
        run_id=run_id, n_params=round(i["n_params"]), n_active=round(i["n_active"]), n_tokens=round(i["n_tokens"]),
        lr_peak=float(i["lr_peak"]), batch_tokens=round(i["batch_tokens"]), source=i["source"], arch=i["arch"],
        data=i["data"], seed=int(i["seed"]), limits=limits, **stated,
    )  # fmt: skip


def _looked_at(campaign: Campaign, adapter: Adapter) -> None:
    """Ask an adapter that can tell (`problems`, as `ReferenceAdapter` has it) what no run here can be trained for.

    Of each data distribution it sees the run of most steps at the highest rate: what is wrong with that one is wrong
    with all.
    """
    problems = getattr(adapter, "problems", None)
    columns = campaign.settings.candidates
    if problems is None or not columns:
        return
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    longest: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["n_tokens"] / row["batch_tokens"]):
        longest[row["data"]] = row | {"seed": 0, "lr_peak": max(columns["lr_peak"])}
    specs: list[RunSpec] = []
    for data, row in longest.items():
        with suppress(UserError):  # no training can be made of it: its run fails and says so
            specs.append(_spec(f"candidate-{len(specs)}", row | {"data": data}, campaign, Limits()))
    if found := problems(specs, {round(batch) for batch in columns["batch_tokens"]}):
        raise UserError(found)


def tell_result(campaign: Campaign, run: Run, result: RunResult) -> Run:
    """Tell what came of a training; a result that a campaign refuses becomes a failure that says why."""
    from scaleband.runs import training_flops

    kept = ("device", "wall_seconds", "tokens_per_second", "steps", "n_tokens", "n_params", "n_active", "reason",
            "attempts")  # fmt: skip
    facts = {k: v for k in kept if (v := getattr(result, k))}
    flops = result.flops or training_flops(float(run.inputs["n_active"]), float(result.n_tokens))
    if abs(flops - run.flops) <= WHOLE_STEPS * run.flops:
        flops = run.flops
    if result.status == "failed":
        # Who does not say what it trained may have trained all of it: lost, stopped by a limit, or late in failing.
        cut_off = any(words in result.reason for words in ("the worker was lost", "ran past its limit"))
        unknown = not flops and (cut_off or result.steps > 0 or result.wall_seconds > SET_UP_S)
        return campaign.tell(run.run_id, status="failed", flops=None if unknown else flops, facts=facts)
    try:
        return campaign.tell(
            run.run_id,
            result.loss,
            status=result.status,
            loss_se=result.own_loss_se,
            flops=flops or None,
            facts=facts,
        )
    except UserError as error:
        if "told already" in str(error):
            raise
        why = str(error).replace(CONFIRM, IN_THE_PROGRAM)
        refused = {**facts, "reason": why[:500], FOR_GOOD: True}
        return campaign.tell(run.run_id, status="failed", flops=flops or None, facts=refused)


def as_told(result: RunResult, run: Run) -> RunResult:
    """A result as the campaign has it: one that it refused is a failure, for the campaign's reason."""
    if run.state != "failed" or result.status == "failed":
        return result
    facts = run.result.facts if run.result is not None else {}
    return replace(result, status="failed", loss=None, reason=str(facts.get("reason", "")))


def run_campaign(
    campaign: Campaign,
    adapter: Adapter,
    executor: Executor,
    *,
    workers: int,
    limits: Limits | None = None,
    past_stop: bool = False,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Keep `workers` trainings going until the campaign has nothing more to ask for.

    Killed and started again, it goes on: results that were written down are collected, runs that were out come back
    to the pool after the campaign's grace period.

    Parameters
    ----------
    campaign
        Open.
    adapter, executor
        What trains and where; see `scaleband.training`. The campaign's folder must be the same place for workers.
    workers
        Trainings at once.
    limits
        Of each training.
    past_stop
        Go on although the verdict is stop.
    report
        Gets one line per event.
    progress
        As in `Campaign.ask`.
    enough
        Asked between events; True ends the loop once what is out has been told.

    Raises
    ------
    UserError
        `workers` is not positive, or the adapter says that no run of the campaign can be trained.
    """
    if workers < 1:
        raise UserError(f"workers = {workers}: at least one is needed")
    _looked_at(campaign, adapter)
    say = report or (lambda text: None)
    out: dict[Future[RunResult], Run] = {}
    counts = {"completed": 0, "diverged": 0, "failed": 0}
    in_a_row, quiet_since, verdict = 0, monotonic(), None
    exhausted: list[tuple[int, str]] | None = None  # how the attempts stood when there was nothing more to propose
    with _signs_of_life(campaign, out, say):
        for result in _left_behind(campaign, limits or Limits(), out):
            counts[result.status] += 1
            say(_line(result, campaign))
        while True:
            broken = in_a_row >= IN_A_ROW
            wanted = 0 if broken or enough() else workers - len(out)
            # the same request gives the same answer, and weighing runs takes seconds
            if wanted and (before := _standing(campaign.mended())) != exhausted:
                # what the pool has starts at once: while a posterior is sampled it would send no signs of life
                runs: Sequence[Run] = campaign.take(wanted, heartbeat=True)
                pooled = bool(runs)
                if not pooled:
                    asked = campaign.ask(wanted, heartbeat=True, past_stop=past_stop, progress=progress)
                    runs, after = asked.runs, _standing(campaign.attempts())
                    exhausted = after if len(runs) < wanted and after == before else None
                    verdict = asked.verdict or verdict
                for run in runs:
                    say(f"started {run.run_id}")
                    out[_submitted(campaign, adapter, executor, run, limits or Limits())] = run
                if pooled:
                    continue
            if not out:
                waiting = not broken and not enough() and _others_out(campaign)
                if waiting and monotonic() - quiet_since < 2 * campaign.settings.grace_s:
                    for result in _left_behind(campaign, limits or Limits(), out):
                        counts[result.status] += 1
                        say(_line(result, campaign))
                    threading.Event().wait(min(1.0, campaign.settings.heartbeat_s))
                    continue
                return _outcome(campaign, counts, broken, enough(), verdict)
            done, _ = wait(out, timeout=campaign.settings.heartbeat_s, return_when=FIRST_COMPLETED)
            for future in done:
                run, result = out.pop(future), future.result()
                quiet_since = monotonic()
                try:
                    result = as_told(result, tell_result(campaign, run, result))
                except UserError as error:  # taken for lost, and another worker was quicker
                    say(f"not counted: {error}")
                    continue
                counts[result.status] += 1
                in_a_row = in_a_row + 1 if result.status == "failed" else 0
                say(_line(result, campaign))


def _submitted(
    campaign: Campaign, adapter: Adapter, executor: Executor, run: Run, limits: Limits
) -> Future[RunResult]:
    try:
        spec = spec_of(run, campaign, limits)
    except UserError as error:
        nothing: Future[RunResult] = Future()
        nothing.set_result(RunResult(run_id=run.run_id, status="failed", reason=str(error)))
        return nothing
    return submit(executor, adapter, spec, run_folder(campaign, run.run_id))


def run_folder(campaign: Campaign, run_id: str) -> Path:
    """Where a run's specification, result and curve lie."""
    return campaign.place.folder / RUNS / run_id


def _left_behind(campaign: Campaign, limits: Limits, out: dict[Future[RunResult], Run]) -> list[RunResult]:
    """Tell what trainings of a loop that died have written down since; their results."""
    ours = {run.run_id for run in out.values()}
    told = []
    for run in campaign.runs():
        lost = run.state == "failed" and run.result is None
        if run.run_id in ours or not (lost or run.state in ("pending", "waiting")):
            continue
        try:
            result = finished(spec_of(run, campaign, limits), run_folder(campaign, run.run_id))
            if result is not None:
                told.append(as_told(result, tell_result(campaign, run, result)))
        except UserError:
            continue  # no training could have been made of it, or its own loop lives and was quicker
    return told


def _standing(attempts: Sequence[Attempt]) -> list[tuple[int, str]]:
    """All that a proposal depends on, but for the settings: which attempts there are, and how each stands."""
    return [(a.trial_id, a.state if a.result is None else "told") for a in attempts]


def _others_out(campaign: Campaign) -> bool:
    """Whether runs are out that a worker promised to care for: they end, or come back."""
    return any(r.state == "pending" and r.started for r in campaign.runs())


@contextmanager
def _signs_of_life(
    campaign: Campaign, out: dict[Future[RunResult], Run], say: Callable[[str], None]
) -> Iterator[None]:
    """Beat for every run that is out, also while a posterior is sampled."""
    over = threading.Event()

    def beat() -> None:
        while True:
            for run in list(out.values()):
                try:
                    campaign.beat(run.run_id)
                except Exception as error:  # a busy file, a lost connection: the next sign may arrive in time
                    say(f"{run.run_id}: no sign of life could be written ({error}); it is tried again")
            if over.wait(campaign.settings.heartbeat_s):
                campaign.place.storage.remove_session()  # this thread's
                return

    thread = threading.Thread(target=beat, name="scaleband-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _line(result: RunResult, campaign: Campaign) -> str:
    a = campaign.account()
    what = (
        f"loss {result.loss:.4g}"
        if result.status == "completed"
        else f"{result.status}: {result.reason or 'no reason given'}"
    )
    if result.status == "failed":
        what += _what_it_printed(run_folder(campaign, result.run_id))
    return f"{result.run_id}: {what}; {flops_label(a.spent, 3)} of {flops_label(a.budget, 3)} FLOP spent"


def _what_it_printed(folder: Path) -> str:
    """Where to look for more about a failure."""
    log = folder / LOG_FILE
    if log.is_file() and log.stat().st_size:
        return f"; the end of what it printed: {log}"
    return f"; its folder: {folder}" if folder.is_dir() else ""


def _outcome(
    campaign: Campaign, counts: dict[str, int], broken: bool, stopped: bool, verdict: Verdict | None
) -> Outcome:
    left = campaign.account().left
    given_up = [r for r in campaign.runs() if r.state == "failed" and pays(left, r.price_flops)]
    if broken:
        why, words = (
            "failures",
            f"{IN_A_ROW} runs failed in a row: read the reasons above, mend the cause, then run again",
        )
    elif stopped:
        why, words = "asked", "stopped as asked; run again to go on"
    elif verdict is not None and verdict.stop and verdict.evpi == verdict.evpi and verdict.cost_flops > 0:
        why, words = "verdict", verdict.why
    elif given_up:
        why, words = (
            "given up",
            f"nothing else is left; settings given up after failures: {len(given_up)} (`campaign status` has the "
            "reasons); mend the cause, then start a new campaign (--runs keeps what `campaign status --runs-out` wrote "
            "of this one)",
        )
    else:
        why, words = "budget", verdict.why if verdict is not None else "nothing is left to propose"
    return Outcome(why, words, **counts)
