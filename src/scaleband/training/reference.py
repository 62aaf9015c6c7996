"""The reference trainer as an adapter, and stacks of runs; torch is imported when the first training starts."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaleband.errors import UserError
from scaleband.training.conventions import SEQ_LEN, convention_problems
from scaleband.training.protocol import RESULT_FILE, SPEC_FILE, RunResult, RunSpec, failed, to_json
from scaleband.training.running import contradiction, finished, kept, reason_for, unsafe_id, write_whole
from scaleband.training.tokens import open_tokens


@dataclass(frozen=True)
class ReferenceAdapter:
    """Trains the transformer of this package on a data folder.

    Attributes
    ----------
    data
        A folder that `write_tokens` made, for any specification; with `{data}` in it, a folder for each data
        distribution.
    device, precision, micro_tokens, compile, validation_sequences, checkpoint_seconds, graph
        See `scaleband.training.train.Settings`; `precision` "" is bfloat16 on a GPU and float32 elsewhere.
    threads
        CPU threads of torch in this process; 0 leaves them alone. A stack's runs are shared out among them.
    seq_len
        Tokens of a sequence where the specification does not say; 0 is `scaleband.training.conventions.SEQ_LEN`.
    """

    data: str
    device: str = ""
    precision: str = ""
    micro_tokens: int = 65_536
    compile: bool = False
    validation_sequences: int = 256
    checkpoint_seconds: float = 60.0
    threads: int = 0
    seq_len: int = 0
    graph: bool = True

    def problems(self, specs: Sequence[RunSpec], batches: Collection[int] = ()) -> list[str]:
        """What keeps these specifications, and these batches (tokens), from being trained, with remedies; torch is not
        needed, and tokens that are not on this machine are not asked for.
        """
        found: dict[str, None] = {}
        for spec in specs:
            try:
                tokenizer = open_tokens(self.data.replace("{data}", spec.data)).tokenizer
            except UserError:  # elsewhere, or told when it is needed
                tokenizer = ""
            found |= dict.fromkeys(convention_problems(spec, tokenizer))
        seq_len = self.seq_len or SEQ_LEN
        odd = sorted(batch for batch in batches if batch % seq_len)
        if odd and (common := math.gcd(*batches)) > 1:  # without a remedy each says so itself, and the others are run
            found[
                f"{len(odd)} of {len(batches)} batches are no whole number of sequences of seq_len = {seq_len} (the "
                f"first: batch_tokens = {odd[0]}); give a seq_len that divides {common} (--seq-len)"
            ] = None
        return list(found)

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        """See `Adapter.run`. Raises UserError where torch is absent or the specification cannot be trained."""
        return self.stack([spec], folder, [folder])[0]

    def stack(self, specs: Sequence[RunSpec], folder: Path, run_folders: Sequence[Path]) -> list[RunResult]:
        """Several runs of one shape as one program; see `scaleband.training.train.train`."""
        torch = _torch()
        from scaleband.training.train import Settings, train

        if self.threads:
            torch.set_num_threads(self.threads)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = self.precision or ("bfloat16" if device.startswith("cuda") else "float32")
        settings = Settings(
            device, precision, self.micro_tokens, self.compile, self.validation_sequences, self.checkpoint_seconds,
            graph=self.graph,
        )  # fmt: skip
        opened = {name: open_tokens(self.data.replace("{data}", name)) for name in {s.data for s in specs}}
        specs = [replace(s, seq_len=s.seq_len or self.seq_len or None) for s in specs]
        return train(specs, [opened[spec.data] for spec in specs], settings, folder, run_folders)


def run_stack(adapter: ReferenceAdapter, specs: Sequence[RunSpec], folder: str | Path) -> list[RunResult]:
    """Train several runs as one program, each with its own folder `folder`/`run_id`; never raises for a failure.

    Runs of the stack that are finished already are taken as they are, and one whose name cannot be, or is there twice,
    fails alone. What fails later, fails for all that were left.
    """
    folder = Path(folder).absolute()
    results: dict[int, RunResult] = {}
    names = [spec.run_id for spec in specs]
    for k, spec in enumerate(specs):
        twice = f"run_id {spec.run_id!r} is there twice; give every run a name of its own"
        reason = unsafe_id(spec) or (twice if names.count(spec.run_id) > 1 else "")
        earlier = failed(spec, reason) if reason else finished(spec, folder / spec.run_id)
        if earlier is not None:
            results[k] = earlier
    left = [k for k in range(len(specs)) if k not in results]
    places = [folder / names[k] for k in left]
    try:
        for k, place in zip(left, places, strict=True):
            place.mkdir(parents=True, exist_ok=True)
            write_whole(place / SPEC_FILE, to_json(specs[k]))
            (place / RESULT_FILE).unlink(missing_ok=True)
        found = adapter.stack([specs[k] for k in left], folder, places) if left else []
        for k, place, result in zip(left, places, found, strict=True):
            reason = contradiction(specs[k], result, place)
            results[k] = failed(specs[k], reason) if reason else result
    except Exception as error:
        results |= {k: failed(specs[k], reason_for(error)) for k in left}
    results |= {k: kept(specs[k], results[k], place) for k, place in zip(left, places, strict=True)}
    return [results[k] for k in range(len(specs))]


def check_torch() -> None:
    """Raises UserError where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "the reference trainer needs torch, which is not installed: pip install 'scaleband[torch]'"
        )


def _torch() -> Any:
    check_torch()
    import torch

    return torch
