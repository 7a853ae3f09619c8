"""Inputs of what is kept of the source, and what they mean to the method. Released widgets are only ever appended to."""

from __future__ import annotations

from comfy_api.latest import io

from ..kvlock_core import CODECS, SOURCE_MODES, Budgets, SourceSettings
from .schema import advanced

#: Widget -> field of Budgets, and where that is.
CACHE_BUDGETS = {
    "cache_ram_gb": ("memory", "the computer's memory"),
    "cache_vram_gb": ("device", "the graphics card, also between runs"),
    "cache_disk_gb": ("disk", "ComfyUI's temp folder"),
}
GB = 1e9


def storage_inputs() -> list:
    """Where source keys and values come from, and what may be kept of them (M3)."""
    d = SourceSettings()
    return [
        io.Combo.Input("source_mode", options=list(SOURCE_MODES), default=d.mode,
                       tooltip="auto: by free memory; lockstep: one more batch row; in_step: a call of its own; stored: keep keys and values "
                       "for the next edit of this clip"),
        *(advanced(io.Float.Input(name, default=getattr(d.budgets, field) / GB, min=0.0, max=4096.0, step=0.5,
                                  tooltip=f"Most that kept keys and values take in {place}, in GB; 0 uses none"))
          for name, (field, place) in CACHE_BUDGETS.items()),
        advanced(io.Combo.Input("cache_format", options=list(CODECS), default=d.codec,
                                tooltip="same: as the model computes; int8 takes half of bf16 with an error below that of bf16 itself; fp8 errs more")),
        advanced(io.Int.Input("refresh_every", default=d.refresh_every, min=1, max=100,
                              tooltip="Compute the source in every so-many-th locked step and hold it between: faster, less exact")),
    ]  # fmt: skip


def storage_settings(source_mode, cache_format, refresh_every, **gigabytes) -> SourceSettings:
    budgets = Budgets(**{field: round(gigabytes[name] * GB) for name, (field, _) in CACHE_BUDGETS.items()})
    return SourceSettings(source_mode, cache_format, refresh_every, budgets)
