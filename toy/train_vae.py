"""Trains the toy VAE: its encoder learns to write linear latents, its decoder to read them; then both together.

python -m toy.train_vae --plan apart:3000,joint:5000 --data runs/data

`apart` teaches the two halves side by side, `joint` lets the encoder leave the linear latents a little where the picture
gains, while the learning rate falls to zero. Resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from einops import rearrange

from . import checkpoint
from .linear import LinearLatents
from .model import new_vae
from .scenes import FRAMES, SIZE, render, scene
from .train_transformer import read_plan, rate

CROP, POOL = 40, 512
# Frames and number of crops in a step, one pair drawn at a time: short crops for variety, long ones for the memory.
SHAPES = ((5, 4), (9, 2), (17, 1))
MUON_RATE, ADAM_RATE, NOISE, LATENT_WEIGHT, EMA_DECAY = 3e-3, 1e-3, 0.05, {"apart": 0.1, "joint": 0.02, "cooldown": 0.02}, 0.995
PARTS = ("vae", "muon", "adam")


def whole_clip(self: WanResample, x: torch.Tensor, feat_cache=None, feat_idx=None) -> torch.Tensor:
    """Resamples a whole clip in one call: what the cached calls of one latent frame after another compute, but faster."""
    if self.mode == "upsample3d" and x.shape[2] > 1:
        later = rearrange(self.time_conv(x[:, :, 1:]), "b (n c) t h w -> b c (t n) h w", n=2)
        x = torch.cat([x[:, :, :1], later], 2)
    batch = len(x)
    x = self.resample(rearrange(x, "b c t h w -> (b t) c h w"))
    x = rearrange(x, "(b t) c h w -> b c t h w", b=batch)
    if self.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)
    return x


def channels_last(vae: torch.nn.Module) -> torch.nn.Module:
    """Puts kernels channels last: in bf16 a CPU's convolutions are then many times as fast."""
    for parameter in vae.parameters():
        if parameter.ndim in (4, 5):
            layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return vae


def is_inner_kernel(name: str, parameter: torch.Tensor) -> bool:
    """Kernels that Muon trains: all but those at the ends of the two halves."""
    return parameter.ndim > 3 and not any(part in name for part in ("gamma", "conv_in", "conv_out", "quant_conv"))


def as_matrix(kernel: torch.Tensor) -> torch.Tensor:
    """(out, in * positions) of a kernel that lies channels last, in the same memory."""
    return kernel.movedim(1, -1).contiguous().view(len(kernel), -1)


class Trainer:
    def __init__(self, run: Path, data: Path, device: str) -> None:
        self.run, self.device, self.step = run, device, 0
        self.linear = LinearLatents.load(data / "linear.npz")
        self.vae = channels_last(new_vae().to(device))
        self.ema = {name: value.clone() for name, value in self.vae.state_dict().items()}
        self.kernels = {name: p for name, p in self.vae.named_parameters() if is_inner_kernel(name, p)}
        self.matrices = {name: torch.nn.Parameter(as_matrix(p.data)) for name, p in self.kernels.items()}
        others = [p for name, p in self.vae.named_parameters() if name not in self.kernels]
        self.muon = torch.optim.Muon(self.matrices.values(), lr=MUON_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.pool: list[torch.Tensor] = []

    def crops(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (B,3,F,40,40) in [-1, 1] and their linear latents (B,16,T,5,5); clips are used several times over."""
        for _ in range(self.step % 2 if len(self.pool) >= POOL else 16):
            self.pool.append(torch.from_numpy(render(scene("train", np.random.randint(9_000_000)))))
        self.pool = self.pool[-POOL:]
        clips, (frames, batch) = [], SHAPES[np.random.randint(len(SHAPES))]
        for k, y, x in np.random.randint(0, (FRAMES - frames + 1, SIZE - CROP + 1, SIZE - CROP + 1), (batch, 3)):
            clip = self.pool[np.random.randint(len(self.pool))]
            clips.append(clip[k : k + frames, y : y + CROP, x : x + CROP])
        latents = torch.stack([self.linear.encode(clip) for clip in clips])
        frames = rearrange(torch.stack(clips) * 2 - 1, "b t h w c -> b c t h w")
        return tuple(x.to(self.device, memory_format=torch.channels_last_3d) for x in (frames, latents))

    def losses(self, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of the picture in [0, 1]^2 units, and of the encoder's latents."""
        frames, target = self.crops()
        with torch.autocast(self.device, torch.bfloat16):
            latents = self.vae.quant_conv(self.vae.encoder(frames))[:, :16].float()
            written = target if stage == "apart" or np.random.rand() < 0.5 else latents
            decoded = self.vae.decoder(self.vae.post_quant_conv(written + NOISE * torch.randn_like(written)))
        return (decoded.float() - frames).square().mean() / 4, (latents - target).square().mean()

    def train_step(self, stage: str, share: float) -> tuple[float, float]:
        for optimiser, base in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            optimiser.param_groups[0]["lr"] = base * share
        picture, latent = self.losses(stage)
        (picture + LATENT_WEIGHT[stage] * latent).backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 0.1)
        for name, kernel in self.kernels.items():
            self.matrices[name].grad = as_matrix(kernel.grad)
        self.muon.step(), self.adam.step()
        self.vae.zero_grad(set_to_none=True)
        self.step += 1
        for name, value in self.vae.state_dict().items():
            self.ema[name].lerp_(value, 1 - min(EMA_DECAY, self.step / (self.step + 10)))
        return picture.item(), latent.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="the folder with linear.npz of toy.dataset")
    parser.add_argument("--run", type=Path, default=Path("runs/vae"))
    parser.add_argument("--plan", default="apart:3000,joint:4000,cooldown:6000", help="stages as name:last step")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    WanResample.forward = whole_clip
    options.run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options.run, options.data, "cuda" if torch.cuda.is_available() else "cpu")
    checkpoint.resume(trainer, PARTS)
    torch.manual_seed(trainer.step), np.random.seed(trainer.step)
    start, recent = time.time(), []
    for stage, first, last in read_plan(options.plan):
        while trainer.step < last:
            recent.append(trainer.train_step(stage, rate(stage, trainer.step, first, last)))
            if trainer.step % 50 == 0:
                picture, latent = np.mean(recent, 0)
                line = dict(step=trainer.step, stage=stage, psnr=round(-10 * np.log10(picture), 2), latent=round(latent, 4),
                            seconds=round(time.time() - start))
                with open(options.run / "log.jsonl", "a") as file:
                    file.write(json.dumps(line) + "\n")
                recent = []
            if trainer.step % 250 == 0:
                checkpoint.save(trainer, PARTS)
        checkpoint.save(trainer, PARTS)


if __name__ == "__main__":
    main()
