"""Storage formats of source keys and values: what one attention call's K,V takes while it is kept.

What each format costs and spoils on the toy model is in docs/codecs.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import GridMismatchError, NonFiniteError, SettingsError, SourceError

TOKENS, CHANNELS = 2, 3  # axes of K and V (batch,heads,n,dim)

#: Largest stored number: of int8 without -128, so that the grid is symmetric, and of float8 e4m3 (arXiv 2209.05433).
INT8_LARGEST, FP8_LARGEST = 127.0, 448.0
#: float8 e4m3 (arXiv 2209.05433): bits of the fraction, and the exponent of the least step, that of the subnormals.
FP8_FRACTION_BITS, FP8_LEAST_STEP = 3, -9

#: A channel of zeros gets this scale instead of 0: nothing divides by 0, and hardware that flushes subnormals agrees.
LEAST_SCALE = torch.finfo(torch.float32).tiny


class Codec(Protocol):
    """Packs K and V (batch,heads,n,dim), of any float dtype and strides, and gives them back."""

    name: str

    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """New contiguous tensors that share no memory with `key` and `value`. Raises GridMismatchError."""

    def decode(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """K,V (batch,heads,n,dim) in `dtype` on the device of `packed`; read only, they may be `packed` itself.

        Raises SourceError if `packed` is of another codec.
        """

    def packed_bytes(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> int:
        """Exact bytes of what `encode` makes of a K and a V that both have this shape and dtype."""


@dataclass(frozen=True)
class Plain:
    """K,V as numbers of `stored` dtype; None is the one they come in, which gives them back bit for bit.

    Always a copy: a source row is a view of a batch, and keeping the view would keep the batch. Takes no memory beside
    the result. Values that are not finite stay what they are.
    """

    name: str
    stored: torch.dtype | None = None

    @torch.no_grad()
    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        _check_axes(key, value)
        return {"key": _copied(key, self.stored), "value": _copied(value, self.stored)}

    def decode(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `Codec.decode`. Copies nothing if `dtype` is the stored one."""
        _check_entries(self.name, packed, ("key", "value"))
        return packed["key"].to(dtype), packed["value"].to(dtype)

    def packed_bytes(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> int:
        """See `Codec.packed_bytes`."""
        return 2 * _bytes(shape, self.stored or dtype)


@dataclass(frozen=True)
class Scaled:
    """K,V as `x / scale` rounded to `stored`, with float32 `scale = max |x| / largest` over one axis, per batch and head.

    int8: |error| <= scale / 2. float8 e4m3: |error| <= max(2^-4 |x|, 2^-10 scale). Both but for float32 rounding, and
    for that of `dtype` in `decode`. Zeros come back as zeros. A coarser grid is a smaller `largest`.
    """

    name: str
    stored: torch.dtype
    largest: float
    key_axis: int = TOKENS
    value_axis: int = TOKENS

    @torch.no_grad()
    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`. Raises NonFiniteError, for which it waits for the device once per tensor.

        Takes a few float32 copies of one head beside the result, never one of the whole tensor.
        """
        _check_axes(key, value)
        key_scale, value_scale = self._scale("key", key, self.key_axis), self._scale("value", value, self.value_axis)
        return {
            "key": _rounded(key, key_scale, self.stored),
            "value": _rounded(value, value_scale, self.stored),
            "key_scale": key_scale,
            "value_scale": value_scale,
        }

    def decode(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `Codec.decode`. The product is made in float32 and rounded once.

        On an accelerator it takes nothing beside the result; PyTorch's CPU kernel makes two float32 copies of K, then of V,
        where `dtype` is narrower: unpack where the model is.
        """
        _check_entries(self.name, packed, ("key", "value", "key_scale", "value_scale"))
        # numbers of both formats are exact in bfloat16 and float16
        return tuple(packed[of].to(dtype).mul_(packed[f"{of}_scale"]) for of in ("key", "value"))

    def packed_bytes(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> int:
        """See `Codec.packed_bytes`. `dtype` does not matter."""
        scales = (_without(shape, axis) for axis in (self.key_axis, self.value_axis))
        return 2 * _bytes(shape, self.stored) + sum(_bytes(scale, torch.float32) for scale in scales)

    def _scale(self, name: str, x: Tensor, axis: int) -> Tensor:
        scale = (_largest(x, axis).to(torch.float32) / self.largest).clamp(min=LEAST_SCALE)
        if not scale.isfinite().all():
            raise NonFiniteError(
                f"{name} {tuple(x.shape)} of the source holds NaN, infinity or numbers beyond float32, which "
                f"{self.name!r} cannot store; look for a model or a source latent that overflows, or keep it as 'same'"
            )
        return scale


#: K per channel because few channels are large in all tokens, V per token: KIVI, arXiv 2402.02750. e4m3 has a relative
#: step of its own, so that its scale only has to place the range: the same cheap one for both.
_KNOWN = {
    codec.name: codec
    for codec in (
        Plain("same"),
        Plain("bf16", torch.bfloat16),
        Plain("float32", torch.float32),
        Scaled("fp8", torch.float8_e4m3fn, FP8_LARGEST),
        Scaled("int8", torch.int8, INT8_LARGEST, value_axis=CHANNELS),
    )
}

CODECS = tuple(_KNOWN)


def codec(name: str) -> Codec:
    """The codec of CODECS with this name. Raises SettingsError."""
    if name not in _KNOWN:
        raise SettingsError(f"codec {name!r} is unknown; use one of {', '.join(CODECS)}")
    return _KNOWN[name]


def key_bias(query: Tensor, step: Tensor, logit_scale: float | None = None) -> Tensor:
    """`b = -s^2 sum_c q_c^2 step_c^2 / 24`: what to add to the logits of rounded keys (arXiv 2605.26266; s^2 = 1/dim).

    A key rounded to a grid of `step` is off by a uniform error of variance step^2 / 12 in every channel, its logit
    s q.k by one of variance v = s^2 sum_c q_c^2 step_c^2 / 12. exp() is convex, so that the mean of exp(logit) grows by
    exp(v / 2) to second order: beside exact keys, rounded ones get too much attention. b = -v / 2 undoes it.

    `query` (batch,heads,L,dim), `step` (batch,heads,1 or n,dim) from `key_step` or broadcasting to it, `logit_scale` s,
    by default 1/sqrt(dim). Returns float32 (batch,heads,L,1 or n). Nothing in a run applies it: a bias per key costs
    hosts their fast attention kernels, and at 8 bits it changes nothing that counts (docs/codecs.json).
    """
    s_squared = 1.0 / query.shape[-1] if logit_scale is None else logit_scale**2
    q_squared = query.to(torch.float32).square() * s_squared
    return q_squared @ step.to(torch.float32).square().transpose(-1, -2) / -24


def key_step(packed: Mapping[str, Tensor]) -> Tensor:
    """Step (batch,heads,1,dim) of the keys of an int8 or fp8 pack, for `key_bias`: root mean square over the tokens.

    int8: the scale. float8 e4m3: a number y = k / scale in [2^e, 2^(e+1)) lies on a grid of 2^(e-3), of 2^-9 below 2^-6.
    Where log |k| is spread evenly over a binade, step^2 / 12 is 2^-6 / 12 * (2 ln 2) / 3 = 0.0006 of the mean k^2: a
    relative error of 2.5 %. Here it is the mean over the stored numbers. Raises SettingsError for other packs.
    """
    stored = packed["key"].dtype
    if stored == torch.int8:
        return packed["key_scale"]
    if stored != torch.float8_e4m3fn:
        raise SettingsError(f"keys stored as {stored} have no step; only 'int8' and 'fp8' packs are biased")
    return packed["key_scale"] * _fp8_step_squared(packed["key"]).mean(TOKENS, keepdim=True).sqrt()


def _fp8_step_squared(numbers: Tensor) -> Tensor:
    """12 times the mean square rounding error of what is now one of these e4m3 `numbers`."""
    mantissa, exponent = torch.frexp(numbers.to(torch.float32).abs().clamp(min=2.0**FP8_LEAST_STEP))
    step = (exponent - 1 - FP8_FRACTION_BITS).clamp(min=FP8_LEAST_STEP).to(torch.float32).exp2()
    # below a power of two (but for the least normal one) the grid is twice as fine: errors in [-step/4, step/2]
    is_edge = (mantissa == 0.5) & (step > 2.0**FP8_LEAST_STEP)
    return step.square() * torch.where(is_edge, 0.75, 1.0)


def _copied(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x.to(dtype or x.dtype, copy=True, memory_format=torch.contiguous_format)


def _largest(x: Tensor, axis: int) -> Tensor:
    """max |x| over `axis`, kept, without the copy that abs() makes; 0 where there is nothing. NaN spreads."""
    if x.shape[axis] == 0:
        return x.new_zeros(_without(x.shape, axis))
    return torch.maximum(x.amax(axis, keepdim=True), -x.amin(axis, keepdim=True))


def _rounded(x: Tensor, scale: Tensor, stored: torch.dtype) -> Tensor:
    """`x / scale` as `stored`, head by head: the float32 quotient of a whole tensor would outweigh the tensor."""
    out = torch.empty(x.shape, dtype=stored, device=x.device)
    for head in range(x.shape[1]):
        ratio = x[:, head] / scale[:, head]
        out[:, head] = ratio if stored.is_floating_point else ratio.round_()
    return out


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _check_axes(key: Tensor, value: Tensor) -> None:
    if key.ndim != 4 or value.ndim != 4:
        raise GridMismatchError(f"key {tuple(key.shape)} and value {tuple(value.shape)}; give (batch,heads,n,dim)")


def _check_entries(name: str, packed: Mapping[str, Tensor], needed: tuple[str, ...]) -> None:
    if set(packed) != set(needed):
        raise SourceError(
            f"a pack of {', '.join(sorted(packed))} is not of codec {name!r} ({', '.join(needed)}); "
            "decode it with the codec that made it"
        )
