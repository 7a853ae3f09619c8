"""The source mode of one run: chosen by what ComfyUI has free, said on the nodes before it begins (M3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ...kvlock_core import RunSource, SessionSettings, SourceKV, SourceSettings, run_source, source_mode
from . import events, memory
from .identity import dtype_of, identity_of, moments
from .models import attention_shape
from .rows import SourceRows
from .source import SourceHandle
from .steps import Timeline


def scratch_folder() -> Path:
    """For tiers on disk; ComfyUI empties it."""
    return Path(folder_paths.get_temp_directory()) / "kvlock"


def kept(source: SourceHandle, storage: SourceSettings, node: str | None) -> SourceHandle:
    """The source with what was chosen for its K,V, shown on `node`; with a store where the mode needs one. Raises StoreError."""
    store = storage.new_store(device(), scratch_folder()) if storage.mode == "stored" else None
    return replace(source, storage=storage, store=store, node=node)


def device() -> torch.device:
    """Where the model computes."""
    return comfy.model_management.get_torch_device()


def source_of_run(
    rows: SourceRows, source: SourceHandle, settings: SessionSettings, timeline: Timeline, noise: Tensor, row_seconds: float | None
) -> SourceKV:
    """For a run of `noise` (B,C,T,h,w); says what was chosen, what it will keep and cost, in seconds where `row_seconds` of one row
    are known. Raises StoreError, SettingsError."""
    nodes = (*rows.watchers, source.node)
    run = _described(rows, source, settings, timeline, noise, row_seconds)
    mode, estimate = source_mode(source.storage, run, source.store, lambda line: events.say(nodes, line))
    events.inform(nodes, estimate.text)
    return mode


def _described(
    rows: SourceRows, source: SourceHandle, settings: SessionSettings, timeline: Timeline, noise: Tensor, row_seconds: float | None
) -> RunSource:
    guider, base_model = rows.guider, rows.guider.inner_model
    return run_source(
        settings, source.storage.refresh_every, source.tokens, timeline.levels[:-1], steps=timeline.total, first=timeline.first,
        batch=len(noise), rows=rows.conditions, attention=attention_shape(base_model), dtype=dtype_of(base_model),
        identity=lambda: identity_of(guider, source, noise),
        moment_of=moments(rows.path, rows.conds_at),
        device=device(),
        folder=scratch_folder(),
        row_fits=memory.fits(base_model, len(noise) * (rows.conditions + 1), rows.grid, {}),
        row_seconds=lambda mode: row_seconds,
    )  # fmt: skip
