"""Predictions of unlocked runs under many samplings, kept so that every form of the signal can be tried on the same runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kvlock_core import draw, guide, noised, seed_of_step
from kvlock_diffusers.engine import velocity_of

from .cases import Case
from .runs import in_workers
from .task import Sampling, Task, load_world, prepare

REFERENCE = Sampling()
#: Where the second prediction at the same level, which costs one more evaluation a step, is made too.
RENOISED = (REFERENCE, Sampling(steps=50))


def samplings() -> list[Sampling]:
    """Steps and shifts against each other; UniPC, cfg 1 and cfg 5 at the ends of both."""
    found = [Sampling(steps, shift) for steps, shift in product((8, 20, 30, 50), (1.0, 3.0, 5.0, 8.0))]
    ends = list(product((8, 20, 50), (3.0, 8.0)))
    found += [Sampling(steps, shift, sampler="unipc") for steps, shift in ends]
    found += [Sampling(steps, shift, cfg=cfg) for cfg in (1.0, 5.0) for steps, shift in ends]
    return found


def label(sampling: Sampling) -> str:
    return f"{sampling.steps} steps, shift {sampling.shift:g}, {sampling.sampler}, cfg {sampling.cfg:g}"


def record(task: Task, wanted: Tensor, renoises: bool) -> dict[str, np.ndarray]:
    """One unlocked run: noise levels, conditional predictions inside the mask, |cond - uncond| / |cond| there, and the
    result's error: mean square distance inside the mask to `wanted`, the exact answer's latent.

    `renoises`: also how far a second prediction is from the first at the same level with other noise.
    """
    scheduler, z, inside = task.sampling.scheduler(), task.noise, task.edit > 0.5
    x0s, ratios, apart = [], [], []
    with torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            s = float(scheduler.sigmas[k])
            cond = velocity_of(task.net, z, t, task.texts.cond)
            uncond = cond if task.texts.uncond is None else velocity_of(task.net, z, t, task.texts.uncond)
            x0 = z - s * cond
            x0s.append(x0[..., inside][0])
            ratios.append(float((cond - uncond)[..., inside].norm() / cond[..., inside].norm()))
            if renoises:
                apart.append(_apart(task, x0, t, s, k, inside))
            z = scheduler.step(guide(cond, uncond, task.sampling.cfg), t, z, return_dict=False)[0]
    return {
        "sigmas": np.asarray(scheduler.sigmas[: len(x0s)], np.float64),
        "x0": torch.stack(x0s).half().numpy(),
        "ratio": np.asarray(ratios),
        "apart": np.asarray(apart),
        "error": np.asarray(float((z - wanted)[..., inside].square().mean())),
    }


def _apart(task: Task, x0: Tensor, t: Tensor, s: float, k: int, inside: Tensor) -> float:
    again = noised(x0, draw(x0.shape, seed_of_step(7, k)), s)
    other = again - s * velocity_of(task.net, again, t, task.texts.cond)
    return float((other - x0)[..., inside].square().mean())


def record_all(cases: list[Case], chosen: list[Sampling], folder: Path) -> None:
    """Adds to `folder` one file per case and sampling."""
    folder.mkdir(parents=True, exist_ok=True)
    in_workers(cases, _work, chosen, folder)


def file_of(folder: Path, case: Case, sampling: Sampling) -> Path:
    return folder / f"{case.name} {label(sampling)}.npz"


def _work(cases: list[Case], chosen: list[Sampling], folder: Path) -> None:
    torch.set_num_threads(1)
    model = load_world()
    for case in cases:
        left = [sampling for sampling in chosen if not file_of(folder, case, sampling).exists()]
        if not left:
            continue
        task = prepare(model, case, REFERENCE)
        wanted = model.encode(task.answer)
        for sampling in left:
            texts = replace(task.texts, uncond=None) if sampling.cfg == 1.0 else task.texts
            found = record(replace(task, sampling=sampling, texts=texts), wanted, renoises=sampling in RENOISED)
            part = file_of(folder, case, sampling).with_suffix(".part.npz")
            np.savez(part, **found)
            part.rename(file_of(folder, case, sampling))
