"""From what a user asks for to the source mode of one run, and what it will cost (M3, ours)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .budget import SOURCE_MODES, Budgets, Estimate, RunShape, choose, estimate
from .codec import codec
from .errors import SettingsError
from .identity import Moment, SourceIdentity
from .settings import SessionSettings
from .source import InStep, Lockstep, SourceKV, Stored
from .store import KVStore
from .tiers import DiskTier, MemoryTier, Tier
from .tokens import lockable_positions

_log = logging.getLogger("kvlock")


@dataclass(frozen=True)
class SourceSettings:
    """Where source K,V come from. `mode` of SOURCE_MODES, `codec` of CODECS; `refresh_every` as in `SourceKV`; `budgets` for
    what is kept. Raises SettingsError."""

    mode: str = "auto"
    codec: str = "same"
    refresh_every: int = 1
    budgets: Budgets = Budgets(memory=8 * 10**9)

    def __post_init__(self):
        if self.mode not in SOURCE_MODES:
            raise SettingsError(f"source mode {self.mode!r} is unknown; use one of {', '.join(SOURCE_MODES)}")
        codec(self.codec)
        Lockstep(refresh_every=self.refresh_every)

    def tiers(self, device: torch.device, folder: Path | str) -> list[Tier]:
        """The tiers that have a budget; `folder` for the disk's. Raises StoreError."""
        tiers: list[Tier] = []
        if self.budgets.device:
            tiers.append(MemoryTier(self.budgets.device, device, name="device"))
        if self.budgets.memory:
            tiers.append(MemoryTier(self.budgets.memory))
        if self.budgets.disk:
            tiers.append(DiskTier(self.budgets.disk, folder))
        return tiers

    def new_store(self, device: torch.device, folder: Path | str) -> KVStore:
        """An empty store within the budgets. Raises StoreError."""
        return KVStore(self.tiers(device, folder), codec(self.codec))


@dataclass(frozen=True, eq=False)
class RunSource:
    """What a host knows of one run when it begins; `run_source` makes it.

    `shape` of its cost; `identity()` and `moment_of(step, sigma)` of its K,V, asked where a store is; `positions` (n,) of the
    tokens it can lock, None = all; `blocks` it locks; `schedule` its evaluations that may lock, as (step, sigma); `device` it
    computes on, `folder` for the disk tier; `row_fits` whether the device has room for one more batch row;
    `row_seconds(mode)` that one whole source row adds in a source mode, None where that is not known.
    """

    shape: RunShape
    identity: Callable[[], SourceIdentity]
    moment_of: Callable[[int, float], Moment]
    positions: Tensor | None
    blocks: Sequence[int]
    schedule: Sequence[tuple[int, float]]
    device: torch.device
    folder: Path | str
    row_fits: bool = True
    row_seconds: Callable[[str], float | None] = lambda mode: None


def run_source(
    session: SessionSettings,
    refresh_every: int,
    tokens: Tensor,
    sigmas: Sequence[float],
    *,
    steps: int,
    first: int = 0,
    batch: int,
    rows: int,
    attention: tuple[int, int, int],
    dtype: torch.dtype,
    **known,
) -> RunSource:
    """A run of `session` with the token edit mask `tokens` (L,), over the `sigmas` of the steps `first`, ... of `steps`.
    `refresh_every` as in `SourceKV`.

    `batch` of latents, `rows` of an evaluation without the source, `attention` (heads, dim, blocks) of the model, `dtype` of
    its K,V; `known` are the fields of `RunSource` that only the host can tell. Raises SettingsError.
    """
    heads, dim, count = attention
    positions, blocks = lockable_positions(tokens), locked_blocks(session, count)
    schedule = locked_schedule(session, sigmas, steps, first)
    shape = RunShape(
        batch=batch, heads=heads, tokens=len(tokens if positions is None else positions), dim=dim, dtype=dtype, blocks=len(blocks),
        model_blocks=count, last_block=blocks[-1], locked=len(schedule), evaluations=len(sigmas), rows=rows,
        refresh_every=refresh_every,
    )  # fmt: skip
    return RunSource(shape=shape, positions=positions, blocks=blocks, schedule=schedule, **known)


def source_mode(
    settings: SourceSettings, run: RunSource, store: KVStore | None = None, tell: Callable[[str], None] = _log.warning
) -> tuple[SourceKV, Estimate]:
    """The source mode for one run and its estimate. A `store` that outlives runs is what "stored" needs, and "auto" uses it.

    Raises SettingsError, StoreError.
    """
    packing = codec(settings.codec) if store is None else store.codec
    if store is not None and settings.mode == "auto":
        mode, reason = "stored", "a store is at hand"
    else:
        mode, reason = choose(settings.mode, run.shape, packing, settings.budgets, run.row_fits)
    if mode == "stored":
        if store is None:
            raise SettingsError("source mode stored needs a store that outlives the run; give one, or choose auto")
        source = Stored(
            store, run.identity(), run.moment_of, blocks=run.blocks, schedule=run.schedule,
            refresh_every=settings.refresh_every, tell=tell,
        )  # fmt: skip
        source.use(run.positions)
        found = source.findable(run.schedule)
    else:
        source, found = _for_this_run(mode, settings, run), 0
    row_seconds = run.row_seconds(mode) if found < run.shape.passes else None
    return source, estimate(
        mode, reason, run.shape, packing, settings.budgets, found=found, row_seconds=row_seconds, row_fits=run.row_fits
    )


def _for_this_run(mode: str, settings: SourceSettings, run: RunSource) -> SourceKV:
    kind = InStep if mode == "in_step" else Lockstep
    return kind(settings.new_store(run.device, run.folder), refresh_every=settings.refresh_every)


def locked_blocks(settings: SessionSettings, count: int) -> tuple[int, ...]:
    """Of a model with `count` blocks, those that a run locks. Raises SettingsError if there are none."""
    blocks = tuple(block for block in range(count) if settings.locks_block(block))
    if not blocks:
        raise SettingsError(f"block range {settings.blocks} lies outside a model of {count} blocks; give blocks 0 to {count - 1}")
    return blocks


def locked_schedule(settings: SessionSettings, sigmas: Sequence[float], steps: int, first: int = 0) -> list[tuple[int, float]]:
    """(step, sigma) of the steps in which the lock may act; `sigmas` of the steps `first`, `first` + 1, ... of `steps`."""
    lock = settings.lock
    if lock is None or lock.ceiling == 0.0:
        return []
    return [(first + i, sigma) for i, sigma in enumerate(sigmas) if lock.is_active(first + i, steps)]
