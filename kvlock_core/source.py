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


def split_rows(tensor: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Views of the batch, one per role, each of batch/len(rows). Raises GridMismatchError."""
    batch = tensor.shape[0]
    if not rows or batch % len(rows):
        raise GridMismatchError(f"a batch of {batch} does not divide into the rows {rows}; name every row once")
    return tensor.split(batch // len(rows))
