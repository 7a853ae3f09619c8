"""See the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from ..allocator import keep_freed_memory
from . import __doc__ as usage, cuda, estimates, peak, quality, timing

FILE = Path(__file__).parent.parent.parent / "docs" / "source_modes.json"
#: What a recorded run does not do, since two cores and an hour do not allow it.
LEFT_OUT = (
    "more than 16,384 tokens, and with the large model CFG or more than two blocks there",
    "steps: at most five; K,V, rows and bytes of every locked step are alike",
    "any GPU: --device cuda is written, and was not run",
)
QUICK_CLIPS = 1


def time_part(given: argparse.Namespace) -> dict:
    """Ratios of time."""
    settings = timing.QUICK if given.quick else timing.SETTINGS
    return {"rows": timing.rows_are_as_counted(), "settings": timing.tables(settings, given.matching)}


def memory_part(given: argparse.Namespace) -> dict:
    """Peaks of resident memory."""
    variants = (timing.PLAIN, timing.PLAIN_TOGETHER, timing.UNLOCKED, timing.LOCKSTEP)
    if given.quick:
        return {"tables": {size: peak.table(size, run, variants) for size, run in peak.QUICK}}
    tables = {f"{size}, {run.tokens} tokens": peak.table(size, run) for size, run in peak.CASES}
    return {"row_tensors": peak.row_tensors(), "tables": tables}


PARTS = {
    "time": time_part,
    "growth": lambda given: {"settings": timing.tables(timing.GROWTH, given.matching)},
    "memory": memory_part,
    "estimate": lambda given: estimates.table(),
    "quality": lambda given: quality.table(QUICK_CLIPS if given.quick else quality.CLIPS),
}
QUICK_PARTS = ("estimate", "time", "memory")


def timed(name: str, given: argparse.Namespace, before: dict) -> dict:
    """A part anew; of settings that do not match, what stood `before`."""
    begun, load = time.perf_counter(), os.getloadavg()[0]
    found = PARTS[name](given)
    if given.matching:
        found["settings"] = before["settings"] | found["settings"]
    return {"load_before": round(load, 2), "seconds": round(time.perf_counter() - begun), **found}


def main() -> None:
    options = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a minute; prints and writes nothing")
    options.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure anew; the others stay as they are")
    options.add_argument("--matching", default="", help="of time and growth, only settings whose title holds this text")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = options.parse_args()
    if given.matching and not set(given.only or PARTS) <= {"time", "growth"}:
        options.error("--matching needs --only time, --only growth, or both")
    keep_freed_memory()
    # one thread: two that wait for each other on a machine with neighbours are slowed many times, and not evenly
    torch.set_num_threads(1)
    report = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() and not given.quick else {}
    report |= {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "dtype": "float32", "left_out": LEFT_OUT}
    if given.device == "cuda":
        report["cuda"] = cuda.table()
    else:
        names = given.only or (QUICK_PARTS if given.quick else list(PARTS))
        with ThreadPoolExecutor(1) as beside:  # memory is measured in processes of its own; beside time nothing may run
            for name in sorted(names, key=list(PARTS).index):
                asked = (name, given, report.get(name))
                report[name] = beside.submit(timed, *asked) if name == "memory" else timed(*asked)
        report |= {name: part.result() for name, part in report.items() if isinstance(part, Future)}
    if not given.quick:
        FILE.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
