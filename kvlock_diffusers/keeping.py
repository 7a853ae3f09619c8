"""What the diffusers face knows of a run's source K,V: whose they are, how many, what they cost (M3)."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlock_core import (
    Moment,
    RunSource,
    SessionSettings,
    SourceError,
    SourceIdentity,
    SourcePath,
    fingerprint,
    run_source,
    weights_fingerprint,
)

from .engine import Texts, velocity_of
from .models import VideoModel

PROBES = 3  # the first call of a kernel is slow


class _BlockRanError(Exception):
    """Ends a call after its first block."""


@dataclass(frozen=True, eq=False)
class SourceRun:
    """What is known of a run before it begins; `sigmas` of all its steps, `tokens` (L,) token edit mask."""

    model: VideoModel
    z_src: Tensor
    path: SourcePath
    texts: Texts
    session: SessionSettings
    tokens: Tensor
    sigmas: list[float]
    refresh_every: int

    def described(self, *, timed: bool = False) -> RunSource:
        """For `kvlock_core.source_mode`; `timed`: the estimate is to be in seconds too."""
        net, config = self.model.transformer, self.model.transformer.config
        return run_source(
            self.session, self.refresh_every, self.tokens, self.sigmas, steps=len(self.sigmas), batch=len(self.z_src),
            rows=1 if self.texts.uncond is None else 2, dtype=net.dtype,
            attention=(config.num_attention_heads, config.attention_head_dim, len(net.blocks)),
            identity=self._identity,
            moment_of=self._moments(),
            device=self.model.device,
            folder=tempfile.gettempdir(),
            row_fits=self._row_bytes() < free_bytes(self.model.device),
            row_seconds=self._row_seconds if timed else lambda mode: None,
        )  # fmt: skip

    def _identity(self) -> SourceIdentity:
        net = self.model.transformer
        config = sorted((name, value) for name, value in net.config.items() if not name.startswith("_"))
        return SourceIdentity(
            model=weights_fingerprint([("config", repr(config)), *net.state_dict().items()]),
            latent=fingerprint(self.z_src),
            grid=tuple(self.z_src.shape),
            dtype=str(self.model.transformer.dtype),
        )

    def _moments(self):
        text = fingerprint(self.texts.row("source"))
        return lambda step, sigma: Moment(sigma, self.path.noise_key(step), text)

    def _row_seconds(self, mode: str) -> float:
        rows = 1 if self.texts.uncond is None else 2
        return row_seconds(self.model, self.z_src, self.texts.cond, rows, apart=mode == "in_step")

    def _row_bytes(self) -> int:
        config = self.model.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        tensors = row_tensors(width, config.ffn_dim) * len(self.z_src)
        return round(tensors * len(self.tokens) * width * self.model.transformer.dtype.itemsize)


def row_tensors(width: int, feed_forward: int) -> float:
    """Activations of one row while a block runs, in (tokens, width) tensors: those of attention at the least, else those of the
    feed-forward net. A little above what was measured in the proportions of Wan 1.3B, 5B and 14B (docs/memory.md)."""
    return max(12.0, 5 + 2 * feed_forward / width)


def free_bytes(device: torch.device) -> float:
    """What is free on a GPU, with what torch holds and does not use; without limit where the computer's own memory serves."""
    if device.type != "cuda":
        return float("inf")
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@torch.no_grad()
def row_seconds(model: VideoModel, latents: Tensor, words: Tensor, rows: int, *, apart: bool) -> float:
    """Seconds that a source row adds to a step of `rows` calls: run `apart` one call more, else one call of all rows instead.

    Times what comes before the first block, and that block for all; `latents` (1,C,T,h,w), `words` (1,tokens,width).
    """
    blocks = len(model.transformer.blocks)

    def call(size: int) -> float:
        batch = latents.expand(size, -1, -1, -1, -1)
        before, block = (min(seconds) for seconds in zip(*(_first_seconds(model, batch, words) for _ in range(PROBES))))
        return before + block * blocks

    return call(1) if apart else max(call(rows + 1) - rows * call(1), 0.0)


def _first_seconds(model: VideoModel, latents: Tensor, words: Tensor) -> tuple[float, float]:
    """From the start of a call to its first block, and from there to that block's end, where the call is ended too."""
    marks = [_now(model.device)]

    def stop(*_):
        marks.append(_now(model.device))
        raise _BlockRanError

    first = model.transformer.blocks[0]
    hooks = [first.register_forward_pre_hook(lambda *_: marks.append(_now(model.device))), first.register_forward_hook(stop)]
    try:
        velocity_of(model.transformer, latents, torch.tensor(500.0, device=model.device), words)
    except _BlockRanError:
        begun, block, end = marks
        return block - begun, end - block
    finally:
        for hook in hooks:
            hook.remove()
    raise SourceError("the model ran without its first block; it is no Wan transformer as diffusers has it")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
