"""The part of docs/evidence.md that is about the signal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import figures, report, signals
from .recordings import REFERENCE, label
from .task import Sampling

PICTURE = "evidence_signal.png"



def _euler(one: Sampling) -> bool:
    return one.sampler == "euler" and one.cfg == REFERENCE.cfg


def _twenty_and_more(one: Sampling) -> bool:
    return _euler(one) and one.steps >= 20


def _unipc(one: Sampling) -> bool:
    return one == REFERENCE or one.sampler == "unipc"


def _cfg(one: Sampling) -> bool:
    return one.sampler == "euler" and one.shift in (3.0, 8.0)


FAMILIES: dict[str, Callable[[Sampling], bool]] = {
    "20 to 50 steps, shift 1 to 8": _twenty_and_more,
    "8 to 50 steps, shift 1 to 8": _euler,
    "euler and UniPC": _unipc,
    "CFG 1, 4 and 5": _cfg,
}


def section(recorded: signals.Recordings, judged: signals.Recordings) -> str:
    clips = len(recorded.runs[REFERENCE])
    parts = [
        f"{clips} validation clips, unlocked, {len(recorded.runs)} samplings each. The risk is measured inside the edit mask.",
        f"![Each form of the risk over sigma, one line per sampling]({PICTURE})",
        "### Does a threshold mean the same everywhere?\n\n" + _stability_table(recorded),
        "### One tau for all samplings\n\n" + _alpha_table(recorded),
        "### Does `calibrate` hold?\n\n" + _calibration_table(recorded),
        "### Does it tell broken edits from good ones?\n\n" + _correlation_table(judged),
    ]
    return "\n\n".join(parts)


def _stability_table(recorded: signals.Recordings) -> str:
    lines = []
    for name, signal in signals.FORMS.items():
        cells = (_worst(signals.spread_at_levels(recorded, signal, of)) for of in FAMILIES.values())
        lines.append([name, *cells])
    explained = (
        f"Largest over smallest median of the clips among samplings, at the same sigma; the worst of sigma {', '.join(map(str, signals.LEVELS))}. "
        "1 = a threshold means the same. At 8 steps two predictions are far apart, so every form that looks back lags."
    )
    return report.markdown(["form of the risk", *FAMILIES], lines) + "\n\n" + explained


def _worst(spreads: list[float]) -> str:
    known = [value for value in spreads if np.isfinite(value)]
    return f"{max(known):.1f}" if known else report.NOTHING


def _alpha_table(recorded: signals.Recordings) -> str:
    lines = []
    for name, signal in signals.FORMS.items():
        tau = signals.reference_tau(recorded, signal)
        if not np.isfinite(tau):
            continue
        alphas = signals.mean_alphas(recorded, signal, tau)
        cells = [_range([float(np.mean(alphas[one])) for one in alphas if of(one)]) for of in FAMILIES.values()]
        lines.append([name, f"{tau:.3g}", *cells, f"{signals.agreement(alphas, _euler):.2f}"])
    explained = (
        f"tau is what `calibrate` suggests at {label(REFERENCE)} for the median clip (mean alpha 0.5 over the whole path). The cells are the mean "
        "alpha over sigma and clips that this same tau gives in other samplings, smallest to largest. The last column: median rank correlation of "
        "the clips' mean alphas with those of the reference, over steps and shifts; 1 = calm and risky clips stay the same clips."
    )
    heads = ["form of the risk", "tau", *FAMILIES, "clips keep their order"]
    return report.markdown(heads, lines) + "\n\n" + explained


def _range(values: list[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    return f"{min(known):.2f} to {max(known):.2f}" if known else report.NOTHING


def _calibration_table(recorded: signals.Recordings) -> str:
    lines = []
    for name in ("rate (default)", "variance, last 10 (paper)"):
        taus = signals.suggested_taus(recorded, signals.FORMS[name])
        for words, of in FAMILIES.items():
            medians = {one: float(np.nanmedian(values)) for one, values in taus.items() if of(one)}
            low, high = min(medians, key=medians.get), max(medians, key=medians.get)
            cells = (f"{medians[one]:.3g} ({label(one)})" for one in (low, high))
            lines.append([name, words, *cells, f"{medians[high] / medians[low]:.1f}"])
    explained = "The tau that `calibrate` suggests for half the lock over the whole path: median over clips, per sampling."
    return report.markdown(["form of the risk", "samplings", "smallest tau", "largest tau", "ratio"], lines) + "\n\n" + explained


def _correlation_table(judged: signals.Recordings) -> str:
    lines = []
    for name, signal in signals.FORMS.items():
        whole, steps = signals.clip_correlation(judged, signal, REFERENCE), signals.step_correlations(judged, signal, REFERENCE)
        known = steps[np.isfinite(steps)]
        at = int(np.nanargmax(np.abs(steps))) if len(known) else 0
        best = f"{steps[at]:+.2f} (step {at} of {len(steps)})" if len(known) else report.NOTHING
        alike = signals.like_with_like(judged, signal, REFERENCE)
        lines.append([name, f"{whole:+.2f}", f"{alike:+.2f}", f"{np.median(known):+.2f}" if len(known) else report.NOTHING, best])
    clips = len(judged.runs[REFERENCE])
    explained = (
        f"Spearman's rank correlation over the {clips} test clips, unlocked, between the signal and the error of the result (mean square distance to the exact "
        "answer's latent inside the mask). Positive: a large signal goes with a bad edit. First the signal's mean logarithm over the run, over all clips and "
        "as the mean over groups of one kind of edit and one mask, so that it cannot come from some kinds being harder; then each step "
        f"alone, over all clips. Chance alone stays within +-{1.96 / np.sqrt(max(clips - 1, 1)):.2f} nineteen times of twenty; the strongest of {len(next(iter(judged.runs.values()))[0]['sigmas'])} "
        "steps is picked afterwards and so looks better than it is."
    )
    return report.markdown(["form of the risk", "whole run", "among clips of one kind and mask", "median step", "strongest step"], lines) + "\n\n" + explained


def curves(recorded: signals.Recordings) -> dict[str, dict[str, figures.Curve]]:
    """Median over clips, for the samplings at the reference's sampler and CFG."""
    chosen = [one for one in recorded.runs if _euler(one)]
    names = [name for name in signals.FORMS if name != "two noises at one level"]
    return {name: {label(one): _median_curve(recorded.runs[one], recorded.values(signals.FORMS[name])[one]) for one in chosen} for name in names}


def _median_curve(runs: list[signals.Recording], of_runs: list[np.ndarray]) -> figures.Curve:
    values = np.stack(of_runs)
    known = np.isfinite(values).all(0)
    return runs[0]["sigmas"][known], np.median(values[:, known], 0)
