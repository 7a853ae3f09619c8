"""Fusion of new and source keys or values (M4), arXiv 2603.09657."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from .errors import GridMismatchError


def fuse(new: Tensor, source: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`(1 - weight) * new + weight * source` per token, with weight = alpha * lock (M4).

    `new` (...,L,D), `source` (...,L,D) of the same shape or one that broadcasts to it, `weight` (L,) in [0,1] or bool.
    Weight 0 gives `new` and weight 1 gives `source`, both bit for bit and whatever the other one holds. Returns a new
    tensor like `new`, or `out`, which must not share memory with `new`. Raises GridMismatchError.

    This runs twice in every attention call, so it never waits for the device: values of `weight` are not looked at. A
    bool weight (True = source) is one select and one allocation; the session uses it when all weights are 0 or 1.
    """
    _check_shapes(new, source, weight)
    w = rearrange(weight, "l -> l 1").to(new.device)
    source = source.to(new.dtype)
    if w.dtype == torch.bool:
        return torch.where(w, source, new, out=out)
    # lerp in the input's own dtype: its kernel works in float32 and rounds once; widening K and V of a 14B model first
    # would take four times their memory. What half precision rounds is the weight (2^-9 relative in bfloat16).
    mixed = torch.lerp(new, source.expand_as(new), w.to(new.dtype), out=out)
    mixed = torch.where(w == 0, new, mixed, out=out)
    return torch.where(w == 1, source, mixed, out=out)


def fuse_at(new: Tensor, source: Tensor, weight: Tensor | None, tokens: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`fuse` for a source that holds only the token positions `tokens` (n,), as it is kept; all others stay as they are.

    `new` (...,L,D), `source` (...,n,D), `weight` (n,) of those positions, None = 1 for all of them. Bit for bit what `fuse`
    gives with weight 0 elsewhere. Raises GridMismatchError.
    """
    fused = source.to(new.dtype) if weight is None else fuse(new.index_select(-2, tokens), source, weight)
    out = new.clone() if out is None else out.copy_(new)
    return out.index_copy_(-2, tokens, fused)


def _check_shapes(new: Tensor, source: Tensor, weight: Tensor) -> None:
    if weight.ndim != 1 or new.ndim < 2 or new.shape[-2] != weight.shape[0]:
        raise GridMismatchError(
            f"weight {tuple(weight.shape)} does not give one value per token of {tuple(new.shape)} (...,L,D); "
            "make the token mask from the latent that is being sampled"
        )
    if not _broadcasts_to(source.shape, new.shape):
        raise GridMismatchError(
            f"source {tuple(source.shape)} and new {tuple(new.shape)} are not on one token grid; "
            "the source clip needs the size and the length of the edit"
        )


def _broadcasts_to(shape: torch.Size, target: torch.Size) -> bool:
    """True if `shape` widens to `target` over leading axes; the token grid (L,D) itself must be the same."""
    if len(shape) > len(target) or shape[-2:] != target[-2:]:
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(target)))
