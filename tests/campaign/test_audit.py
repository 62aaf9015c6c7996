"""A proposal asked for again, from the record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scaleband.campaign import Campaign, audit
from scaleband.campaign.audits import attempts_then
from scaleband.campaign.offers import table_digest
from scaleband.errors import UserError

Make = Callable[..., Campaign]


@pytest.mark.parametrize("strategy", ["random", "cheapest-first"])
def test_every_batch_comes_out_again(make: Make, strategy: str) -> None:
    campaign = make(strategy=strategy, retries=1)
    one, two, three = campaign.ask(3).runs
    campaign.tell(two.run_id, 3.2)
    four = campaign.ask(1).runs[0]
    campaign.tell(one.run_id, status="diverged")
    campaign.tell(three.run_id, status="failed")  # comes back, and is handed out before anything new
    five = campaign.ask(2).runs[1]
    campaign.tell(four.run_id, 3.1)
    assert audit(campaign, one.run_id).run_ids == (one.run_id, two.run_id, three.run_id)
    for run in (one, three, four, five):
        found = audit(campaign, run.run_id)
        assert found.differences == ()
        assert run.run_id in found.run_ids


def test_what_is_not_as_it_was_is_named(make: Make) -> None:
    campaign = make(strategy="random")
    run = campaign.ask(2).runs[0]
    other = Campaign(campaign.place, replace(campaign.settings, seed=5))
    found = audit(other, run.run_id)
    said = " ".join(found.differences)
    assert "the settings: " in said
    assert "the seed: " in said
    with pytest.raises(UserError, match="there is no run 'small-9'"):
        audit(campaign, "small-9")


def test_an_attempt_that_was_lost_before_stays_lost(make: Make) -> None:
    campaign = make(strategy="random", heartbeat_s=1, grace_s=2)
    lost = campaign.ask(1, heartbeat=True).runs[0]
    campaign.beat(lost.run_id)
    time.sleep(4.1)
    again, new = campaign.ask(2).runs
    assert again.run_id == lost.run_id  # its successor is out while the next one is proposed
    assert audit(campaign, new.run_id).differences == ()
    assert audit(campaign, lost.run_id).differences == ()


def test_results_of_later_are_out_again(make: Make) -> None:
    campaign = make()
    one = campaign.ask(1).runs[0]
    two = campaign.ask(1).runs[0]
    campaign.tell(one.run_id, 3.2)
    then = attempts_then(campaign.attempts(), two.proposal["basis"])
    assert [(a.run_id, a.state, a.result) for a in then] == [(one.run_id, "RUNNING", None)]


def test_a_column_that_tables_got_later_leaves_old_digests_alone() -> None:
    before = pd.DataFrame({"n_tokens": [2e9, 4e9], "seq_len": [2048.0, 2048.0]})
    after = before.assign(unique_tokens=np.nan)[["n_tokens", "unique_tokens", "seq_len"]]
    assert table_digest(after) == table_digest(before)
    assert table_digest(after.assign(unique_tokens=1e9)) != table_digest(before)
