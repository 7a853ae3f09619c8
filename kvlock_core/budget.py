"""What source K,V will take, before anything runs: bytes, model calls, and which source mode suits the memory (M3, ours)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .codec import Codec
from .errors import SettingsError
from .tiers import FILE_OVERHEAD

SOURCE_MODES = ("auto", "lockstep", "in_step", "stored")


@dataclass(frozen=True)
class RunShape:
    """What decides the cost of one run's source K,V.

    `batch` of latents, `heads` and `dim` of attention, `tokens` that can be locked, `blocks` that are locked of
    `model_blocks`, `locked` evaluations that may lock of `evaluations` in all, `rows` of an evaluation without the source
    (2 with CFG), `dtype` of K,V, `refresh_every` of the source mode.
    """

    batch: int
    heads: int
    tokens: int
    dim: int
    dtype: torch.dtype
    blocks: int
    model_blocks: int
    last_block: int
    locked: int
    evaluations: int
    rows: int
    refresh_every: int = 1

    @property
    def passes(self) -> int:
        """Evaluations of the source in a run that finds nothing."""
        return math.ceil(self.locked / self.refresh_every)

    def block_bytes(self, codec: Codec) -> int:
        """K and V of one block in one evaluation."""
        return codec.packed_bytes((self.batch, self.heads, self.tokens, self.dim), self.dtype)

    def step_bytes(self, codec: Codec) -> int:
        """K and V of one evaluation."""
        return self.blocks * self.block_bytes(codec)

    def slowdown(self, passes: int, *, apart: bool = False) -> float:
        """Time of the run over that of a run without a lock, counted in rows.

        A source row ends after the last locked block; one that runs `apart` ends inside it, once K,V are there.
        """
        row = (self.last_block + (not apart)) / self.model_blocks
        return 1.0 + passes * row / max(self.evaluations * self.rows, 1)


@dataclass(frozen=True)
class Budgets:
    """Bytes that source K,V may take on the computing device, in the computer's memory, on a disk."""

    device: int = 0
    memory: int = 0
    disk: int = 0

    def __post_init__(self):
        if min(self.device, self.memory, self.disk) < 0:
            raise SettingsError(f"{self}: bytes cannot be negative; 0 switches a tier off")

    @property
    def total(self) -> int:
        return self.device + self.memory + self.disk


@dataclass(frozen=True)
class Estimate:
    """`tiers` bytes by tier at the end of the run, or at its fullest. `slowdown` of the run that finds `found` of its
    `passes` evaluations kept; `row_seconds` that a whole source row adds, if that was measured."""

    mode: str
    reason: str
    tiers: Mapping[str, int]
    passes: int
    found: int
    fitting: int
    slowdown: float
    plain_rows: int
    row_seconds: float | None = None

    @property
    def rows(self) -> float:
        """Rows of the whole run, the source's among them."""
        return self.slowdown * self.plain_rows

    @property
    def extra_seconds(self) -> float | None:
        """What the source adds to the run."""
        return None if self.row_seconds is None else (self.slowdown - 1.0) * self.plain_rows * self.row_seconds

    @property
    def text(self) -> str:
        """One line for the user."""
        kept = ", ".join(f"{in_words(size)} in {tier}" for tier, size in self.tiers.items() if size) or "nothing kept"
        seconds = "" if self.extra_seconds is None else f", about {self.extra_seconds:.3g} s more"
        found = f", {self.found} of them kept already" if self.found else ""
        short = f", room for {self.fitting} of them" if self.mode == "stored" and self.fitting < self.passes else ""
        return (
            f"source K,V: {self.mode} ({self.reason}); {self.passes} source passes{found}{short}, {kept}; "
            f"time {self.slowdown:.2f} x plain sampling{seconds}"
        )


def in_words(size: int) -> str:
    """Bytes as GB, or as MB where they are few."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def choose(mode: str, shape: RunShape, codec: Codec, budgets: Budgets, row_fits: bool) -> tuple[str, str]:
    """The source mode and the reason for it, in words. "auto" decides by what fits; others are taken at their word.

    `row_fits`: the device has room for one more batch row. Raises SettingsError for an unknown mode.
    """
    if mode not in SOURCE_MODES:
        raise SettingsError(f"source mode {mode!r} is unknown; use one of {', '.join(SOURCE_MODES)}")
    if mode != "auto":
        return mode, "as set"
    if row_fits:
        return "lockstep", "one more row fits"
    needed = shape.step_bytes(codec)
    if needed <= budgets.total:
        return "in_step", f"no room for one more row; one step takes {in_words(needed)} of {in_words(budgets.total)}"
    return "lockstep", f"no room for one more row, nor for one step's {in_words(needed)} in {in_words(budgets.total)}; rows run in turn"


def estimate(
    mode: str,
    reason: str,
    shape: RunShape,
    codec: Codec,
    budgets: Budgets,
    *,
    found: int = 0,
    row_seconds: float | None = None,
    row_fits: bool = True,
) -> Estimate:
    """What a run in `mode` will keep and cost; `found` evaluations are kept already.

    Where neither the row fits nor one step's K,V, each row of an evaluation runs with a source row of its own.
    """
    steps = {"stored": shape.passes, "in_step": min(shape.passes, 1), "lockstep": int(shape.refresh_every > 1 and shape.passes > 0)}[mode]
    tiers, fitting = _filled(steps, shape, codec, budgets)
    passes = shape.passes - (found if mode == "stored" else 0)
    if mode == "lockstep" and not row_fits and shape.step_bytes(codec) > budgets.total:
        passes *= shape.rows
    return Estimate(
        mode, reason, tiers, shape.passes, found, fitting, shape.slowdown(passes, apart=mode == "in_step"),
        shape.evaluations * shape.rows, row_seconds,
    )  # fmt: skip


def _filled(steps: int, shape: RunShape, codec: Codec, budgets: Budgets) -> tuple[dict[str, int], int]:
    """Bytes by tier when `steps` whole evaluations, or as many as fit, lie in the fastest tiers; and how many those are."""
    size = max(shape.block_bytes(codec), 1)
    sizes = {"device": size, "memory": size, "disk": size + FILE_OVERHEAD}
    room = {tier: getattr(budgets, tier) // sizes[tier] for tier in sizes}
    fitting = min(steps, sum(room.values()) // max(shape.blocks, 1))
    left, tiers = fitting * shape.blocks, {}
    for tier in sizes:
        taken = min(left, room[tier])
        tiers[tier], left = taken * size, left - taken
    return tiers, fitting
