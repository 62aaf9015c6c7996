"""`scaleband campaign status`: where it stands, and how it came there."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleband.cli.accounts import account_json, account_rows
from scaleband.cli.arguments import path
from scaleband.cli.printing import print_json, print_rows, print_table, say
from scaleband.cli.progress import interruptible
from scaleband.cli.verb import Exit
from scaleband.cli.words import REGRET_UNIT, mass, rate, tokens
from scaleband.labels import flops_label, percent, quantity

if TYPE_CHECKING:
    from scaleband.campaign import Account, Posterior, Run, Settings
    from scaleband.campaign.history import Step

_REASONS = 3  # so many are shown to people, those of the runs proposed last


def reasons(attempts: Any) -> dict[str, str]:
    """Why runs failed or diverged, by run_id: of the last attempt that said why, until one completes."""
    out: dict[str, str] = {}
    for a in attempts:
        if a.result is not None and a.result.status == "completed":
            out.pop(a.run_id, None)
        elif a.result is not None and (reason := a.result.facts.get("reason")):
            out[a.run_id] = str(reason)
    return out


def add_status(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    parser.add_argument(
        "--fill", choices=("known", "latest", "all"), default="latest",
        help="posteriors that may be sampled for this, tens of seconds each: none, the last (the default), all",
    )  # fmt: skip
    parser.add_argument("--runs-out", type=path, metavar="RUNS.csv", help="write the run table")
    parser.add_argument(
        "--plot", type=path, metavar="FILE", help="the band against FLOP spent: .png, .svg or .pdf"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run_status(asked: argparse.Namespace) -> int:
    """Look, and print."""
    from scaleband.campaign import Campaign
    from scaleband.campaign.history import history
    from scaleband.cli.places import check_output, write_whole

    if asked.plot is not None:
        from scaleband.cli.pictures import check_picture

        check_picture(asked.plot, inputs=[])
    if asked.runs_out is not None:
        check_output(asked.runs_out, "--runs-out")
    with Campaign.open(asked.dir) as campaign, interruptible(asked.quiet) as each_step:
        steps = history(campaign, mass=asked.interval, fill=asked.fill, progress=each_step)
        last = campaign.posterior() if steps[-1].band is not None else None
        standing = Standing(
            campaign.settings, campaign.account(), tuple(campaign.runs()), reasons(campaign.attempts()), tuple(steps),
            campaign.verdict(), last,
        )  # fmt: skip
        table = campaign.table()
    if asked.runs_out is not None and table is None:
        say(f"note: there is no run yet, so {asked.runs_out} is not written")
    if asked.runs_out is not None and table is not None:
        frame = table
        write_whole(asked.runs_out, "--runs-out", lambda out: frame.to_csv(out, index=False))
    if asked.plot is not None:
        from scaleband.plots import campaign_data, draw_campaign, save
        from scaleband.plots.canvas import figure_of

        data = campaign_data(
            [step_json(s) for s in steps], mass=asked.interval, budget_flops=standing.account.budget
        )
        save(figure_of(draw_campaign(data)[0]), asked.plot)
    if asked.json:
        print_json(status_json(standing, asked.interval))
    else:
        _show(standing, asked.interval)
    for sentence in standing.conflicts:
        say(f"warning: {sentence}")
    for message in standing.gate:
        say(f"warning: the diagnostic gate failed: {message}")
    return Exit.GATE_FAILED if standing.gate else Exit.DONE


@dataclass(frozen=True)
class Standing:
    """What a campaign's storage says at one moment.

    Attributes
    ----------
    why
        Reason by run_id, see `reasons`.
    verdict
        The last one with its basis, None before the first.
    last
        The posterior of the last step, None where it was never fitted.
    """

    settings: Settings
    account: Account
    runs: tuple[Run, ...]
    why: dict[str, str]
    steps: tuple[Step, ...]
    verdict: dict[str, Any] | None
    last: Posterior | None

    @property
    def counts(self) -> dict[str, int]:
        """Runs by state."""
        states = ("completed", "diverged", "pending", "waiting", "failed")
        return {state: sum(r.state == state for r in self.runs) for state in states}

    @property
    def given(self) -> int:
        """Runs that were there before the campaign."""
        return len(self.settings.given.get("lr_peak", ()))

    @property
    def pending(self) -> list[str]:
        """The run_ids that are out."""
        return [r.run_id for r in self.runs if r.state == "pending"]

    def told_since(self, order: int) -> int:
        """Runs that completed or diverged after so many things had been told, failures among them."""
        told = [r.result.order for r in self.runs if r.result is not None and r.state in ("completed", "diverged")]
        return sum(o > order for o in told)

    @property
    def conflicts(self) -> list[str]:
        """Of prior and runs, in sentences."""
        return [] if self.last is None else list(self.last.conflicts)

    @property
    def gate(self) -> list[str]:
        """What the diagnostic gate has against the last posterior."""
        return [] if self.last is None else list(self.last.gate_messages)


def status_json(at: Standing, interval: float) -> dict[str, Any]:
    """For scripts."""
    return {
        "name": at.settings.name, "target": dict(at.settings.target), "strategy": at.settings.strategy,
        "prior": at.settings.prior,
        "budget": account_json(at.account, at.settings.prices()),
        "runs": at.counts, "given_runs": at.given,
        "interval": interval, "interval_kind": "eti", "regret_unit": REGRET_UNIT,
        "steps": [step_json(s) for s in at.steps],
        "pending": at.pending,
        "reasons": at.why,
        "verdict": None if at.verdict is None else at.verdict["verdict"],
        "conflicts": at.conflicts,
        # Of a posterior that was never sampled nothing is known.
        "gate": {"passed": None if at.last is None else not at.gate, "messages": at.gate},
    }  # fmt: skip


def _show(at: Standing, interval: float) -> None:
    settings, t = at.settings, at.settings.target
    size, horizon = (quantity(float(t[name])) for name in ("n_params", "n_tokens"))
    before = f", beside {at.given} of before" if at.given else ""
    title = f"{settings.name}: {size} parameters, {horizon} tokens, group {t['source']}/{t['arch']}/{t['data']}"
    rows = [
        *account_rows(at.account, settings.prices()),
        ("runs", (", ".join(f"{v} {k}" for k, v in at.counts.items() if v) or "none yet") + before),
    ]  # fmt: skip
    out = at.pending
    if out:
        rows.append(("out", ", ".join(out[:12]) + (f" and {len(out) - 12} more" if len(out) > 12 else "")))
    rows += [("reason", f"{run_id}: {reason}") for run_id, reason in list(at.why.items())[-_REASONS:]]
    if len(at.why) > _REASONS:
        rows.append(("", f"and of {len(at.why) - _REASONS} earlier runs, see --json"))
    band = at.steps[-1].band
    if band is not None:
        rows.append(("recommended", f"lr_peak {rate(band.recommended_lr_peak)}, batch_tokens "
                     f"{tokens(band.recommended_batch_tokens)}; expected regret "
                     f"{percent(band.expected_regret)}"))  # fmt: skip
    if at.verdict is not None:
        v = at.verdict["verdict"]
        since = at.told_since(int(at.verdict["basis"].get("told", 0)))
        results = "result" if since == 1 else f"{since} results"
        when = f"before the last {results}, `ask` thinks again: " if since > 0 else ""
        rows.append(("verdict", f"{when}{v['action']}: {v['why'].removeprefix(v['action'] + ': ')}"))
    if at.last is not None and settings.prior:
        n = len(at.conflicts)
        found = f"{n} conflicts with the runs, see below" if n else "no conflict with the runs"
        if not at.last.n_completed:
            found = f"{at.last.n_runs} runs diverged, none completed" if at.last.n_runs else "nothing told yet"
        rows.append(("prior", f"{settings.prior}, trust {settings.trust:g}: {found}"))
    print_rows(title, rows)
    print()
    share = mass(interval)
    print_table(
        ["run", "outcome", "FLOP spent", "expected regret", f"lr_peak ({share})", f"batch_tokens ({share})"],
        [step_row(s) for s in at.steps],
    )
    if any(s.band is None for s in at.steps):
        say("rows without a band were never fitted; --fill all fits them, tens of seconds each")


def step_row(s: Any) -> list[str]:
    """One step for people."""
    outcome = "start" if not s.run_id else f"{s.loss:.4f}" if s.state == "completed" else s.state
    if s.band is None:
        return [s.run_id, outcome, flops_label(s.spent_flops, 3), "", "", ""]
    lr, size = s.band.lr_peak, s.band.batch_tokens
    return [s.run_id, outcome, flops_label(s.spent_flops, 3), percent(s.band.expected_regret),
            f"{rate(lr[0])} ({rate(lr[1])} to {rate(lr[2])})",
            f"{tokens(size[0])} ({tokens(size[1])} to {tokens(size[2])})"]  # fmt: skip


def step_json(s: Any) -> dict[str, Any]:
    """One step for scripts and pictures."""
    b = s.band
    names = ("median", "lower", "upper")
    return {
        "run_id": s.run_id, "state": s.state, "loss": s.loss, "n_told": s.n_told, "spent_flops": s.spent_flops,
        "lr_peak": None if b is None else dict(zip(names, b.lr_peak, strict=True)),
        "batch_tokens": None if b is None else dict(zip(names, b.batch_tokens, strict=True)),
        "recommended": None if b is None else {"lr_peak": b.recommended_lr_peak,
                                               "batch_tokens": b.recommended_batch_tokens,
                                               "expected_regret": b.expected_regret},
    }  # fmt: skip
