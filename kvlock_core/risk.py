"""Risk: how much the prediction of the clean clip still moves (M5), arXiv 2603.09657.

Readings of "variance over the window" that differ: biased or unbiased, over all elements or the masked ones, channels
apart or together. Ours: unbiased over time for every latent element, then one mean over masked elements, channels and
batch. A mean over all elements would shrink with the mask's area.
"""

from __future__ import annotations

from collections import deque

import torch
from einops import einsum
from torch import Tensor

from .errors import GridMismatchError, MaskError, NonFiniteError
from .types import EDITABLE_FROM, RiskSettings, check_risk_form, check_window_size


class RiskWindow:
    """The last `size` predictions inside the edit mask, and their variance (M5).

    `detrend` measures the spread around a least-squares line instead of around the mean (ours: x0 drifts along the path
    even when it is certain); it needs three predictions. `normalise` divides by the mean square of the window over the
    same region, which makes the risk independent of the latent's scale. `form` "rate" (ours) divides by the unbiased
    variance of the positions: the mean square change of x0 per unit of sigma, whatever the number of steps and their
    spacing; "variance" is the paper's. Raises SettingsError for sizes with no value and for unknown forms.
    """

    def __init__(self, size: int = 10, detrend: bool = False, normalise: bool = False, form: str = "variance"):
        check_window_size(size, detrend)
        check_risk_form(form)
        self.size, self.detrend, self.normalise, self.form = size, detrend, normalise, form
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._count = 0
        self.risk: float | None = None  #: what the last push returned
        self._edit: Tensor | None = None
        self._grid: tuple[int, ...] = ()  # (T,h,w) of the predictions
        self._seen: deque[tuple[float, Tensor]] = deque(maxlen=self.size)

    def push(self, x0: Tensor, edit: Tensor | None = None, position: float | None = None) -> float | None:
        """Take one prediction, return the risk of the window that now ends with it.

        `x0` (B,C,T,h,w); `edit` (T,h,w) with 1 = may change (cells count from 0.5 on), None = everywhere; `position`
        is where the prediction stands on the axis of trend and rate, e.g. its sigma; by default its count.
        Returns None while there are too few predictions (2, with `detrend` 3), if `edit` holds no cell, or if all
        positions of a trend or a rate coincide: the risk is not known then, which is not the same as 0.
        Raises NonFiniteError, GridMismatchError, and MaskError if the mask changes before `reset()`.
        """
        self._check(x0, edit)
        self._edit, self._grid = edit, tuple(x0.shape[2:])
        # (B,C,M) in float32, and only the region: this is all the memory the window takes
        region = x0.flatten(2) if edit is None else x0[..., edit.to(x0.device) >= EDITABLE_FROM]
        self._seen.append((float(self._count if position is None else position), region.to(torch.float32, copy=True)))
        self._count += 1
        self.risk = self._value()
        return self.risk

    def risk_map(self) -> Tensor | None:
        """Where the risk comes from: the mean over batch, channels and latent frames of what `risk` averages over all (M5).

        -> (h,w) in float32, NaN where no frame's cell is in the edit mask; None while the risk is unknown. Weighted by the
        cells that each position has in the mask, its mean is the risk.
        """
        if self.risk is None:
            return None
        window = self._stacked()
        spread = self._variance(window).mean((0, 1)) / self._scale(window) / self._per_sigma()  # (M,)
        if self._edit is None:
            return spread.reshape(self._grid).mean(0)
        inside = (self._edit >= EDITABLE_FROM).to(spread.device)
        total = spread.new_zeros(self._grid).masked_scatter(inside, spread).sum(0)
        return total / inside.sum(0)  # 0 / 0 is NaN

    @classmethod
    def of(cls, settings: RiskSettings, steps: int) -> RiskWindow:
        """The window that a run of `steps` with these settings measures by."""
        return cls(settings.size(steps), settings.detrend, settings.normalise, settings.form)

    def continues(self, settings: RiskSettings, steps: int) -> bool:
        """True if this window measures what `settings` ask for, so that their run of `steps` can go on with it."""
        asked = (settings.size(steps), settings.detrend, settings.normalise, settings.form)
        has_edit = self._edit is not None
        return self._measures_by() == asked and has_edit == (settings.region == "edit")

    def moved_to(self, device: str | torch.device) -> RiskWindow:
        """A copy that goes on from here by itself, its predictions on `device`."""
        copied = RiskWindow(*self._measures_by())
        copied._count, copied.risk, copied._edit, copied._grid = self._count, self.risk, self._edit, self._grid
        copied._seen.extend((position, region.to(device, copy=True)) for position, region in self._seen)
        return copied

    def _measures_by(self) -> tuple[int, bool, bool, str]:
        return self.size, self.detrend, self.normalise, self.form

    def _value(self) -> float | None:
        if not self._is_known():
            return None
        window = self._stacked()
        return float(self._variance(window).mean() / self._scale(window)) / self._per_sigma()

    def _is_known(self) -> bool:
        if self._seen[-1][1].numel() == 0 or len(self._seen) < (3 if self.detrend else 2):
            return False
        return not (self.detrend or self.form == "rate") or bool(self._positions().var() > 0)

    def _stacked(self) -> Tensor:
        return torch.stack([region for _, region in self._seen])  # (n,B,C,M)

    def _positions(self) -> Tensor:
        return torch.tensor([position for position, _ in self._seen], dtype=torch.float64)

    def _variance(self, window: Tensor) -> Tensor:
        return _around_line(window, self._positions()) if self.detrend else window.var(0)  # (B,C,M)

    def _per_sigma(self) -> float:
        return float(self._positions().var()) if self.form == "rate" else 1.0

    def _scale(self, window: Tensor) -> Tensor | float:
        if not self.normalise:
            return 1.0
        # an all-zero window has variance 0: 0 / tiny stays 0
        return window.square().mean().clamp_min(torch.finfo(window.dtype).tiny)

    def _check(self, x0: Tensor, edit: Tensor | None) -> None:
        if x0.ndim != 5:
            raise GridMismatchError(f"prediction has shape {tuple(x0.shape)}; give (B,C,T,h,w)")
        if edit is not None and edit.shape != x0.shape[2:]:
            raise GridMismatchError(
                f"edit mask {tuple(edit.shape)} is not on the grid {tuple(x0.shape[2:])} of the prediction; "
                "make it with latent_mask(..., size=...) from this latent"
            )
        if not x0.isfinite().all():
            raise NonFiniteError(
                f"prediction {self._count} is not finite; check the model's precision and the guidance scale"
            )
        if self._seen:
            self._check_same_region(x0, edit)

    def _check_same_region(self, x0: Tensor, edit: Tensor | None) -> None:
        before = self._edit
        if (before is None) != (edit is None) or (edit is not None and not torch.equal(before.to(edit.device), edit)):
            raise MaskError("the edit mask changed inside a risk window; call reset() before measuring another region")
        if edit is None and x0.flatten(2).shape != self._seen[-1][1].shape:
            raise GridMismatchError(
                f"prediction {tuple(x0.shape)} has another size than those in the window; call reset() between runs"
            )


def _around_line(window: Tensor, s: Tensor) -> Tensor:
    """Residual variance of a line over `s` (n,) per element, with the n - 2 degrees of freedom that a line leaves."""
    ds = (s - s.mean()).to(window)
    d = window - window.mean(0)
    slope = einsum(ds, d, "n, n b c m -> b c m") / ds.square().sum()
    residual = d - einsum(ds, slope, "n, b c m -> n b c m")
    return residual.square().sum(0) / (len(window) - 2)
