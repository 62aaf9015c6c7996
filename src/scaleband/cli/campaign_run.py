"""`scaleband campaign run`: the whole loop, with worker processes here or on a cluster."""

from __future__ import annotations

import argparse
import os
import signal
from contextlib import ExitStack
from types import FrameType

from scaleband.cli.arguments import count, whole
from scaleband.cli.campaign_training import (
    adapter_of,
    add_engine,
    add_trainer,
    check_here,
    elsewhere,
    engine_of,
)
from scaleband.cli.printing import print_json, say
from scaleband.cli.progress import progress
from scaleband.cli.verb import Exit
from scaleband.labels import flops_label


def add_run(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    parser.add_argument("--workers", type=whole(1, 1024), default=1, metavar="N", help="trainings at once; 1")
    add_engine(parser)
    parser.add_argument("--wall-seconds", type=count, metavar="S", help="the longest time of one training")
    parser.add_argument("--past-stop", action="store_true", help="go on although the verdict is stop")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="JSON on stdout in the end")
    add_trainer(parser)


def run_run(asked: argparse.Namespace) -> int:
    """Loop; the first Ctrl-C waits for what is out, the second one, SIGTERM and SIGHUP end it."""
    adapter = adapter_of(asked)
    from scaleband.campaign import Campaign
    from scaleband.campaign.loop import run_campaign
    from scaleband.training import Limits

    told: list[int] = []  # the signals

    def stop(signum: int, frame: FrameType | None) -> None:
        told.append(signum)
        if len(told) > 1:
            raise KeyboardInterrupt
        again = "not to wait for them" if elsewhere(asked) else "to end them"
        say(f"stopping when the runs that are out have ended; interrupt again {again}")

    def end(signum: int, frame: FrameType | None) -> None:
        told.extend([signum, signum])
        _say_to_whom_is_there(f"{signal.Signals(signum).name}: not waiting for the runs that are out")
        raise KeyboardInterrupt

    with Campaign.open(asked.dir) as campaign:
        check_here(asked, set(campaign.settings.candidates["data"]))
        with ExitStack() as signals:
            for number, handler in ((signal.SIGINT, stop), (signal.SIGTERM, end), (signal.SIGHUP, end)):
                before = signal.getsignal(number)
                if number == signal.SIGINT or before != signal.SIG_IGN:  # nohup means what it says
                    signals.callback(signal.signal, number, before or signal.SIG_DFL)
                    signal.signal(number, handler)
            try:
                with (
                    engine_of(asked, campaign.place.folder) as executor,
                    progress(asked.quiet) as report,
                ):
                    ended = run_campaign(
                        campaign, adapter, executor, workers=asked.workers,
                        limits=Limits(wall_seconds=asked.wall_seconds), past_stop=asked.past_stop, report=say,
                        progress=report, enough=lambda: bool(told),
                    )  # fmt: skip
            except KeyboardInterrupt:
                how = "go on, and the next run collects them" if elsewhere(asked) else "were ended"
                _say_to_whom_is_there(
                    f"interrupted: all that was told is kept in {asked.dir}. Trainings that were under way {how}; "
                    f"one that sends no sign of life for {campaign.settings.grace_s:g} s is handed out again. Run "
                    "again to go on"
                )
                return 128 + (told[-1] if told else signal.SIGINT)
        account, last = campaign.account(), campaign.verdict()
        nothing = ended.why == "given up" and not any(r.state in ("completed", "diverged") for r in campaign.runs())
    basis = {} if last is None else last["basis"]
    messages = basis.get("gate", [])
    # of the posterior behind the last verdict; unknown where none was asked
    gate = {"passed": not messages if basis.get("draws") else None, "messages": messages}
    if asked.json:
        print_json({**vars(ended), "spent_flops": account.spent, "left_flops": account.left, "gate": gate})
    else:
        print(f"ended ({ended.why}): {ended.sentence}")
        print(f"{ended.completed} completed, {ended.diverged} diverged, {ended.failed} failed; "
              f"{flops_label(account.spent, 3)} of {flops_label(account.budget, 3)} FLOP spent")  # fmt: skip
    for message in messages:
        say(f"warning: the diagnostic gate failed: {message}")
    if nothing or ended.why == "failures":
        return Exit.BAD_INPUT
    return Exit.GATE_FAILED if messages else Exit.DONE


def _say_to_whom_is_there(text: str) -> None:
    """Say it, and nothing more to a terminal that is gone."""
    try:
        say(text)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
