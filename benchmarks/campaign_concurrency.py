"""Many workers on one campaign: nothing lost, nothing doubled, the budget never exceeded; and the same under kill -9.

    python benchmarks/campaign_concurrency.py [--runs 500] [--workers 8] [--kills 50] [--seed 1]

Definitions. A worker asks for one to three runs, tells a loss or that a run diverged, for every tenth run
first that it failed, until an ask gives no run. After each ask it looks at the account: spent and committed must never
exceed the budget, which pays for `runs` runs and not for the failed attempts. In the end every run handed out was
told, the table has as many rows as there were proposals, no setting was proposed twice, no run was told twice, and
there was no money left for another run.

Kills. Workers send signs of life and note in a file of their own, flushed, each run that they were given and each tell
that returned. At random moments one of them gets SIGKILL and a new one starts. In the end (the silent
ones' runs have come back to the pool by then) every tell that returned is in the table with its loss, every run has
ended exactly once, none is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from scaleband.campaign import Campaign, Settings
from scaleband.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
from local_postgresql import local_postgresql

PRICE = 6.0 * 1e7 * 1e9


def settings(n_runs: int, seed: int, *, grace_s: int = 600, retries: int = 3) -> Settings:
    """A campaign of twice as many candidates, all of one price, as its budget pays for."""
    side = math.ceil(math.sqrt(2 * n_runs))
    pairs = list(product([1e-4 * 1.05**k for k in range(side)], [32768.0 * (k + 1) for k in range(side)]))[
        : 2 * n_runs
    ]
    count = len(pairs)
    candidates = {
        "source": ["bench"] * count, "arch": ["dense"] * count, "data": ["none"] * count,
        "n_params": [1e7] * count, "n_active": [1e7] * count, "n_tokens": [1e9] * count,
        "lr_peak": [p[0] for p in pairs], "batch_tokens": [p[1] for p in pairs],
    }  # fmt: skip
    target = {"source": "bench", "data": "none", "n_params": 1e9, "n_tokens": 2e10}
    return Settings("bench", target, n_runs * PRICE, candidates, strategy="random", seed=seed, retries=retries,
                    heartbeat_s=1, grace_s=grace_s)  # fmt: skip


def loss_of(run_id: str) -> float:
    """A made-up loss that is the run's own."""
    return 3.0 + 0.001 * int(run_id.rsplit("-", 1)[1])


def work(folder: Path, seed: int, notes: Path, heartbeat: bool) -> None:
    """One worker, until there is nothing left to do."""
    rng = random.Random(seed)
    with notes.open("a", encoding="utf-8", buffering=1) as file, Campaign.open(folder) as campaign:

        def note(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")

        parent = multiprocessing.parent_process()
        while parent is None or parent.is_alive():
            asked = campaign.ask(rng.randint(1, 3), heartbeat=heartbeat)
            a = asked.account
            if a.spent + a.committed > a.budget * (1 + 1e-9):
                note(broken=f"spent {a.spent:g} and committed {a.committed:g} of {a.budget:g}")
            if not asked.runs:
                if heartbeat and any(r.state in ("pending", "waiting") for r in campaign.runs()):
                    time.sleep(0.3)  # a silent worker's runs may still come back
                    continue
                return
            for run in asked.runs:
                note(given=run.run_id)
            for run in asked.runs:
                if heartbeat:
                    campaign.beat(run.run_id)
                    time.sleep(rng.random() * 0.2)
                chance = rng.random()
                try:
                    if not heartbeat and run.attempts == 1 and int(run.run_id[-4:]) % 10 == 3:
                        campaign.tell(run.run_id, status="failed")
                        note(failed=run.run_id)
                    elif chance < 0.15:
                        campaign.tell(run.run_id, status="diverged", flops=run.flops / 2)
                        note(told=run.run_id, loss=None)
                    else:
                        campaign.tell(run.run_id, loss_of(run.run_id))
                        note(told=run.run_id, loss=loss_of(run.run_id))
                except UserError as error:
                    # it was taken for lost while it slept, and another worker told the run: fine, once is enough
                    if not heartbeat or "told already" not in str(error):
                        raise
                    note(refused=run.run_id)


_PROCESSES = multiprocessing.get_context("forkserver")
# Imported once and forked, so that eight workers do not spend a minute importing.
_PROCESSES.set_forkserver_preload(
    ["scaleband.campaign.campaign", "scaleband.runs", "optuna.storages._rdb.models", "alembic.command",
     "alembic.config", "alembic.migration", "alembic.script", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"]
)  # fmt: skip


def start(folder: Path, seed: int, notes: Path, heartbeat: bool) -> Any:
    """A worker as a process of its own."""
    worker = _PROCESSES.Process(target=work, args=(folder, seed, notes, heartbeat))
    worker.start()
    return worker


def _codes(workers: list[Any], most_s: float) -> list[int]:
    for worker in workers:
        worker.join(most_s)
    return [worker.exitcode for worker in workers]


def together(folder: Path, n_workers: int, seed: int) -> dict[str, float]:
    """Workers at once on one campaign; what came of it, checked.

    Raises
    ------
    AssertionError
        Anything lost, doubled or overspent.
    """
    began = time.perf_counter()
    notes = [folder / f"notes-{k}.jsonl" for k in range(n_workers)]
    workers = [start(folder, seed + k, notes[k], False) for k in range(n_workers)]
    codes = _codes(workers, 1800)
    assert codes == [0] * n_workers, f"workers ended with {codes}"
    seconds = time.perf_counter() - began
    facts = check(folder, notes)
    given = [line["given"] for line in _lines(notes) if "given" in line]
    failed = [line["failed"] for line in _lines(notes) if "failed" in line]
    told = [line["told"] for line in _lines(notes) if "told" in line]
    # each attempt was handed out once: what was given is what was told and what failed
    assert sorted(given) == sorted(told + failed), "a run was handed out twice, or vanished"
    with Campaign.open(folder) as campaign:
        runs = campaign.runs()
        assert not [r for r in runs if r.state in ("pending", "waiting")]
        account = campaign.account()
        assert account.left < PRICE, "there was money left for another run"
    return facts | {
        "seconds": seconds,
        "workers_told": sum(1 for n in notes if any("told" in x for x in _lines([n]))),
    }


def under_kills(
    folder: Path, n_workers: int, n_kills: int, seed: int, *, most_s: float = 300.0
) -> dict[str, float]:
    """The same with workers that are killed at random moments and replaced; checked in the end."""
    rng = random.Random(seed)
    notes: list[Path] = []

    def another() -> Any:
        notes.append(folder / f"notes-{len(notes)}.jsonl")
        return start(folder, 1000 * seed + len(notes), notes[-1], True)

    workers = [another() for _ in range(n_workers)]
    own = notes.copy()
    began, killed = time.perf_counter(), 0
    while killed < n_kills:
        assert time.perf_counter() - began < most_s, f"{killed} kills after {most_s:g} s"
        k = rng.randrange(n_workers)
        while workers[k].is_alive() and not (own[k].exists() and own[k].stat().st_size):
            time.sleep(0.01)  # it is not at work yet
        time.sleep(rng.random() * 0.7)
        assert workers[k].is_alive(), (
            "the work was done before the killing was: give more runs, or fewer kills"
        )
        workers[k].kill()
        workers[k].join()
        killed += 1
        workers[k] = another()
        own[k] = notes[-1]
    codes = _codes(workers, most_s)
    assert codes == [0] * n_workers, f"workers ended with {codes}"
    facts = check(folder, notes)
    with Campaign.open(folder) as campaign:
        runs = {r.run_id: r for r in campaign.runs()}
        assert not [r for r in runs.values() if r.state in ("pending", "waiting")], "a run never ended"
        for line in _lines(notes):
            if "given" in line:
                assert line["given"] in runs, f"{line['given']} was handed out and is gone"
            if "told" in line:
                result = runs[line["told"]].result
                assert result is not None, f"{line['told']} was told and is gone"
                assert result.loss == line["loss"], f"{line['told']} has another result than was told"
    return facts | {"kills": killed, "seconds": time.perf_counter() - began}


def check(folder: Path, notes: list[Path]) -> dict[str, float]:
    """What must hold however a campaign was worked on."""
    lines = _lines(notes)
    broken = [line["broken"] for line in lines if "broken" in line]
    assert not broken, broken
    told = [line["told"] for line in lines if "told" in line]
    assert len(set(told)) == len(told), "a run was told twice"
    with Campaign.open(folder) as campaign:
        runs, account = campaign.runs(), campaign.account()
        assert len({r.run_id for r in runs}) == len(runs), "a run_id was given twice"
        assert len({r.key for r in runs}) == len(runs), "a setting was proposed twice"
        assert account.spent + account.committed <= account.budget * (1 + 1e-9), "the budget was exceeded"
        table = campaign.table()
        assert table is not None
        assert len(table) == len(runs), "a run is missing from the table"
        orders = sorted(r.result.order for r in runs if r.result is not None)
        assert len(set(orders)) == len(orders), "two tells overwrote each other"
        return {
            "runs": len(runs),
            "completed": sum(r.state == "completed" for r in runs),
            "diverged": sum(r.state == "diverged" for r in runs),
            "given_up": sum(r.state == "failed" for r in runs),
            "attempts": sum(r.attempts for r in runs),
            "spent_share": account.spent / account.budget,
        }


def _lines(notes: list[Path]) -> list[dict[str, Any]]:
    out = []
    for path in notes:
        if not path.exists():
            continue  # killed before its first breath
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                out.append(json.loads(text))
            except ValueError:
                continue  # the line that a kill cut off
    return out


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, local_postgresql() as url:
        for kind, storage in (("SQLite", None), ("PostgreSQL", url)):
            folder = Path(name) / kind
            Campaign.create(folder, settings(asked.runs, asked.seed), storage=storage).close()
            _say(f"{kind}, {asked.workers} workers at once", together(folder, asked.workers, asked.seed))
            folder = Path(name) / f"{kind}-kills"
            plan = settings(asked.runs, asked.seed + 1, grace_s=5, retries=asked.kills)
            Campaign.create(folder, replace(plan, name="kills"), storage=storage).close()
            _say(f"{kind}, kill -9", under_kills(folder, 4, asked.kills, asked.seed, most_s=900))


def _say(what: str, facts: dict[str, float]) -> None:
    print(f"{what}: " + ", ".join(f"{k} {v:g}" for k, v in facts.items()), flush=True)


if __name__ == "__main__":
    main()
