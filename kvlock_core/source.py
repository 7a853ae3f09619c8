"""Where source keys and values come from (M3), arXiv 2603.09657.

A mode is an object with one method. `Lockstep` needs no memory of its own; modes that keep K,V plug in here.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from .errors import GridMismatchError, SourceError
from .types import SOURCE_ROW, Site


@runtime_checkable
class SourceKV(Protocol):
    """Gives the source's K and V for one attention call."""

    def provide(self, site: Site, key: Tensor, value: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """`key`, `value` (batch,heads,L,dim) of the call, `rows` the roles its batch is made of, in order.

        Returns source K,V (batch/len(rows),heads,L,dim). Raises SourceError.
        """


class Lockstep:
    """The source rides in the same batch as the row with the role "source": its K,V are right there (M3, ours)."""

    def provide(self, site: Site, key: Tensor, value: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """See `SourceKV.provide`. Returns views, copies nothing."""
        if rows.count(SOURCE_ROW) != 1:
            raise SourceError(
                f"block {site.block} ran with rows {rows}; lockstep needs exactly one {SOURCE_ROW!r} row in the batch "
                "whenever the step plan says needs_source"
            )
        at = rows.index(SOURCE_ROW)
        return split_rows(key, rows)[at], split_rows(value, rows)[at]


class InStep(Lockstep):
    """Also serves calls without a source row, from what was recorded earlier in the same step (M3, ours).

    For hosts that cannot batch the source with every row, e.g. because their texts differ in length. Holds K,V of every
    recorded block, so `forget` belongs to the end of each step.
    """

    def __init__(self):
        self._kept: dict[Site, tuple[Tensor, Tensor]] = {}

    @property
    def is_recorded(self) -> bool:
        return bool(self._kept)

    def record(self, site: Site, key: Tensor, value: Tensor) -> None:
        """Keep source K,V (batch,heads,L,dim) of one attention call."""
        self._kept[site] = (key, value)

    def forget(self) -> None:
        self._kept.clear()

    def provide(self, site: Site, key: Tensor, value: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """See `SourceKV.provide`. Raises SourceError for a block that was not recorded."""
        if SOURCE_ROW in rows:
            return super().provide(site, key, value, rows)
        if site not in self._kept:
            raise SourceError(f"block {site.block} has no source K,V in this step; run the source before the other rows")
        return self._kept[site]


def split_rows(tensor: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Views of the batch, one per role, each of batch/len(rows). Raises GridMismatchError."""
    batch = tensor.shape[0]
    if not rows or batch % len(rows):
        raise GridMismatchError(f"a batch of {batch} does not divide into the rows {rows}; name every row once")
    return tensor.split(batch // len(rows))
