"""Loss laws on public tables: replication, and what was left out.

    python benchmarks/loss_laws.py replication                  chinchilla_epoch against its published replication
    python benchmarks/loss_laws.py budgets kempner_loss_to_loss one isoFLOP budget left out at a time
    python benchmarks/loss_laws.py budgets marin_dense_isoflop
    python benchmarks/loss_laws.py extrapolate gadre_overtraining   fit to at most 1/300 of the largest run's compute
    python benchmarks/loss_laws.py extrapolate gadre_overtraining n_params_with_embeddings   sizes by another column
    python benchmarks/loss_laws.py levels                       Step Law levels: 1.07B out, then 50B tokens and more out
    python benchmarks/loss_laws.py gate TABLE LAW               NUTS on one law: diagnostics and seconds
    python benchmarks/loss_laws.py speed [TABLE ...]            every law that a table identifies: gate and seconds
    python benchmarks/loss_laws.py stack                        all forms on the 41 dense Step Law cells: seconds
    python benchmarks/loss_laws.py recovery                     repetition and three-term law on simulated tables

Definitions (fixed before the first held-out figure was looked at):

- observations: one per cell of the table (`table_from_runs`); Step Law: one per dense cell, the level of the cell's own
  unpooled basin (`benchmarks/unpooled.py`), so that no held-out run touches a fitted level;
- the fit: the five general laws, stated beliefs, stacked by leave-one-scale-out scores that are recomputed without the
  held-out rows; draws by importance sampling, by NUTS where its Pareto k is above 0.7; seed 1;
- error: median of the predictive over the observation minus one, percent; coverage: equal-tailed 90 % interval of one
  new observation; PIT of each observation; beside it the plain Chinchilla law, fitted alike;
- budget: the table's own column (`iso_flop`, `budget`). A first version cut 6 n_active n_tokens at gaps of 0.1 decade;
  upstream counted compute otherwise, so that five of Kempner's budgets ran together into one fold of 232 observations;
- replication: the Chinchilla law alone; alpha, beta, a = beta / (alpha + beta), and the best size at 5.76e23 FLOP,
  under the stated beliefs and with every standard deviation of the law's own parameters doubled; then by the stack;
- recovery: no public table repeats data; of those without a sweep one ran several batches on more than two cells, at
  four sizes with one token count each (`marin_moe_cbs`). So the law of repeated data and the one of size, steps and
  batch are fitted to simulated runs of a stated truth, which is written down apart from the laws' own text. Asked are
  points outside the table and the best size; then, of nine seeds together, how many answers lie in their 90 % bands.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from common import RESULTS, data_folder, load
from scaleband.bayes import cells_of, model_inputs
from scaleband.bayes.loss_model import layout_for
from scaleband.inference.gate import diagnose
from scaleband.inference.loss_fit import LOSS_SETTINGS, fit_loss, laws_for, mixed, quick_stack, refit
from scaleband.inference.loss_sampler import compile_loss, sample_loss
from scaleband.inference.loss_table import table_from_basins, table_from_runs
from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.laws import Cells, design_for
from scaleband.laws.loss import GENERAL, LAWS
from scaleband.laws.loss.draws import LossDraws
from scaleband.laws.loss.table import LossTable, reference_of
from scaleband.predict.allocation import Limits, allocate
from scaleband.runs import cell_table, read_runs, run_table

GOPHER = 5.76e23


def table_of(name: str, size: str = "") -> LossTable:
    """Observations of a public table; `size` is another column of the file to take a dense model's size from."""
    path = data_folder() / f"{name}.csv"
    if not size:
        return table_from_runs(read_runs(path, purpose="loss").frame)
    frame = pd.read_csv(path)
    sized = frame.assign(n_params=frame[size], n_active=frame[size])
    return table_from_runs(run_table(sized, purpose="loss").frame)


def one_law(table: LossTable, law: str, keep: np.ndarray) -> LossDraws:
    """Draws of one law alone."""
    theta, _ = refit(table, law, keep, settings=LOSS_SETTINGS)
    names = layout_for(table, LAWS[law]).names
    seen = table.take(np.flatnonzero(keep > 0))
    return mixed({law: theta[None]}, {law: names}, {law: 1.0}, seen, reference_of(table), {})


def scored(draws: LossDraws, out: LossTable) -> pd.DataFrame:
    """Error, coverage and PIT of held-out observations."""
    logs = draws.log_loss(out.cells, batch_tokens=out.batch_tokens, new_run=True)
    low, middle, high = np.quantile(logs, [0.05, 0.5, 0.95], axis=0)
    return pd.DataFrame(
        {
            "group": out.groups(),
            "n_params": out.cells.n_params,
            "n_tokens": out.cells.n_tokens,
            "loss": np.exp(out.log_loss),
            "error_percent": 100 * (np.exp(middle - out.log_loss) - 1),
            "covered": (out.log_loss >= low) & (out.log_loss <= high),
            "width_percent": 100 * (high - low),
            "pit": (logs < out.log_loss).mean(0),
        }
    )


def hold_out(table: LossTable, left: np.ndarray, what: str) -> pd.DataFrame:
    """Stack and plain Chinchilla without `left`, scored on it."""
    started = time.perf_counter()
    keep = np.where(left, 0.0, 1.0)
    out = table.take(np.flatnonzero(left))
    stack, weights = quick_stack(table, laws_for(table, None), keep=keep)
    rows = scored(stack, out).assign(left_out=what)
    plain = scored(one_law(table, "chinchilla", keep), out)
    rows["chinchilla_error_percent"], rows["chinchilla_covered"] = plain["error_percent"], plain["covered"]
    shown = ", ".join(f"{n} {w:.2f}" for n, w in weights.items() if w > 0)
    print(
        f"{what}: {len(rows)} held out, rms error {np.sqrt((rows.error_percent**2).mean()):.2f} % "
        f"(Chinchilla {np.sqrt((rows.chinchilla_error_percent**2).mean()):.2f} %), largest "
        f"{rows.error_percent.abs().max():.2f} %, covered {rows.covered.mean():.0%} "
        f"(Chinchilla {rows.chinchilla_covered.mean():.0%}); {shown}; {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    return rows


def save(parts: list[pd.DataFrame], name: str) -> None:
    """Pooled figures, and the rows without what upstream measured."""
    rows = pd.concat(parts, ignore_index=True)
    print(
        f"pooled: {len(rows)} observations, 90 % coverage {rows.covered.mean():.1%} (Chinchilla "
        f"{rows.chinchilla_covered.mean():.1%}), PIT {rows.pit.min():.3f} to {rows.pit.max():.3f}"
    )
    RESULTS.mkdir(exist_ok=True)
    keep = ["left_out", "error_percent", "covered", "width_percent", "pit", "chinchilla_error_percent",
            "chinchilla_covered"]  # fmt: skip
    rows[keep].to_csv(RESULTS / f"loss_{name}.csv", index=False, float_format="%.4g")


def stated_budgets(name: str, table: LossTable) -> np.ndarray:
    """The isoFLOP budget that the table states for each observation, FLOP."""
    frame = read_runs(data_folder() / f"{name}.csv", purpose="loss").frame
    column = next(c for c in ("iso_flop", "budget") if c in frame)
    known = {
        (g, f"{n:.6g}", f"{d:.6g}"): float(b)
        for g, n, d, b in zip(frame["data"], frame["n_params"], frame["n_tokens"], frame[column], strict=True)
    }
    cells = table.cells
    return np.array(
        [known[g, f"{n:.6g}", f"{d:.6g}"] for g, n, d in zip(cells.data, cells.n_params, cells.n_tokens, strict=True)]
    )


def budgets(name: str) -> None:
    """One isoFLOP budget out at a time; the largest one's error beside the plain Chinchilla fit's."""
    table = table_of(name)
    budget = stated_budgets(name, table)
    parts = [hold_out(table, budget == b, f"budget {b:.2g}") for b in np.unique(budget)]
    save(parts, f"budgets_{name}")


def extrapolate(name: str, size: str = "") -> None:
    """Everything above 1/300 of the largest run's compute, out."""
    table = table_of(name, size)
    compute = table.cells.n_active * table.cells.n_tokens
    rows = hold_out(table, compute > compute.max() / 300, "above 1/300 of the largest run")
    rows["flops"] = 6 * rows["n_params"] * rows["n_tokens"]
    top = rows.sort_values("flops").groupby("group").tail(2)
    print(top[["group", "n_params", "n_tokens", "error_percent", "width_percent", "covered",
               "chinchilla_error_percent"]].to_string(index=False))  # fmt: skip
    off = rows.error_percent.abs()
    print(f"within 1 %: {(off <= 1).sum()} of {len(rows)}, mean {off.mean():.2f} %")
    save([rows], f"extrapolate_{name}" + (f"_{size}" if size else ""))


def levels() -> None:
    """Step Law levels from unpooled basins."""
    from unpooled import fit_basin

    frame = load(["steplaw_dense", "steplaw_dense_small"])
    cells = cell_table(frame)
    inputs = model_inputs(frame, design_for(cells_of(cells)), cells=cells)
    basins = [fit_basin(inputs, c) for c in range(len(cells))]
    count = len(cells)
    table = LossTable(
        inputs.cells, np.full(count, np.nan), np.full(count, np.nan), np.array([b.level for b in basins]) / 100,
        np.full(count, 3e-4), ["train"] * count, [""] * count, True,
    )  # fmt: skip
    parts = [
        hold_out(table, cells["n_params"].to_numpy() > 1e9, "1.07B"),
        hold_out(table, cells["n_tokens"].to_numpy() >= 4.9e10, "50B tokens and more"),
    ]
    for part in parts:
        print(part[["n_params", "n_tokens", "error_percent", "width_percent", "pit"]].to_string(index=False))
    save(parts, "levels_steplaw")


def replication() -> None:
    """Exponents and the best size at Gopher's budget."""
    table = table_of("chinchilla_epoch")
    law = LAWS["chinchilla"]
    doubled = replace(law, parameters=tuple(replace(p, sd=2 * p.sd) for p in law.parameters))
    records = []
    for what, chosen in (("stated", law), ("doubled", doubled)):
        LAWS["chinchilla"] = chosen
        draws = one_law(table, "chinchilla", np.ones(len(table)))
        part = draws.parts[0]
        alpha, beta = (np.exp(part.theta[:, part.names.index(n)]) for n in ("alpha", "beta"))
        best = allocate(draws, table.groups()[0], GOPHER)
        figures = {"alpha": alpha, "beta": beta, "a": beta / (alpha + beta), "n_params_gopher": best.n_params,
                   "n_tokens_gopher": best.n_tokens}  # fmt: skip
        for name, value in figures.items():
            low, middle, high = np.quantile(value, [0.05, 0.5, 0.95])
            records.append({"beliefs": what, "figure": name, "median": middle, "lower": low, "upper": high})
            print(f"{what:8s} {name:16s} {middle:.4g} ({low:.4g} to {high:.4g})", flush=True)
    LAWS["chinchilla"] = law
    stacked, weights = quick_stack(table, laws_for(table, None))
    best = allocate(stacked, table.groups()[0], GOPHER)
    for name, value in {"n_params_gopher": best.n_params, "n_tokens_gopher": best.n_tokens}.items():
        low, middle, high = np.quantile(value, [0.05, 0.5, 0.95])
        records.append({"beliefs": "stack", "figure": name, "median": middle, "lower": low, "upper": high})
        print(f"{'stack':8s} {name:16s} {middle:.4g} ({low:.4g} to {high:.4g})", flush=True)
    print("weights: " + ", ".join(f"{n} {w:.2f}" for n, w in weights.items()))
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(records).to_csv(RESULTS / "loss_replication.csv", index=False, float_format="%.4g")


def repeated_loss(n: np.ndarray, d: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The truth of repeated data: Muennighoff et al. 2023, equations 5 and 6, with their R*_D and R*_N."""
    big_a, big_b, alpha, beta, tokens_decay, size_decay = 480, 2100, 0.345, 0.366, 15.4, 5.3
    tokens = u * (1 + tokens_decay * (1 - np.exp(-(d / u - 1) / tokens_decay)))
    fitting = np.minimum((alpha * big_a / (beta * big_b) * u**beta) ** (1 / alpha), n)
    size = fitting * (1 + size_decay * (1 - np.exp(-(n / fitting - 1) / size_decay)))
    return np.asarray(1.8 + big_a * size**-alpha + big_b * tokens**-beta)


def three_term_loss(n: np.ndarray, d: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The truth of size, steps and batch."""
    return np.asarray(1.8 + 480 * n**-0.345 + 40 * (d / b) ** -0.6 + 400 * b**-0.55)


RECOVERED = {
    "repetition": ("unique_tokens", repeated_loss, 6, 0.002),
    "three-term": ("batch_tokens", three_term_loss, 5, 0.001),
}
"""Law -> its column beside size and tokens, its truth, sizes and token counts of the simulated table, its noise."""


def simulated(law: str, rng: np.random.Generator) -> LossTable:
    """Runs of a truth: sizes and tokens on a grid, and 1, 4 and 16 epochs or four batches of each."""
    column, truth, count, noise = RECOVERED[law]
    sizes, tokens = np.geomspace(5e7, 2e9, count), np.geomspace(2e9, 8e10, count)
    third = np.array([1, 4, 16]) if law == "repetition" else 2.0 ** np.arange(16, 23, 2)
    n, d, x = (v.ravel() for v in np.meshgrid(sizes, tokens, third, indexing="ij"))
    x = d / x if law == "repetition" else x
    frame = pd.DataFrame(
        {"source": "simulated", "arch": "dense", "data": "web", "n_params": n, "n_tokens": d, column: x,
         "loss": truth(n, d, x) * np.exp(noise * rng.standard_normal(len(n)))}
    )  # fmt: skip
    return table_from_runs(run_table(frame, purpose="loss").frame)


def questions(law: str, draws: LossDraws) -> list[tuple[str, np.ndarray, float]]:
    """What is asked outside the table: its name, the draws of the answer, the truth."""
    column, truth, *_ = RECOVERED[law]
    size, group = np.geomspace(1e8, 1e11, 20_001), draws.groups()[0]
    out = []
    for n, d in ((3e9, 1e11), (8e9, 2e11)):
        for x in (d, d / 10) if law == "repetition" else (5e5, 8e6):
            cell = Cells(("simulated",), ("dense",), ("web",), *(np.array([v]) for v in (n, n, d)))
            value = np.exp(draws.log_loss(cell, **{column: np.array([x])})[:, 0])
            what = f"loss at {n / 1e9:.0f}B parameters on {d / 1e9:.0f}B tokens, {column} {x:.1e}"
            out.append((what, value, float(truth(n, d, np.array(x)))))
    for unique in (None, 2e10) if law == "repetition" else (None,):
        d = 1e22 / 6 / size
        if law == "repetition":
            told = truth(size, d, np.minimum(d, unique or np.inf))
        else:
            told = np.min([truth(size, d, b) for b in np.geomspace(1e4, 1e8, 401)], axis=0)
        best = allocate(draws, group, 1e22, Limits(unique_tokens=unique)).n_params
        given = "" if unique is None else f", {unique / 1e9:.0f}B unique tokens"
        out.append((f"best size at 1e22 FLOP{given}", best, float(size[told.argmin()])))
    return out


def recovery() -> None:
    """What the two laws that no public table identifies say of a truth that is known."""
    records = []
    for law, (*_, noise) in RECOVERED.items():
        started = time.perf_counter()
        for seed in range(1, 10):
            table = simulated(law, np.random.default_rng(seed))
            draws = one_law(table, law, np.ones(len(table)))
            told = draws.log_loss(table.cells, batch_tokens=table.batch_tokens, unique_tokens=table.unique_tokens)
            rest = 100 * (table.log_loss - np.median(told, axis=0))
            rms = np.sqrt((rest**2).mean())
            print(f"{law}, seed {seed}: {len(table)} runs, noise {100 * noise:.1f} %, rms residual {rms:.3f} %")
            for what, value, truth in questions(law, draws):
                low, middle, high = np.quantile(value, [0.05, 0.5, 0.95])
                records.append({"law": law, "seed": seed, "question": what, "truth": truth, "median": middle,
                                "lower": low, "upper": high, "inside": bool(low <= truth <= high)})  # fmt: skip
                if seed == 1:
                    print(f"  {what}: {middle:.5g} ({low:.5g} to {high:.5g}), truth {truth:.5g}")
        rows = pd.DataFrame([r for r in records if r["law"] == law])
        off = 100 * (rows["median"] / rows["truth"] - 1).abs()
        losses = rows["question"].str.startswith("loss")
        seconds = time.perf_counter() - started
        print(
            f"{law}: {rows.inside.sum()} of {len(rows)} answers in their 90 % bands; losses off by at most "
            f"{off[losses].max():.2f} %, best sizes by {off[~losses].max():.1f} %; {seconds:.0f} s",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(records).to_csv(RESULTS / "loss_recovery.csv", index=False, float_format="%.5g")


TABLES = ("chinchilla_epoch", "gadre_overtraining", "kempner_loss_to_loss", "marin_dense_isoflop", "porian_isoflop",
          "gemstones", "olmo_ladder", "clark_routing_moe")  # fmt: skip


def speed(*names: str) -> None:
    """Every law on every table that identifies it."""
    for name in names or TABLES:
        table = table_of(name)
        varies = np.ptp(np.log(table.cells.n_params / table.cells.n_active)) > 0.01
        for law in [*GENERAL, *(["moe"] if varies else [])]:
            gate(name, law, table)


def stack() -> None:
    """Fit and stack the default family on the levels of the released model's dense cells."""
    levels = table_from_basins(read_draws(model_path("step-law")))
    table = levels.take(np.flatnonzero([a == "dense" for a in levels.cells.arch]))
    fitted = fit_loss(table)
    shown = ", ".join(f"{n} {w:.2f}" for n, w in fitted.weights.items())
    failed = [n for n, g in fitted.gates.items() if not g.passed]
    print(f"{len(table)} cells, {len(fitted.weights)} laws: {fitted.seconds:.0f} s; {shown}; gate failed: {failed}")


def gate(name: str, law: str, table: LossTable | None = None) -> None:
    """NUTS on one law."""
    table = table_of(name) if table is None else table
    started = time.perf_counter()
    compiled = compile_loss(table, LAWS[law])
    middle = time.perf_counter()
    theta, diverging = sample_loss(compiled, LOSS_SETTINGS)
    seconds = time.perf_counter() - started
    verdict = diagnose({"theta": theta}, diverging, names={"theta": compiled.layout.names})
    print(
        f"{name} {law}: passed {verdict.passed}, R-hat {verdict.rhat[0]:.4f}, ESS bulk {verdict.ess_bulk[0]:.0f} at "
        f"{verdict.ess_bulk[1]}, tail {verdict.ess_tail[0]:.0f}, divergences {verdict.divergences}, "
        f"{middle - started:.0f} + {seconds - (middle - started):.0f} s",
        flush=True,
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "replication": replication, "budgets": budgets, "extrapolate": extrapolate, "levels": levels, "gate": gate,
    "speed": speed, "stack": stack, "recovery": recovery,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(COMMANDS))
    parser.add_argument("names", nargs="*", help="table, and for gate the law")
    asked = parser.parse_args()
    COMMANDS[asked.what](*asked.names)


if __name__ == "__main__":
    main()
