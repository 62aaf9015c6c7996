"""The command adapter against programs that are broken or hostile: each ends as failed, with a reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scaleband.errors import UserError
from scaleband.training import CommandAdapter, Limits, groups, run_one, to_json

PYTHON = (sys.executable, "-I", "-c")


def escaped(code: str) -> str:
    """Code as an argument of a command, in which a brace is written twice."""
    return code.replace("{", "{{").replace("}", "}}")


HOSTILE = {
    "no result": ("print('I did nothing')", "wrote no result"),
    "half a JSON": ("open(sys.argv[1], 'w').write('{\"loss\": 2.')", "not whole JSON"),
    "NaN": ("open(sys.argv[1], 'w').write('{\"loss\": NaN}')", "NaN is not a number"),
    "exit 137": ("print('starting'); sys.stdout.flush(); os._exit(137)", r"exit code 137 \(signal SIGKILL: .*memory"),
    "killed": ("os.kill(os.getpid(), 9)", r"exit code -9 \(signal SIGKILL"),
    "a hang": ("import time; time.sleep(600)", "past its limit"),
    "a hang that ignores signals": (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "past its limit",
    ),
    "1 GB of output": ("[os.write(1, b'x' * 65536) for _ in range(16384)]; time.sleep(60)", "printed more"),
    "a path outside": ("open(sys.argv[1], 'w').write('{\"loss\": 2, \"curve\": \"../../outside\"}')", "outside"),
    "a link outside": (
        "os.symlink('/etc/passwd', 'curve'); open(sys.argv[1], 'w').write('{\"loss\": 2, \"curve\": \"curve\"}')",
        "outside the run's folder",
    ),
    "a result that is a link": ("os.symlink('/etc/passwd', sys.argv[1])", "wrote no result"),
    "a huge result": ("open(sys.argv[1], 'w').write('{' + ' ' * 2_000_000 + '}')", "is larger than"),
    "not text": ("open(sys.argv[1], 'wb').write(b'\\xff\\xfe')", "not text in UTF-8"),
    "another run's": ("open(sys.argv[1], 'w').write('{\"loss\": 2, \"run_id\": \"x\"}')", "another run"),
    "stopped early": ("open(sys.argv[1], 'w').write('{\"loss\": 2, \"n_tokens\": 9}')", "completed after 9 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_end_as_failed(name, spec_of, tmp_path) -> None:
    code, reason = HOSTILE[name]
    seconds = 0.7 if "hang" in name else 30.0
    adapter = CommandAdapter(
        (*PYTHON, escaped(f"import os, sys, time\n{code}"), "{result}"), grace_seconds=0.2
    )
    begun = time.perf_counter()
    spec = spec_of(limits=Limits(wall_seconds=seconds, output_bytes=1 << 24))
    result = run_one(adapter, spec, tmp_path / "run")
    assert result.status == "failed"
    assert result.reason
    assert re.search(reason, result.reason), result.reason
    assert time.perf_counter() - begun < 20
    assert len(result.log_tail) <= 8_000


def test_a_missing_program_and_a_folder_as_program(spec, tmp_path) -> None:
    for program in ("no-such-program-anywhere", str(tmp_path)):
        result = run_one(CommandAdapter((program, "{result}")), spec, tmp_path / "run")
        assert (result.status, "could not be started" in result.reason) == ("failed", True)


@pytest.mark.parametrize(
    "run_id", ["; touch pwned", "$(touch pwned)", "`touch pwned`", "a && touch pwned", "--help"]
)
def test_shell_metacharacters_in_a_run_id(run_id, spec_of, tmp_path) -> None:
    adapter = CommandAdapter(("sh", "-c", "echo {run_id}", "{result}"))
    result = run_one(adapter, spec_of(run_id=run_id), tmp_path / "run")
    assert result.status == "failed"
    assert "run_id" in result.reason
    assert not (tmp_path / "run").exists()


def test_metacharacters_elsewhere_stay_one_argument(spec_of, tmp_path) -> None:
    code = "import json, sys; print(sys.argv[2]); json.dump({'loss': len(sys.argv)}, open(sys.argv[1], 'w'))"
    strange = "code; touch pwned $(touch pwned) 'a' \"b\" *"
    adapter = CommandAdapter((*PYTHON, escaped(code), "{result}", "{data}", "{{literal}}"))
    result = run_one(adapter, spec_of(data=strange), tmp_path / "run")
    assert (result.status, result.loss) == ("completed", 4)
    assert (tmp_path / "run" / "log-tail.txt").read_text().strip() == strange
    assert not list(tmp_path.rglob("pwned"))


def test_children_are_ended_with_the_program(spec_of, tmp_path) -> None:
    child = "import time, sys; open('child', 'w').write('x'); time.sleep(3); open('late', 'w').write('x')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-I', '-c', {child!r}]); time.sleep(60)"
    limits = Limits(wall_seconds=1.5)
    result = run_one(
        CommandAdapter((*PYTHON, escaped(code), "{result}"), grace_seconds=0.2), spec_of(limits=limits),
        tmp_path / "run",
    )
    assert result.status == "failed"
    assert (tmp_path / "run" / "child").exists()
    time.sleep(3.2)
    assert not (tmp_path / "run" / "late").exists()


def test_retries_and_attempts(spec, tmp_path) -> None:
    code = (
        "import json, os, sys\nn = len([f for f in os.listdir() if f.startswith('try')])\n"
        "open(f'try{n}', 'w').close()\n"
        "sys.exit(3) if n < 2 else json.dump({'loss': 2.5}, open(sys.argv[1], 'w'))"
    )
    once = run_one(CommandAdapter((*PYTHON, escaped(code), "{result}")), spec, tmp_path / "once")
    assert (once.status, once.attempts, "exit code 3" in once.reason) == ("failed", 1, True)
    more = run_one(CommandAdapter((*PYTHON, escaped(code), "{result}"), retries=4), spec, tmp_path / "more")
    assert (more.status, more.attempts, more.loss, more.steps) == ("completed", 3, 2.5, 62)


def test_divergence_by_result_and_by_exit_code(spec, tmp_path) -> None:
    code = "import json, sys; json.dump({'status': 'diverged', 'steps': 7}, open(sys.argv[1], 'w'))"
    said = run_one(CommandAdapter((*PYTHON, escaped(code), "{result}")), spec, tmp_path / "said")
    exited = CommandAdapter((*PYTHON, "import sys; sys.exit(9)", "{result}"), diverged_exit_code=9)
    assert (said.status, said.steps) == ("diverged", 7)
    assert run_one(exited, spec, tmp_path / "exited").status == "diverged"


def test_every_field_is_a_placeholder(spec_of, tmp_path) -> None:
    adapter = CommandAdapter(
        ("train", "--lr={lr_peak}", "{batch_tokens}", "{shape.n_layers}", "{n_active}", "{steps}", "{folder}")
    )
    found = adapter.arguments(spec_of(shape={"n_layers": 4}), tmp_path)
    assert found == ["train", "--lr=0.02", "1024", "4", "1000000", "62", str(tmp_path)]
    result = run_one(adapter, spec_of(), tmp_path / "run")
    assert (result.status, "shape.n_layers" in result.reason) == ("failed", True)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("python train.py", "not one string"),
        ((), "a list of a program"),
        (("train", "{lr}"), "no placeholder"),
        (("train", "{"), "no placeholder"),
        (("train", "{0}"), "no placeholder"),
        (("train", "{shape}"), "no placeholder"),
        (("train", "{run_id.__class__}"), "no placeholder"),
        (("train", "--lr={lr_peak}", "{{result}}"), r"names a place for the result; add \{result\}"),
    ],
)
def test_a_command_that_cannot_be_is_refused(command, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        CommandAdapter(command)


def test_the_environment_reaches_the_program_and_nothing_else(spec, tmp_path) -> None:
    code = "import json, os, sys; json.dump({'loss': float(os.environ['LOSS'])}, open(sys.argv[1], 'w'))"
    adapter = CommandAdapter((*PYTHON, escaped(code), "{result}"), environment={"LOSS": "3.25"})
    assert run_one(adapter, spec, tmp_path / "run").loss == 3.25
    assert "LOSS" not in os.environ


def stat(pid: int) -> str:
    """The state letter of a process, "" if there is none: what nobody waited for is a zombie, and has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
    except OSError:
        return ""


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(true())


SLOW = ("sh", "-c", "echo $$ > part.$$; mv part.$$ pid.$$; exec sleep 600", "{result}")
CHILD = (
    "import sys; from scaleband.training import CommandAdapter, run_one, spec_from_json\n"
    "run_one(CommandAdapter(tuple(sys.argv[3:])), spec_from_json(sys.argv[1]), sys.argv[2])"
)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_program_ends_with_a_worker_that_is_killed(spec, tmp_path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, to_json(spec), str(tmp_path / "run"), *SLOW])
    # the mark is written once the keeper is there
    marked = tmp_path / "run" / groups.PROGRAM_FILE
    assert wait_for(lambda: list((tmp_path / "run").glob("pid.*")) and marked.exists(), 60)
    program = int(next((tmp_path / "run").glob("pid.*")).read_text())
    assert stat(program)
    child.kill()
    child.wait()
    assert wait_for(lambda: not stat(program))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("other", ["", "place", "begun"])
def test_a_new_start_ends_what_an_earlier_one_left_running_here(other, spec, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as left:
        found = json.loads(groups.mark(folder, left.pid))
        if other:  # the number of another machine's process, or of another process here
            (folder / groups.PROGRAM_FILE).write_text(json.dumps(found | {other: "another"}))
        write = ("sh", "-c", "echo '{{\"loss\": 3}}' > {result}")
        assert run_one(CommandAdapter(write, grace_seconds=1.0), spec, folder).loss == 3
        assert bool(stat(left.pid)) == bool(other)
        left.kill()
    assert not (folder / groups.PROGRAM_FILE).exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_who_lost_its_folder_does_not_try_again(spec, tmp_path) -> None:
    folder = tmp_path / "run"
    with ThreadPoolExecutor(2) as both:
        first = both.submit(run_one, CommandAdapter(SLOW, retries=3, grace_seconds=0.2), spec, folder)
        assert wait_for(lambda: list(folder.glob("pid.*")) and (folder / groups.PROGRAM_FILE).exists())
        write = ("sh", "-c", "sleep 1; echo '{{\"loss\": 3}}' > {result}")
        assert run_one(CommandAdapter(write, grace_seconds=0.2), spec, folder).loss == 3
        assert (first.result().attempts, "by a later start" in first.result().reason) == (1, True)
    assert len(list(folder.glob("pid.*"))) == 1
