"""docs/evidence.md from finished runs: tables, plots, contact sheets, and sentences that are computed, not written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import figures, report, signal_report
from .cases import Case
from .contenders import BLEND, KV_LOCK, NO_LOCK
from .recordings import REFERENCE
from .runs import picture_file
from .signals import Recordings
from .statistics import certain_dominators, estimate, front, front_shares

NAME = "evidence"
#: Whom our default is compared with in a sentence each.
RIVALS = (NO_LOCK, BLEND, "SDEdit 0.7", "FlowEdit", "KV-Edit-like", "ProEdit-like", "paper, full", "paper, K,V only", "alpha 1, all steps")
SHEET_METHODS = (NO_LOCK, "SDEdit 0.7", BLEND, "FlowEdit", "paper, full", "KV-Lock, no composite", KV_LOCK)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that the document is made from. `methods`, `candidates`: (name, group, note) of each table's rows.

    `recorded`: few clips under many samplings; `judged`: all test clips under the reference sampling.
    """

    command: str
    rows: list[dict]
    methods: list[report.Named]
    costs: dict[str, dict[str, float]]
    validation: list[dict]
    candidates: list[report.Named]
    recorded: Recordings
    judged: Recordings
    pictured: list[Case]
    pictures: Path


def write(found: Evidence, docs: Path) -> None:
    """Writes NAME.md, NAME.json and the pictures into `docs`."""
    points = {name: _point(found.rows, found.methods, name) for name, _, _ in found.methods}
    groups = {name: group for name, group, _ in found.methods}
    for suffix, score, label_y in (("pareto", "right", "foreground success (%)"), ("answer", "answer", "edit to exact answer (dB)")):
        places = {name: both[score] for name, both in points.items()}
        ends = front({name: (place[0], place[1]) for name, place in places.items()})
        figures.pareto(docs / f"{NAME}_{suffix}.png", places, groups, ends, KV_LOCK, y_label=label_y)
    if found.pictured:
        figures.contact_sheet(docs / f"{NAME}_clips.jpg", [_sheet_row(found, case) for case in found.pictured])
    figures.signal_lines(docs / signal_report.PICTURE, signal_report.curves(found.recorded))
    (docs / f"{NAME}.md").write_text(document(found), encoding="utf-8")
    slim = [{name: value for name, value in row.items() if name not in ("alpha", "omega", "risk")} for row in found.rows]
    (docs / f"{NAME}.json").write_text(json.dumps({"command": found.command, "costs": found.costs, "runs": slim}) + "\n", encoding="utf-8")


def document(found: Evidence) -> str:
    """The whole text."""
    parts = [
        "# Evidence",
        f"Made by `{found.command}`; nothing below is written by hand. {_setting(found)}",
        "## Where KV-Lock stands\n\n" + "\n".join(f"- {line}" for line in verdicts(found)),
        f"![Background PSNR against foreground success]({NAME}_pareto.png)",
        f"![Background PSNR against the distance to the exact answer]({NAME}_answer.png)",
        f"## All methods, test clips\n\n{report.main_table(found.rows, found.methods, NO_LOCK)}",
        f"## By kind of edit, mask and background\n\n{report.kind_table(found.rows, found.methods)}",
        f"## What a run costs\n\n{cost_table(found)}",
        f"## Clips\n\nThe middle frame of test clips, one of each kind.\n\n![Clips]({NAME}_clips.jpg)" if found.pictured else "",
        f"## The signal\n\n{signal_report.section(found.recorded, found.judged)}",
        f"## What was tried on the validation clips\n\n{validation_section(found)}",
        LIMITS,
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


LIMITS = """## What this does not show

One small model with its own mistakes, clips of 128x128, one seed per clip, one object per clip. Differences that are smaller than the
intervals are no differences. Other people's methods were written from their papers for this model and have their authors' settings;
where a part cannot be had they are called "like". Real Wan weights were not run."""


def _setting(found: Evidence) -> str:
    s = REFERENCE
    return (
        f"The small world's own model (docs/toy.md), {s.steps} steps, shift {s.shift:g}, {s.sampler}, CFG {s.cfg:g}; same weights, noise and "
        "steps for every method. Cases are frozen in `benchmarks/edit_quality/cases.json`; their exact answers are known, because the world "
        "is drawn. Decisions were made on the validation clips; the test clips were run once, after them."
    )


# verdicts -------------------------------------------------------------------------------------------------------------


def verdicts(found: Evidence) -> list[str]:
    """Whether our default is on the front, by what interval, and how it compares with each rival."""
    names = [name for name, _, _ in found.methods]
    lines = []
    for score, words in (("right", "foreground success"), ("answer", "distance to the exact answer")):
        table = _scores(found.rows, names, score)
        on = KV_LOCK in front({name: tuple(values.mean(0)) for name, values in table.items()})
        beaten = certain_dominators(table, KV_LOCK)
        by = ", ".join(beaten) if beaten else "no method"
        lines.append(
            f"Background PSNR and {words}: KV-Lock's defaults are {'on' if on else '**not on**'} the Pareto front of the means, in "
            f"{front_shares(table)[KV_LOCK]:.0%} of the bootstrap resamples; {by} beats them in both beyond the paired 95 % intervals."
            + _ahead_in_the_means(table)
        )
    known = [name for name in RIVALS if name in names]
    return lines + [report.comparison(found.rows, KV_LOCK, rival) for rival in known]


def _ahead_in_the_means(table: dict[str, np.ndarray]) -> str:
    """Every method whose means are at least as good in both scores, and by how much, with the paired interval."""
    own, found = table[KV_LOCK], []
    for name, values in table.items():
        gains = [estimate(column) for column in (values - own).T]
        if name != KV_LOCK and all(gain.mean >= 0 for gain in gains) and any(gain.mean > 0 for gain in gains):
            found.append(f"{name} ({report.gain_text(gains[0], 2, ' dB')}; {report.gain_text(gains[1], 2)})")
    return f" Ahead in both means, with the paired differences: {', '.join(found)}." if found else ""


def _scores(rows: list[dict], names: list[str], score: str) -> dict[str, np.ndarray]:
    """(cases,2) of background PSNR and `score` for each method."""
    wanted = report.common_cases(rows, names)
    table = report.measured(rows, names, wanted)
    return {name: np.stack([table[name]["psnr"], table[name][score]], 1) for name in names}


def _point(rows: list[dict], methods: list[report.Named], name: str) -> dict[str, figures.Point]:
    """Means and intervals of one method for both plots, on the cases that all methods finished."""
    wanted = report.common_cases(rows, [other for other, _, _ in methods])
    own = report.measured(rows, [name], wanted)[name]
    x = estimate(own["psnr"])
    scores = {score: estimate(own[score]) for score in ("right", "answer")}
    return {score: (x.mean, y.mean, x.low, x.high, y.low, y.high) for score, y in scores.items()}


def cost_table(found: Evidence) -> str:
    """Evaluations, seconds and memory of each method."""
    if not found.costs:
        return "Not measured."
    rows = {row["method"]: row["rows"] for row in found.rows}
    lines = [
        [name, str(rows[name]), f"{found.costs[name]['seconds']:.2f}", f"{found.costs[name]['memory_mb']:.0f}"]
        for name, _, _ in found.methods
        if name in found.costs
    ]
    heads = ["method", "model evaluations (rows)", "time / no lock", "memory that sampling adds (MB)"]
    explained = (
        "Sampling of one clip, each run in a process of its own on one thread, all methods in one go. One round: the rows with 40 evaluations, which cost the same, show how far single runs differ. "
        "Memory: the most that sampling added to what the process held before it; attention of 320 tokens is small, so do not read much into it."
    )
    return report.markdown(heads, lines) + "\n\n" + explained


def _sheet_row(found: Evidence, case: Case) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """Source with the mask's outline, the edits, the exact answer; middle frame."""
    middle = found.pictures
    cells = [("source", np.load(picture_file(middle, case, "source"))), ("edit mask", np.load(picture_file(middle, case, "mask")))]
    cells += [(name, np.load(picture_file(middle, case, name))) for name in SHEET_METHODS]
    return f"{case.kind}, {case.mask}", [*cells, ("exact answer", np.load(picture_file(middle, case, "answer")))]


# validation -----------------------------------------------------------------------------------------------------------


def validation_section(found: Evidence) -> str:
    """Every candidate against the latent blend, or against the run without a lock, on the same clips."""
    lines = []
    for group, members in report.grouped(found.candidates).items():
        base = BLEND if "composite" in group else NO_LOCK
        lines.append([f"*{group}, against {base}*", "", "", "", "", ""])
        lines += [_candidate_line(found.validation, name, base) for name in members if name != base]
    heads = ["candidate", "clips", "background PSNR (dB)", "edit to exact answer (dB)", "right (points)", "SSIM"]
    return report.markdown(heads, lines) + "\n\nPaired differences with 95 % intervals. What was decided from them is in decisions.md."


def _candidate_line(rows: list[dict], name: str, base: str) -> list[str]:
    wanted = report.common_cases(rows, [name, base])
    table = report.measured(rows, [name, base], wanted)
    gains = {field: estimate(table[name][field] - table[base][field]) for field in ("psnr", "answer", "right", "ssim")}
    cells = [report.gain_text(gains["psnr"], 2), report.gain_text(gains["answer"], 2), report.gain_text(gains["right"], 0)]
    return [name, str(len(wanted)), *cells, report.gain_text(gains["ssim"], 4)]
