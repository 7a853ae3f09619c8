"""Other people's ways of editing, written from their papers for the small world; "like" where a part cannot be had."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvlock_core import (
    LatentComposite,
    LockSchedule,
    LockSession,
    NoisedPath,
    SessionSettings,
    SourcePath,
    draw,
    guide,
    invert,
    noised,
    seed_of_step,
)
from kvlock_diffusers.engine import sample, velocity_of

from .ideas import Tokens, mixing_the_edit
from .task import Task

#: APG, arXiv 2410.02416: what its authors use for SDXL.
APG_PARALLEL, APG_NORM, APG_MOMENTUM = 0.0, 15.0, -0.5
#: CFG-Zero*, arXiv 2503.18886: share of the first steps whose output is zero.
ZERO_STEPS = 0.04
#: FlowEdit, arXiv 2412.08629: share of the steps that are walked (its FLUX setting), and the source's CFG scale.
FLOWEDIT_WALKED, FLOWEDIT_SOURCE_CFG = 24 / 28, 1.5
#: ProEdit, arXiv 2512.22118: how far the region's inverted latent is moved to the statistics of noise.
PROEDIT_SHIFT = 0.25

ALWAYS = LockSchedule(kind="constant", start_percent=0.0)


class Part:
    """The end of an Euler schedule, from step `first` on."""

    def __init__(self, scheduler, first: int):
        self.timesteps, self.sigmas = scheduler.timesteps[first:], scheduler.sigmas[first:]
        self._at = 0

    def step(self, velocity: Tensor, t: Tensor, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        s, s_next = self.sigmas[self._at], self.sigmas[self._at + 1]
        self._at += 1
        return (latents + (s_next - s) * velocity,)


def sdedit(task: Task, strength: float) -> Tensor:
    """Partial denoise: the noised source is where sampling starts (SDEdit, arXiv 2108.01073)."""
    scheduler = task.sampling.scheduler()
    part = Part(scheduler, round((1 - strength) * task.sampling.steps))
    start = noised(task.z_src, task.noise, part.sigmas[0])
    return sample(task.net, part, start, task.texts, task.sampling.cfg)


def latent_blend(task: Task) -> Tensor:
    """Plain sampling whose background latents stay on the noised source, as SetLatentNoiseMask does it."""
    return sample(task.net, task.sampling.scheduler(), task.noise, task.texts, task.sampling.cfg, composite=blend(task))


def blend(task: Task) -> LatentComposite:
    return LatentComposite(task.z_src, NoisedPath(task.z_src, task.noise), task.edit)


class CFGZero(LockSession):
    """s_star in all steps, nothing in the very first ones; `settings` have no lock and a constant guidance."""

    def guide(self, cond: Tensor, uncond: Tensor | None) -> Tensor:
        guided = super().guide(cond, uncond)
        return torch.zeros_like(guided) if self._open.step < ZERO_STEPS * self.steps else guided


class APG(LockSession):
    """The difference of the two clean predictions without its part along the conditional one, clipped, with momentum."""

    _average: Tensor | float = 0.0
    _x0: Tensor | None = None

    def predicted(self, x0: Tensor):
        self._x0 = x0
        return super().predicted(x0)

    def guide(self, cond: Tensor, uncond: Tensor | None) -> Tensor:
        sigma = self._open.sigma
        self._guide_once()
        self._average = -sigma * (cond - uncond) + APG_MOMENTUM * self._average
        difference = self._average * (APG_NORM / self._average.norm()).clamp(max=1.0)
        along = self._x0 / self._x0.norm()
        parallel = (difference * along).sum() * along
        update = difference - parallel + APG_PARALLEL * parallel
        return cond - (self.omega0 - 1) * update / sigma


def guided_by(task: Task, kind: type[LockSession], settings: SessionSettings) -> Tensor:
    """No lock, another guidance."""
    return sample(task.net, task.sampling.scheduler(), task.noise, task.texts, 1.0, session=task.session(settings, kind))


def flowedit(task: Task) -> Tensor:
    """Walks from the source to the edit by the difference of two velocities, without inversion."""
    scheduler, z = task.sampling.scheduler(), task.z_src
    part = Part(scheduler, round((1 - FLOWEDIT_WALKED) * task.sampling.steps))
    with torch.no_grad():
        for k, t in enumerate(part.timesteps):
            s, s_next = (float(level) for level in part.sigmas[k : k + 2])
            z_src = noised(task.z_src, draw(z.shape, seed_of_step(0, k)), s)
            v_new = _guided(task, z + z_src - task.z_src, t, "cond", task.sampling.cfg)
            z = z + (s_next - s) * (v_new - _guided(task, z_src, t, "source", FLOWEDIT_SOURCE_CFG))
    return z


def _guided(task: Task, z: Tensor, t: Tensor, text: str, cfg: float) -> Tensor:
    rows = (velocity_of(task.net, z, t, task.texts.row(role)) for role in (text, "uncond"))
    return guide(*rows, cfg)


def inverted(task: Task, solver: str) -> SourcePath:
    """The source's ODE inversion under its own text."""
    words = task.texts.row("source")

    @torch.no_grad()
    def velocity(z: Tensor, sigma: float) -> Tensor:
        return velocity_of(task.net, z, torch.tensor(sigma * 1000), words).float()

    return invert(velocity, task.z_src, task.sampling.scheduler().sigmas.tolist(), solver, measure=False)


def kv_edit_like(task: Task) -> Tensor:
    """KV-Edit (arXiv 2502.17363): background K,V and background latents are the inversion's throughout."""
    path = inverted(task, "euler")
    return _from(task, path, path.at(0, _top(task)), LockSession, LatentComposite(task.z_src, path, task.edit))


def proedit_like(task: Task) -> Tensor:
    """ProEdit (arXiv 2512.22118): K,V of the background are the inversion's, a tenth of them in the region; the region's
    inverted latent is shifted towards noise. Its code for video is not public."""
    path = inverted(task, "rf_solver")
    return _from(task, path, _shifted(task, path.at(0, _top(task))), Tokens(mixing_the_edit), None)


def _top(task: Task) -> float:
    return float(task.sampling.scheduler().sigmas[0])


def _shifted(task: Task, z: Tensor) -> Tensor:
    """Latents-Shift: the region's mean and spread go part of the way to those of fresh noise."""
    inside = task.edit > 0.5
    region, noise = z[..., inside], task.noise[..., inside]
    moved = (region - region.mean(-1, True)) / region.std(-1, keepdim=True) * noise.std(-1, keepdim=True) + noise.mean(-1, True)
    z = z.clone()
    z[..., inside] = torch.lerp(region, moved, PROEDIT_SHIFT)
    return z


def _from(task: Task, path: SourcePath, start: Tensor, kind: Callable, composite: LatentComposite | None) -> Tensor:
    settings = SessionSettings(lock=ALWAYS, projection=False)
    session = task.session(settings, kind)
    return sample(task.net, task.sampling.scheduler(), start, task.texts, 1.0, session=session, source=path, composite=composite)
