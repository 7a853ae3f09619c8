"""What each method costs: seconds as a ratio to no lock, and peak memory, each run in a process of its own."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch


from .cases import Case
from .methods import Method
from .runs import SPAWN
from .task import Remembering, Sampling, load_world, prepare

KILOBYTES_PER_MEGABYTE = 1024


def costs(case: Case, methods: Callable[[], list[Method]], base: str, rounds: int) -> dict[str, dict[str, float]]:
    """Per method: `seconds`, the median over rounds of its time over that of `base` in the same round, and
    `memory_mb`, the most resident memory that its process took above one that only loads and encodes."""
    idle = _memory_of(case, None)
    rounds_run = [_round(case, methods) for _ in range(rounds)]
    found = {}
    for method in methods():
        ratios = [seen[method.name][0] / seen[base][0] for seen in rounds_run]
        memory = max(seen[method.name][1] for seen in rounds_run)
        found[method.name] = {"seconds": statistics.median(ratios), "memory_mb": memory - idle}
    return found


def _round(case: Case, methods: Callable[[], list[Method]]) -> dict[str, tuple[float, float]]:
    return {method.name: _in_process(case, methods, method.name) for method in methods()}


def _memory_of(case: Case, name: str | None) -> float:
    return _in_process(case, list, name)[1]


def _in_process(case: Case, methods: Callable[[], list[Method]], name: str | None) -> tuple[float, float]:
    """Seconds of sampling and peak resident MB; `name` None only loads."""
    with SPAWN.Pool(1) as pool:
        return pool.apply(_measured, (case, methods, name))


def _measured(case: Case, methods: Callable[[], list[Method]], name: str | None) -> tuple[float, float]:
    model = load_world()
    task = prepare(model, case, Sampling())
    task = replace(task, net=Remembering(model.transformer, remembers=False))
    seconds = 0.0
    if name is not None:
        method = next(m for m in methods() if m.name == name)
        with torch.no_grad():
            task.net(task.noise, torch.tensor([500.0]), task.texts.cond, return_dict=False)  # the first call sets things up
        start = time.perf_counter()
        method.edit(task)
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KILOBYTES_PER_MEGABYTE
