"""Time of whole runs: every round runs all variants once, in another order; of each part of a run the fastest round counts."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from .modes import Ready, rows_counted
from .world import ALL, IN_STEP, LOCKSTEP, MAIN, NAMED, PLAIN, PLAIN_TOGETHER, RECORDING, SECOND, SIZES, UNLOCKED, Bench, Run, Variant


@dataclass(frozen=True)
class Setting:
    """A table of the report."""

    size: str
    run: Run
    rounds: int
    variants: tuple[Variant, ...] = MAIN
    #: The estimate in seconds is checked too; it times a block three times for each number of rows.
    timed: bool = False

    @property
    def title(self) -> str:
        run = self.run
        return f"{self.size}, {run.tokens} tokens, {'CFG' if run.cfg else 'no CFG'}, {run.locked:.0%} of {run.steps} steps locked"


INT8_SECOND, DISK_SECOND = NAMED["stored, second run, int8"], NAMED["stored, second run, disk"]
NO_CFG = (PLAIN, UNLOCKED, LOCKSTEP, IN_STEP, RECORDING, SECOND)
WITH_FORMATS = (*NO_CFG, INT8_SECOND, DISK_SECOND)
K1, K4, K16 = (4, 32, 32), (4, 64, 64), (4, 128, 128)  # 1024, 4096, 16384 tokens
FEW = (PLAIN, LOCKSTEP, IN_STEP, SECOND)
#: How every mode, format and tier compares, and how the share of locked steps counts.
SETTINGS = (
    Setting("small", Run(K1, 2), 4, ALL, timed=True),
    Setting("small", Run(K1, 2, cfg=False), 4, WITH_FORMATS, timed=True),
    Setting("small", Run(K4, 2), 3, (PLAIN, LOCKSTEP, IN_STEP), timed=True),
    Setting("small", Run(K1, 5, locked=0.4), 3, FEW),
    Setting("small", Run(K1, 5, locked=0.2), 3, FEW),
    Setting("small", Run(K4, 5, locked=0.4), 2, FEW),
    Setting("large", Run(K1, 5, locked=0.4), 2, FEW),
)
#: How the modes grow with the clip and with the model; all steps lock.
GROWTH = (
    *(Setting("small", Run(grid, 1), rounds, FEW) for grid, rounds in ((K1, 4), (K4, 3), (K16, 1))),
    *(Setting("small", Run(grid, 1, cfg=False), rounds, FEW) for grid, rounds in ((K1, 4), (K4, 3), (K16, 2))),
    *(Setting("large", Run(grid, 1), rounds, FEW) for grid, rounds in ((K1, 4), (K4, 1))),
    *(Setting("large", Run(grid, 1, cfg=False), rounds, FEW) for grid, rounds in ((K1, 3), (K4, 2))),
    Setting("large, 2 blocks", Run(K16, 1, cfg=False), 1, FEW),
)
QUICK = (
    Setting("small", Run((4, 16, 16), 2), 2, ALL, timed=True),
    Setting("small", Run(K1, 1, cfg=False), 1, WITH_FORMATS, timed=True),
)


def tables(settings: tuple[Setting, ...], matching: str = "") -> dict[str, dict]:
    """By title, of those settings whose title holds `matching`."""
    return {setting.title: measured(setting) for setting in settings if matching in setting.title}


def measured(setting: Setting) -> dict:
    """One table: per variant the ratio to plain sampling, and what rows say."""
    model = SIZES[setting.size].build("cpu", torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, setting.run, folder)
        warm(model, folder)
        ready = [Ready(bench, variant, timed=setting.timed) for variant in setting.variants]
        clock, order = Clock(model.transformer.blocks), random.Random(0)
        found = {variant.name: Fastest() for variant in setting.variants}
        for _ in range(setting.rounds):
            one_round(order.sample(ready, len(ready)), clock, found)
        for each in ready:
            each.close()
    rows = {variant.name: row(setting.run, variant, found) for variant in setting.variants}
    sys.stderr.write(f"{setting.title}: {({name: row['ratio'] for name, row in rows.items()})}\n")
    plain = round(found["plain"].seconds, 3)
    return {"rounds": setting.rounds, "load": round(os.getloadavg()[0], 1), "plain_seconds": plain, "variants": rows}


def warm(model, folder: str) -> None:
    """The first calls of a process are slow; a few tokens do."""
    Bench(model, Run((1, 8, 8), 1), folder).sampled(None)


class Clock:
    """Processor seconds of the parts of a run: from one block of the model to the next."""

    def __init__(self, blocks):
        self._marks: list[float] = []
        for block in blocks:
            block.register_forward_pre_hook(self._mark)

    def _mark(self, *_) -> None:
        self._marks.append(time.process_time())

    def parts(self, run: Callable[[], object]) -> list[float]:
        self._marks = [time.process_time()]
        run()
        self._mark()
        return [after - before for before, after in pairwise(self._marks)]


@dataclass
class Fastest:
    """Of a run's parts the fastest in all rounds: short parts that neighbours left alone, which no whole run is on a shared machine."""

    parts: list[float] = field(default_factory=list)
    told: float | None = None

    def add(self, parts: list[float], told: float | None) -> None:
        self.parts = [min(pair) for pair in zip(self.parts or parts, parts, strict=True)]
        self.told = told if self.told is None else min(self.told, told)

    @property
    def seconds(self) -> float:
        return sum(self.parts)


def one_round(ready: list[Ready], clock: Clock, found: dict[str, Fastest]) -> None:
    """Every variant once."""
    for each in ready:
        each.begin()
        found[each.variant.name].add(clock.parts(each.run), each.estimate and each.estimate.extra_seconds)
        each.end()


def row(run: Run, variant: Variant, found: dict[str, Fastest]) -> dict:
    """`ratio` to plain sampling; `ratio_to_one_call` to cond and uncond in one call; `ratio_to_same_rows`: lockstep to one call of
    the same rows without a lock; `told_vs_measured`: extra seconds of the estimate over those that were measured."""
    own, arithmetic = found[variant.name], variant.arithmetic(run)
    ratio = own.seconds / found["plain"].seconds
    told = {"ratio": ratio, "arithmetic": arithmetic, "vs_arithmetic": ratio / arithmetic}
    if PLAIN_TOGETHER.name in found:
        told["ratio_to_one_call"] = own.seconds / found[PLAIN_TOGETHER.name].seconds
    if variant == LOCKSTEP and UNLOCKED.name in found:
        told["ratio_to_same_rows"] = own.seconds / found[UNLOCKED.name].seconds
    if own.told is not None and arithmetic > 1.0:
        told["told_vs_measured"] = own.told / (own.seconds - found["plain"].seconds)
    return {key: round(value, 3) for key, value in told.items()}


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
