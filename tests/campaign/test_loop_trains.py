"""The loop for real: a campaign whose runs are trained, from proposals to a recommendation."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

import scaleband.training
from scaleband.campaign import Campaign, Settings
from scaleband.campaign.history import history
from scaleband.campaign.loop import run_campaign, run_folder
from scaleband.training import ReferenceAdapter, local_processes, read_curve, write_tokens

TARGET = {"source": "own", "arch": "dense", "data": "code", "n_params": 100_000, "n_tokens": 65_536}
PRICE = 6.0 * 50_464 * 8_192


def test_from_proposals_to_a_recommendation(tmp_path: Path) -> None:
    package = Path(scaleband.training.__file__).parents[1]
    texts = [path.read_bytes() for path in sorted(package.rglob("*.py")) if path.stat().st_size > 2000]
    write_tokens(texts, tmp_path / "tokens", validation_share=0.1)
    rows = list(product((1e-3, 3e-3, 9e-3), (64.0, 128.0, 256.0)))
    candidates = {
        "source": ["own"] * 9, "arch": ["dense"] * 9, "data": ["code"] * 9, "n_params": [50_464.0] * 9,
        "n_tokens": [8_192.0] * 9, "lr_peak": [r[0] for r in rows], "batch_tokens": [r[1] for r in rows],
    }  # fmt: skip
    settings = Settings(
        name="real", target=TARGET, budget_flops=5.5 * PRICE, candidates=candidates, prior="scaleband-tiny", trust=0.3,
        draws=200, tune=200, stated={"loss_kind": "validation, nats per byte"},
    )  # fmt: skip
    adapter = ReferenceAdapter(
        str(tmp_path / "tokens"), device="cpu", seq_len=32, validation_sequences=64, threads=1
    )
    with Campaign.create(tmp_path / "campaign", settings) as campaign:
        with local_processes(1, threads_per_worker=1) as executor:
            ended = run_campaign(campaign, adapter, executor, workers=5, past_stop=True)
        assert (ended.why, ended.completed, ended.failed) == ("budget", 5, 0)
        table = campaign.table()
        assert table is not None
        assert (table["loss_se"] == 0).all()  # the held-out text is the same for all
        assert table["loss"].between(2.0, 5.0).all()
        steps, losses = {}, {}
        for run in campaign.runs():
            curve = read_curve(run_folder(campaign, run.run_id) / "curve.csv")
            steps[run.run_id] = curve[-1][0]
            losses[run.run_id] = curve[0][2] - curve[-1][2]
            assert curve[-1][1] == 8_192
            assert curve[-1][0] == 8_192 / run.inputs["batch_tokens"]
        assert min(losses.values()) > 0.5  # each of them learnt
        asked = [run.proposal["evsi"] for run in campaign.runs()]
        assert all(np.isfinite(gain) for gain in asked)
        last = history(campaign, fill="latest")[-1]
        assert last.n_told == 5
        assert last.spent_flops <= 5.5 * PRICE
        assert last.band is not None
        assert 1e-5 < last.band.lr_peak[1] < last.band.recommended_lr_peak < last.band.lr_peak[2] < 1
        assert last.band.expected_regret > 0
