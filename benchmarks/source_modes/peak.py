"""Peak memory of one run: a fresh process a variant, its resident memory at its highest, against the same of plain sampling.

Linux only: the high-water mark is set back after the model is there (/proc/self/clear_refs), and malloc is told to give large
blocks back at once, so that resident memory is what is alive. Pages of a disk tier's files that were read count too; pages of
code, which another kernel brings in, do not.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kvlock_core.codec import codec

from .modes import Ready
from .timing import K1, K4
from .world import NAMED, PLAIN_TOGETHER, SIZES, UNLOCKED, WIDTHS, Bench, Run, Size, Variant

ROOT = Path(__file__).parent.parent.parent
#: glibc: blocks from this size on are pages of their own, and go back when they are freed (mallopt(3)).
MALLOC = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = (("small", Run(K4, 1)), ("large", Run(K1, 1, cfg=False)))
QUICK = (("small", Run(K1, 1)),)


FEW_TOKENS = (1, 8, 8)  # for a run that only brings in the code

#: Every mode and every tier; others differ from them in nothing that takes memory.
VARIANTS = tuple(
    NAMED[name]
    for name in (
        "plain", "plain, one call a step", "plain, one call a step, source too", "lockstep", "in_step", "in_step, int8", "stored, first run",
        "stored, second run", "stored, second run, int8", "stored, second run, disk", "stored, second run, disk, int8",
    )
)  # fmt: skip

#: The least that a row takes by `kvlock_diffusers.keeping.row_tensors`: the unit of its arithmetic here.
ROW_TENSORS = 12


def table(size: str, run: Run, variants: tuple[Variant, ...] = VARIANTS) -> dict:
    """MB by variant. `above_plain` to plain sampling in calls of its own, `above_one_call` to cond and uncond in one call."""
    variants = [variant for variant in variants if run.cfg or variant != PLAIN_TOGETHER]
    peaks = {variant.name: in_new_process(size, run, variant) for variant in variants}
    plain, shape = peaks["plain"]["peak"], sizes(size, run)
    together = peaks.get(PLAIN_TOGETHER.name, peaks["plain"])["peak"]
    one_row = peaks[UNLOCKED.name]["peak"] - together
    rows = {name: row(found, plain, together, one_row, shape, NAMED[name]) for name, found in peaks.items()}
    tensors = one_row / (shape["row"] / ROW_TENSORS)
    return {
        "tokens": run.tokens,
        "cfg": run.cfg,
        "plain_peak_mb": mb(plain),
        "arithmetic_mb": {of: mb(size) for of, size in shape.items()},
        "row_tensors": {"counted": ROW_TENSORS, "measured": round(tensors, 2)},
        "variants": rows,
    }


def row_tensors(run: Run = Run((4, 48, 48), 1, cfg=False)) -> dict[str, dict[str, float]]:
    """What one more row takes in (tokens, dim) tensors, by the width of the feed-forward net and by dtype."""
    return {name: {dtype: _row_tensors(size, run, dtype) for dtype in DTYPES} for name, size in WIDTHS.items()}


def _row_tensors(size: Size, run: Run, dtype: str) -> float:
    one, two = (in_new_process(size.name, run, variant, dtype)["peak"] for variant in (NAMED["plain"], UNLOCKED))
    return round((two - one) / (run.tokens * size.dim * DTYPES[dtype].itemsize), 2)


def row(found: dict, plain: int, together: int, one_row: int, shape: dict[str, int], variant: Variant) -> dict:
    """What lies above plain sampling and above what the tier of memory holds: in blocks' K,V, or in rows as a call without a lock
    takes them."""
    beyond = found["peak"] - plain - found["kept"]
    told = {
        "above_plain_mb": mb(found["peak"] - plain),
        "above_one_call_mb": mb(found["peak"] - together),
        "kept_in_memory_mb": mb(found["kept"]),
        "above_plain_and_kept_mb": mb(beyond),
    }
    if variant.second or variant.mode == "in_step":
        told["in_blocks"] = round(beyond / shape["block"], 2)
    if variant.mode == "lockstep" or (variant.mode == "stored" and not variant.second):
        told["in_rows"] = round((found["peak"] - together - found["kept"]) / one_row, 2)
    return told


def sizes(size: str, run: Run) -> dict[str, int]:
    """Bytes in float32: a row of activations as `keeping` counts it, K,V of one block as the model gives and as int8 keeps them."""
    model = SIZES[size]
    shape = (1, model.heads, run.lockable, model.dim // model.heads)
    kept = {name: codec(of).packed_bytes(shape, torch.float32) for name, of in (("block", "same"), ("block_int8", "int8"))}
    return {"row": ROW_TENSORS * run.tokens * model.dim * 4, **kept, "step": kept["block"] * model.blocks}


def in_new_process(size: str, run: Run, variant: Variant, dtype: str = "float32") -> dict[str, int]:
    given = json.dumps({"size": size, "run": asdict(run), "variant": variant.name, "dtype": dtype})
    command = [sys.executable, "-m", "benchmarks.source_modes.peak", given]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | MALLOC, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def one(size: Size, run: Run, variant: Variant, dtype: torch.dtype) -> dict[str, int]:
    """Bytes in this process: `peak` of resident memory without code while the run goes, `kept` by the tier of memory at its fullest."""
    torch.set_num_threads(1)
    model = size.build("cpu", dtype)
    with tempfile.TemporaryDirectory() as folder:
        few = Ready(Bench(model, replace(run, grid=FEW_TOKENS), folder), variant)
        few.begin()
        few.run()
        few.close()
        ready = Ready(Bench(model, run, folder), variant)
        ready.begin()
        kept = watched(ready)
        set_mark_back()
        code = of_process("RssFile")
        ready.run()
        peak = of_process("VmHWM") - code
        ready.close()
    return {"peak": peak, "kept": max(kept)}


def watched(ready: Ready) -> list[int]:
    """Bytes in the tier of memory, noted after every block: an in_step store is empty again at the end."""
    noted: list[int] = []

    def note(*_) -> None:
        store = ready.store or (ready.source and ready.source._store)
        noted.append(sum(tier.used for tier in store.tiers if tier.name == "memory") if store else 0)

    for block in ready.bench.model.transformer.blocks:
        block.register_forward_hook(note)
    return noted


def set_mark_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def of_process(name: str) -> int:
    """Bytes of a line of /proc/self/status (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def mb(size: float) -> float:
    return round(size / 1e6, 1)


def main() -> None:
    given = json.loads(sys.argv[1])
    run = Run(**given["run"] | {"grid": tuple(given["run"]["grid"])})
    size = (SIZES | WIDTHS)[given["size"]]
    sys.stdout.write(json.dumps(one(size, run, NAMED[given["variant"]], DTYPES[given["dtype"]])) + "\n")


if __name__ == "__main__":
    main()
