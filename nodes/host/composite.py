"""The re-noised latent composite (M10): by the host's own latent noise mask, and where that cannot work by ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.utils
import torch
from einops import rearrange
from torch import Tensor

from ...kvlock_core import GridMismatchError, keep_outside
from .source import SourceHandle

NOISE_MASK = "noise_mask"


def composited(latent: dict, source: SourceHandle) -> dict:
    """`latent` whose background is the source's and stays it at every noise level, up to the end.

    The host adds the sampler's own noise to the source and blends outside the mask. The mask has five axes at the size of
    the latent: one of pixels would be stretched over latent frames that do not begin where it thinks (docs/hosts.md).
    A noise mask that `latent` brings holds too. Raises GridMismatchError.
    """
    samples = latent["samples"]
    if tuple(samples.shape[1:]) != tuple(source.samples.shape[1:]):
        raise GridMismatchError(
            f"latent_image is {tuple(samples.shape)}, the source latent {tuple(source.samples.shape)}; give both the same "
            "width, height and number of frames, or switch keep_background off"
        )
    edit = rearrange(source.edit, "t h w -> 1 1 t h w").to(samples)
    kept = keep_outside(samples, source.samples, source.edit)
    return {**latent, "samples": kept, NOISE_MASK: edit * _brought(latent, samples)}


def _brought(latent: dict, samples: Tensor) -> Tensor | float:
    """The noise mask that the latent has already, as the host would bring it to the latent's size; 1 without one."""
    mask = latent.get(NOISE_MASK)
    return 1.0 if mask is None else comfy.utils.reshape_mask(mask, samples.shape)[:, :1].to(samples)


@dataclass(frozen=True, eq=False)
class SecondStage:
    """The latent noise mask of a run that goes on from a half-denoised latent (M10).

    The host would take that latent for the picture to keep, and leave its background noisy. This keeps the source instead, with
    the very noise that the latent's background carries. `z_src`, `noise` (B,C,T,h,w) in the model's own latent space;
    `mask(sigma)` broadcasts to them, 1 = may change.
    """

    z_src: Tensor
    noise: Tensor
    mask: Callable[[Tensor], Tensor]
    model_sampling: object

    @classmethod
    def of(cls, z_src: Tensor, latent: Tensor, sigma: Tensor, mask: Callable[[Tensor], Tensor], model_sampling) -> SecondStage:
        """For a run that starts from `latent` (B,C,T,h,w) at the noise level `sigma`, and adds no noise."""
        level, nothing = sigma.reshape((1,) * latent.ndim).to(latent), torch.zeros_like(latent)
        begun, clean = (model_sampling.noise_scaling(level, nothing, picture) for picture in (latent, z_src.to(latent)))
        noise = (begun - clean) / model_sampling.noise_scaling(level, torch.ones_like(latent), nothing)
        return cls(z_src.to(latent), noise, mask, model_sampling)

    def noisy(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the model sees instead of `x` at the noise level `sigma` (B,)."""
        level = sigma.reshape(-1, *(1,) * (x.ndim - 1)).to(x)
        return keep_outside(x, self.model_sampling.noise_scaling(level, self.noise, self.z_src), self.mask(sigma))

    def clean(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """What the sampler gets for the prediction."""
        return keep_outside(x0, self.z_src, self.mask(sigma))
