"""What it spoils to compute the source only in every r-th locked step, in the small world (docs/toy.md)."""

from __future__ import annotations

import statistics

from kvlock_core import COMPOSITE_LOCK, LockSchedule, LockSession, Lockstep, SessionSettings, token_mask
from kvlock_diffusers.engine import sample

from ..edit_quality.cases import cases
from ..edit_quality.measures import measure
from ..edit_quality.rivals import blend
from ..edit_quality.task import Remembering, Sampling, Task, load_world, prepare

REFRESHES = (1, 2, 3, 4)
CLIPS = 8
#: name -> lock, and whether a latent composite holds the background (M10)
LOCKS = {
    "lock alone, alpha 1": (LockSchedule("constant", ceiling=1.0, start_percent=0.0), False),
    "default, with composite": (COMPOSITE_LOCK, True),
}


def table(clips: int = CLIPS) -> dict:
    """Means over validation clips, every kind of edit among them, and differences to r = 1; dB."""
    chosen = cases("validation")
    chosen = chosen[:: max(len(chosen) // clips, 1)][:clips]
    model, found = load_world(), {name: {refresh: [] for refresh in REFRESHES} for name in LOCKS}
    for case in chosen:
        task = prepare(model, case, Sampling())
        for name, (lock, composited) in LOCKS.items():
            for refresh in REFRESHES:
                found[name][refresh].append(edited(task, lock, composited, refresh))
    return {"clips": [case.name for case in chosen], "locks": {name: summary(of) for name, of in found.items()}}


def edited(task: Task, lock: LockSchedule, composited: bool, refresh: int) -> dict:
    """Measures of one edit, and the rows of its run."""
    source, net = Lockstep(refresh_every=refresh), Remembering(task.model.transformer, remembers=False)
    session = LockSession(
        SessionSettings(lock), steps=task.sampling.steps, edit=task.edit, tokens=token_mask(task.edit, task.model.patch),
        omega0=task.sampling.cfg, source=source,
    )  # fmt: skip
    latents = sample(
        net, task.sampling.scheduler(), task.noise, task.texts, task.sampling.cfg,
        session=session, source=task.path, composite=blend(task) if composited else None,
    )  # fmt: skip
    return {"rows": net.rows, **measure(task, task.model.decode(latents))}


def summary(by_refresh: dict[int, list[dict]]) -> dict[str, dict]:
    def mean(rows: list[dict], of: str) -> float:
        return statistics.fmean(row[of] for row in rows)

    first = by_refresh[1]
    return {
        f"refresh {refresh}": {
            "rows": mean(rows, "rows"),
            "background_psnr": round(mean(rows, "psnr"), 2),
            "answer_psnr": round(mean(rows, "answer"), 2),
            "right": round(mean(rows, "right"), 3),
            "background_change": [round(b["psnr"] - a["psnr"], 2) for a, b in zip(first, rows)],
            "answer_change": [round(b["answer"] - a["answer"], 2) for a, b in zip(first, rows)],
        }
        for refresh, rows in by_refresh.items()
    }
