"""The re-noised latent composite (M10): by the host's own latent noise mask, and where that cannot work by ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.utils
import torch
from einops import rearrange
from torch import Tensor

from ...kvlock_core import GridMismatchError, SourcePath, keep_outside
from .errors import UnsupportedGraphError
from .source import HostPath, SourceHandle

NOISE_MASK = "noise_mask"
#: The host's name for the noise mask among the conditions of a model that reads it.
HOST_MASK = "denoise_mask"
#: Latents that differ by less are the same picture: they were scaled to the model's space, and maybe back.
SAME = 1e-2


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
class HeldBackground:
    """Our own blend, for runs in which the host's would not keep the source (M10).

    Outside the mask the model sees the source on `path`, with the very noise that the run's start carries there, and predictions
    are the source. `z_src` (B,C,T,h,w) in the model's own latent space; `mask(sigma)` broadcasts to it, 1 = may change.
    """

    z_src: Tensor
    path: SourcePath
    mask: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, z_src: Tensor, start: tuple[Tensor, Tensor, Tensor], mask: Callable[[Tensor], Tensor], model_sampling) -> HeldBackground:
        """`start` of the run: noise level (), noise and latent (B,C,T,h,w), which may carry noise of its own."""
        sigma, noise, latent = start
        level, nothing, z_src = sigma.reshape((1,) * latent.ndim).to(latent), torch.zeros_like(latent), z_src.to(latent)
        begun, clean = (model_sampling.noise_scaling(level, *pair) for pair in ((noise, latent), (nothing, z_src)))
        carried = (begun - clean) / model_sampling.noise_scaling(level, torch.ones_like(latent), nothing)
        return cls(z_src, HostPath(z_src, lambda step: carried, lambda step: "carried", model_sampling), mask)

    def noisy(self, x: Tensor, step: int, sigma: Tensor) -> Tensor:
        """What the model sees instead of `x` at the noise level `sigma` (B,), the same for all."""
        return keep_outside(x, self.path.at(step, float(sigma.max())), self.mask(sigma))

    def clean(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """What the sampler gets for the prediction."""
        return keep_outside(x0, self.z_src, self.mask(sigma))


def check_kept_is_source(latent: Tensor, z_src: Tensor, mask: Tensor) -> None:
    """Raises UnsupportedGraphError if outside `mask` the `latent` (B,C,T,h,w) of a run is not the source."""
    if ((latent - z_src.to(latent)) * (1 - mask)).abs().max() > SAME:
        raise UnsupportedGraphError(
            "the latent noise mask keeps something else than the source, such as a start image; with this model KV-Lock keeps the "
            "source only: give the sampler the latent of Invert & Cache KV, or bypass KV-Lock"
        )


def without_host_blend(conds: dict[str, list[dict]]) -> None:
    """Takes the latent noise mask out of the conditions of a run, where it would lower the timesteps of frames that it covers."""
    for cond in (cond for of in conds.values() for cond in of):
        cond["model_conds"].pop(HOST_MASK, None)
