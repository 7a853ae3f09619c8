"""Keeps source K,V within byte budgets, in tiers from fast to slow (M3, ours)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .codec import Codec
from .errors import StoreError
from .identity import SourceKey, differences, fingerprint
from .prefetch import Prefetcher
from .tiers import Packed, Tier, packed_size

_NEVER = float("inf")
_NO_ROOM, _FAILED = "the budgets leave no room for this step", "a tier failed while this step was recorded"
_FEWER_TOKENS = "the mask leaves less free than the recorded one"


@dataclass(eq=False)
class _Recording:
    """K,V of one evaluation of the source. `tokens` (n,) positions that were kept, None = all. `places` block -> tier.

    `refused`: why nothing of it is kept, "" if it is.
    """

    tokens: Tensor | None
    places: dict[int, int] = field(default_factory=dict)
    sealed: bool = False
    refused: str = ""


class KVStore:
    """Entries are K,V of one block in one evaluation. A step of which one entry is missing is of no use, so steps are
    kept or dropped as a whole.

    `tiers` from fast to slow; their budgets hold after every call. Where one is full, the entry whose next use is farthest
    goes one tier down, from the last one it goes for good; the next use is known, since every run of one clip walks the
    same noise levels (`expect`). `codec` packs what is kept.
    """

    def __init__(self, tiers: Sequence[Tier], codec: Codec):
        self.tiers, self.codec = tuple(tiers), codec
        self._recordings: dict[SourceKey, _Recording] = {}
        self._order: dict[SourceKey, int] = {}
        self._now = (0, 0)
        self._prefetcher: Prefetcher | None = None

    # the plan ---------------------------------------------------------------------------------------------------------

    def expect(self, keys: Iterable[SourceKey]) -> None:
        """The evaluations of the run that begins, in order. What is not among them is evicted first."""
        self._order = {key: at for at, key in enumerate(keys)}
        self._now = (0, 0)
        for key in [key for key, recording in self._recordings.items() if recording.refused and key not in self._order]:
            del self._recordings[key]

    def next_use(self, key: SourceKey, block: int) -> tuple[float, int]:
        """Where in this run, or in the next one of the same plan, the entry is read; sorts from soon to late."""
        at = self._order.get(key)
        if at is None:
            return _NEVER, block
        return (at if (at, block) >= self._now else at + len(self._order)), block

    # recording --------------------------------------------------------------------------------------------------------

    def open(self, key: SourceKey, tokens: Tensor | None) -> None:
        """Begin to record the evaluation `key` of the token positions `tokens` (n,), None = all; replaces an older one."""
        self.forget(key)
        self._recordings[key] = _Recording(None if tokens is None else tokens.cpu())

    def put(self, key: SourceKey, block: int, k: Tensor, v: Tensor) -> bool:
        """Keep K,V (batch,heads,n,dim) of one block; False if the budgets leave no room for this evaluation.

        Raises StoreError if a tier fails, or if there is no memory to pack in. Then the evaluation is not kept, and everything
        else is as it was.
        """
        recording = self._recordings[key]
        if recording.refused:
            return False
        self._now = (self._order.get(key, 0), block + 1)  # what is recorded now is used next in the next run
        if block in recording.places:  # the source came by twice
            self._drop(key, block, recording.places.pop(block))
        try:
            placed = self._place(key, block, self._packed(k, v), 0)
        except StoreError:
            self._refuse(key, _FAILED)
            raise
        if not placed:
            self._refuse(key, _NO_ROOM)
        return placed

    def seal(self, key: SourceKey) -> None:
        """Every block of the evaluation came. Only what is sealed is found again."""
        recording = self._recordings.get(key)
        if recording is not None and not recording.refused:
            recording.sealed = True

    # reading ----------------------------------------------------------------------------------------------------------

    def lacks(self, key: SourceKey, blocks: Iterable[int], tokens: Tensor | None) -> str | None:
        """None if K,V of all `blocks` at all positions `tokens` (n,) are kept; else why they are not."""
        recording = self._recordings.get(key)
        if recording is None or not recording.sealed:
            return self._why_not(key)
        if not set(blocks) <= set(recording.places):
            return "other blocks were recorded"
        if _selection(recording.tokens, tokens) is _MISSING:
            return _FEWER_TOKENS
        return None

    def read(self, key: SourceKey, block: int, tokens: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """K,V (batch,heads,n,dim) at the positions `tokens`, on the device and in the dtype of `like`.

        Raises StoreError if it is not there (ask `lacks` first) or cannot be read.
        """
        recording = self._recordings.get(key)
        if recording is None or block not in recording.places:
            raise StoreError(f"block {block} at sigma {key.moment.sigma:g} is not kept; {self._why_not(key)}")
        chosen = _selection(recording.tokens, tokens)
        if chosen is _MISSING:
            raise StoreError(f"block {block} at sigma {key.moment.sigma:g} is kept for fewer tokens; {_FEWER_TOKENS}")
        packed = self._brought(key, block, like.device)
        k, v = self.codec.decode(packed, like.dtype)
        if chosen is None:
            return k, v
        chosen = chosen.to(like.device)
        return k.index_select(2, chosen), v.index_select(2, chosen)

    # the whole --------------------------------------------------------------------------------------------------------

    def forget(self, key: SourceKey) -> None:
        """Drop one evaluation, if it is there."""
        recording = self._recordings.pop(key, None)
        if recording is not None:
            self._empty(key, recording)

    def rest(self) -> None:
        """Between runs: what an error or an interrupt left unfinished goes, and nothing is on its way any more."""
        for key in [key for key, recording in self._recordings.items() if not (recording.sealed or recording.refused)]:
            self.forget(key)
        self._end_prefetch()

    def close(self) -> None:
        """Frees everything. The store is empty, and may be used again unless a tier is a disk."""
        self._end_prefetch()
        self._recordings.clear()
        for tier in self.tiers:
            tier.close()

    @property
    def keys(self) -> tuple[SourceKey, ...]:
        """The evaluations that are kept."""
        return tuple(key for key, recording in self._recordings.items() if recording.sealed)

    @property
    def bytes_by_tier(self) -> dict[str, int]:
        return {tier.name: tier.used for tier in self.tiers}

    def blocks_of(self, key: SourceKey) -> tuple[int, ...]:
        return tuple(sorted(self._recordings[key].places))

    def tokens_of(self, key: SourceKey) -> Tensor | None:
        return self._recordings[key].tokens

    def packed(self, key: SourceKey, block: int) -> Packed:
        """An entry as it is kept. Raises StoreError."""
        return self.tiers[self._recordings[key].places[block]].get(entry_name(key, block))

    def adopt(self, key: SourceKey, tokens: Tensor | None, blocks: Iterable[int], tier: Tier) -> None:
        """Counts an evaluation as kept that `tier`, one of the store's, has already."""
        places = dict.fromkeys(blocks, self.tiers.index(tier))
        self._recordings[key] = _Recording(tokens, places, sealed=True)

    def _packed(self, k: Tensor, v: Tensor) -> Packed:
        try:
            return self.codec.encode(k, v)
        except torch.OutOfMemoryError as error:
            raise StoreError(f"no memory to pack source K,V as {self.codec.name}: {error}; use source mode lockstep") from error

    # placing ----------------------------------------------------------------------------------------------------------

    def _place(self, key: SourceKey, block: int, packed: Packed, level: int) -> bool:
        """Into the first tier from `level` on that has room, or makes room by sending later entries down."""
        size, recording = packed_size(packed), self._recordings[key]
        for at in range(level, len(self.tiers)):
            has_room = self._made_room(at, size + self.tiers[at].overhead, self.next_use(key, block))
            if recording.refused:  # room was made by giving up other blocks of the very same evaluation
                return False
            if has_room:
                self.tiers[at].put(entry_name(key, block), packed)
                recording.places[block] = at
                return True
        return False

    def _made_room(self, level: int, size: int, use: tuple[float, int]) -> bool:
        tier = self.tiers[level]
        while size <= tier.budget and tier.budget - tier.used < size:
            last = max(self._entries_at(level), key=lambda entry: self.next_use(*entry), default=None)
            if last is None or self.next_use(*last) <= use:
                return False
            if not self._demote(*last, level):
                self._refuse(last[0], _NO_ROOM)
        return size <= tier.budget

    def _demote(self, key: SourceKey, block: int, level: int) -> bool:
        """One tier down or more. It leaves its place only when it has another."""
        moved = self._place(key, block, self.tiers[level].get(entry_name(key, block)), level + 1)
        if moved:
            self._drop(key, block, level)
        return moved

    def _refuse(self, key: SourceKey, why: str) -> None:
        recording = self._recordings[key]
        self._empty(key, recording)
        recording.sealed, recording.refused = False, why

    def _empty(self, key: SourceKey, recording: _Recording) -> None:
        for block, level in recording.places.items():
            self._drop(key, block, level)
        recording.places.clear()

    def _drop(self, key: SourceKey, block: int, level: int) -> None:
        """What is on its way may be this very entry, or lie elsewhere from now on."""
        if self._prefetcher is not None:
            self._prefetcher.let_go()
        self.tiers[level].drop(entry_name(key, block))

    def _entries_at(self, level: int) -> Iterator[tuple[SourceKey, int]]:
        for key, recording in self._recordings.items():
            yield from ((key, block) for block, at in recording.places.items() if at == level)

    # bringing ---------------------------------------------------------------------------------------------------------

    def _brought(self, key: SourceKey, block: int, device: torch.device) -> Packed:
        """The entry on `device`; the next one of the plan is on its way when this returns."""
        packed = self._at_hand(key, block, device)
        if packed is None:
            packed = self._prefetch_to(device).take(entry_name(key, block), lambda: self.packed(key, block))
        self._start_next(key, block, device)
        return packed

    def _at_hand(self, key: SourceKey, block: int, device: torch.device) -> Packed | None:
        at_hand = self.tiers[self._recordings[key].places[block]].is_at(device)
        return self.packed(key, block) if at_hand else None

    def _start_next(self, key: SourceKey, block: int, device: torch.device) -> None:
        later = [other for other in self._recordings[key].places if other > block]
        if later and not self.tiers[self._recordings[key].places[min(later)]].is_at(device):
            name = entry_name(key, min(later))
            self._prefetch_to(device).start(name, lambda: self.packed(key, min(later)))

    def _prefetch_to(self, device: torch.device) -> Prefetcher:
        if self._prefetcher is None or self._prefetcher.device != device:
            self._end_prefetch()
            self._prefetcher = Prefetcher(device)
        return self._prefetcher

    def _end_prefetch(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def _why_not(self, key: SourceKey) -> str:
        own = self._recordings.get(key)
        if own is not None and own.refused:
            return own.refused
        if own is not None:
            return "other blocks were recorded" if own.sealed else "its recording is not complete"
        if not self.keys:
            return "nothing is recorded yet"
        fewest = min((differences(key, other) for other in self.keys), key=len)
        return f"recorded with another {', '.join(fewest)}"


def entry_name(key: SourceKey, block: int) -> str:
    """A name for the entry that is safe as a file's."""
    return f"{fingerprint(repr(key))}_{block}"


_MISSING = torch.empty(0)


def _selection(kept: Tensor | None, wanted: Tensor | None) -> Tensor | None:
    """Where the positions `wanted` lie among the `kept` ones; None = take all, _MISSING = some are not there."""
    if kept is None:
        return wanted
    if wanted is None:
        return _MISSING
    wanted = wanted.cpu()
    if torch.equal(kept, wanted):
        return None
    at = torch.searchsorted(kept, wanted).clamp(max=max(len(kept) - 1, 0))
    return at if len(kept) and torch.equal(kept[at], wanted) else _MISSING
