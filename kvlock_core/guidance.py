"""Projected guidance (M8), arXiv 2603.09657; the scale is that of CFG-Zero*, arXiv 2503.18886."""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor

from .errors import GridMismatchError

#: Keeps an all-zero unconditional prediction from dividing by zero (CFG-Zero* uses the same value).
S_STAR_EPS = 1e-8


def s_star(cond: Tensor, uncond: Tensor, eps: float = S_STAR_EPS) -> Tensor:
    """`<cond, uncond> / (|uncond|^2 + eps)` per sample: the s that minimises `|cond - s * uncond|` (M8).

    `cond`, `uncond` (B,C,T,h,w): velocities, or residuals x - x0, which give the same s; clean predictions x0 do not.
    Sums in at least float32. Returns (B,1,1,1,1) in the dtype of the sums. Raises GridMismatchError.
    """
    _check_same(cond, uncond)
    wide = torch.promote_types(cond.dtype, torch.float32)
    c, u = (x.to(wide).flatten(1) for x in (cond, uncond))
    s = einsum(c, u, "b n, b n -> b") / (einsum(u, u, "b n, b n -> b") + eps)
    return rearrange(s, "b -> b 1 1 1 1")


def guide(cond: Tensor, uncond: Tensor, omega: float, s: float | Tensor = 1.0) -> Tensor:
    """`(1 - omega) * s * uncond + omega * cond` (M8), computed as `s*uncond + omega * (cond - s*uncond)`.

    `cond`, `uncond` (B,C,T,h,w) velocities; `omega` CFG scale; `s` from `s_star`, or 1.0 for plain CFG, which is then
    bit-identical to `uncond + omega * (cond - uncond)`. Returns the dtype of `cond`. Raises GridMismatchError.
    """
    _check_same(cond, uncond)
    base = uncond if isinstance(s, float) and s == 1.0 else s * uncond
    return (base + omega * (cond - base)).to(cond.dtype)


def _check_same(cond: Tensor, uncond: Tensor) -> None:
    if cond.shape != uncond.shape or cond.ndim != 5:
        raise GridMismatchError(
            f"conditional {tuple(cond.shape)} and unconditional {tuple(uncond.shape)} predictions; "
            "give two of one shape (B,C,T,h,w)"
        )
