"""The adapters keep the contract, and the contract notices adapters that do not."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from scaleband.training import CommandAdapter, RunResult, SyntheticAdapter, contract

WRITER = (
    "import json, os, sys; spec = json.load(open(sys.argv[1])); "
    "open('part', 'w').write(json.dumps(dict(loss=2 + spec['lr_peak'] + spec['seed'] + 1e3 / spec['n_tokens']))); "
    "os.rename('part', sys.argv[2]); print('done')"
)
ADAPTERS = {
    "synthetic": SyntheticAdapter(),
    "command": CommandAdapter((sys.executable, "-I", "-c", WRITER, "{spec}", "{result}")),
}


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_keep_the_contract(adapter, check, spec, tmp_path) -> None:
    check(adapter, spec, tmp_path)


@dataclass(frozen=True)
class Broken:
    """An adapter with one fault."""

    fault: str

    def run(self, spec, folder: Path) -> RunResult:
        good = SyntheticAdapter().run(spec, folder)
        match self.fault:
            case "no flops":
                return dataclasses.replace(good, flops=0.0)
            case "wrong tokens":
                return dataclasses.replace(good, steps=good.steps * 2)
            case "other run":
                return dataclasses.replace(good, run_id="another")
            case "unseeded":
                return dataclasses.replace(good, loss=2 + random.random())
            case "writes beside":
                (folder.parent / "beside").write_text("x")
            case "writes here":
                Path("leak.txt").write_text("x")
            case "ignores the limit" if spec.limits.wall_seconds:
                time.sleep(0.6)
            case "one loss":
                return dataclasses.replace(good, loss=3.0)
            case "deaf to the rate":
                return SyntheticAdapter().run(dataclasses.replace(spec, lr_peak=1e-2), folder)
            case "curve of other columns":
                (folder / good.curve).write_text("iter,loss\n1,2\n")
            case "binary curve":
                (folder / good.curve).write_bytes(b"\xff\xfe\x00")
            case "another specification":
                (folder / "spec.json").write_text("{}")
            case "moves away":
                os.chdir(folder)
            case "curve outside":
                return dataclasses.replace(good, curve="../../etc/passwd")
            case "raises":
                raise RuntimeError("a defect")
            case "silent limit" if spec.limits.wall_seconds:
                raise RuntimeError("something")
        return good


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("no flops", "facts"),
        ("wrong tokens", "facts"),
        ("other run", "facts"),
        ("raises", "facts"),
        ("curve outside", "files"),
        ("unseeded", "repeats"),
        ("writes beside", "tidy"),
        ("writes here", "tidy"),
        ("moves away", "tidy"),
        ("ignores the limit", "limit"),
        ("one loss", "depends"),
        ("deaf to the rate", "depends"),
        ("curve of other columns", "files"),
        ("binary curve", "files"),
        ("another specification", "files"),
        ("silent limit", "limit"),
    ],
)
def test_a_broken_promise_is_noticed(fault, check, spec, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    checks = {each.name: each for each in contract.CHECKS}
    with pytest.raises(contract.BrokenContract, match=r"\w+ .*"):
        checks[check](Broken(fault), spec, tmp_path)


def test_outcomes_are_a_report(spec, tmp_path) -> None:
    found = contract.outcomes(SyntheticAdapter(), spec, tmp_path)
    assert [each.name for each in found] == [check.name for check in contract.CHECKS]
    assert [each.problem for each in found] == [""] * len(found)


def test_an_exception_in_a_check_is_reported(spec, tmp_path) -> None:
    found = {each.name: each.problem for each in contract.outcomes(Broken("binary curve"), spec, tmp_path)}
    assert [name for name, problem in found.items() if problem] == ["files"]
