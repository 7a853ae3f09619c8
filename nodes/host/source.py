"""The source clip as a graph carries it, and as the model meets it at a noise level (M2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kvlock_core import (
    GridMismatchError,
    KVStore,
    NonFiniteError,
    SourceError,
    SourcePath,
    SourceSettings,
    TrajectoryPath,
    draw,
    fingerprint as content_of,
    latent_mask,
    mask_coverage,
    seed_of_step,
    token_mask,
)
from .models import ModelFamily, family_of
from .report import ByLatent

#: Where the source's noise comes from: its own seed, the edit's draw, or a fresh draw per step.
SOURCE_NOISES = ("own", "shared", "fresh")

#: Runs that stopped half-way and may be gone on with; a graph with two experts leaves one.
UNFINISHED_KEPT = 2


@dataclass(frozen=True, eq=False)
class SourceHandle:
    """What "Invert & Cache KV" hands on.

    `samples` (1,C,T,h,w) as the VAE made it; `edit` (T,h,w) latent edit mask; `tokens` (L,) token edit mask;
    `conditioning` the source's text, None = the edit's positive. `trajectory` an inversion, in the model's own latent
    space; None = noise is added in closed form. `storage` says where K,V come from, `store` keeps them beyond a run, None =
    nothing is kept; `node` that shows it. `unfinished` lets the second model of a run (Wan 2.2)
    go on with the first one's risk window: a few MB in the computer's memory, filed under the half-denoised latent.
    """

    family: ModelFamily
    samples: Tensor
    edit: Tensor
    tokens: Tensor
    conditioning: list | None
    noise: str
    seed: int
    trajectory: TrajectoryPath | None = None
    storage: SourceSettings = SourceSettings()
    store: KVStore | None = None
    node: str | None = None
    unfinished: ByLatent = field(default_factory=lambda: ByLatent(UNFINISHED_KEPT))

    def __deepcopy__(self, memo) -> SourceHandle:
        return self

    @property
    def editable_share(self) -> float:
        return mask_coverage(self.tokens)

    def check(self, family: ModelFamily, shape) -> None:
        """Raises SourceError, GridMismatchError if a run of `family` on a latent of `shape` cannot use this source."""
        if family != self.family:
            raise SourceError(
                f"the source was made for {self.family.name}, but the sampler runs {family.name}; "
                "link the same model to Invert & Cache KV"
            )
        if tuple(shape[1:]) != tuple(self.samples.shape[1:]):
            raise GridMismatchError(
                f"the source latent is {tuple(self.samples.shape)}, but the sampler works on {tuple(shape)}; "
                "give both the same width, height and number of frames"
            )


def make_source(model, latent: dict, edit_mask: Tensor, conditioning: list | None, noise: str, seed: int) -> SourceHandle:
    """The handle for a MODEL, a LATENT and a MASK (F,H,W) or (H,W). Raises KVLockError."""
    family = family_of(model.model)
    samples = latent["samples"]
    _check_latent(samples)
    mask = mask_frames(edit_mask).cpu()
    edit = latent_mask(mask, temporal=family.temporal, spatial=family.spatial, size=tuple(samples.shape[2:]))
    return SourceHandle(family, samples, edit, token_mask(edit, family.patch), conditioning, noise, seed)


def mask_frames(mask: Tensor) -> Tensor:
    """A MASK as (F,H,W); some nodes hand on a single (H,W)."""
    return mask.unsqueeze(0) if mask.ndim == 2 else mask


def _check_latent(samples: Tensor) -> None:
    if samples.ndim != 5 or samples.shape[0] != 1:
        raise GridMismatchError(
            f"the source latent has shape {tuple(samples.shape)}; encode one clip with this video model's VAE, "
            "which gives (1, channels, frames, height, width)"
        )
    if not samples.isfinite().all():
        raise NonFiniteError("the source latent holds NaN or infinity; encode the clip again, with the VAE in float32")


@dataclass(frozen=True, eq=False)
class HostPath(SourcePath):
    """The source at a noise level, through the model's own `noise_scaling`.

    `draw(step)` gives noise like `z_src`, `named(step)` a text that is the same for the same draw.
    """

    z_src: Tensor
    draw: Callable[[int], Tensor]
    named: Callable[[int], str]
    model_sampling: object
    reconstruction_error: float = 0.0

    def at(self, step: int, sigma: float) -> Tensor:
        level = torch.full((1,) * self.z_src.ndim, sigma, dtype=torch.float32, device=self.z_src.device)
        return self.model_sampling.noise_scaling(level, self.draw(step), self.z_src)

    def noise_key(self, step: int) -> str:
        return self.named(step)


@dataclass(frozen=True, eq=False)
class InvertedPath(SourcePath):
    """An inversion, brought to the device and the batch of one run; `like` (B,C,T,h,w)."""

    trajectory: TrajectoryPath
    like: Tensor

    @property
    def reconstruction_error(self) -> float:
        return self.trajectory.reconstruction_error

    def at(self, step: int, sigma: float) -> Tensor:
        return self.trajectory.at(step, sigma).to(self.like).expand_as(self.like)

    def noise_key(self, step: int) -> str:
        return self.trajectory.noise_key(step)


def source_path(source: SourceHandle, base_model, noise: Tensor) -> SourcePath:
    """The path of one run; `noise` (B,C,T,h,w) is the run's own."""
    if source.trajectory is not None:
        return InvertedPath(source.trajectory, noise)
    z_src = base_model.process_latent_in(source.samples.to(noise)).expand_as(noise)
    return HostPath(z_src, _draws(source, noise), _names(source, noise), base_model.model_sampling)


def _draws(source: SourceHandle, noise: Tensor) -> Callable[[int], Tensor]:
    if source.noise == "shared":
        if not noise.any():
            raise SourceError(
                "the source shares the sampler's noise, but this sampler adds none (a second stage); set source_noise of "
                "Invert & Cache KV to own"
            )
        return lambda step: noise
    if source.noise == "fresh":
        return lambda step: _draw(source, seed_of_step(source.seed, step), noise)
    fixed = _draw(source, source.seed, noise)
    return lambda step: fixed


def _names(source: SourceHandle, noise: Tensor) -> Callable[[int], str]:
    """Names for the draws of `_draws`."""
    if source.noise == "shared":
        shared = content_of(noise)
        return lambda step: shared
    return (lambda step: f"{source.seed} {step}") if source.noise == "fresh" else lambda step: f"{source.seed}"


def _draw(source: SourceHandle, seed: int, noise: Tensor) -> Tensor:
    """One draw for all clips of a batch, since the source is one clip."""
    return draw(source.samples.shape, seed).to(noise).expand_as(noise)
