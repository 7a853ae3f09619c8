"""What recorded source K,V belong to: everything that would change them if it were another (M3, ours)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SourceIdentity:
    """What stays the same over a run: the model with its LoRAs, the source latent, its grid, and the dtype of K,V.

    `model` and `latent` are fingerprints, `grid` (B,C,T,h,w) of the latent, `dtype` of the model's K,V, `stream` of `Site`.
    """

    model: str
    latent: str
    grid: tuple[int, ...]
    dtype: str
    stream: str = "video"


@dataclass(frozen=True)
class Moment:
    """One evaluation of the source: its noise level, its draw of noise, and its text and other conditions."""

    sigma: float
    noise: str
    text: str


@dataclass(frozen=True)
class SourceKey:
    """All of the above: K,V of every block, recorded under an equal key, are the ones that are needed."""

    identity: SourceIdentity
    moment: Moment

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file's header."""
        return {"identity": {**asdict(self.identity), "grid": list(self.identity.grid)}, "moment": asdict(self.moment)}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> SourceKey:
        """The inverse of `to_dict`. Raises KeyError, TypeError for anything else."""
        identity = dict(given["identity"])
        identity["grid"] = tuple(identity["grid"])
        return cls(SourceIdentity(**identity), Moment(**given["moment"]))


def differences(wanted: SourceKey, recorded: SourceKey) -> tuple[str, ...]:
    """Names of the fields in which two keys differ, in the order in which a user should look at them."""
    pairs = ((wanted.identity, recorded.identity), (wanted.moment, recorded.moment))
    return tuple(f.name for a, b in pairs for f in fields(a) if getattr(a, f.name) != getattr(b, f.name))


def fingerprint(*parts: Tensor | str) -> str:
    """A short text that is the same for the same content, on every device and in every process.

    Tensors count with their values, shape and dtype. Waits for the device.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{tuple(part.shape)}{part.dtype}|".encode())
            digest.update(bytes_of(part))
        else:
            digest.update(f"{len(part)}|{part}".encode())  # the length tells where it ends
    return digest.hexdigest()[:32]


def bytes_of(tensor: Tensor):
    """The values of a tensor as a flat array of bytes, which is a view where it lies on the CPU in one piece."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


#: Values of every weight that count for the identity of a model: a changed or added LoRA moves them all.
_SAMPLED = 32


def weights_fingerprint(weights: Iterable[tuple[str, Tensor | str]]) -> str:
    """`fingerprint` of a model by names, shapes, dtypes and a few values of each of its weights, so that 14 B are read in
    a moment. Text stands for whatever else makes the model what it is."""
    digest = hashlib.sha256()
    for name, weight in weights:
        digest.update((fingerprint(name, weight) if isinstance(weight, str) else fingerprint(name, *_sample(weight))).encode())
    return digest.hexdigest()[:32]


def _sample(weight: Tensor) -> tuple[str, Tensor]:
    flat = weight.detach().reshape(-1)
    return f"{tuple(weight.shape)}{weight.dtype}", flat[:: max(len(flat) // _SAMPLED, 1)].contiguous()
