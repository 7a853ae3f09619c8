"""Finished runs as Markdown tables. Every mean is over the same cases for all methods; every interval is a paired bootstrap's."""

from __future__ import annotations

import numpy as np

from .cases import BACKGROUNDS, KINDS, MASKS, PER_CELL, Case, cases
from .runs import ANSWER_TRIP, ROUND_TRIP
from .statistics import Estimate, certain_dominators, estimate, front, front_shares

#: (name, group, what it is)
Named = tuple[str, str, str]
#: measured[method][measure] is (cases,), in the same order of cases for every method.
Measured = dict[str, dict[str, np.ndarray]]

FIELDS = ("psnr", "ssim", "drift", "seam", "flicker", "answer", "right", "color_right", "shape_right", "rows")
PERCENT = ("right", "color_right", "shape_right")
#: The two scores of the Pareto front.
SCORES = ("psnr", "right")
CEILINGS = (ROUND_TRIP, ANSWER_TRIP)
#: The source's round trip is no edit, so these say nothing about it.
OF_EDITS = ("answer", *PERCENT)
NOTHING = "–"

HEADS = (
    "method",
    "background PSNR (dB)",
    "gain over {base} (dB)",
    "SSIM",
    "drift (1/255)",
    "seam (1/255)",
    "flicker (1/255)",
    "edit to exact answer (dB)",
    "right (%)",
    "colour right (%)",
    "shape right (%)",
    "model evaluations",
    "on the front",
    "surely beaten by",
)

EXPLAINED = """\
± is half of the 95 % interval of the mean (bootstrap over cases); ± 0 means that all cases had the
same outcome, not that a new case must have it. The gain over {base} is paired: the difference is taken
case by case, and its 95 % interval is in brackets. The background is all that lies outside the mask. Drift, seam and
flicker are better when lower. "Edit to exact answer" is the PSNR inside the mask against the exact result. "Right"
means that colour and shape are as wanted; for a removal, that no object is left. A model evaluation is one row of a
batch. "On the front": no other method is at least as good in background PSNR and in right, and better in one of them; the
number is the share of bootstrap resamples in which this holds. "Surely beaten by": how many methods are better in both,
each time beyond the paired 95 % interval."""


class ReportError(ValueError):
    """The finished runs do not carry what was asked for; the message says what is missing."""


# rows to arrays -------------------------------------------------------------------------------------------------------


def common_cases(rows: list[dict], names: list[str]) -> list[str]:
    """Cases that all of `names` finished, in the order of the rows. Raises ReportError if there is none."""
    done = {name: {row["case"] for row in rows if row["method"] == name} for name in names}
    found = [case for case in dict.fromkeys(row["case"] for row in rows) if all(case in own for own in done.values())]
    if not found:
        counts = ", ".join(f"{name}: {len(own)}" for name, own in done.items())
        raise ReportError(f"no case was finished by every method; finished cases are {counts}. Run the missing ones, or leave methods out")
    return found


def measured(rows: list[dict], names: list[str], wanted: list[str]) -> Measured:
    """Success in %, everything else as in the rows. Raises ReportError if a score of the front is not finite."""
    by_key = {(row["case"], row["method"]): row for row in rows}
    table = {name: {field: _column(by_key, name, field, wanted) for field in FIELDS} for name in names}
    for name, values in table.items():
        if not np.isfinite([values[score] for score in SCORES]).all():
            raise ReportError(f"{name!r} has a {' or '.join(SCORES)} that is not finite; leave out that case or method")
    return table


def _column(by_key: dict, name: str, field: str, wanted: list[str]) -> np.ndarray:
    values = np.array([by_key[case, name][field] for case in wanted], np.float64)  # None becomes NaN
    return 100 * values if field in PERCENT else values


# cells ----------------------------------------------------------------------------------------------------------------


def number(value: float, digits: int, sign: str = "") -> str:
    """Without a sign before a zero."""
    return f"{round(value, digits) + 0.0:{sign if round(value, digits) else ''}.{digits}f}"


def mean_cell(values: np.ndarray, digits: int) -> str:
    return number(float(np.nanmean(values)), digits) if np.isfinite(values).any() else NOTHING


def interval_cell(values: np.ndarray, digits: int) -> str:
    """Mean ± half of the interval."""
    if not np.isfinite(values).any():
        return NOTHING
    found = estimate(values)
    return f"{number(found.mean, digits)} ± {number((found.high - found.low) / 2, digits)}"


def gain_text(gain: Estimate, digits: int, unit: str = "") -> str:
    """+6.1 dB [5.2, 7.0]"""
    return f"{number(gain.mean, digits, '+')}{unit} [{number(gain.low, digits)}, {number(gain.high, digits)}]"


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    """The first column is left-aligned, numbers are right-aligned."""
    cells = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def _group_line(group: str, columns: int) -> list[str]:
    return [f"*{group}*", *[""] * (columns - 1)]


def grouped(methods: list[Named]) -> dict[str, list[str]]:
    """Names by group, in the given order."""
    found: dict[str, list[str]] = {}
    for name, group, _ in methods:
        found.setdefault(group, []).append(name)
    return found


# the tables -----------------------------------------------------------------------------------------------------------


def main_table(rows: list[dict], methods: list[Named], base: str = "no lock") -> str:
    """One line per method below its group's name, the VAE's ceilings first, then what the columns mean and the methods' notes."""
    names = [name for name, _, _ in methods]
    everything = list(dict.fromkeys([*CEILINGS, base, *names]))
    wanted = common_cases(rows, everything)
    table = measured(rows, everything, wanted)
    ends = front_cells({name: np.stack([table[name][score] for score in SCORES], 1) for name in names})
    lines = [_group_line("ceilings: what the VAE alone does", len(HEADS))]
    lines += [[*_line(name, table, base), NOTHING, NOTHING] for name in CEILINGS]
    for group, members in grouped(methods).items():
        lines.append(_group_line(group, len(HEADS)))
        lines += [[*_line(name, table, base), *ends[name]] for name in members]
    heads = [head.format(base=base) for head in HEADS]
    return "\n\n".join([_counted(rows, wanted), markdown(heads, lines), EXPLAINED.format(base=base), *_notes(methods)]) + "\n"


def front_cells(scores: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Two cells per method: on the front or not, with the share of resamples; and how many methods surely beat it."""
    on = front({name: tuple(values.mean(0).tolist()) for name, values in scores.items()})
    shares = front_shares(scores)
    beaten = {name: len(certain_dominators(scores, name)) for name in scores}
    return {name: [_front_cell(name in on, shares[name]), str(beaten[name] or NOTHING)] for name in scores}


def _front_cell(is_on: bool, share: float) -> str:
    percent = f"{number(100 * share, 0)} %"
    return f"**yes**, {percent}" if is_on else percent


def _line(name: str, table: Measured, base: str) -> list[str]:
    own = table[name]
    gain = NOTHING if name == base else gain_text(estimate(own["psnr"] - table[base]["psnr"]), 1)
    kept = [mean_cell(own[field], digits) for field, digits in (("ssim", 3), ("drift", 2), ("seam", 1), ("flicker", 2))]
    if name == ROUND_TRIP:
        edit = [NOTHING] * len(OF_EDITS)
    else:
        edit = [interval_cell(own["answer"], 1), interval_cell(own["right"], 0), *(mean_cell(own[field], 0) for field in PERCENT[1:])]
    cost = NOTHING if name in CEILINGS else mean_cell(own["rows"], 0)
    return [name, interval_cell(own["psnr"], 1), gain, *kept, *edit, cost]


def _counted(rows: list[dict], wanted: list[str]) -> str:
    begun = len({row["case"] for row in rows})
    left = f" {begun - len(wanted)} more were left out: not every method has finished them." if begun > len(wanted) else ""
    return f"Means over {_cases(len(wanted))} that every method finished.{left}"


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _notes(methods: list[Named]) -> list[str]:
    lines = [f"- **{name}**: {note}" for name, _, note in methods if note]
    return ["\n".join(lines)] if lines else []


def kind_table(rows: list[dict], methods: list[Named]) -> str:
    """Success and background PSNR of each method, by kind of edit, by mask, and by background."""
    names = [name for name, _, _ in methods]
    wanted = common_cases(rows, names)
    table, parts = measured(rows, names, wanted), parts_of(wanted)
    heads = ["method", *(f"{part} ({chosen.sum()})" for part, chosen in parts.items())]
    lines = []
    for group, members in grouped(methods).items():
        lines.append(_group_line(group, len(heads)))
        lines += [[name, *(_part_cell(table[name], chosen) for chosen in parts.values())] for name in members]
    explained = "Each cell: right in %, then background PSNR in dB. The number of cases is in brackets."
    return "\n\n".join([_counted(rows, wanted), markdown(heads, lines), explained]) + "\n"


def parts_of(wanted: list[str]) -> dict[str, np.ndarray]:
    """Which of the cases belong to each kind, mask and background: (cases,) bool by its name. Raises ReportError."""
    known = {case.name: case for split in PER_CELL for case in cases(split)}
    strange = [name for name in wanted if name not in known]
    if strange:
        raise ReportError(f"cases.json has no {', '.join(strange)}; these runs are of an older list, run them again")
    found: list[Case] = [known[name] for name in wanted]
    parts = {"all": np.ones(len(found), bool)}
    for attribute, values in (("kind", KINDS), ("mask", MASKS), ("background", BACKGROUNDS)):
        parts |= {value: np.array([getattr(case, attribute) == value for case in found]) for value in values}
    return parts


def _part_cell(own: dict[str, np.ndarray], chosen: np.ndarray) -> str:
    if not chosen.any():
        return NOTHING
    return f"{mean_cell(own['right'][chosen], 0)} / {mean_cell(own['psnr'][chosen], 1)}"


def comparison(rows: list[dict], a: str, b: str) -> str:
    """One sentence: by how much `a` is above `b`, on the cases that both finished."""
    wanted = common_cases(rows, [a, b])
    table = measured(rows, [a, b], wanted)
    gains = {field: estimate(table[a][field] - table[b][field]) for field in ("psnr", "answer", "right")}
    parts = [
        f"background {gain_text(gains['psnr'], 1, ' dB')}",
        f"edit to exact answer {gain_text(gains['answer'], 1, ' dB')}",
        f"right {gain_text(gains['right'], 0, ' points')}",
    ]
    return f"{a} against {b}: {', '.join(parts)} ({_cases(len(wanted))})."
