"""python -m benchmarks.step_cost      # what a locked step costs against a plain one, in one run; a minute

Times whole sampling steps of the toy transformer with CFG, plain, under a resting lock, under a full lock, in turn.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch

from kvlock_core import LockSchedule, LockSession, NoisedPath, SessionSettings, token_mask
from kvlock_diffusers.engine import Texts, make_scheduler, sample
from toy.captions import encode
from toy.load import load_transformer

DOCS = Path(__file__).parent.parent / "docs"
STEPS, ROUNDS, SIZE = 4, 12, (5, 16, 16)
LIMITS = {"alpha 0": 1.0, "alpha 1": 1.5}


def lock(alpha: float) -> SessionSettings:
    schedule = LockSchedule(kind="constant", ceiling=alpha, start_percent=0.0)
    return SessionSettings(lock=schedule, guidance=None)


def seconds(net, settings: SessionSettings | None) -> float:
    """Of one step, from a whole run."""
    edit = torch.zeros(SIZE)
    edit[:, 4:10, 4:10] = 1
    session = None if settings is None else LockSession(settings, steps=STEPS, edit=edit, tokens=token_mask(edit), omega0=4.0)
    noise = torch.randn(1, 16, *SIZE)
    texts = Texts(encode("a large red circle"), encode(""))
    start = time.perf_counter()
    sample(net, make_scheduler("euler", STEPS, 3.0), noise, texts, 4.0, session=session, source=NoisedPath(noise, noise))
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    net, kinds = load_transformer(), {"plain": None, "alpha 0": lock(0.0), "alpha 1": lock(1.0)}
    for settings in kinds.values():
        seconds(net, settings)
    rounds = [{name: seconds(net, settings) for name, settings in kinds.items()} for _ in range(ROUNDS)]
    report = {
        name: {
            "ratio_to_plain": round(statistics.median(r[name] / r["plain"] for r in rounds), 3),
            "arithmetic": LIMITS.get(name, 1.0),
            "seconds_per_step": round(statistics.median(r[name] for r in rounds), 4),
        }
        for name in kinds
    }
    (DOCS / "step_cost.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
