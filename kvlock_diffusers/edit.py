"""One edit from pixels to pixels: source latent, masks, source path, session, sampling, decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvlock_core import (
    COMPOSITE_LOCK,
    FreshNoisePath,
    KVStore,
    LatentComposite,
    LockSession,
    NoisedPath,
    RunTrace,
    SessionSettings,
    SettingsError,
    SourceKV,
    SourcePath,
    SourceSettings,
    Stored,
    draw as gaussian,
    grow_mask,
    invert,
    invert_mask,
    latent_mask,
    source_mode,
    token_mask,
)

from .engine import Progress, Texts, make_scheduler, sample, velocity_of
from .fit import Fit
from .keeping import SourceRun
from .models import VideoModel

SOURCE_NOISES = ("own", "shared", "fresh")
SOURCE_PATHS = ("noised", "euler", "rf_solver", "uni_inv")


@dataclass(frozen=True)
class EditSettings:
    """Everything about an edit but the clip and the model; `cfg` and `shift` None mean the model's own.

    `composite`: background latents stay on the source's way to noise and end as the source's own (M10).
    """

    prompt: str
    source_prompt: str | None = None
    negative_prompt: str = ""
    steps: int = 50
    cfg: float | None = None
    shift: float | None = None
    sampler: str = "euler"
    seed: int = 0
    source_seed: int = 1
    source_noise: str = "own"
    source_path: str = "noised"
    grow: int = 0
    invert: bool = False
    composite: bool = True
    session: SessionSettings = field(default_factory=lambda: SessionSettings(lock=COMPOSITE_LOCK))
    source: SourceSettings = SourceSettings()

    def __post_init__(self):
        for name, value, known in (
            ("source noise", self.source_noise, SOURCE_NOISES),
            ("source path", self.source_path, SOURCE_PATHS),
        ):
            if value not in known:
                raise SettingsError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
        make_scheduler(self.sampler, self.steps, 1.0 if self.shift is None else self.shift)


@dataclass(frozen=True, eq=False)
class EditResult:
    """`frames` (F,H,W,3) in [0,1] of the source's own size; `path_error` of the source path (0 for the noised one).

    `source_summary` says what of a store was used, "" without one.
    """

    frames: Tensor
    latents: Tensor
    trace: RunTrace
    path_error: float
    source_summary: str = ""


def edit_clip(
    model: VideoModel,
    frames: Tensor,
    mask: Tensor,
    settings: EditSettings,
    *,
    fit: Fit | None = None,
    z_src: Tensor | None = None,
    store: KVStore | None = None,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> EditResult:
    """Edits `frames` (F,H,W,3) in [0,1] where `mask` (F,H,W) is 1, and gives them back at their own size.

    `fit` and `z_src` (the fitted clip's latent) may be given where several edits of one clip share them; so may `store`,
    which keeps the source's K,V for the next. `tell` gets the estimate before the run, for which one block is timed, and what
    a user should know of the store. Raises FitError, ClipTooShortError, and what the session and the engine raise.
    """
    fit = fit or plan_fit(model, frames)
    edit = latent_edit_mask(model, fit.apply_mask(prepared_mask(mask, settings)))
    z_src = model.encode(fit.apply(frames)) if z_src is None else z_src
    scheduler = scheduler_for(model, settings)
    texts = embed(model, settings)
    noise = draw(z_src, settings.seed)
    path = source_path(model, z_src, noise, texts, scheduler, settings)
    source = _source(model, z_src, path, texts, scheduler, edit, settings, store, tell)
    session = new_session(model, edit, settings, source)
    start = noise if settings.source_path == "noised" else path.at(0, float(scheduler.sigmas[0]))
    latents = sample(
        model.transformer,
        scheduler,
        start,
        texts,
        session.omega0,
        session=session,
        source=path,
        composite=LatentComposite(z_src, _way_of_start(settings, path, z_src, noise), edit) if settings.composite else None,
        progress=progress,
    )
    edited = fit.restore(model.decode(latents), frames)
    summary = source.summary if isinstance(source, Stored) else ""
    return EditResult(edited, latents, session.trace, path.reconstruction_error, summary)


def plan_fit(model: VideoModel, frames: Tensor, rule: str = "pad") -> Fit:
    """How the model takes this clip: frames to 4k+1, height and width to whole tokens."""
    temporal, spatial = model.strides
    return Fit.plan(*frames.shape[:3], temporal=temporal, multiple=spatial * model.patch[-1], rule=rule)


def prepared_mask(mask: Tensor, settings: EditSettings) -> Tensor:
    """The pixel mask after `invert`, then `grow`."""
    mask = invert_mask(mask) if settings.invert else mask
    return grow_mask(mask, settings.grow) if settings.grow else mask


def latent_edit_mask(model: VideoModel, mask: Tensor) -> Tensor:
    temporal, spatial = model.strides
    return latent_mask(mask, temporal=temporal, spatial=spatial)


def scheduler_for(model: VideoModel, settings: EditSettings):
    shift = model.shift if settings.shift is None else settings.shift
    return make_scheduler(settings.sampler, settings.steps, shift, model.device)


def embed(model: VideoModel, settings: EditSettings) -> Texts:
    """Embeddings of the prompts; at cfg 1 there is no unconditional row (M9)."""
    source = None if settings.source_prompt is None else model.encode_text(settings.source_prompt)
    uncond = None if cfg_of(model, settings) == 1.0 else model.encode_text(settings.negative_prompt)
    return Texts(model.encode_text(settings.prompt), uncond, source)


def cfg_of(model: VideoModel, settings: EditSettings) -> float:
    return model.cfg if settings.cfg is None else settings.cfg


def draw(like: Tensor, seed: int) -> Tensor:
    """Gaussian noise like a latent, the same for a seed on every device."""
    return gaussian(like.shape, seed).to(like.device)


def new_session(model: VideoModel, edit: Tensor, settings: EditSettings, source: SourceKV | None = None) -> LockSession:
    """A session for one run; `edit` (T,h,w) latent edit mask."""
    tokens = token_mask(edit, model.patch)
    return LockSession(
        settings.session, steps=settings.steps, edit=edit, tokens=tokens, omega0=cfg_of(model, settings), source=source
    )


def _source(model, z_src, path, texts: Texts, scheduler, edit: Tensor, settings: EditSettings, store, tell) -> SourceKV | None:
    """The source mode of the run; None where nothing is locked."""
    if settings.session.lock is None:
        return None
    sigmas = scheduler.sigmas.tolist()[: settings.steps]
    tokens = token_mask(edit, model.patch)
    run = SourceRun(model, z_src, path, texts, settings.session, tokens, sigmas, settings.source.refresh_every)
    if tell is None:
        return source_mode(settings.source, run.described(), store)[0]
    source, estimate = source_mode(settings.source, run.described(timed=True), store, tell)
    tell(estimate.text)
    return source


def source_path(model: VideoModel, z_src: Tensor, noise: Tensor, texts: Texts, scheduler, settings: EditSettings) -> SourcePath:
    """The source at any noise level (M2): a draw of its own, the edit's, a fresh one a step, or an ODE inversion."""
    if settings.source_path != "noised":
        return invert(conditional_velocity(model, texts), z_src, scheduler.sigmas.tolist(), settings.source_path)
    if settings.source_noise == "fresh":
        return FreshNoisePath(z_src, settings.source_seed)
    return NoisedPath(z_src, noise if settings.source_noise == "shared" else draw(z_src, settings.source_seed))


def _way_of_start(settings: EditSettings, path: SourcePath, z_src: Tensor, noise: Tensor) -> SourcePath:
    """The source's way down from where sampling starts: the edit's own noise, or the top of an inversion."""
    return NoisedPath(z_src, noise) if settings.source_path == "noised" else path


def conditional_velocity(model: VideoModel, texts: Texts) -> Callable[[Tensor, float], Tensor]:
    """The model's velocity under the source's text, without CFG, as inversions use it."""
    words = texts.row("source")

    @torch.no_grad()
    def velocity(z: Tensor, sigma: float) -> Tensor:
        return velocity_of(model.transformer, z, torch.tensor(sigma * 1000, device=z.device), words).float()

    return velocity
