"""`scaleband campaign run` with a trainer and an engine chosen by flag."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaleband.campaign import Campaign
from scaleband.cli import main
from scaleband.cli.campaign_training import ENGINES, adapter_of, check_here
from scaleband.cli.program import build_parser
from scaleband.training import ReferenceAdapter, engines, write_tokens
from scaleband.training.protocol import result_from_json

SOURCE = Path(__file__).resolve().parents[2] / "src"


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["campaign", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    texts = [path.read_bytes() for path in sorted((SOURCE / "scaleband" / "training").glob("*.py"))]
    write_tokens(texts, folder / "code", validation_share=0.2)
    return folder


def three_runs(
    capsys: pytest.CaptureFixture[str], place: Path, size: str, n_tokens: str, batch: int, *more: str
) -> Path:
    """A campaign of three runs of one cell."""
    (place / "can.csv").write_text(
        "n_params,n_tokens,lr_peak,batch_tokens\n"
        + "".join(f"{size},{n_tokens},{lr},{batch}\n" for lr in (1e-3, 4e-3, 1.6e-2))
    )
    budget = str(3.3 * 6 * float(size) * float(n_tokens))
    words = ["--params", "1e9", "--tokens", "1e10", "--source", "mine", "--data", "code", "--budget", budget,
             "--candidates", place / "can.csv", "--strategy", "cheapest-first", *more]  # fmt: skip
    assert call(capsys, "init", place / "tiny", *words)[0] == 0
    return place / "tiny"


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A campaign of three runs, seconds each."""
    return three_runs(capsys, tmp_path, "50000", "2048", 256)


def test_the_reference_trainer_by_flag(folder, tokens, capsys) -> None:
    code, out, err = call(
        capsys, "run", folder, "--trainer", tokens / "{data}", "--device", "cpu", "--precision", "float32",
        "--seq-len", "32", "--micro-tokens", "128", "--validation-sequences", "8", "--threads", "1", "--quiet",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["completed"] == 3
    results = [result_from_json(p.read_text()) for p in sorted((folder / "runs").glob("*/result.json"))]
    assert [(r.steps, r.n_tokens) for r in results] == [(8, 2048)] * 3
    assert all(3 < (r.loss or 0) < 6 and r.device == "cpu" for r in results)
    spent = json.loads(out)["spent_flops"]
    assert spent == pytest.approx(3 * 6 * 50_000 * 2048, rel=0.02)  # of what was built


def test_another_engine_by_flag(folder, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    code, out, _ = call(
        capsys,
        "run",
        folder,
        "--engine",
        "submitit-local",
        "--workers",
        3,
        "--synthetic",
        "--quiet",
        "--json",
    )
    said = json.loads(out)
    assert (code, said["completed"] + said["diverged"]) == (0, 3)
    assert list((folder / "submitit").glob("*_log.out"))


def test_all_of_the_trainer_s_flags_arrive() -> None:
    words = ["campaign", "run", "DIR", "--trainer", "/text/{data}", "--device", "cuda:1", "--precision", "bfloat16",
             "--compile", "--seq-len", "1024", "--micro-tokens", "4096", "--validation-sequences", "64",
             "--threads", "2"]  # fmt: skip
    assert adapter_of(build_parser().parse_args(words)) == ReferenceAdapter(
        "/text/{data}", device="cuda:1", precision="bfloat16", compile=True, seq_len=1024, micro_tokens=4096,
        validation_sequences=64, threads=2,
    )  # fmt: skip


def test_the_engines_are_those_of_the_room() -> None:
    assert ENGINES == engines.ENGINES


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--synthetic", "--device", "cpu"], 2, "--device is an option of --trainer"),
        (["--synthetic", "--compile"], 2, "--compile is an option of --trainer"),
        (["--synthetic", "--engine", "dask", "--gpus", "0"], 1, "gpus is an option of local"),
        (["--synthetic", "--address", "auto"], 1, "address is an option of dask and ray"),
        (["--synthetic", "--engine", "slurm", "--slurm", "account"], 2, "NAME=VALUE"),
        (["--synthetic", "--engine", "pbs"], 2, "invalid choice"),
        (["--trainer", "a", "--synthetic"], 2, "not allowed with"),
        ([], 2, "one of the arguments"),
    ],
)
def test_what_does_not_fit_is_refused(folder, capsys, words, code, says) -> None:
    try:
        found, out, err = call(capsys, "run", folder, *words)
    except SystemExit as stopped:
        found, out, err = int(stopped.code or 0), "", capsys.readouterr().err
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--command", "no-such-program", "{result}"], "no program 'no-such-program' on PATH; name it by its whole"),
        (["--command", "/nonexistent/prog", "{result}"], "/nonexistent/prog is not a program's file; correct the path"),
        (["--command", "PLACE/can.csv", "{result}"], "is a file that may not be run; make it executable (chmod +x)"),
        (["--command", "./train.sh", "{result}"], "./train.sh is a path from this folder"),
        (["--engine", "submitit-local", "--command", "no-such-program", "{result}"], "no program 'no-such-program'"),
        (["--trainer", "/nonexistent"], "/nonexistent is not a whole data folder"),
        (["--trainer", "PLACE/{data}"], "/code is not a whole data folder"),
    ],
)
def test_what_is_not_there_is_said_before_a_run_is_handed_out(folder, capsys, words, says) -> None:
    code, out, err = call(capsys, "run", folder, *(w.replace("PLACE", str(folder.parent)) for w in words))
    assert (code, out) == (1, "")
    assert says in err
    with Campaign.open(folder) as campaign:
        assert campaign.attempts() == []


@pytest.mark.parametrize(
    ("stated", "seq_len", "says"),
    [
        ("optimizer=muon", "32", "optimizer = 'muon': this trainer's is AdamW and nothing else; state 'AdamW"),
        ("loss_kind=bits per byte", "32", "state 'validation, nats per token', or leave it out"),
        ("weight_decay=ten", "32", "weight_decay = 'ten'"),
        ("schedule=linear", "32", "schedule = 'linear'"),
        ("tokenizer=gpt2", "32", "the data folder holds 'bytes'"),
        ("loss_kind=validation, nats per byte", "100", "batch_tokens = 256); give a seq_len that divides 256"),
    ],
)
def test_what_no_run_can_be_is_said_before_the_first(tmp_path, tokens, capsys, stated, seq_len, says) -> None:
    folder = three_runs(capsys, tmp_path, "50000", "2048", 256, "--state", stated)
    code, out, err = call(
        capsys, "run", folder, "--trainer", tokens / "{data}", "--seq-len", seq_len, "--device", "cpu", "--quiet"
    )
    assert (code, out) == (1, "")
    assert says in err
    with Campaign.open(folder) as campaign:
        assert campaign.attempts() == []


def test_a_campaign_whose_settings_were_all_given_up_is_no_success(tmp_path, capsys) -> None:
    (tmp_path / "can.csv").write_text("n_params,n_tokens,lr_peak,batch_tokens\n50000,2048,1e-3,256\n")
    words = ["--params", "1e9", "--tokens", "1e10", "--source", "mine", "--data", "code", "--budget", "1e15",
             "--candidates", tmp_path / "can.csv", "--strategy", "random", "--retries", "0"]  # fmt: skip
    assert call(capsys, "init", tmp_path / "one", *words)[0] == 0
    for _ in range(2):  # and it stays so
        code, out, _ = call(capsys, "run", tmp_path / "one", "--quiet", "--command", "false", "{result}")
        assert code == 1
        assert "ended (given up): nothing else is left; settings given up after failures: 1" in out


def test_a_cluster_s_workers_may_see_other_files() -> None:
    for place in (["--engine", "slurm"], ["--engine", "dask", "--address", "tcp://far:8786"]):
        for what in (["--trainer", "/their/{data}"], ["--command", "their-program"]):
            check_here(build_parser().parse_args(["campaign", "run", "DIR", *place, *what]), {"code"})
    check_here(build_parser().parse_args(["campaign", "run", "DIR", "--command", "{folder}/train"]), {"code"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_is_trained_and_says_what_is_kept(number, folder) -> None:
    # tests may run under nohup, which the loop heeds
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    code += "from scaleband.cli import main; sys.exit(main())"
    train = "echo $$ > part; mv part pid; exec sleep 600"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "campaign", "run", folder, "--quiet", "--command", "sh", "-c", train, "{result}"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(SOURCE)}, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (begun := list(folder.glob("runs/*/pid"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    training = int(begun[0].read_text())
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert f"all that was told is kept in {folder}. Trainings that were under way were ended; " in said
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)
