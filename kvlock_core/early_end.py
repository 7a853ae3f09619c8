"""Ends the source's way through a model after the last block that is locked: nothing behind it is needed (M3, ours)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SourceIsDone(Exception):  # noqa: N818 - not an error: it ends a call whose result nobody needs
    """Raised in the last locked block of a call of the source alone, once its K,V are recorded."""


@contextmanager
def source_ends_after(blocks: Sequence[nn.Module], last: int, batch: int, source: int) -> Iterator[None]:
    """Inside, a batch of `batch`, the last `source` of them the source's, goes on from block `last` without those.

    `blocks` take and give (batch,...) tensors, positional or by name. The last block gives zeros in the source's place,
    which whoever reads the batch throws away. Nothing happens if `last` is the last block.
    """
    behind = list(blocks)[last + 1 :]
    hooks = [block.register_forward_pre_hook(_shortener(batch, batch - source), with_kwargs=True) for block in behind]
    if behind:
        hooks.append(behind[-1].register_forward_hook(_lengthener(source)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _shortener(batch: int, kept: int):
    def short(value: Any) -> Any:
        return value[:kept] if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == batch else value

    def shorten(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return tuple(short(value) for value in args), {name: short(value) for name, value in kwargs.items()}

    return shorten


def _lengthener(source: int):
    def lengthen(block: nn.Module, args: tuple, out: Tensor) -> Tensor:
        return torch.cat([out, out.new_zeros(source, *out.shape[1:])])

    return lengthen
