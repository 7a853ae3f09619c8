"""Wan models of random weights, and runs of them in every source mode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from kvlock_core import (
    Budgets,
    Estimate,
    KVStore,
    LockSchedule,
    LockSession,
    NoisedPath,
    RunSource,
    SessionSettings,
    SourceKV,
    SourceSettings,
    draw,
    source_mode,
    token_mask,
)
from kvlock_diffusers.engine import Texts, make_scheduler, sample, velocity_of
from kvlock_diffusers.keeping import SourceRun
from kvlock_diffusers.models import VideoModel

CFG, SHIFT = 4.0, 3.0
PATCH = (1, 2, 2)
#: Few words, so that text weighs as little beside these few tokens as Wan's 512 words do beside 32,760.
WORDS, TEXT_WIDTH = 64, 64
FREE_SHARE = 0.2  # of the tokens, that the edit may change
CLIP_SEED, SOURCE_SEED = 1, 2
PLENTY = 64 * 10**9


@dataclass(frozen=True)
class Size:
    """Shape of a model, in the proportions of Wan 2.1 1.3B."""

    name: str
    dim: int
    heads: int
    ffn: int
    blocks: int

    def build(self, device: str, dtype: torch.dtype) -> VideoModel:
        """Random weights; there is no VAE and no text encoder, as only latents are sampled."""
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)  # made where and as it is used, so that no copy raises the peak of memory
        try:
            with torch.device(device):
                net = WanTransformer3DModel(
                    patch_size=PATCH, num_attention_heads=self.heads, attention_head_dim=self.dim // self.heads, text_dim=TEXT_WIDTH,
                    ffn_dim=self.ffn, num_layers=self.blocks, cross_attn_norm=True,
                )  # fmt: skip
        finally:
            torch.set_default_dtype(torch.float32)
        return VideoModel(net.eval().requires_grad_(False), None, None, SHIFT, CFG)


SIZES = {
    size.name: size
    for size in (
        Size("small", 256, 2, 1536, 6),
        Size("large", 1536, 12, 8960, 4),
        Size("large, 2 blocks", 1536, 12, 8960, 2),
        Size("Wan 1.3B", 1536, 12, 8960, 30),
    )
}


@dataclass(frozen=True)
class Run:
    """What is sampled: `grid` (T,h,w) of the latent, `steps`, the share of them that lock (the last ones), CFG or not."""

    grid: tuple[int, int, int]
    steps: int
    cfg: bool = True
    locked: float = 1.0

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2] // 4

    @property
    def free_lines(self) -> int:
        """Latent lines, from the top, that the edit may change; whole tokens."""
        return round(FREE_SHARE * self.grid[1] / 2) * 2

    @property
    def lockable(self) -> int:
        """Tokens outside them."""
        return self.tokens * (self.grid[1] - self.free_lines) // self.grid[1]

    @property
    def plain_rows(self) -> int:
        return self.steps * (2 if self.cfg else 1)


@dataclass(frozen=True)
class Variant:
    """One way to run. `mode` "plain" has no session; `together`: cond and uncond in one call. `second`: reads what an earlier
    run with another prompt and seed stored. `tier` of budgets: memory, disk. `source_too`: the source is a row as well, and
    nothing is locked: what lockstep's rows cost by themselves."""

    name: str
    mode: str
    codec: str = "same"
    refresh: int = 1
    tier: str = "memory"
    second: bool = False
    together: bool = False
    source_too: bool = False

    def arithmetic(self, run: Run) -> float:
        """Rows of the run over those of plain sampling."""
        if (self.mode == "plain" and not self.source_too) or self.second:
            return 1.0
        locked = run.steps if self.source_too else round(run.locked * run.steps)
        return 1.0 + -(-locked // self.refresh) / run.plain_rows


#: Two blocks with a feed-forward net as wide, beside dim, as that of each Wan: what one row of activations takes.
WIDTHS = {"1.3B": Size("1.3B", 768, 6, 4480, 2), "5B": Size("5B", 768, 6, 3584, 2), "14B": Size("14B", 768, 6, 2074, 2)}

PLAIN = Variant("plain", "plain")
PLAIN_TOGETHER = Variant("plain, one call a step", "plain", together=True)
UNLOCKED = Variant("plain, one call a step, source too", "plain", together=True, source_too=True)
LOCKSTEP, IN_STEP, RECORDING = Variant("lockstep", "lockstep"), Variant("in_step", "in_step"), Variant("stored, first run", "stored")
SECOND = Variant("stored, second run", "stored", second=True)
ALL = (
    PLAIN,
    PLAIN_TOGETHER,
    UNLOCKED,
    LOCKSTEP,
    Variant("lockstep, refresh 2", "lockstep", refresh=2),
    IN_STEP,
    Variant("in_step, int8", "in_step", codec="int8"),
    Variant("in_step, refresh 2", "in_step", refresh=2),
    RECORDING,
    Variant("stored, first run, int8", "stored", codec="int8"),
    Variant("stored, first run, disk", "stored", tier="disk"),
    SECOND,
    Variant("stored, second run, int8", "stored", codec="int8", second=True),
    Variant("stored, second run, disk", "stored", tier="disk", second=True),
    Variant("stored, second run, disk, int8", "stored", codec="int8", tier="disk", second=True),
)
NAMED = {variant.name: variant for variant in ALL}
MAIN = (PLAIN, PLAIN_TOGETHER, UNLOCKED, LOCKSTEP, IN_STEP, RECORDING, SECOND)


@dataclass(eq=False)
class Bench:
    """A model and a clip; `folder` for disk tiers; `budgets` None: of the tier that a variant uses, as much as it needs."""

    model: VideoModel
    run: Run
    folder: str
    budgets: Budgets | None = None

    def __post_init__(self):
        self.device, self.dtype = self.model.device, self.model.transformer.dtype
        shape = (1, 16, *self.run.grid)
        self.z_src = self._made(shape, CLIP_SEED)
        self.path = NoisedPath(self.z_src, self._made(shape, SOURCE_SEED))
        self.edit = torch.zeros(self.run.grid)
        self.edit[:, : self.run.free_lines] = 1.0
        self.tokens = token_mask(self.edit, PATCH)
        self.settings = SessionSettings(LockSchedule("constant", start_percent=1.0 - self.run.locked))

    def _made(self, shape: tuple[int, ...], seed: int) -> Tensor:
        return draw(shape, seed).to(self.device)

    def texts(self, prompt: int) -> Texts:
        """Of the edit's prompt number `prompt`; the source's text is always the same."""
        uncond = self._made((1, WORDS, TEXT_WIDTH), 10) if self.run.cfg else None
        cond, source = (self._made((1, WORDS, TEXT_WIDTH), seed) for seed in (20 + prompt, 11))
        return Texts(cond, uncond, source)

    def settings_of(self, variant: Variant) -> SourceSettings:
        return SourceSettings(variant.mode, variant.codec, variant.refresh, self.budgets or Budgets(**{variant.tier: PLENTY}))

    def new_store(self, variant: Variant) -> KVStore:
        return self.settings_of(variant).new_store(self.device, self.folder)

    def described(self, variant: Variant, *, timed: bool = False) -> RunSource:
        sigmas = make_scheduler("euler", self.run.steps, SHIFT).sigmas.tolist()[: self.run.steps]
        known = SourceRun(self.model, self.z_src, self.path, self.texts(0), self.settings, self.tokens, sigmas, variant.refresh)
        return known.described(timed=timed)

    def source(self, variant: Variant, store: KVStore | None, *, timed: bool = False) -> tuple[SourceKV, Estimate]:
        """The mode as `edit` makes it."""
        return source_mode(self.settings_of(variant), self.described(variant, timed=timed), store, tell=_not_expected)

    def sampled(self, source: SourceKV | None, prompt: int = 0) -> Tensor:
        """Latents of a whole run; without a source of plain sampling."""
        session = source and LockSession(
            self.settings, steps=self.run.steps, edit=self.edit, tokens=self.tokens, omega0=CFG, source=source
        )
        scheduler = make_scheduler("euler", self.run.steps, SHIFT, self.device)
        noise = self._made(self.z_src.shape, 30 + prompt)
        return sample(self.model.transformer, scheduler, noise, self.texts(prompt), CFG, session=session, source=self.path)

    @torch.no_grad()
    def sampled_together(self, source_too: bool = False) -> Tensor:
        """Plain sampling with all rows of a step in one call, as ComfyUI makes it."""
        scheduler, texts = make_scheduler("euler", self.run.steps, SHIFT, self.device), self.texts(0)
        latents, rows = self._made(self.z_src.shape, 30), [texts.cond, texts.uncond, texts.source if source_too else None]
        words = torch.cat([row for row in rows if row is not None])
        for t in scheduler.timesteps:
            cond, *others = velocity_of(self.model.transformer, latents.expand(len(words), -1, -1, -1, -1), t, words).chunk(len(words))
            velocity = others[0] + CFG * (cond - others[0]) if self.run.cfg else cond
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
        return latents


def _not_expected(message: str) -> None:
    raise SystemExit(f"a benchmark run was told: {message}")
