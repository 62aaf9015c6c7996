"""Text to tokens and back, data folders, batches by seed and step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleband.errors import UserError
from scaleband.training import open_tokens, write_tokens
from scaleband.training.bpe import Bpe, decode, encode, learn
from scaleband.training.tokens import batch, held_out

TEXT = b"the cat sat on the mat, the rat sat on the hat; 1234 hats.\n" * 20
LEARNT = learn([TEXT], 300)


@given(st.binary(max_size=200))
def test_nothing_is_lost(text) -> None:
    assert decode(LEARNT, encode(LEARNT, text)) == text
    assert decode(Bpe(()), encode(Bpe(()), text)) == text


def test_merges_are_the_commonest_pairs() -> None:
    found = learn([b"aaab aaab aab"], 258)
    # aa five times; then three pairs twice each, of which " " + aa has the smallest ids
    assert found.merges == ((97, 97), (32, 256))
    assert LEARNT.vocab_size <= 300
    assert len(encode(LEARNT, TEXT)) < 0.4 * len(TEXT)


def test_a_data_folder(tmp_path) -> None:
    documents = [bytes([65 + i]) * 100 for i in range(20)]
    made = write_tokens(documents, tmp_path / "data", validation_share=0.1)
    again = open_tokens(tmp_path / "data")
    assert again.tokenizer == made.tokenizer == "bytes"
    assert isinstance(again.train, np.memmap)
    assert len(again.train) + len(again.validation) == 2_000
    assert len(again.validation) == 200
    assert not set(again.train) & set(again.validation)


def test_a_folder_with_merges(tmp_path) -> None:
    made = write_tokens([TEXT, TEXT, TEXT], tmp_path, vocab_size=280, validation_share=0.3)
    assert made.vocab_size <= 280
    assert made.tokenizer.startswith(f"bpe-{made.vocab_size}-")  # and a digest of the merges
    assert made.train.max() < made.vocab_size


def test_two_texts_of_one_tokenizer(tmp_path) -> None:
    other = [b"what the rain in spain said to the plain\n" * 20] * 2
    first = write_tokens([TEXT, TEXT], tmp_path / "a", vocab_size=280)
    alike = write_tokens(other, tmp_path / "b", like=tmp_path / "a")
    apart = write_tokens(other, tmp_path / "c", vocab_size=280)
    assert (alike.tokenizer, alike.vocab_size, alike.merges) == (first.tokenizer, first.vocab_size, first.merges)
    assert apart.tokenizer != first.tokenizer
    assert decode(learn([TEXT], 280), alike.train) == other[0]
    with pytest.raises(UserError, match="leave vocab_size out"):
        write_tokens(other, tmp_path / "d", like=tmp_path / "a", vocab_size=300)
    with pytest.raises(UserError, match="not a whole data folder"):
        write_tokens(other, tmp_path / "d", like=tmp_path / "nothing")
    write_tokens([TEXT, TEXT], tmp_path / "bytes")
    assert write_tokens(other, tmp_path / "d", like=tmp_path / "bytes").tokenizer == "bytes"


def test_a_folder_of_before_is_read_with_its_name(tmp_path) -> None:
    made = write_tokens([TEXT, TEXT], tmp_path, vocab_size=280)
    info = json.loads((tmp_path / "tokens.json").read_text())
    (tmp_path / "tokens.json").write_text(json.dumps(info | {"tokenizer": "bpe-280"}))
    again = open_tokens(tmp_path)
    assert (again.tokenizer, again.merges) == ("bpe-280", made.merges)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"format": 99}, "format 99 is not known"), ({"vocab_size": 0}, "vocab_size = 0"), (None, "not a whole data")],
)
def test_a_card_that_cannot_be_is_refused(tmp_path, change, says) -> None:
    write_tokens([TEXT, TEXT], tmp_path)
    info = json.loads((tmp_path / "tokens.json").read_text())
    (tmp_path / "tokens.json").write_text("[]" if change is None else json.dumps(info | change))
    with pytest.raises(UserError, match=says):
        open_tokens(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "validation"),
    [
        ([1_000, 100_000, 1_000], 1_000),  # held out by bytes, the second would be nearly all there is
        ([1_000, 100_000], 1_000),
        ([1_000, 40_000, 60_000], 1_000),
        ([1_000, 1_000], 1_000),
        ([1_001, 1_000, 0], 1_000),
        ([100] * 40, 200),
        ([3, 5] * 1_000, 400),
    ],
)
def test_what_is_held_out(tmp_path, sizes, validation) -> None:
    made = write_tokens([b"a" * n for n in sizes], tmp_path)
    assert (len(made.train), len(made.validation)) == (sum(sizes) - validation, validation)


def test_a_broken_folder_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="not a whole data folder"):
        open_tokens(tmp_path)
    with pytest.raises(UserError, match="at least two documents"):
        write_tokens([b"one"], tmp_path)


def test_batches_are_determined_by_seed_and_step() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    first = batch(tokens, 3, 7, 16, 10)
    assert first.shape == (16, 11)
    assert (first == batch(tokens, 3, 7, 16, 10)).all()
    assert (np.diff(first, axis=1) == 1).all()
    assert (first != batch(tokens, 4, 7, 16, 10)).any()
    assert (first != batch(tokens, 3, 8, 16, 10)).any()
    fixed = held_out(tokens, 5, 10)
    assert (np.diff(fixed[:, 0]) >= 10).all()
