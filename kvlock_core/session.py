"""One run of the method, step by step. The only object of the core that changes."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import torch
from torch import Tensor

from .errors import GridMismatchError, MaskError, NonFiniteError, SessionError, SettingsError
from .fuse import fuse, fuse_at
from .guidance import guide, s_star
from .risk import RiskWindow
from .settings import SessionSettings
from .source import Given, Lockstep, SourceKV, split_rows
from .tokens import lockable_positions
from .trace import RunTrace, plain
from .types import SOURCE_ROW, RiskSettings, Site, StepPlan, StepRecord

_log = logging.getLogger("kvlock")


class LockSession:
    """begin(step) -> attention(site, k, v) ... -> predicted(x0) -> guide(cond, uncond) -> end(), once per step.

    `edit` (T,h,w) latent edit mask: where risk is measured. `tokens` (L,) token edit mask: what stays free (M1). Each
    may be None if nothing needs it. `steps` of the whole run, `omega0` the sampler's CFG scale, `source` the source
    mode, by default Lockstep(), or an object that only has `provide`. One session is one run: make a new one for the next.
    A run that continues another one, e.g. with a second model, is given its `window`; it must have been made with the same
    risk settings. Raises SettingsError, MaskError.
    """

    def __init__(
        self,
        settings: SessionSettings,
        *,
        steps: int,
        edit: Tensor | None,
        tokens: Tensor | None,
        omega0: float = 1.0,
        source: SourceKV | None = None,
        window: RiskWindow | None = None,
    ):
        _check_masks(settings, steps, edit, tokens)
        self.settings, self.steps, self.omega0 = settings, steps, float(omega0)
        self._source = _source_of(source)
        self._edit = edit if settings.risk.region == "edit" else None
        self._lock = None if tokens is None else 1.0 - tokens.to(torch.float32)
        self._has_lock = self._lock is not None and bool((self._lock > 0).any())
        self._positions = None if tokens is None else lockable_positions(tokens)
        self._source.use(self._positions)
        self._lock_is_hard = self._lock is not None and bool(((self._lock == 0) | (self._lock == 1)).all())
        self.window = RiskWindow.of(settings.risk, steps) if window is None else _checked_window(window, settings.risk, steps)
        self._open: StepRecord | None = None
        self._plan: StepPlan | None = None
        self._weight: Tensor | None = None
        self._has_predicted = self._has_guided = False
        self._done: list[StepRecord] = []
        _report(self)

    def begin(self, step: int, sigma: float) -> StepPlan:
        """Open `step` (0 .. steps-1) at noise level `sigma` and decide alpha from the risk of the steps before (M6).

        Raises SessionError if a step is still open or steps run backwards, ScheduleError if there is no such step.
        """
        if self._open is not None:
            raise SessionError(f"step {self._open.step} is still open; call end() before begin({step})")
        if self._done and step < self._done[-1].step:
            raise SessionError(f"step {step} comes after step {self._done[-1].step}; make a new session for a new run")
        lock, acting = self.settings.lock, self.settings.acting_schedule
        active = acting is not None and acting.is_active(step, self.steps)
        alpha = 0.0 if lock is None else lock.alpha(step, self.steps, self.window.risk)
        needs_source = alpha > 0.0 and self._has_lock
        if needs_source:
            self._source.begin(int(step), float(sigma))
        self._plan = StepPlan(int(step), float(sigma), active, alpha, needs_source, self._source.supply if needs_source else "none")
        self._open = StepRecord(int(step), float(sigma), active, None, alpha, None, None, needs_source)
        self._weight = self._step_weight() if needs_source else None
        self._has_predicted = self._has_guided = False
        return self._plan

    def attention(self, site: Site, key: Tensor, value: Tensor, rows: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Fuse source K,V into the locked rows of one self-attention call (M3, M4).

        `key`, `value` (batch,heads,L,dim) after norm and RoPE; `rows` the roles of the batch in order, e.g. ("cond",
        "uncond", "source"), each batch/len(rows) wide; ("source",) alone only records. Returns new tensors, or the very same
        objects when this call is not locked. Raises SessionError, GridMismatchError, SourceError, StoreError.
        """
        self._require_open("attention")
        if not (self._plan.needs_source and self.settings.locks_block(site.block)):
            return key, value
        self._check_grid(site, key, value)
        if rows == (SOURCE_ROW,):
            self._source.record(site, key, value)
            return key, value
        locked = [i for i, row in enumerate(rows) if row in self.settings.rows]
        if not locked:
            return key, value
        self._move_to(key.device)
        k_src, v_src = self._source.provide(site, key, value, rows)
        return self._fused(key, k_src, rows, locked), self._fused(value, v_src, rows, locked)

    @property
    def supply(self) -> str:
        """How the next model call of the open step gets source K,V (`types.SUPPLIES`): as planned, or "kept" as soon as the
        source came by and was kept, as for a second call of the same step."""
        return self._source.supply if self._plan is not None and self._plan.needs_source else "none"

    def hold(self) -> None:
        """The host will call the model again in this step, for other rows: keep what the source gives in the next call."""
        self._source.hold()

    def close(self) -> None:
        """The run is over, well or not: the source mode lets go of what it held for it."""
        self._source.close()

    def predicted(self, x0: Tensor) -> float | None:
        """Report the conditional prediction (B,C,T,h,w) of the clean clip; returns the risk, None if unknown (M5).

        Raises SessionError if called twice or after guide(), NonFiniteError, GridMismatchError.
        """
        self._require_open("predicted")
        if self._has_predicted or self._has_guided:
            raise SessionError(
                f"predicted() of step {self._open.step} came twice or after guide(); call it once, before guide()"
            )
        risk = self._pushed(x0)
        self._has_predicted = True
        self._open = replace(self._open, risk=risk)
        return risk

    def guide(self, cond: Tensor, uncond: Tensor | None) -> Tensor:
        """Combine the two velocities (B,C,T,h,w) with this step's omega and s_star (M7, M8).

        `uncond` None (cfg 1): nothing to combine, `cond` comes back and the record says None for both (M9).
        Raises SessionError, GridMismatchError.
        """
        self._require_open("guide")
        if uncond is None:
            self._guide_once()
            return cond
        omega, s = self.guidance(cond, uncond)
        return guide(cond, uncond, omega, s)

    def guidance(self, cond: Tensor, uncond: Tensor) -> tuple[float, float | Tensor]:
        """omega and s_star of this step, for hosts that combine the two predictions themselves (M7, M8).

        `cond`, `uncond` as in `guide`, or residuals x - x0, which have the same s_star. Returns (omega, s) with s 1.0 or
        (B,1,1,1,1), and records both as applied. Raises SessionError, GridMismatchError.
        """
        self._require_open("guidance")
        self._guide_once()
        omega, s = self.omega(), s_star(cond, uncond) if self._projects() else 1.0
        self._open = replace(self._open, omega=omega, s_star=float(s.mean()) if isinstance(s, Tensor) else s)
        return omega, s

    def omega(self) -> float:
        """CFG scale of the open step (M7). Raises SessionError if it follows the risk and predicted() is yet to come."""
        self._require_open("omega")
        schedule = self.settings.guidance
        if schedule is None:
            return self.omega0
        if schedule.kind == "risk" and not self._has_predicted:
            raise SessionError(f"omega of step {self._open.step} needs its risk; call predicted(x0) first")
        return schedule.omega(self.omega0, self._open.step, self.steps, self.window.risk)

    def end(self) -> StepRecord:
        """Close the step. Raises SessionError if none is open, or if a risk schedule was not told the prediction."""
        self._require_open("end")
        if self.settings.needs_risk and not self._has_predicted:
            raise SessionError(f"step {self._open.step} ended without predicted(x0); a risk schedule needs it")
        if self._plan.needs_source:
            self._source.end()
        record, self._open, self._plan, self._weight = self._open, None, None, None
        self._done.append(record)
        return record

    @property
    def has_predicted(self) -> bool:
        """True once predicted() came in the current step."""
        return self._has_predicted

    @property
    def trace(self) -> RunTrace:
        """The finished steps so far."""
        return RunTrace(plain(asdict(self.settings)), tuple(self._done), self.steps)

    def _require_open(self, call: str) -> None:
        if self._open is None:
            raise SessionError(f"{call}() outside a step; call begin(step, sigma) first")

    def _step_weight(self) -> Tensor:
        """alpha * lock (L,); as bool where every weight is 0 or 1, which fuses with one select."""
        if self._plan.alpha == 1.0 and self._lock_is_hard:
            return self._lock > 0
        return self._plan.alpha * self._lock

    def _check_grid(self, site: Site, key: Tensor, value: Tensor) -> None:
        tokens = self._lock.shape[0]
        if key.ndim != 4 or value.ndim != 4 or not key.shape[2] == value.shape[2] == tokens:
            raise GridMismatchError(
                f"block {site.block}: key {tuple(key.shape)} and value {tuple(value.shape)}, but the token mask has "
                f"{tokens} tokens; give (batch,heads,L,dim) and a mask of this latent with this model's patch size"
            )

    def _fused(self, new: Tensor, source: Tensor, rows: tuple[str, ...], locked: list[int]) -> Tensor:
        out = torch.empty_like(new)
        for i, (row, fused) in enumerate(zip(split_rows(new, rows), split_rows(out, rows))):
            if i not in locked:
                fused.copy_(row)
            elif source.shape[2] == row.shape[2]:
                fuse(row, source, self._weight, out=fused)
            else:
                fuse_at(row, source, self._kept_weight(), self._positions, out=fused)
        return out

    def _kept_weight(self) -> Tensor | None:
        """Weight (n,) of the positions that can be locked; None where that is 1 for all, as a bool weight says."""
        return None if self._weight.dtype == torch.bool else self._weight[self._positions]

    def _move_to(self, device: torch.device) -> None:
        """Weights and positions go where K,V are; nothing happens where they are there."""
        self._weight = self._weight.to(device)
        self._positions = None if self._positions is None else self._positions.to(device)

    def _pushed(self, x0: Tensor) -> float | None:
        try:
            return self.window.push(x0, self._edit, self._open.sigma)
        except NonFiniteError as exc:
            raise NonFiniteError(f"step {self._open.step}, sigma {self._open.sigma}: {exc}") from exc

    def _guide_once(self) -> None:
        if self._has_guided:
            raise SessionError(f"guide() of step {self._open.step} came twice; call it once per step")
        self._has_guided = True

    def _projects(self) -> bool:
        """A lock that rests (alpha 0, or nothing to lock) leaves guidance alone too."""
        acts = self._plan.active if self.settings.lock is None else self._plan.needs_source
        return self.settings.projection and acts


def _source_of(source: SourceKV | None) -> SourceKV:
    if source is None:
        return Lockstep()
    return source if isinstance(source, SourceKV) else Given(source)


def _checked_window(window: RiskWindow, risk: RiskSettings, steps: int) -> RiskWindow:
    if not window.continues(risk, steps):
        raise SettingsError(
            f"a window of {window.size} predictions ({window.form}, detrend {window.detrend}, normalise {window.normalise}) "
            f"cannot be continued with {risk} in a run of {steps} steps; use the same risk settings in both runs"
        )
    return window


def _check_masks(settings: SessionSettings, steps: int, edit: Tensor | None, tokens: Tensor | None) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SettingsError(f"a run of {steps!r} steps; give a whole number >= 1")
    if tokens is None and settings.lock is not None:
        raise SettingsError("a lock needs the token mask; give tokens=token_mask(...), or lock=None to watch only")
    if edit is None and settings.risk.region == "edit":
        raise SettingsError('risk region "edit" needs the latent edit mask; give edit=latent_mask(...) or region "all"')
    for name, mask, ndim, shape in (("edit", edit, 3, "(T,h,w)"), ("tokens", tokens, 1, "(L,)")):
        if mask is not None and mask.ndim != ndim:
            raise MaskError(f"{name} mask has shape {tuple(mask.shape)}; give {ndim} axes: {shape}")
        if mask is not None and not ((mask >= 0) & (mask <= 1)).all():  # also false for NaN
            raise MaskError(f"{name} mask has values outside 0 .. 1; make it with latent_mask and token_mask")


def _report(session: LockSession) -> None:
    """Say what would otherwise silently do nothing, or everything."""
    lock = session.settings.lock
    if lock is None:
        return
    if not any(lock.is_active(step, session.steps) for step in range(session.steps)):
        _log.warning(
            "none of the %d steps lies in the active range %s .. %s: nothing will be locked; lower start_percent",
            session.steps, lock.start_percent, lock.end_percent,
        )  # fmt: skip
    if not session._has_lock:
        _log.warning("the edit mask covers every token: nothing will be locked")
    elif bool((session._lock == 1).all()):
        _log.warning("the edit mask is empty: every token will be locked to the source")
