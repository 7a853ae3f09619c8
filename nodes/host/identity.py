"""Whose K,V they are, in ComfyUI's terms: the model with its LoRAs and patches, the clip, the text of the moment (M3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ...kvlock_core import Moment, SourceIdentity, SourcePath, fingerprint, weights_fingerprint
from .source import SourceHandle

#: Weights of the transformer in the host's names.
TRANSFORMER = "diffusion_model."
#: What hooks of other packs may change K,V of the source; which ones there are is part of the model.
PATCHES = ("patches", "patches_replace")


def identity_of(guider, source: SourceHandle, noise: Tensor) -> SourceIdentity:
    """Of a run that samples `noise` (B,C,T,h,w)."""
    return SourceIdentity(
        model=weights_fingerprint(_parts(guider)),
        latent=fingerprint(source.samples),
        grid=tuple(noise.shape),
        dtype=str(dtype_of(guider.inner_model)),
    )


def dtype_of(base_model):
    """In which the model computes K,V."""
    return base_model.manual_cast_dtype or base_model.get_dtype()


def moments(path: SourcePath, conds_at: Callable[[float], dict[str, Any]]) -> Callable[[int, float], Moment]:
    """`Moment` of an evaluation; `conds_at(sigma)` gives the conditions that the source has there."""
    known: dict[tuple[int, ...], str] = {}

    def text(conds: dict[str, Any]) -> str:
        key = tuple(map(id, conds.values()))
        if key not in known:
            known[key] = fingerprint(*(part for name in sorted(conds) for part in (name, *_contents(conds[name].cond))))
        return known[key]

    return lambda step, sigma: Moment(sigma, path.noise_key(step), text(conds_at(sigma)))


def _parts(guider) -> Iterator[tuple[str, Tensor | str]]:
    """Weights as they are without patches, the patches, and the names of functions that other packs hang into blocks."""
    for name, (weight, *patches) in guider.model_patcher.get_key_patches(TRANSFORMER).items():
        yield name, weight[0] if isinstance(weight, tuple) else weight
        yield from ((f"{name} {i}", part) for i, part in enumerate(_contents(patches)))
    options = guider.model_options.get("transformer_options", {})
    yield from ((kind, " ".join(_functions(options.get(kind, {})))) for kind in PATCHES)


def _contents(value: Any) -> Iterator[Tensor | str]:
    """Tensors and plain values inside tuples, lists and weight adapters; objects count by their type."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _contents(part)
    elif hasattr(value, "weights"):
        yield type(value).__qualname__
        yield from _contents(value.weights)
    elif isinstance(value, (str, int, float, bool, type(None))):
        yield repr(value)
    else:
        yield getattr(value, "__qualname__", type(value).__qualname__)


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in sorted(value.items(), key=repr):
            yield from (f"{key}:{name}" for name in _functions(part))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _functions(part)
    else:
        yield getattr(value, "__qualname__", type(value).__qualname__)
