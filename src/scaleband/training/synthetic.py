"""A training that is computed, not done: for tests, for teaching, and to rehearse a campaign at no cost.

Its law is stated here in full, so that a campaign's answer can be compared with the truth. The constants are
assumptions, near what Step Law (Li et al. 2025, arXiv:2503.04715) and Chinchilla (Hoffmann et al. 2022) found.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleband.training.curves import write_curve
from scaleband.training.protocol import RunResult, RunSpec, failed

BENDS = 8.0
GUESSING = math.log(50_000)
"""The loss of guessing among a common number of tokens, nats; what is computed bends towards it from `BENDS` on."""


@dataclass(frozen=True)
class SyntheticAdapter:
    """Answers from a closed form with noise.

        loss = bent((E + A n^-a + B d^-b) exp(excess)) exp(noise z)
        bent(l) = l up to 8, above it 8 + c (1 - exp(-(l - 8) / c)), c = GUESSING - 8
        excess = h/2 (u^2 + v^2),  u = log(lr / lr*),  v = log(batch / batch*)
        lr* = lr_scale (n / 5e8)^lr_n (d / 2e10)^lr_d,  batch* = batch_scale (d / 2e10)^batch_d

    with n the total parameters, d the tokens, z standard normal from the seed and the setting. Tiny models that saw
    next to nothing are no worse than guessing, which the sum alone would make them.

    Attributes
    ----------
    noise
        Standard deviation of the log loss from seed to seed.
    edge
        Rates this many times above lr* diverge.
    curvature
        h, log loss per squared log unit.
    seconds
        How long each run pretends to take, seconds.
    lr_scale, lr_n, lr_d, batch_scale, batch_d
        The law of the optimum.
    """

    noise: float = 0.001
    edge: float = 12.0
    curvature: float = 0.02
    seconds: float = 0.0
    lr_scale: float = 1.0e-3
    lr_n: float = -0.6
    lr_d: float = 0.25
    batch_scale: float = 524_288.0
    batch_d: float = 0.5

    def optimum(self, n_params: float, n_tokens: float) -> tuple[float, float]:
        """The true best (`lr_peak`, `batch_tokens`)."""
        lr = self.lr_scale * (n_params / 5e8) ** self.lr_n * (n_tokens / 2e10) ** self.lr_d
        return lr, self.batch_scale * (n_tokens / 2e10) ** self.batch_d

    def expected_loss(self, n_params: float, n_tokens: float, lr_peak: float, batch_tokens: float) -> float:
        """The loss without noise, nats per token."""
        lr, batch = self.optimum(n_params, n_tokens)
        excess = self.curvature / 2 * (math.log(lr_peak / lr) ** 2 + math.log(batch_tokens / batch) ** 2)
        loss = (1.7 + 400.0 * n_params**-0.34 + 410.0 * n_tokens**-0.28) * math.exp(excess)
        room = GUESSING - BENDS
        return loss if loss <= BENDS else BENDS - room * math.expm1((BENDS - loss) / room)

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        """See `Adapter.run`."""
        begun = time.perf_counter()
        limit = spec.limits.wall_seconds
        if limit is not None and self.seconds > limit:
            time.sleep(limit)
            return failed(spec, f"ran past its limit of {limit:g} s", wall_seconds=limit)
        time.sleep(self.seconds)
        steps = spec.steps
        n_tokens = steps * spec.batch_tokens
        diverged = spec.lr_peak > self.edge * self.optimum(spec.n_params, spec.n_tokens)[0]
        words = np.array([spec.lr_peak, spec.batch_tokens, spec.n_params, spec.n_tokens]).view(np.uint32)
        rng = np.random.default_rng([spec.seed, *map(int, words)])
        loss = self.expected_loss(spec.n_params, spec.n_tokens, spec.lr_peak, spec.batch_tokens)
        loss *= math.exp(self.noise * rng.standard_normal())
        end = 0.3 if diverged else 1.0
        shares = np.linspace(0.05, end, 20)
        curve = write_curve(
            folder,
            [(steps * s, n_tokens * s, loss * (1 + 0.3 * (1 - s)), spec.lr_peak * (1 - s)) for s in shares],
        )
        wall = time.perf_counter() - begun
        return RunResult(
            run_id=spec.run_id,
            status="diverged" if diverged else "completed",
            loss=None if diverged else loss,
            n_tokens=int(n_tokens * end),
            steps=int(steps * end),
            wall_seconds=wall,
            tokens_per_second=n_tokens * end / max(wall, 1e-6),
            device="synthetic",
            flops=6.0 * spec.active * n_tokens * end,
            curve=curve,
            reason=f"the rate is over {self.edge:g} times the best one" if diverged else "",
        )
