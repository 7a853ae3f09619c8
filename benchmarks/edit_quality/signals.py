"""Which form of the risk means the same under every sampling, and which one tells broken edits from good ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from kvlock_core import PAPER_RISK, LockSchedule, RiskSettings, RiskWindow, RunTrace, SettingsError, StepRecord, calibrate

from .cases import Case
from .recordings import REFERENCE, file_of
from .statistics import rank_correlation
from .task import Sampling

Recording = dict[str, np.ndarray]
Signal = Callable[[Recording], np.ndarray]

#: Noise levels at which samplings are compared.
LEVELS = (0.8, 0.6, 0.4, 0.25)
#: In which the lock acts, where a study needs a range: the whole run, since forms are compared and not ranges.
WHOLE = LockSchedule(start_percent=0.0)


def by_window(settings: RiskSettings) -> Signal:
    """The product's own window over the recorded predictions."""

    def signal(run: Recording) -> np.ndarray:
        window = RiskWindow.of(settings, len(run["x0"]))
        x0s = torch.from_numpy(run["x0"].astype(np.float32))[:, None, :, None, None, :]
        return _with_nan([window.push(x0, None, float(s)) for x0, s in zip(x0s, run["sigmas"])])

    return signal


def relative_change(run: Recording) -> np.ndarray:
    """|x0_k - x0_(k-1)|^2 / |x0_k|^2."""
    x0 = run["x0"].astype(np.float64).reshape(len(run["x0"]), -1)
    return np.concatenate([[np.nan], np.square(np.diff(x0, axis=0)).sum(1) / np.square(x0[1:]).sum(1)])


def guidance_ratio(run: Recording) -> np.ndarray:
    """|cond - uncond| / |cond|; 0 at cfg 1, where there is no unconditional prediction."""
    return run["ratio"]


def same_level(run: Recording) -> np.ndarray:
    """Mean square difference of two predictions at one level with two noises; one more evaluation a step."""
    return run["apart"] if len(run["apart"]) else np.full(len(run["x0"]), np.nan)


FORMS: dict[str, Signal] = {
    "variance, last 10 (paper)": by_window(PAPER_RISK),
    "variance, a fifth of the steps": by_window(RiskSettings(form="variance")),
    "the same over the mean square": by_window(RiskSettings(form="variance", normalise=True)),
    "the same, detrended": by_window(RiskSettings(form="variance", detrend=True)),
    "rate (default)": by_window(RiskSettings()),
    "rate, detrended": by_window(RiskSettings(detrend=True)),
    "rate over the mean square": by_window(RiskSettings(normalise=True)),
    "relative change of x0": relative_change,
    "|cond - uncond| / |cond|": guidance_ratio,
    "two noises at one level": same_level,
}


@dataclass(frozen=True, eq=False)
class Recordings:
    """All recorded runs of some cases: `runs[sampling][case index]`; `cases` in the same order."""

    runs: dict[Sampling, list[Recording]]
    cases: tuple[Case, ...] = ()

    @classmethod
    def read(cls, folder: Path, cases: list[Case], chosen: list[Sampling]) -> Recordings:
        """Cases that every one of `chosen` has."""
        whole = [case for case in cases if all(file_of(folder, case, one).exists() for one in chosen)]
        return cls({one: [dict(np.load(file_of(folder, case, one))) for case in whole] for one in chosen}, tuple(whole))

    @lru_cache(maxsize=None)
    def values(self, signal: Signal) -> dict[Sampling, list[np.ndarray]]:
        """The signal of every run, in the order of `runs`."""
        return {one: [signal(run) for run in runs] for one, runs in self.runs.items()}


def at_levels(run: Recording, values: np.ndarray) -> np.ndarray:
    """The signal at LEVELS, straight in its logarithm between steps; NaN outside what is known."""
    known = np.isfinite(values) & (values > 0)
    if known.sum() < 2:
        return np.full(len(LEVELS), np.nan)
    s, logs = run["sigmas"][known][::-1], np.log(values[known])[::-1]
    inside = [s[0] <= level <= s[-1] for level in LEVELS]
    return np.where(inside, np.exp(np.interp(LEVELS, s, logs)), np.nan)


def medians_at_levels(recorded: Recordings, signal: Signal) -> dict[Sampling, np.ndarray]:
    """Per sampling the median over clips of the signal at LEVELS."""
    found = {}
    for one, values in recorded.values(signal).items():
        rows = np.stack([at_levels(run, own) for run, own in zip(recorded.runs[one], values)])
        found[one] = np.array([np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in rows.T])
    return found


def spread_at_levels(recorded: Recordings, signal: Signal, of: Callable[[Sampling], bool]) -> list[float]:
    """Largest over smallest median of the samplings that `of` picks, at each level; 1 = they agree."""
    rows = np.stack([row for one, row in medians_at_levels(recorded, signal).items() if of(one)])
    columns = [column[np.isfinite(column)] for column in rows.T]
    return [float(column.max() / column.min()) if len(column) > 1 else float("nan") for column in columns]


def trace_of(run: Recording, values: np.ndarray) -> RunTrace:
    """A recorded signal as the trace of a run that only watched."""
    steps = (
        StepRecord(k, float(s), False, float(v) if np.isfinite(v) else None, 0.0, None, None, False)
        for k, (s, v) in enumerate(zip(run["sigmas"], values))
    )
    return RunTrace({}, tuple(steps), len(values))


def suggested_taus(recorded: Recordings, signal: Signal) -> dict[Sampling, list[float]]:
    """What `calibrate` suggests for each clip; NaN where it refuses."""
    pairs = {one: zip(recorded.runs[one], values) for one, values in recorded.values(signal).items()}
    return {one: [_tau(trace_of(run, own)) for run, own in of_one] for one, of_one in pairs.items()}


def _tau(trace: RunTrace) -> float:
    try:
        return calibrate(trace, WHOLE).tau
    except SettingsError:
        return float("nan")


def mean_alphas(recorded: Recordings, signal: Signal, tau: float) -> dict[Sampling, np.ndarray]:
    """Per sampling and clip, the mean alpha over sigma where the risk is known, if tau is `tau` everywhere."""
    pairs = {one: zip(recorded.runs[one], values) for one, values in recorded.values(signal).items()}
    return {one: np.array([_mean_alpha(run["sigmas"], own, tau) for run, own in of_one]) for one, of_one in pairs.items()}


def _mean_alpha(sigmas: np.ndarray, values: np.ndarray, tau: float) -> float:
    """A step counts by how far it moves in sigma; its alpha follows the step before."""
    lengths = -np.diff(np.append(sigmas, 0.0))[1:]
    alphas, known = np.clip(values[:-1] / tau, 0, 1), np.isfinite(values[:-1])
    return float(np.average(alphas[known], weights=lengths[known])) if known.any() else float("nan")


def reference_tau(recorded: Recordings, signal: Signal) -> float:
    """The median clip's suggestion at the reference sampling."""
    return float(np.nanmedian(suggested_taus(recorded, signal)[REFERENCE]))


def agreement(alphas: dict[Sampling, np.ndarray], of: Callable[[Sampling], bool]) -> float:
    """Median rank correlation of the clips' mean alpha between the samplings that `of` picks and the reference."""
    found = [rank_correlation(alphas[REFERENCE], own) for one, own in alphas.items() if of(one) and one != REFERENCE]
    return float(np.nanmedian(found)) if found else float("nan")


def clip_correlation(recorded: Recordings, signal: Signal, one: Sampling) -> float:
    """Rank correlation over clips of the signal's mean logarithm in the run with the result's error."""
    runs = recorded.runs[one]
    means = [_mean_log(own) for own in recorded.values(signal)[one]]
    return rank_correlation(np.array(means), np.array([float(run["error"]) for run in runs]))


def like_with_like(recorded: Recordings, signal: Signal, one: Sampling) -> float:
    """The same among clips of one kind of edit and one mask: mean over those groups, so that it cannot come from some kinds
    being harder than others."""
    runs, values = recorded.runs[one], recorded.values(signal)[one]
    groups: dict[tuple[str, str], list[int]] = {}
    for i, case in enumerate(recorded.cases):
        groups.setdefault((case.kind, case.mask), []).append(i)
    means, errors = np.array([_mean_log(own) for own in values]), np.array([float(run["error"]) for run in runs])
    return float(np.mean([rank_correlation(means[rows], errors[rows]) for rows in groups.values()]))


def step_correlations(recorded: Recordings, signal: Signal, one: Sampling) -> np.ndarray:
    """The same at every step alone; NaN where the signal is not known."""
    runs = recorded.runs[one]
    errors = np.array([float(run["error"]) for run in runs])
    steps = np.stack(recorded.values(signal)[one])  # (clips,steps)
    return np.array([rank_correlation(column, errors) if np.isfinite(column).all() else np.nan for column in steps.T])


def _mean_log(values: np.ndarray) -> float:
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.log(known).mean()) if len(known) else float("nan")


def _with_nan(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])
