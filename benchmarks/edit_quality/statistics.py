"""Means over cases with paired bootstrap intervals, and who is on the Pareto front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

RESAMPLES, CONFIDENCE, SEED = 4000, 0.95, 0


@dataclass(frozen=True)
class Estimate:
    """Mean over cases, spread between cases, and the bootstrap interval of the mean."""

    mean: float
    spread: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        return self.low > 0.0

    @property
    def is_below_zero(self) -> bool:
        return self.high < 0.0


def resamples(count: int, seed: int = SEED) -> np.ndarray:
    """(RESAMPLES,count) indices of cases drawn with replacement; the same draw for every method keeps pairs together."""
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def estimate(values: np.ndarray) -> Estimate:
    """`values` (cases,); of paired differences this is a paired interval. Cases with NaN are left out."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    means = values[resamples(len(values))].mean(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, (tail, 100 - tail))
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), spread, float(low), float(high))


def front(scores: dict[str, tuple[float, float]]) -> set[str]:
    """Names that no other one beats in both scores (higher is better); a tie in one and a loss in the other is a loss."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return all(x >= y for x, y in zip(a, b)) and a != b

    return {name for name, own in scores.items() if not any(beats(other, own) for other in scores.values())}


def front_shares(table: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of the resamples in which each method is on the front of the means; `table[name]` (cases,2)."""
    names = list(table)
    draws = resamples(len(next(iter(table.values()))))
    means = np.stack([np.asarray(table[name])[draws].mean(1) for name in names], 1)  # (RESAMPLES,methods,2)
    better = (means[:, :, None] >= means[:, None]).all(-1) & (means[:, :, None] > means[:, None]).any(-1)
    return dict(zip(names, (~better.any(1)).mean(0).tolist()))


def certain_dominators(table: dict[str, np.ndarray], name: str) -> list[str]:
    """Methods that beat `name` in both scores beyond the paired interval."""
    own = np.asarray(table[name])
    gains = {other: [estimate(column) for column in (np.asarray(rows) - own).T] for other, rows in table.items() if other != name}
    return [other for other, both in gains.items() if all(gain.is_above_zero for gain in both)]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; ties share their mean rank. NaN if either is constant."""
    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else float("nan")
