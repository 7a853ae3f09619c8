"""Sessions that lock otherwise than the paper: measured here, not part of the product unless docs/decisions.md says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from kvlock_core import LockSession, Site


class KeysOnly(LockSession):
    """Only keys are the source's."""

    def attention(self, site: Site, key: Tensor, value: Tensor, rows):
        return super().attention(site, key, value, rows)[0], value


class ValuesOnly(LockSession):
    """Only values are the source's."""

    def attention(self, site: Site, key: Tensor, value: Tensor, rows):
        return key, super().attention(site, key, value, rows)[1]


@dataclass(frozen=True)
class Tokens:
    """Makes sessions whose token weights are `weights(session)` (L,) instead of alpha * lock."""

    weights: object

    def __call__(self, settings, **given) -> LockSession:
        weights = self.weights

        class Weighted(LockSession):
            def _step_weight(self) -> Tensor:
                return weights(self)

        return Weighted(settings, **given)


def mixing_the_edit(session: LockSession) -> Tensor:
    """ProEdit's mix: background entirely the source's, a tenth of the source in the edited region."""
    return session._lock + 0.1 * (1 - session._lock)


def _near(session: LockSession) -> Tensor:
    """(L,) 1 in tokens next to the edit, in the same latent frame."""
    frames, height, width = session._edit.shape
    edit = rearrange(1 - session._lock, "(t h w) -> t h w", t=frames, h=height // 2, w=width // 2)
    wide = F.max_pool2d(edit[None], 3, stride=1, padding=1)[0]
    return rearrange(wide - edit, "t h w -> (t h w)")


def soft_ring(session: LockSession) -> Tensor:
    """Half the lock in the tokens next to the edit."""
    return session._plan.alpha * session._lock * (1 - 0.5 * _near(session))


def free_ring(session: LockSession) -> Tensor:
    """No lock in the tokens next to the edit."""
    return session._plan.alpha * session._lock * (1 - _near(session))


def with_token_risk(z_src: Tensor, threshold: float = 0.1) -> type[LockSession]:
    """Sessions in which each background token has an alpha of its own, from how far its prediction is from the source.

    The risk of (M5) is measured inside the edit, where nothing is locked; here it is the error that the lock is for: mean
    square of x0 - z_src over a token's cells against `threshold`, one step late like any alpha.
    """

    class TokenRisk(LockSession):
        _error: Tensor | None = None

        def predicted(self, x0: Tensor):
            error = (x0 - z_src).square().mean((0, 1))
            self._error = rearrange(F.avg_pool2d(error, 2), "t h w -> (t h w)")
            return super().predicted(x0)

        def _step_weight(self) -> Tensor:
            share = 1.0 if self._error is None else (self._error / threshold).clamp(0, 1)
            return self._plan.alpha * self._lock * share

    return TokenRisk
