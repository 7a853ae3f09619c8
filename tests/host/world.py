"""What the tests on ComfyUI share: models, conditions, and one way to sample with every sampler and guider."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import torch

ROOT = Path(__file__).resolve().parents[2]
TRANSFORMER = ROOT / "toy" / "weights" / "kvlock_toy_wan_t2v_fp16.safetensors"

#: Latent of 9 frames of 64x48 pixels: small enough for many runs.
SHAPE = (1, 16, 3, 6, 8)
FRAMES, HEIGHT, WIDTH = 9, 48, 64
STEPS, CFG = 6, 4.0


def load_toy():
    """The toy transformer, by the function behind UNETLoader."""
    return comfy.sd.load_diffusion_model(str(TRANSFORMER))


def draw(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(seed: int, length: int = 12) -> list:
    """CONDITIONING of `length` tokens as ComfyUI's encoders return it."""
    return [[draw(1, length, 4096, seed=seed).sign(), {}]]


def source_latent(seed: int = 21, shape=SHAPE) -> dict:
    return {"samples": draw(*shape, seed=seed) * 0.5}


def mask(kind: str = "corner") -> torch.Tensor:
    """MASK (F,H,W): "corner" leaves most of the clip, "none" and "all" are what they say."""
    pixels = torch.zeros(FRAMES, HEIGHT, WIDTH)
    if kind == "corner":
        pixels[:, 16:40, 16:40] = 1.0
    return torch.ones_like(pixels) if kind == "all" else pixels


def sigmas_for(model, steps: int = STEPS, scheduler: str = "simple") -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps).cpu()


def guider(model, kind: str = "cfg", cfg: float = CFG, positive=None, negative=None):
    """A guider as its core node makes it."""
    from comfy_extras import nodes_custom_sampler as core

    positive, negative = positive or text(1), negative or text(2)
    if kind == "basic":
        made = core.Guider_Basic(model)
        made.set_conds(positive)
    elif kind == "dual":
        made = core.Guider_DualCFG(model)
        made.set_conds(positive, text(3), negative)
        made.set_cfg(cfg, 2.0)
    else:
        made = comfy.samplers.CFGGuider(model)
        made.set_conds(positive, negative)
        made.set_cfg(cfg)
    return made


def run(model, sampler: str = "euler", *, kind: str = "cfg", cfg: float = CFG, noise=None, latent=None, sigmas=None,
        positive=None, negative=None, seed: int = 7, noise_mask=None, callback=None) -> torch.Tensor:  # fmt: skip
    """One sampling run; returns the latent."""
    shape = SHAPE if latent is None else tuple(latent.shape)
    noise = draw(*shape, seed=seed) if noise is None else noise
    latent = torch.zeros(shape) if latent is None else latent
    sigmas = sigmas_for(model) if sigmas is None else sigmas
    made = guider(model, kind, cfg, positive, negative)
    device = comfy.model_management.intermediate_device()
    out = made.sample(noise, latent, comfy.samplers.sampler_object(sampler), sigmas.clone(), denoise_mask=noise_mask,
                      callback=callback, disable_pbar=True, seed=seed)  # fmt: skip
    return out.to(device)


def call(node, **given) -> tuple:
    """Runs a node as the executor does: its defaults for what is not given, and an id. Returns its outputs."""
    schema = node.GET_SCHEMA()
    defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}
    combos = {i.id: i.options[0] for i in schema.inputs if i.id not in defaults and getattr(i, "options", None)}
    prepared = type(node.__name__, (node,), {"hidden": SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)})
    return prepared.execute(**{**combos, **defaults, **given}).args


def of_pack(thing, name: str):
    """The module `name` of nodes/host, whatever name ComfyUI loaded the pack under; `thing` is any object of that folder."""
    return sys.modules[type(thing).__module__.rsplit(".", 1)[0] + "." + name]


#: Widgets of the lock that acts in every step at full strength.
FULL = {"lock_schedule": "constant", "start_percent": 0.0}


def locked(pack, model, source, **widgets):
    """The MODEL with KV-Lock (Patch Model) on it."""
    return call(pack["KVLockApply"], model=model, source=source, **{**FULL, **widgets})[0]


def monitored(pack, model, source=None, **widgets):
    """The MODEL with Hallucination Monitor on it, and its report."""
    given = {} if source is None else {"source": source}
    return call(pack["KVLockMonitor"], model=model, **given, **widgets)


def guided(pack, model, **widgets):
    """The MODEL with CFG Schedule on it."""
    return call(pack["KVLockCFGSchedule"], model=model, **{"start_percent": 0.0, **widgets})[0]
