"""Where source keys and values come from (M3), arXiv 2603.09657.

    Lockstep   the source rides as one more row of the batch; its K,V are right there
    InStep     the source runs alone before the others; its K,V are kept for this step
    Stored     K,V kept from an earlier run of the same clip; where they are not, the source rides, and is recorded on the way

All give the same K,V, to rounding. `LockSession` asks them at every step that locks; the host acts on the plan's `supply`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from .codec import codec
from .errors import GridMismatchError, SettingsError, SourceError, StoreError
from .identity import Moment, SourceIdentity, SourceKey
from .store import KVStore
from .tiers import MemoryTier
from .types import SOURCE_ROW, Site

_log = logging.getLogger("kvlock")

#: A step's own K,V need no identity: they never outlive the run.
_THIS_RUN = SourceIdentity(model="", latent="", grid=(), dtype="")
_UNLIMITED = 2**62


class SourceKV:
    """What the modes have in common. Life of a step that locks: begin, then record or provide once a block, then end.

    `refresh_every` r: the source runs in every r-th such step, and K,V are held in between. `store` is where K,V are kept,
    by default unlimited memory of the model's own device. Raises SettingsError.
    """

    #: How the source runs where nothing is kept, see `types.SUPPLIES`.
    pass_kind: str

    def __init__(self, store: KVStore | None = None, *, refresh_every: int = 1):
        if isinstance(refresh_every, bool) or not isinstance(refresh_every, int) or refresh_every < 1:
            raise SettingsError(f"refresh_every is {refresh_every!r}; give a whole number >= 1, where 1 is every locked step")
        self.refresh_every, self._store = refresh_every, store
        self._holds = refresh_every > 1
        self._tokens: Tensor | None = None
        self._key: SourceKey | None = None
        self._age = 0
        self._opened = self._recorded = False

    def use(self, tokens: Tensor | None) -> None:
        """Positions (n,) of the tokens that can be locked, None = all. Only these are kept."""
        self._tokens = None if tokens is None else tokens.cpu()

    def begin(self, step: int, sigma: float) -> None:
        """A step that locks begins."""
        if self._key is not None and self._age < self.refresh_every and self._recorded:
            self._age += 1
            return
        self._let_go()
        self._key, self._age, self._holds = self._key_of(step, sigma), 1, self.refresh_every > 1
        self._recorded = self._finds()

    @property
    def supply(self) -> str:
        """How the next call of this step gets its K,V; once the source has been recorded, from what is kept."""
        return "kept" if self._recorded else self.pass_kind

    def hold(self) -> None:
        """The host will call the model again in this step, for other rows: keep what the source gives in the next call."""
        self._holds = True

    def record(self, site: Site, key: Tensor, value: Tensor) -> None:
        """Keep source K,V (batch,heads,L,dim) of one block. Without `begin`, of this step. Raises StoreError."""
        store = self._kept_in(key)
        if not self._opened:
            self._opened, self._key = True, self._key or self._key_of(0, 0.0)
            store.open(self._key, self._tokens)
        self._check_stream(site)
        k, v = (key, value) if self._tokens is None else (_at(key, self._tokens), _at(value, self._tokens))
        self._recorded = store.put(self._key, site.block, k, v)

    def provide(self, site: Site, key: Tensor, value: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """`key`, `value` (batch,heads,L,dim) of the call, `rows` the roles its batch is made of, in order.

        Returns source K,V (batch/len(rows),heads,L,dim), views where the source is a row of the call; or (..,n,dim), those
        of the positions told to `use`. Raises SourceError, StoreError.
        """
        if SOURCE_ROW not in rows:
            return self._read(site, key, rows)
        if rows.count(SOURCE_ROW) != 1:
            raise SourceError(f"block {site.block} ran with rows {rows}; the batch needs one {SOURCE_ROW!r} row, not several")
        at = rows.index(SOURCE_ROW)
        k_src, v_src = split_rows(key, rows)[at], split_rows(value, rows)[at]
        if self._holds:
            self.record(site, k_src, v_src)
        return k_src, v_src

    def end(self) -> None:
        """The step that locked is over: what is not needed by the next one is let go."""
        if self.refresh_every == 1:
            self._let_go()

    def close(self) -> None:
        """The run is over, well or not: of a step nothing is held any more."""
        self._let_go()
        if self._store is not None:
            self._store.close()

    def _key_of(self, step: int, sigma: float) -> SourceKey:
        return SourceKey(_THIS_RUN, Moment(sigma, noise=str(step), text=""))

    def _finds(self) -> bool:
        """True if K,V of the present key are kept already."""
        return False

    def _let_go(self) -> None:
        if self._key is not None and self._store is not None:
            self._store.forget(self._key)
        self._turn_away()

    def _turn_away(self) -> None:
        self._key, self._opened, self._recorded = None, False, False

    def _kept_in(self, like: Tensor) -> KVStore:
        if self._store is None:
            self._store = KVStore([MemoryTier(_UNLIMITED, like.device)], codec("same"))
        return self._store

    def _check_stream(self, site: Site) -> None:
        """What is kept is of one token stream; K,V of another must not pass for it."""
        if site.stream != self._key.identity.stream:
            raise SourceError(
                f"block {site.block} has a token stream {site.stream!r}, but K,V are kept of {self._key.identity.stream!r}; use source "
                "mode lockstep"
            )

    def _read(self, site: Site, like: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        if not self._recorded:
            raise SourceError(
                f"block {site.block} ran with rows {rows} and has no source K,V: a step whose plan says needs_source takes one "
                f"{SOURCE_ROW!r} row in the batch, or a call of the source alone before; if that ran, the budgets are too small"
            )
        self._check_stream(site)
        return self._store.read(self._key, site.block, self._tokens, like)


class Lockstep(SourceKV):
    """The source is a row of the batch in every step that locks, or in every r-th; in the first case nothing is kept."""

    pass_kind = "row"


class InStep(SourceKV):
    """The source runs alone before the other rows of a step; K,V of the tokens that can be locked are kept for that step.

    For memory that does not hold one more row, and for hosts that cannot batch the source with the others.
    """

    pass_kind = "apart"


class Given(SourceKV):
    """K,V from an object of the caller's that has `provide` (see `SourceKV.provide`) and no life of its own."""

    def __init__(self, given):
        super().__init__()
        self.provide = given.provide

    @property
    def supply(self) -> str:
        """The caller has them."""
        return "kept"


class Stored(SourceKV):
    """K,V are kept in `store` beyond the run, and later runs of the same clip read them. Recording costs copies only.

    `identity` of the run, `moment_of(step, sigma)` of an evaluation: both are part of the key, so another model, clip, text or
    noise finds nothing. `blocks` that the run locks, `schedule` its locked evaluations (step, sigma) as far as they are
    known. `tell` gets what a user should know. The store stays open at the end of the run.
    """

    pass_kind = "row"

    def __init__(
        self,
        store: KVStore,
        identity: SourceIdentity,
        moment_of: Callable[[int, float], Moment],
        *,
        blocks: Sequence[int],
        schedule: Iterable[tuple[int, float]] = (),
        refresh_every: int = 1,
        tell: Callable[[str], None] = _log.warning,
    ):
        super().__init__(store, refresh_every=refresh_every)
        self._identity, self._moment_of, self._blocks, self._tell = identity, moment_of, tuple(blocks), tell
        self.found, self.recorded, self.missed = 0, 0, Counter()
        self._fails, self._is_first = False, not store.keys
        fresh = list(schedule)[::refresh_every]
        store.expect(self._key_of(step, sigma) for step, sigma in fresh)

    def record(self, site: Site, key: Tensor, value: Tensor) -> None:
        """See `SourceKV.record`. A store that fails is told once; the run goes on, and needs the source as a row."""
        if self._fails:
            return
        try:
            super().record(site, key, value)
        except StoreError as error:
            self._fails, self._recorded = True, False
            self._tell(f"KV-Lock stops recording: {error}. The edit goes on, and what was recorded before is kept")

    def _read(self, site: Site, like: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        try:
            return super()._read(site, like, rows)
        except StoreError:
            self._store.forget(self._key)  # so that the next run computes it
            raise

    def end(self) -> None:
        """The step is over and its recording complete."""
        if self._opened and self._recorded:
            self._store.seal(self._key)
            self.recorded += 1
            self._opened = False

    def close(self) -> None:
        """The run is over; what an error or an interrupt left incomplete goes."""
        self._turn_away()
        self._store.rest()

    def findable(self, schedule: Iterable[tuple[int, float]]) -> int:
        """How many evaluations (step, sigma) of the source are kept already."""
        fresh = list(schedule)[:: self.refresh_every]
        return sum(self._store.lacks(self._key_of(*at), self._blocks, self._tokens) is None for at in fresh)

    @property
    def summary(self) -> str:
        """One line for the user: how many evaluations were found, why the others were not, and how many are kept now."""
        missed = "; ".join(f"{count} not: {reason}" for reason, count in self.missed.items())
        told = f"source K,V of {self.found} of {self.found + self.missed.total()} locked steps were kept"
        return told + (f" ({missed})" if missed else "") + (f"; {self.recorded} recorded now" if self.recorded else "")

    def _key_of(self, step: int, sigma: float) -> SourceKey:
        return SourceKey(self._identity, self._moment_of(step, sigma))

    def _finds(self) -> bool:
        self._holds = True
        reason = self._store.lacks(self._key, self._blocks, self._tokens)
        if reason is None:
            self.found += 1
            return True
        self.missed["nothing was recorded before" if self._is_first else reason] += 1
        return False

    def _let_go(self) -> None:
        self._turn_away()


def split_rows(tensor: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Views of the batch, one per role, each of batch/len(rows). Raises GridMismatchError."""
    batch = tensor.shape[0]
    if not rows or batch % len(rows):
        raise GridMismatchError(f"a batch of {batch} does not divide into the rows {rows}; name every row once")
    return tensor.split(batch // len(rows))


def _at(tensor: Tensor, tokens: Tensor) -> Tensor:
    """The positions `tokens` (n,) of (batch,heads,L,dim)."""
    return tensor.index_select(2, tokens.to(tensor.device))
