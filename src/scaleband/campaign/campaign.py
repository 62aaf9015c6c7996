"""The campaign: asked for runs, told their results, safe with many workers. The one stateful object of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.campaign import pool
from scaleband.campaign.offers import affordable, check_budget, numbered, pending_table, table_digest
from scaleband.campaign.proposers import PROPOSERS, grid_in_limits, whole_bundles
from scaleband.campaign.records import (
    LATE,
    Account,
    Attempt,
    Run,
    account_of,
    count_told,
    given_back,
    runs_of,
    table_of,
    told_late,
    told_runs,
)
from scaleband.campaign.refit import Posterior, check_prior, data_digest, posterior_for, prior_draws_of
from scaleband.campaign.results import checked_result, told_already, unknown_run
from scaleband.campaign.settings import OPTIONS, Settings, checked, settings_from_json
from scaleband.campaign.storage import SETTINGS, Place, create, join, open_place
from scaleband.campaign.strategies import Proposer, Request
from scaleband.design import Proposals, Verdict
from scaleband.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

VERDICT = "verdict"
_ROUNDS = 3

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """What an ask gives.

    Attributes
    ----------
    runs
        Runs to make now; each is pending until told.
    verdict
        Of the proposer; None if everything came out of the pool.
    account
        The budget after this ask.
    """

    runs: tuple[Run, ...]
    verdict: Verdict | None
    account: Account


class Campaign:
    """A campaign in a folder. Everything it knows is in its storage: two objects on one folder see the same.

    Use `Campaign.create`, `Campaign.open` or `Campaign.join`.
    """

    def __init__(self, place: Place, settings: Settings, proposer: Proposer | None = None) -> None:
        self.place = place
        self.settings = settings
        self._proposer = proposer or PROPOSERS[settings.strategy]

    @classmethod
    def create(
        cls,
        folder: str | Path,
        settings: Settings,
        *,
        storage: str | None = None,
        proposer: Proposer | None = None,
    ) -> Campaign:
        """Start a campaign.

        Parameters
        ----------
        folder
            Made if it is not there.
        settings
            Checked before anything is written.
        storage
            URL of a PostgreSQL database; an SQLite file in the folder by default.
        proposer
            Instead of the settings' strategy; it must be given again to `open`.

        Raises
        ------
        UserError
            Settings that cannot be, a campaign that is there already, or a place that cannot be written.
        """
        # a proposer of somebody's own has options of its own
        known = OPTIONS if proposer is None else tuple(settings.options)
        settings = checked(settings, list(PROPOSERS), options=known)
        check_prior(settings)
        if settings.limits:
            draws = prior_draws_of(settings, data_digest(None, settings))
            grid = grid_in_limits(draws, settings.target, settings.limits)
            settings = replace(settings, candidates={str(k): grid[k].tolist() for k in grid})
        check_budget(settings)
        return cls(create(Path(folder), settings, storage), settings, proposer)

    @classmethod
    def open(cls, folder: str | Path, *, proposer: Proposer | None = None) -> Campaign:
        """Go on with a campaign.

        Raises
        ------
        UserError
            There is none, or its storage is corrupt, foreign, newer, or out of reach. Nothing is changed then.
        """
        return cls._of(open_place(Path(folder)), proposer)

    @classmethod
    def join(
        cls, folder: str | Path, storage: str, name: str, *, proposer: Proposer | None = None
    ) -> Campaign:
        """Make `folder` another way into a campaign that lives in PostgreSQL, for another machine.

        Raises
        ------
        UserError
            No such campaign, or the folder has one.
        """
        return cls._of(join(Path(folder), storage, name), proposer)

    @classmethod
    def _of(cls, place: Place, proposer: Proposer | None) -> Campaign:
        plain = place.storage.get_study_user_attrs(place.study_id).get(SETTINGS)
        return cls(place, settings_from_json(plain, str(place.folder)), proposer)

    def close(self) -> None:
        """Let go of the storage's connections."""
        self.place.close()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def runs(self) -> list[Run]:
        """Every run, in the order of the proposals."""
        return runs_of(self.attempts())

    def attempts(self) -> list[Attempt]:
        """Every attempt at a run, in the order in which they were made."""
        return pool.attempts(self.place)

    def mended(self) -> list[Attempt]:
        """Every attempt, once silent workers were taken for lost and what a kill left half done was finished."""
        with self.place.locked():
            return pool.mended(self.place, self.settings, self.attempts(), silent=True)

    def account(self) -> Account:
        """The budget now."""
        return account_of(self.runs(), self.settings.budget_flops)

    def table(self) -> pd.DataFrame | None:
        """Run table of the given runs and of everything proposed so far; None if that is nothing."""
        return table_of(self.runs(), self.settings)

    def verdict(self) -> dict[str, Any] | None:
        """The last verdict that an ask came to, and what it was based on; None before the first."""
        return self.place.storage.get_study_user_attrs(self.place.study_id).get(VERDICT)

    def ask(
        self,
        n: int = 1,
        *,
        heartbeat: bool = False,
        past_stop: bool = False,
        progress: Progress | None = None,
    ) -> Asked:
        """Runs to make next: first those that came back to the pool, then new ones.

        Runs that are out already are conditioned on; what they will cost is taken off the budget. A bundle (a
        mini-sweep) is proposed as a whole: what `n` leaves of it waits in the pool for the next ask. What is not worth
        its price is not handed out, so that there may be fewer than `n`.

        Parameters
        ----------
        n
            At most this many runs.
        heartbeat
            The worker promises a `beat` every `settings.heartbeat_s`; when it falls silent the run goes back to
            the pool.
            Runs asked for without it are waited for however long they take.
        past_stop
            Propose even what is not worth its price.
        progress
            Called with (stage, done, total) while a posterior is sampled.

        Raises
        ------
        UserError
            `n` is not positive, or the posterior cannot be had.
        """
        if n < 1:
            raise UserError(f"n = {n}: ask for at least one run")
        taken = self.take(n, heartbeat)
        verdict = None
        try:
            if len(taken) < n:
                with self.place.locked("proposing"):
                    for _ in range(_ROUNDS):
                        # another process may have proposed while this one waited
                        taken += self.take(n - len(taken), heartbeat)
                        if len(taken) == n:
                            break
                        said, some = self._propose(n - len(taken), past_stop, progress)
                        verdict = said if some or verdict is None else verdict  # that of the runs handed out
                        taken += self.take(n - len(taken), heartbeat)
                        if len(taken) == n or not some:
                            break
        except BaseException:  # a proposer that fails, or Ctrl-C while it samples: nobody would hear of these runs
            for run in taken:
                with suppress(UserError):  # taken for lost meanwhile, so it is back already
                    self.give_back(run.run_id, run.trial_id)
            raise
        return Asked(tuple(taken), verdict, self.account())

    def take(self, n: int, heartbeat: bool = False) -> list[Run]:
        """The part of `ask` that takes no time: runs that wait in the pool, at most `n`, now pending."""
        if n <= 0:
            return []
        with self.place.locked():
            now = pool.mended(self.place, self.settings, self.attempts(), silent=True)
            ids = pool.take(self.place, now, n, heartbeat)
            runs = {r.run_id: r for r in self.runs()} if ids else {}
        return [runs[i] for i in ids]

    def tell(
        self,
        run_id: str,
        loss: float | None = None,
        *,
        status: str | None = None,
        loss_se: float = 0.0,
        flops: float | None = None,
        unit: str | None = None,
        loss_kind: str | None = None,
        sure: bool = False,
        facts: Mapping[str, Any] | None = None,
    ) -> Run:
        """What became of a run. Each run is told once; a failed one may come back and be told again.

        Parameters
        ----------
        run_id
            As `ask` gave it.
        loss, loss_se
            Final loss and its standard error, nats per token.
        status
            "completed" (the default with a loss), "diverged" or "failed".
        flops
            What it really trained; as proposed by default. Overhead is added to it.
        unit, loss_kind
            Unit and kind of this loss, to be checked against the campaign's.
        sure
            Take a loss that looks like a slip.
        facts
            Plain values to keep with it.

        Returns
        -------
        The run as it is now: a failed one that came back is "waiting".

        Raises
        ------
        UserError
            An unknown id, a second tell, a loss that is none or looks like another unit. Nothing is changed then.
        """
        with self.place.locked():
            attempts = pool.mended(self.place, self.settings, self.attempts())
            runs = {r.run_id: r for r in runs_of(attempts)}
            run = runs.get(run_id)
            if run is None:
                raise unknown_run(run_id, list(runs))
            if run.result is not None:
                raise told_already(run)
            tries = [a for a in attempts if a.run_id == run_id]
            # nobody else has it, so this is the worker that was taken for lost
            silent = sum(a.lost for a in tries) > len(told_late(tries))
            late = silent and (tries[-1].over or tries[-1].state == "WAITING")
            known = {**(facts or {}), **({LATE: True} if late else {})}
            result = checked_result(
                run, self.settings, list(runs.values()), loss=loss,
                status=status or ("completed" if loss is not None else "none given"), loss_se=loss_se, flops=flops,
                unit=unit, loss_kind=loss_kind, sure=sure, facts=known,
                order=1 + count_told(attempts),
            )  # fmt: skip
            pool.finish(self.place, tries[-1], result)
            attempts = pool.mended(self.place, self.settings, self.attempts())
        return next(r for r in runs_of(attempts) if r.run_id == run_id)

    def beat(self, run_id: str) -> bool:
        """A worker's sign of life; False if the run is no longer its (told, or taken for lost)."""
        # Under the lock: two SQLite transactions that read first and then both want to write cannot both go on.
        with self.place.locked():
            return pool.beat(self.place, [a for a in self.attempts() if a.run_id == run_id])

    def give_back(self, run_id: str, trial_id: int | None = None) -> Run:
        """Put a pending run (this attempt at it alone) back into the pool: its worker is gone, it had not begun.

        Raises
        ------
        UserError
            An unknown id, or a run that is not pending.
        """
        with self.place.locked():
            attempts = pool.mended(self.place, self.settings, self.attempts())
            run = next((r for r in runs_of(attempts) if r.run_id == run_id), None)
            if run is None:
                raise unknown_run(run_id, [r.run_id for r in runs_of(attempts)])
            if run.state != "pending" or trial_id not in (None, run.trial_id):
                is_ = run.state if run.state != "pending" else "another worker's"
                raise UserError(f"run {run_id} is {is_}, not pending: only a run that is out can be given back")
            last = next(a for a in reversed(attempts) if a.run_id == run_id)
            pool.finish(self.place, last, given_back(1 + count_told(attempts)))
            attempts = pool.mended(self.place, self.settings, self.attempts())
        return next(r for r in runs_of(attempts) if r.run_id == run_id)

    def posterior(self, *, progress: Progress | None = None) -> Posterior:
        """The posterior given what was told; sampled at most once per data."""
        history = table_of(told_runs(self.runs()), self.settings)
        return posterior_for(self.place.folder, history, self.settings, progress)

    def request(self, attempts: Sequence[Attempt], progress: Progress | None = None) -> Request:
        """What a proposer would be asked now."""
        runs = runs_of(attempts)
        history = table_of(told_runs(runs), self.settings)
        seed = np.random.SeedSequence([self.settings.seed, len(attempts), count_told(attempts)]).generate_state(1)[0]
        return Request(
            target=self.settings.target,
            candidates=self.settings.candidate_frame(),
            limits=self.settings.limits,
            history=history,
            pending=pending_table(runs, self.settings),
            given_up=frozenset(r.key for r in runs if r.state == "failed"),
            budget_flops=account_of(runs, self.settings.budget_flops).left,
            target_runs=self.settings.target_runs,
            draws=lambda: posterior_for(self.place.folder, history, self.settings, progress).draws,
            seed=int(seed),
            options=self.settings.options,
            overhead_flops=self.settings.overhead_flops,
            made=frozenset(r.key for r in told_runs(runs)),
        )

    def _propose(self, n: int, past_stop: bool, progress: Progress | None) -> tuple[Verdict, bool]:
        """Fill the pool with `n` new runs or so; the verdict, and whether there may be more."""
        seen = self.attempts()
        request = self.request(seen, progress)
        answer = self._proposer(request, n)
        basis = self.basis(request, answer, seen, n)
        with self.place.locked():
            now = pool.mended(self.place, self.settings, self.attempts())
            wanted = answer.proposals if past_stop else answer.worthwhile()
            chosen = affordable(replace(answer, proposals=whole_bundles(wanted, n)), runs_of(now), self.settings)
            records = numbered(chosen, runs_of(now), self.settings, basis)
            pool.plan(self.place, records)
            pool.mended(self.place, self.settings, now)
            self.place.storage.set_study_user_attr(
                self.place.study_id, VERDICT, {"verdict": answer.to_json()["verdict"], "basis": basis}
            )
        return answer.verdict, bool(records) and len(wanted) == len(answer.proposals)

    def basis(self, request: Request, answer: Proposals, seen: Sequence[Attempt], n: int) -> dict[str, Any]:
        """Everything an answer was based on, for audits and replays."""
        runs = runs_of(seen)
        return {
            "scaleband": version("scaleband"),
            "settings": self.settings.digest(),
            "strategy": self.settings.strategy,
            "n": n,
            "seed": request.seed,
            "told": count_told(seen),
            "attempts": len(seen),
            "history": table_digest(request.history),
            "pending": sorted(r.run_id for r in runs if r.state in ("waiting", "pending")),
            "given_up": sorted(r.run_id for r in runs if r.state == "failed"),
            "budget_left_flops": request.budget_flops,
            "draws": answer.draws_digest,
            "gate": list(request.draws().meta["gate"]["messages"]) if answer.draws_digest else [],  # type: ignore[index]
            "target": dict(request.target),
        }
