"""How long a first answer takes: whole processes of `import scaleband` and of `scaleband recommend`.

Run as ``python benchmarks/cold_start.py [--model NAME | --fit FIT.nc] [--runs 15]``. Prints median, fastest and
slowest in seconds, and exits 1 if a median is above its limit: 0.3 s for the import, 1.0 s for the answer. The
first run of each is thrown away: it reads the files from the disk.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("scaleband")
LIMITS = {"import scaleband": 0.3, "scaleband recommend": 1.0, "known group": 1.0}


def seconds(command: list[str], runs: int) -> list[float]:
    """Wall-clock time of whole processes, one at a time."""
    taken = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        taken.append(time.perf_counter() - begin)
        if done.returncode not in (0, 3):  # 3: answered, by a fit whose gate failed
            raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    return taken[1:]


def main() -> int:
    """Measure and print; 1 if anything is slower than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default="step-law")
    which.add_argument("--fit")
    parser.add_argument("--runs", type=int, default=15)
    asked = parser.parse_args()
    source = ["--fit", asked.fit] if asked.fit else ["--model", asked.model]
    commands = {
        "import scaleband": [sys.executable, "-c", "import scaleband"],
        "scaleband recommend": [str(PROGRAM), "recommend", *source, "--params", "1e9", "--tokens", "2e10"],
    }
    if not asked.fit and asked.model == "step-law":  # a group that is known has a plateau to find as well
        known = [*commands["scaleband recommend"], "--source", "step-law", "--data", "steplaw_main"]
        commands["known group"] = known
    slow = False
    for name, command in commands.items():
        taken = seconds(command, asked.runs)
        median = statistics.median(taken)
        slow |= median > LIMITS[name]
        spread = f"fastest {min(taken):.2f}, slowest {max(taken):.2f}"
        print(f"{name:<20} median {median:.2f} s (limit {LIMITS[name]} s; {spread}; {asked.runs} processes)")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
