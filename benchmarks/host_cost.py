"""What the nodes cost in ComfyUI: time of a run with each of them as a ratio to the same run without, in one process.

    COMFYUI_PATH=<ComfyUI> <ComfyUI's python> benchmarks/host_cost.py --rounds 9

Toy transformer, 17 frames of 128x128, CPU. Each round runs every variant once; the ratio is the median over rounds.
Arithmetic: a locked step has 3 rows where CFG has 2, and 2 where cfg 1 has 1. Writes docs/host_cost.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS, LATENT = 10, (1, 16, 5, 16, 16)
#: rows of the whole run against those of a plain one, for the variants that add any
ARITHMETIC = {"locked in all steps": (1.5, 2.0), "locked at alpha 0.5": (1.5, 2.0), "locked in the last 40 %": (1.2, 1.4)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    rounds = options.parse_args().rounds
    pack = bring_up()
    import torch

    with torch.inference_mode():
        models = variants(pack)
        results = {f"cfg {cfg:g}": ratios(models, cfg, rounds) for cfg in (4.0, 1.0)}
    report = {"steps": STEPS, "rounds": rounds, "torch": torch.__version__, "ratio to plain": results, "rows": ARITHMETIC}
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


def ratios(models: dict, cfg: float, rounds: int) -> dict[str, float]:
    import torch
    import world

    start, sigmas = torch.zeros(LATENT), world.sigmas_for(models["plain"], STEPS)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for done in range(rounds + 1):  # the first round warms up
        for name, model in models.items():
            begun = time.perf_counter()
            world.run(model, latent=start, sigmas=sigmas, cfg=cfg)
            if done:
                seconds[name].append(time.perf_counter() - begun)
    plain = seconds["plain"]
    return {name: round(statistics.median(a / b for a, b in zip(taken, plain)), 3) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
