"""Slips of units that a number gives away: their limits and words, for tables and flags alike."""

from __future__ import annotations

MOST_SEQUENCES = 16384
"""The largest batch in use is as many sequences; as many tokens are fewer than any sensible batch."""

SEQUENCES = "looks like sequences"
SEQUENCES_REMEDY = "give tokens per optimizer step: sequences times their length"

HIGHEST_RATE = 1.0

TOO_HIGH = "is above 1, which no optimizer survives"
TOO_HIGH_REMEDY = "check the unit; lr_peak is the peak rate itself, not a multiple"

LOSS_RANGE = (0.3, 12.0)
"""Nats per token of any language model that was worth a run."""

NO_LOSS = "is outside 0.3 to 12 nats per token"
NO_LOSS_REMEDY = "check the unit; perplexity is not loss, take its natural log"
