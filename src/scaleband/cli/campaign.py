"""`scaleband campaign`: ask for runs, tell their losses, see how the answer firms up."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scaleband.cli.accounts import account_json, account_rows
from scaleband.cli.arguments import add_interval, add_json, path, whole
from scaleband.cli.campaign_init import add_init, run_init
from scaleband.cli.campaign_run import add_run, run_run
from scaleband.cli.campaign_status import add_status, run_status
from scaleband.cli.printing import print_json, print_table, say
from scaleband.cli.progress import interruptible
from scaleband.cli.verb import Exit, UsageError, Verb
from scaleband.cli.words import rate, tokens
from scaleband.errors import UserError
from scaleband.labels import flops_label, percent, quantity

if TYPE_CHECKING:
    from scaleband.campaign import Asked, Campaign
    from scaleband.design import Device


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of every part."""
    parts = parser.add_subparsers(dest="part", metavar="init|ask|tell|status|run|join", required=True)

    def part(name: str, text: str) -> argparse.ArgumentParser:
        sub = parts.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("dir", type=path, metavar="DIR", help="the campaign's folder")
        return sub

    add_init(part("init", "start a campaign: target, budget, what can be run, prior"))
    joining = part("join", "make DIR another way into a campaign that is in PostgreSQL already")
    joining.add_argument("--storage", required=True, metavar="URL", help="the database")
    joining.add_argument("--name", required=True, metavar="NAME", help="the campaign's name")
    ask = part("ask", "the next runs to make; each is out until it is told")
    ask.add_argument(
        "-n", "--n", type=whole(1, 1000), default=1, metavar="K", help="at most this many runs; 1"
    )
    ask.add_argument("--past-stop", action="store_true", help="propose although the verdict is stop")
    ask.add_argument("--quiet", action="store_true", help="no progress")
    add_json(ask)
    tell = part("tell", "what became of a run")
    tell.add_argument("run_id", metavar="RUN_ID")
    tell.add_argument("loss", nargs="?", type=number, metavar="LOSS", help="final loss, nats per token")
    how = tell.add_mutually_exclusive_group()
    how.add_argument("--diverged", action="store_true", help="it blew up: that is information")
    how.add_argument(
        "--failed", action="store_true", help="it ended without an answer: it comes back, up to the retries"
    )
    how.add_argument("--give-back", action="store_true", help="it was never begun: it waits for the next ask")
    tell.add_argument(
        "--loss-se", type=number, default=0.0, metavar="SE", help="standard error of the loss; 0"
    )
    tell.add_argument(
        "--flops", type=number, metavar="FLOPS", help="what it really trained; as proposed by default"
    )
    tell.add_argument(
        "--unit", metavar="UNIT", help="unit of this loss, to be checked against the campaign's"
    )
    tell.add_argument(
        "--loss-kind", metavar="KIND", help="kind of this loss, to be checked against the campaign's"
    )
    tell.add_argument("--reason", metavar="TEXT", help="why it failed or diverged; kept with the run")
    tell.add_argument("--sure", action="store_true", help="take a loss or a cost that looks like a slip")
    add_json(tell)
    status = part("status", "budget, runs, the recommendation's band against the FLOPs spent, the verdict")
    add_status(status)
    add_interval(status)
    add_json(status, regrets=True)
    add_run(part("run", "the whole loop: ask, train, tell, until the budget is spent or the verdict is stop"))


def number(text: str) -> float:
    """A number; NaN and infinities pass, to be refused with a remedy where they cannot be."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write it like 3.127") from None


def run(asked: argparse.Namespace) -> int:
    """One part."""
    parts: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "init": run_init, "ask": run_ask, "tell": run_tell, "status": run_status, "run": run_run,
        "join": run_join,
    }  # fmt: skip
    return parts[asked.part](asked)


def run_join(asked: argparse.Namespace) -> int:
    """Another machine's way in."""
    from scaleband.campaign import Campaign

    with Campaign.join(asked.dir, asked.storage, asked.name) as campaign:
        say(f"{asked.dir} leads to {campaign.settings.name}: {len(campaign.runs())} runs so far")
    return Exit.DONE


def run_ask(asked: argparse.Namespace) -> int:
    """Hand out runs."""
    from scaleband.campaign import Campaign

    with Campaign.open(asked.dir) as campaign, interruptible(asked.quiet) as each_step:
        found = campaign.ask(asked.n, past_stop=asked.past_stop, progress=each_step)
        device = campaign.settings.prices()
        gate = gate_json(found, campaign.verdict())
    for message in gate["messages"]:
        say(f"warning: the diagnostic gate failed: {message}")
    code = Exit.GATE_FAILED if gate["messages"] else Exit.DONE
    if asked.json:
        verdict = None if found.verdict is None else vars(found.verdict)
        print_json(
            {
                "runs": [run_json(r) for r in found.runs],
                "verdict": verdict,
                "budget": account_json(found.account, device),
                "gate": gate,
            }
        )
        return code
    if found.runs:
        columns = ["run_id", "params", "tokens", "lr_peak", "batch_tokens", "seed", "FLOP", "EVSI"]
        columns += [] if device is None else [device.unit]
        print_table(columns, [run_row(r, device) for r in found.runs])
    if found.verdict is not None:
        say(f"verdict: {found.verdict.action}: {found.verdict.why.removeprefix(found.verdict.action + ': ')}")
    for name, words in account_rows(found.account, device):
        say(f"{name}: {words}")
    if not found.runs and found.verdict is not None and found.verdict.stop:
        say("nothing was handed out; --past-stop proposes all the same if the budget allows it")
    return code


def gate_json(found: Asked, verdict: dict[str, Any] | None) -> dict[str, Any]:
    """What the diagnostic gate had against the posteriors that chose these runs and made the verdict.

    `passed` is None where no posterior was asked.
    """
    bases = [r.proposal.get("basis", {}) for r in found.runs]
    if found.verdict is not None and verdict is not None:
        bases.append(verdict["basis"])
    messages = list(dict.fromkeys(message for basis in bases for message in basis.get("gate", ())))
    return {"passed": not messages if any(basis.get("draws") for basis in bases) else None, "messages": messages}


def run_row(r: Any, device: Device | None) -> list[str]:
    """A run for people."""
    i, gain, error = r.inputs, r.proposal.get("evsi"), r.proposal.get("evsi_error")
    shown = "-" if gain is None else f"{percent(gain)} +- {percent(error or 0.0)}"
    return [r.run_id, quantity(i["n_params"]), quantity(i["n_tokens"]), rate(i["lr_peak"]), tokens(i["batch_tokens"]),
            str(i["seed"]), flops_label(r.flops, 3), shown,
            *([] if device is None else [device.words(r.price_flops)])]  # fmt: skip


def run_json(r: Any) -> dict[str, Any]:
    """A run for scripts: a row of the run table, with its price and what it was proposed for."""
    p = r.proposal
    return {
        "run_id": r.run_id, **r.inputs, "flops": r.flops, "overhead_flops": r.overhead_flops, "state": r.state,
        "attempts": r.attempts,
        "evsi": p.get("evsi"), "evsi_error": p.get("evsi_error"), "bundle": p.get("bundle"),
        "replicate": p.get("replicate"), "p_diverged": p.get("p_diverged"),
        "loss": None if r.result is None else r.result.loss,
    }  # fmt: skip


def run_tell(asked: argparse.Namespace) -> int:
    """Write a result down."""
    from scaleband.campaign import Campaign

    if asked.loss is None and not (asked.diverged or asked.failed or asked.give_back):
        raise UsageError("give the loss, or --diverged, --failed or --give-back")
    if asked.loss is not None and (asked.failed or asked.give_back):
        raise UsageError("a run that failed or never began has no final loss; leave the loss out")
    with Campaign.open(asked.dir) as campaign:
        if asked.flops is not None and not asked.sure:
            doubt_cost(campaign, asked)
        if asked.give_back:
            told = campaign.give_back(asked.run_id)
        else:
            told = campaign.tell(
                asked.run_id,
                asked.loss,
                status="diverged" if asked.diverged else "failed" if asked.failed else None,
                loss_se=asked.loss_se,
                flops=asked.flops,
                unit=asked.unit,
                loss_kind=asked.loss_kind,
                sure=asked.sure,
                facts={"reason": asked.reason} if asked.reason else None,
            )
        account, device = campaign.account(), campaign.settings.prices()
    if asked.json:
        print_json({**run_json(told), "budget": account_json(account, device)})
        return Exit.DONE
    loss = None if told.result is None else told.result.loss
    state = "back in the pool" if told.state == "waiting" else told.state
    shown = "" if loss is None or not math.isfinite(loss) else f", loss {loss:.5g}"
    spent = f"{flops_label(account.spent, 3)} of {flops_label(account.budget, 3)} FLOP spent"
    print(f"{told.run_id}: {state}{shown}; {spent}")
    return Exit.DONE


def doubt_cost(campaign: Campaign, asked: argparse.Namespace) -> None:
    """Ask again about a cost that is another unit's, or slipped by some digits: what is told is charged for good.

    Raises
    ------
    UserError
        More than ten times what the run was to train, or of a completed run less than a tenth.
    """
    run = next((r for r in campaign.runs() if r.run_id == asked.run_id), None)
    if run is None or not (math.isfinite(asked.flops) and asked.flops >= 0):
        return  # refused by `tell`
    whole = asked.loss is not None and not asked.diverged
    if asked.flops > 10 * run.flops or (whole and asked.flops < run.flops / 10):
        raise UserError(
            f"run {run.run_id}: {asked.flops:g} FLOP is {asked.flops / run.flops:.2g} times the {run.flops:.3g} that "
            "it was to train, and the budget is charged with it; leave --flops out to charge what was proposed, or if "
            "it is right all the same, confirm it (--sure)"
        )


VERB = Verb(
    "campaign", "Choose runs one after another under a budget: init, ask, tell, status, run.", add, run
)
