"""Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over bytes, learnt from local text."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

#: No token crosses these pieces: a word with its space before it, a run of digits, of marks, of white space.
_PIECE = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]{1,3}| ?[^\sA-Za-z0-9\x80-\xff]+|\s+")


@dataclass(frozen=True)
class Bpe:
    """Merges in the order in which they were learnt: merge k joins two ids into id 256 + k."""

    merges: tuple[tuple[int, int], ...]

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return 256 + len(self.merges)

    @cached_property
    def ranks(self) -> dict[tuple[int, int], int]:
        """Pair -> the id that it becomes."""
        return {pair: 256 + k for k, pair in enumerate(self.merges)}


def learn(texts: Iterable[bytes], vocab_size: int) -> Bpe:
    """Join the commonest pair, again and again. Ties go to the smaller pair, so the outcome is determined."""
    pieces = Counter(piece for text in texts for piece in _PIECE.findall(text))
    words = [(list(piece), n) for piece, n in sorted(pieces.items())]
    pairs: Counter[tuple[int, int]] = Counter()
    where: dict[tuple[int, int], set[int]] = {}
    for i, (word, n) in enumerate(words):
        for pair in itertools.pairwise(word):
            pairs[pair] += n
            where.setdefault(pair, set()).add(i)
    merges: list[tuple[int, int]] = []
    while len(merges) < vocab_size - 256:
        best = max(pairs, key=lambda pair: (pairs[pair], (-pair[0], -pair[1])), default=None)
        if best is None or pairs[best] < 2:
            break
        for i in sorted(where[best]):
            word, n = words[i]
            for pair in itertools.pairwise(word):
                pairs[pair] -= n
                if not pairs[pair]:
                    del pairs[pair]
            word = _joined(word, best, 256 + len(merges))
            words[i] = (word, n)
            for pair in itertools.pairwise(word):
                pairs[pair] += n
                where.setdefault(pair, set()).add(i)
        merges.append(best)
    return Bpe(tuple(merges))


def _joined(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def encode(bpe: Bpe, text: bytes) -> NDArray[np.int64]:
    """Token ids of a text, (token,)."""
    if not bpe.merges:
        return np.frombuffer(text, np.uint8).astype(np.int64)
    known: dict[bytes, list[int]] = {}
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        if piece not in known:
            word = list(piece)
            while True:
                pairs = {pair for pair in itertools.pairwise(word) if pair in bpe.ranks}
                if not pairs:
                    break
                first = min(pairs, key=bpe.ranks.__getitem__)
                word = _joined(word, first, bpe.ranks[first])
            known[piece] = word
        ids.extend(known[piece])
    return np.array(ids, np.int64)


def decode(bpe: Bpe, ids: Iterable[int]) -> bytes:
    """The text of token ids."""
    pieces = [bytes([i]) for i in range(256)]
    for left, right in bpe.merges:
        pieces.append(pieces[left] + pieces[right])
    return b"".join(pieces[i] for i in ids)
