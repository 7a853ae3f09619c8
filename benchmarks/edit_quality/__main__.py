"""Every way of editing on the same clips. Writes docs/evidence.md, .json and pictures.

python -m benchmarks.edit_quality              everything, about three hours on 2 cores; goes on where it stopped (runs/edit_quality)
python -m benchmarks.edit_quality --quick      8 clips, the methods that matter most, 5 minutes; writes into output/edit_quality
python -m benchmarks.edit_quality --only test  one part: validation, signal, test, cost or document
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .candidates import candidates
from .cases import KINDS, Case, cases
from .contenders import NO_LOCK, contenders, quick_contenders
from .cost import costs
from .evidence import Evidence, write
from .recordings import REFERENCE, record_all, samplings
from .report import main_table
from .runs import read, run
from .signals import Recordings

ROOT = Path(__file__).resolve().parents[2]
RUNS, QUICK = Path("runs/edit_quality"), Path("output/edit_quality")
PARTS = ("validation", "signal", "test", "cost", "document")
VALIDATION_CLIPS, SIGNAL_CLIPS, COST_ROUNDS = 16, 8, 1


def pictured() -> list[Case]:
    """One test case of each kind."""
    return [next(case for case in cases("test") if case.kind == kind) for kind in KINDS]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.edit_quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the 5-minute subset")
    parser.add_argument("--only", choices=PARTS, help="one part of the whole")
    options = parser.parse_args()
    if options.quick:
        return quick()
    for part in PARTS if options.only is None else (options.only,):
        {"validation": validation, "signal": signal, "test": test, "cost": cost, "document": document}[part]()


def quick() -> None:
    """Each kind of edit once with a tight mask over a still background, once with a loose one over a moving one."""
    few = [case for i, case in enumerate(cases("test")[:16]) if i % 4 in (0, 3)]
    run(few, quick_contenders, QUICK / "runs.jsonl")
    table = main_table(read(QUICK / "runs.jsonl"), [(m.name, m.group, m.note) for m in quick_contenders()], NO_LOCK)
    (QUICK / "report.md").write_text(table, encoding="utf-8")
    print(table)


def validation() -> None:
    run(cases("validation")[:VALIDATION_CLIPS], candidates, RUNS / "validation.jsonl")


def signal() -> None:
    record_all(cases("validation")[:SIGNAL_CLIPS], samplings(), RUNS / "recordings")
    record_all(cases("test"), [REFERENCE], RUNS / "recordings")


def test() -> None:
    run(cases("test"), contenders, RUNS / "test.jsonl", tuple(case.name for case in pictured()))


def cost() -> None:
    found = costs(cases("validation")[0], contenders, NO_LOCK, COST_ROUNDS)
    (RUNS / "costs.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def document() -> None:
    measured = RUNS / "costs.json"
    found = Evidence(
        command="python -m benchmarks.edit_quality",
        rows=read(RUNS / "test.jsonl"),
        methods=[(m.name, m.group, m.note) for m in contenders()],
        costs=json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else {},
        validation=read(RUNS / "validation.jsonl"),
        candidates=[(m.name, m.group, m.note) for m in candidates()],
        recorded=Recordings.read(RUNS / "recordings", cases("validation")[:SIGNAL_CLIPS], samplings()),
        judged=Recordings.read(RUNS / "recordings", cases("test"), [REFERENCE]),
        pictured=pictured(),
        pictures=RUNS / "test",
    )
    write(found, ROOT / "docs")


if __name__ == "__main__":
    main()
