"""The sampling loop: diffusers' model and scheduler, with a `LockSession` looking in at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

from kvlock_core import GridMismatchError, LatentComposite, LockSession, SettingsError, SourcePath, locked_blocks

from .adapter import Rider, riding

SAMPLERS = ("euler", "unipc")
TRAIN_TIMESTEPS = 1000  # Wan's time embedding reads sigma * 1000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Texts:
    """Prompt embeddings (1,tokens,width), one length; `uncond` None means cfg 1; `source` None means that of `cond`."""

    cond: Tensor
    uncond: Tensor | None = None
    source: Tensor | None = None

    def row(self, role: str) -> Tensor:
        return self.cond if role == "source" and self.source is None else getattr(self, role)


def make_scheduler(sampler: str, steps: int, shift: float, device: str | torch.device = "cpu"):
    """diffusers' own scheduler for a flow model, its timesteps set. Raises SettingsError."""
    if sampler not in SAMPLERS:
        raise SettingsError(f"sampler {sampler!r} is unknown; use one of {', '.join(SAMPLERS)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SettingsError(f"a run of {steps!r} steps; give a whole number >= 1")
    if not 0.0 < shift < 100.0:
        raise SettingsError(f"shift {shift}; give a number above 0, Wan uses 3 to 8")
    if sampler == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS, shift=shift)
    else:
        scheduler = UniPCMultistepScheduler(
            num_train_timesteps=TRAIN_TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
    scheduler.set_timesteps(steps, device=device)
    return scheduler


@torch.no_grad()
def sample(
    transformer: nn.Module,
    scheduler,
    noise: Tensor,
    texts: Texts,
    cfg: float,
    *,
    session: LockSession | None = None,
    source: SourcePath | None = None,
    composite: LatentComposite | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Latents (B,C,T,h,w) sampled from `noise`. Without a session: plain sampling, as diffusers' own pipeline does it.

    `session` decides per step how to lock and to guide; `source` gives the source latent at a noise level and is needed
    as soon as a step locks. `cfg` is the scale without a session; with one, the session's omega0 counts. `composite`
    keeps background latents on the source's path (M10).
    `progress(done, steps)` is called after every step. The session is closed at the end, well or not. Raises whatever the
    session raises, GridMismatchError.
    """
    if source is None and session is not None and session.settings.lock is not None:
        raise SettingsError("a session with a lock needs the source; pass source=NoisedPath(z_src, noise)")
    latents, steps = noise, len(scheduler.timesteps)
    with _watched(transformer, session) as rider:
        for step, t in enumerate(scheduler.timesteps):
            sigma = float(scheduler.sigmas[step])
            latents = latents if composite is None else composite.noisy(latents, step, sigma)
            if rider is None:
                velocity = _plain_velocity(transformer, latents, t, texts, cfg)
            else:
                velocity = _watched_velocity(rider, transformer, latents, t, texts, step, sigma, source)
            velocity = velocity if composite is None else composite.velocity(velocity, latents, sigma)
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
            if progress is not None:
                progress(step + 1, steps)
    return latents


def _watched_velocity(rider: Rider, transformer, latents, t, texts, step, sigma, source) -> Tensor:
    """One step under the session's eyes: begin, predict, report x0, guide, end."""
    session = rider.session
    plan = session.begin(step, sigma)
    if plan.supply == "none":
        cond, uncond = _pair(transformer, latents, t, texts)
    elif plan.supply == "row":
        cond, uncond = _riding_pair(rider, transformer, latents, t, texts, source.at(step, sigma))
    else:
        if plan.supply == "apart":
            _run_source(rider, transformer, latents, t, texts, source.at(step, sigma))
        cond, uncond = _kept_pair(rider, transformer, latents, t, texts)
    session.predicted(latents - sigma * cond)
    velocity = session.guide(cond, uncond)
    session.end()
    return velocity


def _plain_velocity(transformer, latents: Tensor, t: Tensor, texts: Texts, cfg: float) -> Tensor:
    cond, uncond = _pair(transformer, latents, t, texts)
    return cond if uncond is None else uncond + cfg * (cond - uncond)


def _pair(transformer, latents: Tensor, t: Tensor, texts: Texts) -> tuple[Tensor, Tensor | None]:
    """Conditional and unconditional velocity in calls of their own, as diffusers' WanPipeline makes them."""
    cond = velocity_of(transformer, latents, t, texts.cond)
    return cond, None if texts.uncond is None else velocity_of(transformer, latents, t, texts.uncond)


def _riding_pair(rider: Rider, transformer, latents, t, texts: Texts, z_src: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same two with the source as one more row of the same call (lockstep)."""
    rows = ("cond", "source") if texts.uncond is None else ("cond", "uncond", "source")
    z_src = _checked_source(z_src, latents)
    batch = torch.cat([z_src if role == "source" else latents for role in rows])
    words = torch.cat([texts.row(role).expand(len(latents), -1, -1) for role in rows])
    with rider.carrying(rows, len(latents)):
        velocities = velocity_of(transformer, batch, t, words).chunk(len(rows))
    return velocities[0], None if texts.uncond is None else velocities[1]


def _run_source(rider: Rider, transformer, latents, t, texts: Texts, z_src: Tensor) -> None:
    """The source alone, as far as its K,V are needed."""
    with rider.carrying(("source",), len(latents)):
        velocity_of(transformer, _checked_source(z_src, latents), t, texts.row("source"))


def _kept_pair(rider: Rider, transformer, latents, t, texts: Texts) -> tuple[Tensor, Tensor | None]:
    """The same two in calls of their own, locked to K,V that are kept."""
    with rider.carrying(("cond",), len(latents)):
        cond = velocity_of(transformer, latents, t, texts.cond)
    if texts.uncond is None:
        return cond, None
    with rider.carrying(("uncond",), len(latents)):
        return cond, velocity_of(transformer, latents, t, texts.uncond)


def _checked_source(z_src: Tensor, latents: Tensor) -> Tensor:
    if z_src.shape != latents.shape:
        raise GridMismatchError(
            f"source latent {tuple(z_src.shape)} and edit latent {tuple(latents.shape)} differ; "
            "edit the source at its own size and length"
        )
    return z_src.to(latents)


@contextmanager
def _watched(transformer: nn.Module, session: LockSession | None) -> Iterator[Rider | None]:
    """The session in the model's attention for one run, which ends with it; None without a session."""
    if session is None:
        yield None
        return
    try:
        locks = session.settings.lock is not None
        last = locked_blocks(session.settings, len(transformer.blocks))[-1] if locks else None
        with riding(transformer, session, last) as rider:
            yield rider
    finally:
        session.close()


def velocity_of(transformer: nn.Module, latents: Tensor, t: Tensor, words: Tensor) -> Tensor:
    """One call of the model: `latents` (B,C,T,h,w), `t` sigma * 1000 as a 0-d tensor, `words` (1 or B,tokens,width)."""
    dtype = transformer.dtype
    words = words.expand(len(latents), -1, -1).to(dtype)
    return transformer(latents.to(dtype), t.expand(len(latents)), words, return_dict=False)[0]
