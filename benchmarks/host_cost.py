"""What the nodes cost in ComfyUI: time of a run with each of them as a ratio to the same run without, in one process.

    COMFYUI_PATH=<ComfyUI> <ComfyUI's python> benchmarks/host_cost.py --rounds 9

Toy transformer, CPU: the nodes on 17 frames of 128x128, where overhead shows, the source modes on 17 frames of 384x384. Each round
runs every variant once; the ratio is the median over rounds. Arithmetic: a locked step has 3 rows where CFG has 2, and 2 where
cfg 1 has 1. "told" are the extra seconds on the node before the run. Writes docs/host_cost.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import re
import statistics
import sys
import time
from pathlib import Path

from allocator import keep_freed_memory  # beside this file, which is run as a script

ROOT = Path(__file__).resolve().parent.parent
STEPS, LATENT = 10, (1, 16, 5, 16, 16)
LONG_STEPS, LONG_ROUNDS, LONG_LATENT = 4, 4, (1, 16, 5, 48, 48)
#: The later runs of "stored" read what the first one, which is not counted, recorded.
MODES = {"lockstep": 1.5, "in_step": 1.5, "stored": 1.0}
#: rows of the whole run against those of a plain one, for the variants that add any
ARITHMETIC = {"locked in all steps": (1.5, 2.0), "locked at alpha 0.5": (1.5, 2.0), "locked in the last 40 %": (1.2, 1.4)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    rounds = options.parse_args().rounds
    keep_freed_memory()
    pack = bring_up()
    import torch

    with torch.inference_mode():
        models = variants(pack)
        results = {f"cfg {cfg:g}": ratios(models, cfg, rounds) for cfg in (4.0, 1.0)}
        modes = source_modes(pack)
    report = {
        "steps": STEPS, "rounds": rounds, "torch": torch.__version__, "ratio to plain": results, "rows": ARITHMETIC, "source modes": modes,
    }  # fmt: skip
    (ROOT / "docs" / "host_cost.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


def bring_up() -> dict:
    """The pack, in a started ComfyUI."""
    spec = importlib.util.spec_from_file_location("kvlock_host_start", ROOT / "tests" / "host" / "start.py")
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    return start.load_pack(start.start_host())


def variants(pack: dict) -> dict:
    """MODELs by what is on them."""
    import torch
    import world

    toy, pixels = world.load_toy(), torch.zeros(1, 128, 128)
    pixels[:, 32:80, 32:80] = 1.0
    latent = world.source_latent(shape=LATENT)
    source, _ = world.call(pack["KVLockInvertCache"], model=toy, source_latent=latent, edit_mask=pixels)
    return {
        "plain": toy,
        "plain again": toy,
        "monitor": world.monitored(pack, toy, source)[0],
        "resting lock": world.locked(pack, toy, source, alpha_ceiling=0.0),
        "CFG schedule by risk": world.guided(pack, toy),
        "locked in the last 40 %": world.locked(pack, toy, source, start_percent=0.6),
        "locked in all steps": world.locked(pack, toy, source),
        "locked at alpha 0.5": world.locked(pack, toy, source, alpha_ceiling=0.5),
    }


def source_modes(pack: dict) -> dict:
    """By mode: time of a run locked in all steps as a ratio to plain, by arithmetic, and extra seconds told over those measured."""
    import torch
    import world

    toy, pixels = world.load_toy(), torch.zeros(1, 384, 384)
    pixels[:, 96:240, 96:240] = 1.0
    models, told = {"plain": toy}, Told()
    for mode in MODES:
        given = {"source_latent": world.source_latent(shape=LONG_LATENT), "edit_mask": pixels, "source_mode": mode}
        models[mode] = world.locked(pack, toy, world.call(pack["KVLockInvertCache"], model=toy, **given)[0])
    logging.getLogger("kvlock").setLevel(logging.INFO)
    logging.getLogger("kvlock").addHandler(told)
    seconds = timed(models, 4.0, LONG_ROUNDS, LONG_LATENT, LONG_STEPS, told.of)
    plain = statistics.median(seconds["plain"])
    found = {}
    for mode, rows in MODES.items():
        taken = statistics.median(seconds[mode])
        found[mode] = {"ratio": round(taken / plain, 3), "rows": rows, "extra seconds": round(taken - plain, 2), "told": told.seconds.get(mode)}
    return {"tokens": 5 * 24 * 24, "steps": LONG_STEPS, "rounds": LONG_ROUNDS, "plain seconds": round(plain, 2), "modes": found}


class Told(logging.Handler):
    """The last estimate in seconds of each variant."""

    def __init__(self):
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._variant = ""

    def of(self, variant: str) -> None:
        self._variant = variant
        self.seconds.pop(variant, None)

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"about (\S+) s more", record.getMessage())
        if found:
            self.seconds[self._variant] = float(found[1])


def ratios(models: dict, cfg: float, rounds: int) -> dict[str, float]:
    seconds = timed(models, cfg, rounds, LATENT, STEPS)
    plain = seconds["plain"]
    return {name: round(statistics.median(a / b for a, b in zip(taken, plain)), 3) for name, taken in seconds.items()}


def timed(models: dict, cfg: float, rounds: int, shape: tuple, steps: int, begins=lambda variant: None) -> dict[str, list[float]]:
    """Seconds of every round by variant; `begins(variant)` is called before each run."""
    import torch
    import world

    start, sigmas = torch.zeros(shape), world.sigmas_for(models["plain"], steps)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for done in range(rounds + 1):  # the first round warms up
        for name, model in models.items():
            begins(name)
            begun = time.perf_counter()
            world.run(model, latent=start, sigmas=sigmas, cfg=cfg)
            if done:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main()
