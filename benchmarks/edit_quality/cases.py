"""Which clips are edited, how, and with which mask: frozen lists of seeds in cases.json.

python -m benchmarks.edit_quality.cases      # writes cases.json anew; it must not change by that
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from kvlock_core import grow_mask
from toy.classify import Sighting, look
from toy.scenes import Scene, edit_mask, object_mask, render, scene
from toy.shapes import COLORS, SHAPES

FILE = Path(__file__).with_name("cases.json")

KINDS = ("color", "shape", "removal", "addition")
#: Pixels by which a painted mask is larger than the objects: 0 follows their outline, 12 is a generous brush.
MASKS = {"tight": 0, "loose": 12}
BACKGROUNDS = ("still", "moving")
PER_CELL = {"validation": 2, "test": 4}
#: The first clips of each split were looked at while the code was written.
FIRST_INDEX = 1000


@dataclass(frozen=True)
class Case:
    """One edit: `kind` of KINDS, `mask` of MASKS, `background` of BACKGROUNDS."""

    split: str
    index: int
    kind: str
    mask: str
    background: str

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index}-{self.kind}-{self.mask}"

    @property
    def told(self) -> Scene:
        whole = scene(self.split, self.index)
        return whole.emptied() if self.kind == "addition" else whole

    @property
    def retold(self) -> Scene:
        whole = scene(self.split, self.index)
        if self.kind == "color":
            return whole.recolored(_next(list(COLORS), whole.color))
        if self.kind == "shape":
            return whole.reshaped(_next(list(SHAPES), whole.shape))
        return whole.emptied() if self.kind == "removal" else whole

    @property
    def goal(self) -> Sighting:
        return Sighting(self.retold.color, self.retold.shape)

    def edit_mask(self) -> Tensor:
        """What may change, as somebody would paint it: (17,128,128) of 0 and 1."""
        return grow_mask(torch.from_numpy(edit_mask(self.told, self.retold)), MASKS[self.mask])


def succeeds(goal: Sighting, seen: Sighting) -> bool:
    """Colour and shape as wanted; for a removal, no object at all."""
    return (seen.color, seen.shape) == (goal.color, goal.shape)


def cases(split: str) -> list[Case]:
    """The frozen list of a split."""
    return [Case(**row) for row in json.loads(FILE.read_text(encoding="utf-8")) if row["split"] == split]


def chosen(split: str) -> list[Case]:
    """The list as its rule makes it: clips in order of their seeds, each goes to the next cell that still needs one.

    A clip is left out if the classifier cannot name its exact answer, e.g. because the object leaves the frame.
    """
    cells = list(product(KINDS, MASKS, BACKGROUNDS))
    found: dict[tuple, list[Case]] = {cell: [] for cell in cells}
    index = FIRST_INDEX
    while any(len(rows) < PER_CELL[split] for rows in found.values()):
        place = "moving" if _moves(scene(split, index)) else "still"
        open_cells = [cell for cell in cells if cell[2] == place and len(found[cell]) < PER_CELL[split]]
        if open_cells:
            cell = min(open_cells, key=lambda c: len(found[c]))
            case = Case(split, index, *cell)
            if _is_decidable(case):
                found[cell].append(case)
        index += 1
    return [case for row in zip(*found.values()) for case in row]


def _moves(told: Scene) -> bool:
    return any(told.background.pan) or told.ball is not None


def _is_decidable(case: Case) -> bool:
    whole = scene(case.split, case.index)
    visible = object_mask(whole).any(axis=(1, 2)).all()
    return bool(visible) and succeeds(case.goal, look(render(case.retold), case.edit_mask().numpy()))


def _next(names: list[str], name: str) -> str:
    return names[(names.index(name) + 2) % len(names)]


if __name__ == "__main__":
    FILE.write_text(json.dumps([asdict(case) for split in PER_CELL for case in chosen(split)], indent=0) + "\n", encoding="utf-8")
