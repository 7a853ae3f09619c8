"""Tells the host what a source row costs, and asks it whether a call fits."""

from __future__ import annotations

import math

import comfy.model_management

#: The host itself batches rows only if its estimate times this fits (comfy/samplers.py).
HOST_SAFETY = 1.5

#: Rows per latent for which the host reserves activations, whatever the guider does (comfy/sampler_helpers.py).
HOST_ROWS = 2


def reserving(noise_shape, rows: int) -> list[int]:
    """The noise shape that makes the host reserve activations for `rows` rows per latent.

    Its estimate is proportional to the product of the shape and takes whole batches only, so the width carries the
    share that is missing.
    """
    shape = list(noise_shape)
    shape[-1] = math.ceil(shape[-1] * max(1.0, rows / HOST_ROWS))
    return shape


def fits(base_model, rows: int, shape, cond_shapes: dict[str, list]) -> bool:
    """True if one call of `rows` rows of `shape` (C,T,h,w) fits, by the host's own rule for its batches."""
    needed = base_model.memory_required([rows, *shape], cond_shapes=cond_shapes) * HOST_SAFETY
    return needed < _free(base_model)


def _free(base_model) -> float:
    patcher = base_model.current_patcher
    device = patcher.load_device
    if hasattr(patcher, "get_free_memory"):  # 0.33 counts pages that it can take back from weights
        return patcher.get_free_memory(device)
    return comfy.model_management.get_free_memory(device)
