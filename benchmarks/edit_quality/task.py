"""A case made ready: everything that all methods share, so that they differ in nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kvlock_core import LockSession, NoisedPath, SessionSettings, draw, fingerprint, latent_mask, token_mask
from kvlock_diffusers.engine import Texts, make_scheduler
from kvlock_diffusers.loading import TOY, load_model
from kvlock_diffusers.models import VideoModel
from toy.captions import caption, encode
from toy.scenes import render

from .cases import Case

EDIT_SEED, SOURCE_SEED = 0, 1


@dataclass(frozen=True)
class Sampling:
    """How a run samples; the table of methods uses the defaults, the study of the signal varies all of them."""

    steps: int = 20
    shift: float = 3.0
    sampler: str = "euler"
    cfg: float = 4.0

    def scheduler(self):
        return make_scheduler(self.sampler, self.steps, self.shift)


@dataclass(frozen=True, eq=False)
class Task:
    """One case on one model. `edit` (T,h,w) latent edit mask, `noise` the edit's draw, `own` the source's."""

    case: Case
    model: VideoModel
    net: Remembering
    clip: Tensor
    answer: Tensor
    mask: Tensor
    edit: Tensor
    z_src: Tensor
    noise: Tensor
    own: Tensor
    texts: Texts
    sampling: Sampling

    @property
    def path(self) -> NoisedPath:
        """The source with noise of its own (M2)."""
        return NoisedPath(self.z_src, self.own)

    def session(self, settings: SessionSettings, kind: type[LockSession] = LockSession) -> LockSession:
        tokens = token_mask(self.edit, self.model.patch)
        return kind(settings, steps=self.sampling.steps, edit=self.edit, tokens=tokens, omega0=self.sampling.cfg)


def load_world() -> VideoModel:
    """The toy model, its VAE in bfloat16: many times as fast on processors that have it."""
    model = load_model(TOY, device="cpu")
    model.vae.to(torch.bfloat16)
    for parameter in model.vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return model


def prepare(model: VideoModel, case: Case, sampling: Sampling) -> Task:
    clip, answer = (torch.from_numpy(render(told)) for told in (case.told, case.retold))
    mask, z_src = case.edit_mask(), model.encode(clip)
    texts = Texts(encode(caption(case.retold)), None if sampling.cfg == 1.0 else encode(""), encode(caption(case.told)))
    noise, own = (draw(z_src.shape, seed) for seed in (EDIT_SEED, SOURCE_SEED))
    return Task(case, model, Remembering(model.transformer), clip, answer, mask, latent_mask(mask), z_src, noise, own, texts, sampling)


class Remembering:
    """The transformer, counting the rows it is asked for, and answering a plain row that it has seen without computing.

    Methods that differ only in their last steps share the first ones, bit for bit. In lockstep, which is all that is compared
    here, a call of one row carries no source, so it depends on nothing but its arguments; calls of several rows always
    compute. Modes that keep K,V lock calls of one row too and must not be remembered.
    """

    def __init__(self, net: nn.Module, remembers: bool = True):
        self._net, self._known, self._remembers = net, {}, remembers
        self.rows = 0

    @property
    def blocks(self) -> nn.ModuleList:
        return self._net.blocks

    @property
    def dtype(self) -> torch.dtype:
        return self._net.dtype

    def __call__(self, latents: Tensor, t: Tensor, words: Tensor, **kwargs):
        self.rows += len(latents)
        if len(latents) > 1 or not self._remembers:
            return self._net(latents, t, words, **kwargs)
        key = fingerprint(latents, t, words)
        if key not in self._known:
            self._known[key] = self._net(latents, t, words, **kwargs)
        return self._known[key]
