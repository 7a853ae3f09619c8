"""Time of whole runs: every round runs all variants once; a ratio is the median over rounds of that to the round's own plain run."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

import torch

from .modes import Ready, rows_counted
from .world import ALL, IN_STEP, LOCKSTEP, MAIN, NAMED, PLAIN, PLAIN_TOGETHER, RECORDING, SECOND, SIZES, Bench, Run, Variant


@dataclass(frozen=True)
class Setting:
    """A table of the report."""

    size: str
    run: Run
    rounds: int
    variants: tuple[Variant, ...] = MAIN

    @property
    def title(self) -> str:
        run = self.run
        return f"{self.size}, {run.tokens} tokens, {'CFG' if run.cfg else 'no CFG'}, {run.locked:.0%} of {run.steps} steps locked"


INT8_SECOND, DISK_SECOND = NAMED["stored, second run, int8"], NAMED["stored, second run, disk"]
NO_CFG = (PLAIN, LOCKSTEP, IN_STEP, RECORDING, SECOND)
WITH_FORMATS = (*NO_CFG, INT8_SECOND, DISK_SECOND)
K1, K4, K8, K16 = (4, 32, 32), (4, 64, 64), (4, 88, 88), (4, 128, 128)  # 1024, 4096, 7744, 16384 tokens
SHARES = (PLAIN, PLAIN_TOGETHER, LOCKSTEP, IN_STEP, SECOND)
SETTINGS = (
    Setting("small", Run(K1, 2), 5, ALL),
    Setting("small", Run(K1, 2, cfg=False), 5, WITH_FORMATS),
    Setting("small", Run(K1, 5, locked=0.4), 3, SHARES),
    Setting("small", Run(K1, 5, locked=0.2), 3, SHARES),
    Setting("small", Run(K4, 1), 3, MAIN),
    Setting("small", Run(K4, 1, cfg=False), 3, WITH_FORMATS),
    Setting("small", Run(K8, 1, cfg=False), 2, NO_CFG),
    Setting("small", Run(K16, 1, cfg=False), 1, (PLAIN, LOCKSTEP, SECOND)),
    Setting("large", Run(K1, 1), 2, MAIN),
    Setting("large", Run(K1, 1, cfg=False), 3, WITH_FORMATS),
)
QUICK = (Setting("small", Run((4, 16, 16), 2), 3, ALL), Setting("small", Run(K1, 1, cfg=False), 2, WITH_FORMATS))


def measured(setting: Setting) -> dict:
    """One table: per variant the ratio to plain sampling, and what rows say."""
    model = SIZES[setting.size].build("cpu", torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, setting.run, folder)
        warm(model, folder)
        ready = [Ready(bench, variant) for variant in setting.variants]
        rounds = [one_round(ready) for _ in range(setting.rounds)]
        rows = {each.variant.name: row(bench, each, rounds) for each in ready}
        for each in ready:
            each.close()
    sys.stderr.write(f"{setting.title}: {({name: row['vs_arithmetic'] for name, row in rows.items()})}\n")
    return {"rounds": setting.rounds, "load": os.getloadavg()[0], "plain_seconds": rows["plain"].pop("seconds"), "variants": rows}


def warm(model, folder: str) -> None:
    """The first calls of a process are slow; a few tokens do."""
    Bench(model, Run((1, 8, 8), 1), folder).sampled(None)


def one_round(ready: list[Ready]) -> dict[str, tuple[float, float]]:
    """Seconds of each variant: by the clock, and of the process."""
    taken = {}
    for each in ready:
        each.begin()
        begun = time.perf_counter(), time.process_time()
        each.run()
        taken[each.variant.name] = time.perf_counter() - begun[0], time.process_time() - begun[1]
        each.end()
    return taken


def row(bench: Bench, ready: Ready, rounds: list[dict]) -> dict:
    """`ratio` by the clock; `ratio_cpu` by processor time, which neighbours disturb less; both to plain in calls of its own."""
    name, arithmetic = ready.variant.name, ready.variant.arithmetic(bench.run)
    ratio, cpu = (statistics.median(r[name][clock] / r["plain"][clock] for r in rounds) for clock in (0, 1))
    found = {"ratio": ratio, "ratio_cpu": cpu, "arithmetic": arithmetic, "vs_arithmetic": ratio / arithmetic}
    if PLAIN_TOGETHER.name in rounds[0]:
        together = statistics.median(r[name][0] / r[PLAIN_TOGETHER.name][0] for r in rounds)
        found["ratio_to_one_call"] = together
    if name == "plain":
        found["seconds"] = statistics.median(r[name][0] for r in rounds)
    return {key: round(value, 3) for key, value in found.items()}


def rows_are_as_counted() -> dict[str, list[float]]:
    """[rows that went through the model over those of plain, arithmetic] of every variant, on a few tokens. Raises SystemExit."""
    model, counts = SIZES["small"].build("cpu", torch.float32), {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in ALL:
            ready = Ready(Bench(model, Run((1, 8, 8), 5, locked=0.4), folder), variant)
            ready.begin()
            with rows_counted(ready.bench) as rows:
                ready.run()
            ready.close()
            counts[variant.name] = [sum(rows) / ready.bench.run.plain_rows, variant.arithmetic(ready.bench.run)]
    wrong = {name: pair for name, pair in counts.items() if abs(pair[0] - pair[1]) > 1e-9}
    if wrong:
        raise SystemExit(f"rows differ from the arithmetic: {wrong}")
    return counts
