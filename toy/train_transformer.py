"""Trains the toy transformer on linear latents of scenes; resumes from its last checkpoint.

python -m toy.train_transformer --plan image:6000,video:6000,cooldown:2000

A stage is `name:last step`: `image` takes single frames (64 tokens, so five times as many a second), `video` whole
clips with an image batch in between, `cooldown` the same while the learning rate falls to zero.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from kvlock_diffusers.adapter import projections, rotate

from . import checkpoint
from .captions import embeddings
from .model import new_transformer

BATCH = {"image": 64, "video": 16}
WARMUP, EMA_DECAY, DROP_TEXT = 100, 0.998, 0.1
MUON_RATE, ADAM_RATE = 2e-3, 1e-3
# sigma = SHIFT u / (1 + (SHIFT - 1) u): more of the high noise levels, where layout and shape are decided.
SHIFT = 3.0
OBJECT_WEIGHT, MASK_WEIGHT, MASK_BLOCK = 4.0, 0.2, 2
IMAGE_SHARE = 0.25
PARTS = ("net", "guess", "muon", "adam")


class Chunks:
    """Random batches from the chunk files of one kind; looks for new ones as they are written."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.seen, self.rows = folder, kind, set(), []
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.folder.glob(f"{self.kind}-???.npz")):
            if path not in self.seen:
                with np.load(path) as stored:
                    self.rows.append({name: torch.from_numpy(stored[name]) for name in stored})
                self.seen.add(path)

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`count` rows of one random chunk: latents (B,16,T,h,w), object share (B,T,4h/2,4w/2), words (B,12)."""
        rows = self.rows[torch.randint(len(self.rows), ()).item()]
        pick = torch.randint(len(rows["words"]), (count,))
        return rows["latents"][pick].float(), rows["masks"][pick].float() / 255, rows["words"][pick].long()


class PlainAttention:
    """Wan attention written as two matrix products: on a CPU its backward pass is faster than the flash kernel's."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        query, key, value = projections(attn, hidden_states, encoder_hidden_states)
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        query, key, value = (x.transpose(1, 2).to(value.dtype) for x in (query, key, value))
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(-1).to(value.dtype)
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))


class Trainer:
    """The network, a head that guesses the object's mask half way (dropped afterwards), optimisers and the EMA."""

    def __init__(self, run: Path, device: str) -> None:
        self.run, self.device, self.step = run, device, 0
        self.net = new_transformer().to(device)
        self.guess = nn.Linear(256, 16).to(device)
        self.ema = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.words = embeddings().to(device)
        inner = [p for n, p in self.net.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
        chosen = {id(p) for p in inner}
        outer = [p for p in self.net.parameters() if id(p) not in chosen] + list(self.guess.parameters())
        self.muon = torch.optim.Muon(inner, lr=MUON_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(outer, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        for block in self.net.blocks:
            block.attn1.processor = block.attn2.processor = PlainAttention()
        self.net.blocks[MASK_BLOCK].register_forward_hook(self._keep)

    def _keep(self, _block, _inputs, hidden: torch.Tensor) -> None:
        self.hidden = hidden

    def losses(self, clean: torch.Tensor, mask: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Flow-matching loss, heavier on the object, and the mask guess's cross entropy."""
        clean, mask, words = clean.to(self.device), mask.to(self.device), words.to(self.device)
        words = words * (torch.rand(len(words), 1, device=self.device) >= DROP_TEXT)
        uniform = (torch.arange(len(clean), device=self.device) + torch.rand(len(clean), device=self.device)) / len(clean)
        sigma = (SHIFT * uniform / (1 + (SHIFT - 1) * uniform)).view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(clean)
        with torch.autocast(self.device, torch.bfloat16):
            velocity = self.net((1 - sigma) * clean + sigma * noise, sigma.flatten() * 1000, self.words[words], return_dict=False)[0]
            guess = self.guess(self.hidden)
        weight = 1 + OBJECT_WEIGHT * F.max_pool2d(mask, 2)[:, None]
        flow = (weight * (velocity.float() - (noise - clean)).square()).mean() / weight.mean()
        cells = rearrange(mask, "b t (h q) (w r) -> b (t h w) (q r)", q=4, r=4)
        return flow, F.binary_cross_entropy_with_logits(guess.float(), cells)

    def train_step(self, batch: tuple[torch.Tensor, ...], rate: float) -> tuple[float, float]:
        for optimiser, base in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            for group in optimiser.param_groups:
                group["lr"] = base * rate
        flow, mask = self.losses(*batch)
        (flow + MASK_WEIGHT * mask).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimiser in (self.muon, self.adam):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        for name, value in self.net.state_dict().items():
            self.ema[name].lerp_(value, 1 - decay)
        return flow.item(), mask.item()


def read_plan(text: str) -> list[tuple[str, int, int]]:
    """`image:6000,video:9000` -> [(image, 0, 6000), (video, 6000, 9000)]."""
    stages = [(name, int(last)) for name, last in (part.split(":") for part in text.split(","))]
    return [(name, stages[i - 1][1] if i else 0, last) for i, (name, last) in enumerate(stages)]


def rate(stage: str, step: int, first: int, last: int) -> float:
    """Learning rate as a share of its peak: a short warm-up, then flat, then a straight fall in the cooldown."""
    return (last - step) / (last - first) if stage == "cooldown" else min(1.0, (step + 1) / WARMUP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--run", type=Path, default=Path("runs/transformer"))
    parser.add_argument("--plan", default="image:6000,video:12000,cooldown:14000", help="stages as name:last step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the blocks (needs a C++ compiler; 1.5 times as fast)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    options.run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options.run, "cuda" if torch.cuda.is_available() else "cpu")
    checkpoint.resume(trainer, PARTS)
    if options.compile:
        for block in trainer.net.blocks:
            block.compile()
    torch.manual_seed(trainer.step)
    chunks = {"image": Chunks(options.data, "images"), "video": Chunks(options.data, "clips")}
    start, recent = time.time(), []
    for stage, first, last in read_plan(options.plan):
        while trainer.step < last:
            kind = "image" if stage == "image" or torch.rand(()) < IMAGE_SHARE else "video"
            flow, mask = trainer.train_step(chunks[kind].batch(BATCH[kind]), rate(stage, trainer.step, first, last))
            recent.append((kind, flow, mask))
            if trainer.step % 50 == 0:
                log(options.run, trainer.step, stage, recent, time.time() - start)
                recent = []
            if trainer.step % 250 == 0:
                checkpoint.save(trainer, PARTS)
                chunks["image"].refresh(), chunks["video"].refresh()
        checkpoint.save(trainer, PARTS)


def log(run: Path, step: int, stage: str, recent: list[tuple[str, float, float]], seconds: float) -> None:
    means = {f"{kind}_{name}": float(np.mean([row[place] for row in recent if row[0] == kind]))
             for kind in {row[0] for row in recent} for place, name in ((1, "flow"), (2, "mask"))}
    line = json.dumps({"step": step, "stage": stage, **{k: round(v, 4) for k, v in means.items()}, "seconds": round(seconds)})
    with open(run / "log.jsonl", "a") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    main()
