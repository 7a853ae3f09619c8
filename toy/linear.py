"""Linear latents: the principal components of 4x8x8 pixel blocks, the targets that the toy VAE is taught to encode to.

They exist before any network does, so the transformer can train on them while the VAE still learns, and they keep
colours in a few strong channels, which a small transformer learns soonest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

CHANNELS, BLOCK = 16, dict(p=4, q=8, r=8)
# Spread of channel i relative to the others: (its standard deviation in pixels) ** SPREAD; 0 would whiten.
SPREAD = 0.4


@dataclass(frozen=True)
class LinearLatents:
    """`mean` (768,), `basis` (768, 16) orthonormal, `gain` (16,): latents have a mean square of 1."""

    mean: torch.Tensor
    basis: torch.Tensor
    gain: torch.Tensor

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, H, W, 3) in [0, 1] -> (16, 1 + k, H/8, W/8); the first frame counts as four equal ones."""
        return rearrange((blocks(frames) - self.mean) @ self.basis * self.gain, "t h w c -> c t h w")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(16, 1 + k, h, w) -> (1 + 4k, 8h, 8w, 3)."""
        flat = rearrange(latents, "c t h w -> t h w c") / self.gain @ self.basis.T + self.mean
        return rearrange(flat, "t h w (p q r c) -> (t p) (h q) (w r) c", c=3, **BLOCK)[3:]

    def save(self, path: Path) -> None:
        np.savez_compressed(path, mean=self.mean.numpy(), basis=self.basis.numpy(), gain=self.gain.numpy())

    @classmethod
    def load(cls, path: Path) -> LinearLatents:
        with np.load(path) as stored:
            return cls(*(torch.from_numpy(stored[name]) for name in ("mean", "basis", "gain")))


def blocks(frames: torch.Tensor) -> torch.Tensor:
    """(1 + 4k, H, W, 3) -> (1 + k, H/8, W/8, 768)."""
    still = torch.cat([frames[:1].expand(4, -1, -1, -1), frames[1:]])
    return rearrange(still, "(t p) (h q) (w r) c -> t h w (p q r c)", **BLOCK)


def fit(clips: list[torch.Tensor]) -> LinearLatents:
    """Principal components of all blocks of some clips, each (1 + 4k, H, W, 3)."""
    flat = torch.cat([blocks(clip).flatten(0, 2) for clip in clips])
    mean = flat.mean(0)
    variance, basis = torch.linalg.eigh(torch.cov((flat - mean).T.double()))
    deviation = variance.flip(0)[:CHANNELS].sqrt().float()
    spread = deviation**SPREAD
    return LinearLatents(mean, basis.flip(1)[:, :CHANNELS].float().contiguous(), spread / spread.square().mean().sqrt() / deviation)
