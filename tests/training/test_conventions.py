"""Conventions that a specification states: done, true anyway, or refused with a remedy."""

from __future__ import annotations

import pytest

from scaleband.training.conventions import OURS, convention_problems, weight_decay_of


@pytest.mark.parametrize(
    "stated",
    [
        OURS,
        {"optimizer": "AdamW"},
        {"optimizer": "AdamW (0.9, 0.95)"},
        {"optimizer": "adamw, betas 0.90 and 0.95, clipping at 1.0"},
        {"optimizer": "AdamW beta1=0.9 beta2=0.95"},
        {"loss_kind": "validation, nats per byte"},
        {"loss_kind": "validation"},
        {"loss_kind": "validation, web"},
        {"loss_kind": "held-out part of the training text, nats/token"},
        {"n_params_kind": "non-embedding"},
        {"n_params_kind": "without embeddings"},
        {"weight_decay": "0.1"},
        {"weight_decay": " .05"},
        {"weight_decay": "1e-2"},
    ],
)
def test_what_is_true_may_be_stated(spec_of, stated) -> None:
    assert convention_problems(spec_of(**stated)) == []
    assert convention_problems(spec_of(**stated), "bytes") == []


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"optimizer": "muon"}, "is AdamW and nothing else; state 'AdamW 0.9 0.95, clipped at 1', or leave it out"),
        ({"optimizer": "Muon, AdamW for the embedding"}, "is AdamW and nothing else"),
        ({"optimizer": "AdamW without clipping"}, "is AdamW and nothing else"),
        ({"optimizer": "AdamW 0.9 0.999"}, "betas 0.9 and 0.95"),
        ({"optimizer": "AdamW 0.9 0.95, clipped at 0.5"}, "clipped at 1"),
        ({"optimizer": "AdamW beta1=0.95 beta2=0.9"}, "betas 0.9 and 0.95"),
        ({"loss_kind": "bits per byte"}, "in nats per token"),
        ({"loss_kind": "validation, bpb"}, "in nats per token"),
        ({"loss_kind": "validation, nats per word"}, "in nats per token"),
        ({"loss_kind": "validation perplexity"}, "in nats per token"),
        ({"loss_kind": "training loss, smoothed at the end"}, "held-out text; state 'validation, nats per token'"),
        ({"n_params_kind": "with embedding"}, "neither embedding nor head here"),
        ({"n_params_kind": "total"}, "state 'non-embedding, total', or leave it out"),
        ({"weight_decay": "10%"}, "a number of at least 0"),
        ({"weight_decay": "-0.1"}, "a number of at least 0"),
        ({"weight_decay": "nan"}, "a number of at least 0"),
        ({"weight_decay": "1e999"}, "a number of at least 0"),
    ],
)
def test_what_is_not_true_is_refused(spec_of, stated, says) -> None:
    problems = convention_problems(spec_of(**stated))
    assert len(problems) == 1
    assert says in problems[0]
    assert problems[0].startswith(f"{next(iter(stated))} = ")


def test_nats_per_byte_are_those_of_byte_tokens(spec_of) -> None:
    spec = spec_of(loss_kind="validation, nats per byte")
    assert convention_problems(spec, "bytes") == []
    assert len(convention_problems(spec, "bpe-512-0a1b2c")) == 1
    assert convention_problems(spec_of(tokenizer="bytes"), "bpe-512") == [
        "tokenizer = 'bytes', but the data folder holds 'bpe-512'"
    ]


def test_the_decay_that_is_stated(spec_of) -> None:
    found = [weight_decay_of(spec_of(weight_decay=text)) for text in ("", "0", "none", " 0.30 ")]
    assert found == [0.1, 0.0, 0.0, 0.3]
