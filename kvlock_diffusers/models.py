"""A video model ready to edit with: transformer, VAE and text encoder behind one small interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True, eq=False)
class VideoModel:
    """`encode_text(prompt)` -> (1,tokens,width). `shift` and `cfg` are what this model was made for."""

    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    encode_text: Callable[[str], Tensor]
    shift: float
    cfg: float

    @property
    def patch(self) -> tuple[int, int, int]:
        return tuple(self.transformer.config.patch_size)

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames per latent frame, pixels per latent cell."""
        return self.vae.config.scale_factor_temporal, self.vae.config.scale_factor_spatial

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Pixels (F,H,W,3) in [0,1] -> latent (1,C,T,h,w) float32, normalised as the transformer knows it."""
        pixels = rearrange(frames * 2 - 1, "f h w c -> 1 c f h w").to(self.device, self.vae.dtype)
        mean, std = self._statistics()
        return (self.vae.encode(pixels).latent_dist.mode().float() - mean) / std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`: (1,C,T,h,w) -> (F,H,W,3) float32 in [0,1] on the CPU."""
        mean, std = self._statistics()
        pixels = self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[0]
        return (rearrange(pixels.float(), "1 c f h w -> f h w c") / 2 + 0.5).clamp(0, 1).cpu()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        rows = (torch.tensor(values, device=self.device) for values in (self.vae.config.latents_mean, self.vae.config.latents_std))
        return tuple(rearrange(row, "c -> 1 c 1 1 1") for row in rows)
