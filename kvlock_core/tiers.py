"""Places that keep packed source K,V: memory of a device, the computer's own memory, a disk (M3, ours)."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import StoreError

Packed = Mapping[str, Tensor]

#: What a safetensors file of a few tensors takes beside their bytes, at most.
FILE_OVERHEAD = 1024


class Tier(Protocol):
    """Keeps entries by name within `budget` bytes. `used` is what they take; `overhead` is added to every entry."""

    name: str
    budget: int
    overhead: int
    used: int

    def put(self, name: str, packed: Packed) -> None:
        """Keep an entry. Whoever calls has made room. Raises StoreError, and then nothing has changed."""

    def get(self, name: str) -> Packed:
        """The entry, wherever the tier has it. Raises StoreError."""

    def drop(self, name: str) -> None:
        """Forget an entry."""

    def is_at(self, device: torch.device) -> bool:
        """True if entries can be computed with on `device` as they are."""

    def close(self) -> None:
        """Forget everything."""


def packed_size(packed: Packed) -> int:
    """Bytes of an entry."""
    return sum(tensor.numel() * tensor.element_size() for tensor in packed.values())


class MemoryTier:
    """Entries as tensors on `device`. The computer's own memory is not page-locked: `Prefetcher` copies through buffers that are."""

    overhead = 0

    def __init__(self, budget: int, device: torch.device | str = "cpu", *, name: str | None = None):
        self.budget, self.device = int(budget), torch.device(device)
        self.name = name or ("memory" if self.device.type == "cpu" else str(self.device))
        self.used = 0
        self._entries: dict[str, Packed] = {}

    def put(self, name: str, packed: Packed) -> None:
        try:
            self._entries[name] = {part: tensor.to(self.device) for part, tensor in packed.items()}
        except (RuntimeError, MemoryError) as error:
            raise StoreError(f"source K,V found no room in {self.name}: {error}; lower the budget of {self.name}") from error
        self.used += packed_size(packed)

    def get(self, name: str) -> Packed:
        return self._entries[name]

    def drop(self, name: str) -> None:
        self.used -= packed_size(self._entries.pop(name))

    def close(self) -> None:
        self._entries.clear()
        self.used = 0

    def is_at(self, device: torch.device) -> bool:
        return device.type == self.device.type and self.device.index in (None, device.index)


class DiskTier:
    """Entries as safetensors files of their own in a fresh folder below `folder`, which goes with the tier.

    They are read memory-mapped: what is not touched is not read.
    """

    name = "disk"
    overhead = FILE_OVERHEAD

    def __init__(self, budget: int, folder: Path | str):
        self.budget, self.used = int(budget), 0
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="kvlock_", dir=folder))
        except OSError as error:
            raise StoreError(f"source K,V cannot be kept in {folder}: {error}; name a folder that can be written to") from error
        self._sizes: dict[str, int] = {}
        self._gone = weakref.finalize(self, rmtree, self.folder, ignore_errors=True)

    def put(self, name: str, packed: Packed) -> None:
        path = self.folder / f"{name}.safetensors"
        try:
            save_file({part: tensor.cpu().contiguous() for part, tensor in packed.items()}, path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):  # the first error is the one to tell
                path.unlink(missing_ok=True)
            raise StoreError(
                f"source K,V could not be written to {self.folder}: {error}; free some space, or lower the disk budget"
            ) from error
        self._sizes[name] = os.path.getsize(path)
        self.used += self._sizes[name]

    def get(self, name: str) -> Packed:
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                return {part: file.get_tensor(part) for part in file.keys()}
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"kept source K,V could not be read from {path}: {error}; run again with source mode lockstep, or record anew"
            ) from error

    def drop(self, name: str) -> None:
        self.used -= self._sizes.pop(name)
        with suppress(OSError):  # Windows keeps a file that is still mapped; it goes with the folder
            (self.folder / f"{name}.safetensors").unlink(missing_ok=True)

    def close(self) -> None:
        self._sizes.clear()
        self.used = 0
        self._gone()

    def is_at(self, device: torch.device) -> bool:
        return False
