"""`scaleband campaign run`: the whole loop with worker processes on this machine."""

from __future__ import annotations

import argparse
import signal
from types import FrameType
from typing import Any

from scaleband.cli.arguments import count, whole
from scaleband.cli.printing import print_json, say
from scaleband.cli.progress import progress
from scaleband.cli.verb import Exit, UsageError


def add_run(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    parser.add_argument("--workers", type=whole(1, 1024), default=1, metavar="N", help="trainings at once; 1")
    parser.add_argument("--gpus", metavar="0,1,...", help="devices, dealt out to the workers in turn")
    parser.add_argument("--threads", type=whole(1, 1024), metavar="N", help="CPU threads of each worker")
    parser.add_argument("--wall-seconds", type=count, metavar="S", help="the longest time of one training")
    parser.add_argument("--past-stop", action="store_true", help="go on although the verdict is stop")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="JSON on stdout in the end")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--synthetic", action="store_true", help="rehearse: losses out of a formula, nothing is trained"
    )
    which.add_argument(
        "--command", nargs=argparse.REMAINDER, metavar="PROGRAM",
        help="a program and its arguments (all that follows), run for every training without a shell; {spec} and "
        "{result} are JSON files, {lr_peak}, {batch_tokens}, {n_params}, {n_tokens}, {seed}, ... values",
    )  # fmt: skip


def run_run(asked: argparse.Namespace) -> int:
    """Loop; the first Ctrl-C waits for what is out, the second one does not."""
    if asked.command is not None and not asked.command:
        raise UsageError("--command names a program and its arguments, as the last words of the line")
    from scaleband.campaign import Campaign
    from scaleband.campaign.loop import run_campaign
    from scaleband.training import CommandAdapter, Limits, SyntheticAdapter, local_processes

    adapter: Any = SyntheticAdapter() if asked.synthetic else CommandAdapter(tuple(asked.command or ()))
    gpus = [g.strip() for g in asked.gpus.split(",") if g.strip()] if asked.gpus else []
    stop_asked: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        if stop_asked:
            raise KeyboardInterrupt
        stop_asked.append(signum)
        say("stopping when the runs that are out have ended; interrupt again to leave them")

    with Campaign.open(asked.dir) as campaign:
        before = signal.signal(signal.SIGINT, stop)
        try:
            with (
                local_processes(asked.workers, gpus=gpus, threads_per_worker=asked.threads) as executor,
                progress(asked.quiet) as report,
            ):
                ended = run_campaign(
                    campaign, adapter, executor, workers=asked.workers, limits=Limits(wall_seconds=asked.wall_seconds),
                    past_stop=asked.past_stop, report=say, progress=report, enough=lambda: bool(stop_asked),
                )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)
        account = campaign.account()
    if asked.json:
        print_json({**vars(ended), "spent_flops": account.spent, "left_flops": account.left})
    else:
        print(f"ended ({ended.why}): {ended.sentence}")
        print(f"{ended.completed} completed, {ended.diverged} diverged, {ended.failed} failed; "
              f"{account.spent:.3g} of {account.budget:.3g} FLOP spent")  # fmt: skip
    return Exit.BAD_INPUT if ended.why == "failures" else Exit.DONE
