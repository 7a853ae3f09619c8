"""The source clip at any noise level (M2), arXiv 2603.09657.

Flow convention: z(sigma) = (1 - sigma) * z_src + sigma * noise, and dz/dsigma = v = noise - z_src.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import GridMismatchError, NonFiniteError, ScheduleError, SettingsError, SourceError
from .identity import fingerprint

Velocity = Callable[[Tensor, float], Tensor]

#: Hosts carry noise levels in float32; two levels closer than this are the same level.
SIGMA_TOLERANCE = 1e-6

#: Spreads (seed, step) over generator seeds; a prime, so that neighbouring pairs do not meet.
_SEED_STRIDE = 1_000_003


def noised(z_src: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """`(1 - sigma) * z_src + sigma * noise` (M2, paper).

    `z_src`, `noise` (B,C,T,h,w) of one shape, `sigma` one level in [0,1], a float or a 0-d tensor. Computed in at least
    float32, returned in the dtype of `z_src`. Raises GridMismatchError, ScheduleError.
    """
    if z_src.shape != noise.shape:
        raise GridMismatchError(
            f"source latent {tuple(z_src.shape)} and noise {tuple(noise.shape)} differ; draw noise like the latent"
        )
    s = _level(sigma)
    wide = torch.promote_types(z_src.dtype, torch.float32)
    return ((1.0 - s) * z_src.to(wide) + s * noise.to(wide)).to(z_src.dtype)


def draw(shape: Sequence[int], seed: int) -> Tensor:
    """Gaussian noise of `shape` in float32, made on the CPU so that a seed means the same on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed))


def seed_of_step(seed: int, step: int) -> int:
    """The seed of a step's own draw, where every step has one."""
    return (seed * _SEED_STRIDE + step) % 2**63


@runtime_checkable
class SourcePath(Protocol):
    """Answers one question: where is the source at this noise level?"""

    @property
    def reconstruction_error(self) -> float:
        """Relative RMS between the source and what the path leads back to; NaN if it was not measured."""

    def at(self, step: int, sigma: float) -> Tensor:
        """Source latent (B,C,T,h,w) at `sigma`. `step` matters only to paths that draw per step."""

    def noise_key(self, step: int) -> str:
        """A text that is the same for the same noise: with the source latent and sigma it fixes what `at` gives."""


@dataclass(frozen=True, eq=False)
class NoisedPath:
    """One fixed draw for the whole run: closed form, any level, exact (M2, ours: the default)."""

    z_src: Tensor
    noise: Tensor
    reconstruction_error: float = 0.0

    def at(self, step: int, sigma: float) -> Tensor:
        return noised(self.z_src, self.noise, sigma)

    def noise_key(self, step: int) -> str:
        return self._key

    @cached_property
    def _key(self) -> str:
        return fingerprint(self.noise)


@dataclass(frozen=True, eq=False)
class FreshNoisePath:
    """A fresh draw per step, fixed by (seed, step) and the same on every device (M2, ours)."""

    z_src: Tensor
    generator_seed: int
    reconstruction_error: float = 0.0

    def at(self, step: int, sigma: float) -> Tensor:
        return noised(self.z_src, self._draw(step), sigma)

    def noise_key(self, step: int) -> str:
        return f"draw {self.generator_seed} {step}"

    def _draw(self, step: int) -> Tensor:
        return draw(self.z_src.shape, seed_of_step(self.generator_seed, step)).to(self.z_src)


@dataclass(frozen=True, eq=False)
class TrajectoryPath:
    """Stored latents of an ODE inversion, `latents[i]` at `sigmas[i]`, levels falling.

    At a stored level the stored tensor itself comes back; between two of them the straight line in sigma, which is the
    exact solution of the flow for one source and one draw. Raises SettingsError; `at` raises ScheduleError.
    """

    latents: tuple[Tensor, ...]
    sigmas: tuple[float, ...]
    reconstruction_error: float = math.nan

    def __post_init__(self):
        object.__setattr__(self, "latents", tuple(self.latents))
        object.__setattr__(self, "sigmas", tuple(float(s) for s in self.sigmas))
        if len(self.latents) != len(self.sigmas) or len(self.sigmas) < 2:
            raise SettingsError(
                f"{len(self.latents)} latents and {len(self.sigmas)} noise levels; give one per level, two at least"
            )
        _check_falling(self.sigmas)

    def at(self, step: int, sigma: float) -> Tensor:
        s = self._clamped(float(sigma))
        # bisect needs rising keys: search the negated levels
        i = bisect.bisect_left(self.sigmas, -s, key=lambda level: -level)
        if self.sigmas[i] == s:
            return self.latents[i]
        share = (self.sigmas[i - 1] - s) / (self.sigmas[i - 1] - self.sigmas[i])
        return torch.lerp(self.latents[i - 1], self.latents[i], share)

    def noise_key(self, step: int) -> str:
        return self._key

    @cached_property
    def _key(self) -> str:
        return fingerprint(repr(self.sigmas), *self.latents)

    def _clamped(self, sigma: float) -> float:
        """`sigma` moved onto the nearest stored level within float32 rounding, or ScheduleError if outside."""
        nearest = min(self.sigmas, key=lambda level: abs(level - sigma))
        if abs(nearest - sigma) <= SIGMA_TOLERANCE:
            return nearest
        if not self.sigmas[-1] < sigma < self.sigmas[0]:
            raise ScheduleError(
                f"noise level {sigma} is outside the recorded path {self.sigmas[-1]} .. {self.sigmas[0]}; "
                "invert over a schedule that covers it, or use the noised path"
            )
        return sigma


def invert(
    velocity: Velocity, z_src: Tensor, sigmas: Sequence[float] | Tensor, solver: str = "euler", *, measure: bool = True
) -> TrajectoryPath:
    """Walk the sampling ODE backwards from the clean source to the top of the schedule (M2, ours).

    `velocity(z, sigma) -> v`, `z_src` (B,C,T,h,w), `sigmas` the falling sampling schedule of N+1 levels ending in 0.
    Evaluations: "euler" N (1st order), "rf_solver" 2N (2nd order; RF-Solver's Taylor step, which is the midpoint rule),
    "uni_inv" N+1 (Uni-Inv of UniEdit-Flow, arXiv 2504.13109). `measure` samples back from the top (N more, rf_solver
    2N) to report the relative RMS error; without it that is NaN. State in at least float32, latents in `z_src`'s dtype.
    Raises SettingsError, ScheduleError, NonFiniteError, SourceError.
    """
    if solver not in _SOLVERS:
        raise SettingsError(f"inversion solver {solver!r} is unknown; use one of {', '.join(_SOLVERS)}")
    levels = tuple(float(s) for s in sigmas)
    _check_schedule(levels)
    wide = torch.promote_types(z_src.dtype, torch.float32)
    v = _in_dtype_of(z_src, velocity)
    walk, walk_back = _SOLVERS[solver]
    states = walk(v, z_src.to(wide), levels[::-1])
    error = _relative_rms(walk_back(v, states[-1], levels)[-1], z_src.to(wide)) if measure else math.nan
    return TrajectoryPath(tuple(z.to(z_src.dtype) for z in reversed(states)), levels, error)


def _euler(v: Velocity, z: Tensor, levels: Sequence[float]) -> list[Tensor]:
    states = [z]
    for s, s_next in zip(levels, levels[1:]):
        states.append(states[-1] + (s_next - s) * v(states[-1], s))
    return states


def _midpoint(v: Velocity, z: Tensor, levels: Sequence[float]) -> list[Tensor]:
    states = [z]
    for s, s_next in zip(levels, levels[1:]):
        h = s_next - s
        z_mid = states[-1] + h / 2 * v(states[-1], s)
        states.append(states[-1] + h * v(z_mid, s + h / 2))
    return states


def _uni_inv(v: Velocity, z: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """Step with the velocity that the sampler will meet at the next level, foreseen with the previous one."""
    states, v_prev = [z], v(z, levels[0])
    for s, s_next in zip(levels, levels[1:]):
        z_foreseen = states[-1] + (s_next - s) * v_prev
        v_prev = v(z_foreseen, s_next)
        states.append(states[-1] + (s_next - s) * v_prev)
    return states


#: name -> (walk up to noise, walk back down for the reconstruction error)
_SOLVERS = {"euler": (_euler, _euler), "rf_solver": (_midpoint, _midpoint), "uni_inv": (_uni_inv, _euler)}


def _in_dtype_of(z_src: Tensor, velocity: Velocity) -> Velocity:
    """The host's velocity, asked in the host's dtype, checked, answered in the dtype of the state."""

    def v(z: Tensor, sigma: float) -> Tensor:
        answer = velocity(z.to(z_src.dtype), sigma)
        if answer.shape != z.shape:
            raise SourceError(f"velocity {tuple(answer.shape)} for a latent {tuple(z.shape)}; return one like it")
        if not answer.isfinite().all():
            raise NonFiniteError(f"velocity is not finite at sigma {sigma}; check the model and the source latent")
        return answer.to(z.dtype)

    return v


def _relative_rms(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|; of an all-zero source the absolute RMS."""
    error, size = (float(x.square().mean().sqrt()) for x in (found - wanted, wanted))
    return error / size if size > 0.0 else error


def _level(sigma: float | Tensor) -> float:
    if isinstance(sigma, Tensor) and sigma.numel() != 1:
        raise ScheduleError(f"sigma has shape {tuple(sigma.shape)}; give one noise level for the whole batch")
    s = float(sigma)
    if not 0.0 <= s <= 1.0:
        raise ScheduleError(f"sigma {s} is not a noise level of a flow model; give 0 (clean) .. 1 (noise)")
    return s


def _check_falling(levels: Sequence[float]) -> None:
    for a, b in zip(levels, levels[1:]):
        if not a > b:
            raise ScheduleError(f"noise levels must fall, but {a} is followed by {b}; give them in sampling order")


def _check_schedule(levels: Sequence[float]) -> None:
    if len(levels) < 2 or levels[-1] != 0.0:
        raise ScheduleError(f"schedule {tuple(levels)} does not lead down to the clean clip; end it with 0.0")
    _level(levels[0])
    _check_falling(levels)
