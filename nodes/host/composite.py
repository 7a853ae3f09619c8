"""The re-noised latent composite (M10), by the host's own latent noise mask."""

from __future__ import annotations

import comfy.utils
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
