"""What each method costs: seconds as a ratio to no lock, and peak memory, each run in a process of its own."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from .cases import Case
from .methods import Method
from .runs import SPAWN
from .task import Remembering, Sampling, load_world, prepare

KILOBYTES_PER_MEGABYTE = 1024
#: Linux only: what the kernel knows of this process, and where writing 5 forgets its peak.
STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def costs(case: Case, methods: Callable[[], list[Method]], base: str, rounds: int) -> dict[str, dict[str, float]]:
    """Per method: `seconds`, the median over rounds of its time over that of `base` in the same round, and
    `memory_mb`, the most that sampling added to the resident memory of its process."""
    rounds_run = [{method.name: _in_process(case, methods, method.name) for method in methods()} for _ in range(rounds)]
    return {
        method.name: {
            "seconds": statistics.median(seen[method.name][0] / seen[base][0] for seen in rounds_run),
            "memory_mb": max(seen[method.name][1] for seen in rounds_run),
        }
        for method in methods()
    }


def _in_process(case: Case, methods: Callable[[], list[Method]], name: str) -> tuple[float, float]:
    """Seconds of sampling and MB."""
    with SPAWN.Pool(1) as pool:
        return pool.apply(_measured, (case, methods, name))


def _measured(case: Case, methods: Callable[[], list[Method]], name: str) -> tuple[float, float]:
    torch.set_num_threads(1)
    model = load_world()
    task = prepare(model, case, Sampling())
    task = replace(task, net=Remembering(model.transformer, remembers=False))
    method = next(m for m in methods() if m.name == name)
    with torch.no_grad():
        task.net(task.noise, torch.tensor([500.0]), task.texts.cond, return_dict=False)  # the first call sets things up
    ctypes.CDLL(None).malloc_trim(0)  # what encoding freed goes back, or sampling would hide in it
    PEAK_RESET.write_text("5")
    before, start = _resident("VmRSS"), time.perf_counter()
    method.edit(task)
    return time.perf_counter() - start, _resident("VmHWM") - before


def _resident(field: str) -> float:
    """MB of a field of the kernel's status page: VmRSS now, VmHWM at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / KILOBYTES_PER_MEGABYTE
