"""ComfyUI's own KSampler, as a function."""

from __future__ import annotations

import comfy.samplers
import nodes as comfyui_nodes  # absolute: ComfyUI's nodes.py, not this package

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


def sample(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent: dict, denoise: float) -> dict:
    """The LATENT that KSampler makes of these."""
    (out,) = comfyui_nodes.common_ksampler(
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, denoise=denoise
    )
    return out
