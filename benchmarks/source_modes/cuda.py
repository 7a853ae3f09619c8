"""All modes on a GPU: Wan 2.1 1.3B's shape at 832x480x81 in bfloat16, random weights. Seconds a step, peak of the GPU's memory.

Written without a GPU at hand; `torch.cuda.max_memory_allocated` counts what torch gave out, weights included.
"""

from __future__ import annotations

import tempfile
import time

import torch

from kvlock_core import Budgets

from .modes import Ready
from .world import ALL, SIZES, Bench, Run, Variant

RUN = Run((21, 60, 104), 2)  # 32,760 tokens
ROUNDS = 3
#: K,V of two steps at 80 % of the tokens are 10 GB.
BUDGETS = {"memory": Budgets(memory=24 * 10**9), "disk": Budgets(disk=24 * 10**9)}


def table(run: Run = RUN, size: str = "Wan 1.3B") -> dict:
    """By variant; the median of the rounds."""
    if not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device; run it where there is one")
    model, rows = SIZES[size].build("cuda", torch.bfloat16), {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in ALL:
            bench = Bench(model, run, folder, None if variant.mode == "plain" else BUDGETS[variant.tier])
            rows[variant.name] = of_variant(bench, variant)
    for row in rows.values():
        row["ratio"] = round(row["seconds_per_step"] / rows["plain"]["seconds_per_step"], 3)
        row["above_plain_mb"] = round(row["peak_mb"] - rows["plain"]["peak_mb"], 1)
    device = torch.cuda.get_device_properties(0)
    return {"card": device.name, "card_mb": device.total_memory // 10**6, "tokens": run.tokens, "steps": run.steps, "variants": rows}


def of_variant(bench: Bench, variant: Variant) -> dict:
    ready, seconds = Ready(bench, variant), []
    for _ in range(ROUNDS):
        ready.begin()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        ready.run()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begun) / bench.run.steps)
        peak = torch.cuda.max_memory_allocated()
        ready.end()
    ready.close()
    return {
        "seconds_per_step": round(sorted(seconds)[ROUNDS // 2], 4),
        "arithmetic": variant.arithmetic(bench.run),
        "peak_mb": round(peak / 1e6, 1),
    }
