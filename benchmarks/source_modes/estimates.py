"""Whether the estimate's bytes are right: by tier as told before a run, and as the store counts and keeps them after it."""

from __future__ import annotations

import tempfile

import torch

from kvlock_core import Budgets

from .modes import Ready
from .world import SIZES, Bench, Run, Variant

#: Blocks' K,V for which memory has room; the rest goes to the disk, with files of its own.
IN_MEMORY = 5
RUN = Run((4, 16, 16), 3)
FORMATS = ("same", "bf16", "fp8", "int8")


def table() -> dict:
    """Of a stored run of six blocks and three steps, by format and tier: bytes told, bytes kept, and the ratio."""
    model = SIZES["small"].build("cpu", torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        return {name: of_format(Bench(model, RUN, folder), name) for name in FORMATS}


def of_format(bench: Bench, name: str) -> dict[str, dict]:
    variant = Variant(name, "stored", codec=name)
    block = bench.described(variant).shape.block_bytes(bench.new_store(variant).codec)
    bench.budgets = Budgets(memory=IN_MEMORY * block + block // 2, disk=10**9)
    ready = Ready(bench, variant)
    ready.begin()
    told = ready.estimate.tiers
    ready.run()
    kept = ready.store.bytes_by_tier
    ready.close()
    return {tier: {"told": told[tier], "kept": kept[tier], "ratio": round(told[tier] / kept[tier], 4)} for tier in kept}
