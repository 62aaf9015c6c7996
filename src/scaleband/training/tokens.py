"""Token data on disk: flat files that are mapped, not read; made once from local text.

A data folder holds `train.bin`, `validation.bin` (little-endian uint16) and `tokens.json` (tokenizer, sizes).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.training.bpe import Bpe, encode, learn
from scaleband.training.running import write_whole

FORMAT = 1
INFO_FILE, TRAIN_FILE, VALIDATION_FILE = "tokens.json", "train.bin", "validation.bin"

SAMPLES, SAMPLE_TOKENS = 128, 4096


@dataclass(frozen=True)
class TokenData:
    """A data folder that was opened.

    Attributes
    ----------
    train, validation
        Token ids, (token,), mapped.
    vocab_size, tokenizer
        Ids are below the first; the second names how the text was cut.
    merges
        A digest of the tokenizer's merges, "" without any: folders of before may share a name and differ in these.
    """

    train: NDArray[np.uint16]
    validation: NDArray[np.uint16]
    vocab_size: int
    tokenizer: str
    merges: str = ""


def write_tokens(
    texts: Iterable[bytes],
    folder: Path,
    *,
    vocab_size: int = 256,
    validation_share: float = 0.05,
    like: str | Path | None = None,
) -> TokenData:
    """Cut texts into tokens and write a data folder.

    Parameters
    ----------
    texts
        Documents, UTF-8 or any bytes. Every k-th document goes to validation, by bytes, so that both parts are
        of the same kind; none that would make validation twice as large as asked, or more than half. Where all are
        that long, the shortest one.
    folder
        Where to; made if absent.
    vocab_size
        256: bytes. More: byte-pair encoding learnt on these texts, with so many tokens at most.
    validation_share
        Share of the bytes kept for validation, in (0, 0.5].
    like
        A data folder whose tokenizer cuts these texts too, in place of `vocab_size`: runs on several kinds of text need
        one tokenizer for losses that can be compared, and for a stack.

    Raises
    ------
    UserError
        Nothing to write, numbers out of range, or `like` is no data folder.
    """
    if not 256 <= vocab_size <= 65_536 or not 0 < validation_share <= 0.5:
        raise UserError("vocab_size must lie in 256..65536 and validation_share in (0, 0.5]")
    parts = _split(list(texts), validation_share)
    if like is not None:
        name, bpe = _tokenizer_of(Path(like))
        if vocab_size not in (256, bpe.vocab_size):
            raise UserError(f"vocab_size = {vocab_size}, but {like} has {bpe.vocab_size} tokens; leave vocab_size out")
    else:
        bpe = learn(parts[0], vocab_size) if vocab_size > 256 else Bpe(())
        # a name says which merges: those of another text are another tokenizer
        name = f"bpe-{bpe.vocab_size}-{_digest(bpe.merges)[:6]}" if vocab_size > 256 else "bytes"
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, documents in zip((TRAIN_FILE, VALIDATION_FILE), parts, strict=True):
        part = folder / f".{file_name}"
        with part.open("wb") as file:
            for document in documents:
                file.write(encode(bpe, document).astype("<u2").tobytes())
        part.replace(folder / file_name)
    info = {"format": FORMAT, "tokenizer": name, "vocab_size": bpe.vocab_size, "merges": bpe.merges}
    write_whole(folder / INFO_FILE, json.dumps(info))
    return open_tokens(folder)


def _split(documents: list[bytes], share: float) -> tuple[list[bytes], list[bytes]]:
    """Documents to train on, and those to hold out."""
    sizes, most = [0, 0], min(2 * share, 0.5) * sum(map(len, documents))
    held: list[bool] = []
    for text in documents:
        held.append(sizes[1] < share * (sizes[0] + sizes[1]) and sizes[1] + len(text) <= most)
        sizes[held[-1]] += len(text)
    some = [k for k, text in enumerate(documents) if text]
    if not sizes[1] and len(some) > 1:
        held[min(some, key=lambda k: (len(documents[k]), -k))] = True
    parts = ([t for t, out in zip(documents, held, strict=True) if not out],
             [t for t, out in zip(documents, held, strict=True) if out])  # fmt: skip
    if not all(map(any, parts)):
        raise UserError("tokens: at least two documents are needed, one for validation; split the text")
    return parts


def _digest(merges: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps(merges).encode()).hexdigest()


def _tokenizer_of(folder: Path) -> tuple[str, Bpe]:
    """The tokenizer of a data folder and its name."""
    data = open_tokens(folder)
    merges = json.loads((folder / INFO_FILE).read_text(encoding="utf-8")).get("merges", [])
    bpe = Bpe(tuple((int(left), int(right)) for left, right in merges))
    if bpe.vocab_size != data.vocab_size:
        raise UserError(f"{folder} does not hold its tokenizer, so no other text can be cut like it")
    return data.tokenizer, bpe


def open_tokens(folder: str | Path) -> TokenData:
    """Open a data folder. Raises UserError if it is not whole."""
    folder = Path(folder)
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if info.get("format", FORMAT) != FORMAT:
            raise ValueError(f"format {info['format']!r} is not known; this version reads {FORMAT}")
        vocab_size, merges = int(info["vocab_size"]), info.get("merges")
        if not 1 <= vocab_size <= 65_536:
            raise ValueError(f"vocab_size = {vocab_size}; ids lie below 65,536")
        train, validation = (np.memmap(folder / name, "<u2", "r") for name in (TRAIN_FILE, VALIDATION_FILE))
        return TokenData(
            train, validation, vocab_size, str(info["tokenizer"]), _digest(merges) if merges else ""
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is not a whole data folder ({error}); make it with write_tokens") from None


def fingerprint(data: TokenData) -> str:
    """What tells one data folder from another: tokenizer, sizes, and a digest of samples from the whole length."""
    digest = hashlib.sha256()
    for part in (data.train, data.validation):
        # two megabytes in all: reading whole files could take minutes
        for start in np.linspace(0, max(0, len(part) - SAMPLE_TOKENS), SAMPLES).astype(np.int64):
            digest.update(part[start : start + SAMPLE_TOKENS].tobytes())
    sizes = f"{len(data.train)}/{len(data.validation)}"
    return f"{data.tokenizer}/{data.vocab_size}/{sizes}/{digest.hexdigest()}"


def batch(
    tokens: NDArray[np.uint16], seed: int, step: int, n_sequences: int, seq_len: int
) -> NDArray[np.int64]:
    """The sequences of one step, (sequence, seq_len + 1): inputs and, shifted by one, targets.

    Drawn with replacement at any offset, by seed and step alone: a resumed run sees what an uninterrupted one
    would have seen.
    """
    rng = np.random.default_rng([seed, step])
    starts = rng.integers(0, len(tokens) - seq_len, n_sequences)
    return tokens[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64)


def known(ids: NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    """Ids as they came. Raises UserError where one is not of the vocabulary: in a stack it would be another run's."""
    largest = int(ids.max(initial=0))
    if largest >= vocab_size:
        raise UserError(
            f"the tokens hold the id {largest}, and the vocabulary has {vocab_size:,}: the file is damaged, or of "
            "another tokenizer; make the data folder again with write_tokens"
        )
    return ids


def held_out(tokens: NDArray[np.uint16], n_sequences: int, seq_len: int) -> NDArray[np.int64]:
    """The same validation sequences for every run: evenly spaced and apart, (sequence, seq_len + 1)."""
    possible = (len(tokens) - 1) // seq_len
    starts = np.linspace(0, possible - 1, min(n_sequences, possible)).astype(np.int64) * seq_len
    return tokens[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64)
