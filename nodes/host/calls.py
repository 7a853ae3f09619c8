"""One call of the host's model as a value: its rows can be taken apart, and a source row added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ModelCall:
    """The arguments of `BaseModel.apply_model`. `conds` holds c_concat, c_crossattn and every other condition.

    Every tensor in x, t and conds has one entry per row; `options["uuids"]` has one entry per chunk of rows.
    """

    x: Tensor
    t: Tensor
    conds: dict[str, Any]
    control: Any
    options: dict[str, Any]

    @classmethod
    def of(cls, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **extra) -> ModelCall:
        conds = {"c_concat": c_concat, "c_crossattn": c_crossattn, **extra}
        given = {name: value for name, value in conds.items() if value is not None}
        return cls(x, t, given, control, dict(transformer_options or {}))

    def run(self, executor) -> Tensor:
        conds = dict(self.conds)
        concat, context = conds.pop("c_concat", None), conds.pop("c_crossattn", None)
        return executor(self.x, self.t, concat, context, self.control, self.options, **conds)

    @property
    def chunks(self) -> int:
        return len(self.options["uuids"])

    def chunk(self, index: int) -> ModelCall:
        """The call for one of the conditions that the host batched."""
        size = len(self.x) // self.chunks
        rows = slice(index * size, (index + 1) * size)
        conds = {name: _per_row(value, len(self.x), lambda v: v[rows]) for name, value in self.conds.items()}
        listed = {name: self.options[name][index : index + 1] for name in ("uuids", "cond_or_uncond")}
        return replace(self, x=self.x[rows], t=self.t[rows], conds=conds, options={**self.options, **listed})

    def can_join(self, other: ModelCall) -> bool:
        """True if both may be one batch: the same conditions, each of one size per row."""
        return self._row_shapes() == other._row_shapes()

    def joined(self, other: ModelCall) -> ModelCall:
        """This call with the other's rows behind its own; check `can_join` first."""
        conds = {name: _joined(value, other.conds[name], len(self.x)) for name, value in self.conds.items()}
        listed = {name: [*self.options[name], *other.options[name]] for name in ("uuids", "cond_or_uncond")}
        x, t = torch.cat([self.x, other.x]), torch.cat([self.t, other.t])
        return replace(self, x=x, t=t, conds=conds, options={**self.options, **listed})

    def cond_shapes(self) -> dict[str, list]:
        """Shapes of the conditions, as the host's memory estimate wants them."""
        return {name: [list(value.shape)] for name, value in self.conds.items() if isinstance(value, Tensor)}

    def text_lengths(self) -> tuple[int, ...]:
        """Lengths of the contexts that blocks attend to across: text, and the image embedding of some models."""
        contexts = (self.conds.get(name) for name in ("c_crossattn", "clip_fea"))
        return tuple(context.shape[1] for context in contexts if isinstance(context, Tensor))

    def _row_shapes(self) -> dict[str, Any]:
        rows = len(self.x)
        return {name: _per_row(value, rows, lambda v: tuple(v.shape[1:])) for name, value in self.conds.items() if
                _has_rows(value, rows)}  # fmt: skip


def _has_rows(value: Any, rows: int) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_has_rows(part, rows) for part in value)
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == rows


def _per_row(value: Any, rows: int, change: Callable[[Tensor], Any]) -> Any:
    """`change` applied where there is one entry per row; constants stay as they are."""
    if not _has_rows(value, rows):
        return value
    return [change(part) for part in value] if isinstance(value, list) else change(value)


def _joined(mine: Any, other: Any, rows: int) -> Any:
    if not _has_rows(mine, rows):
        return mine
    if isinstance(mine, list):
        return [torch.cat([a, b.to(a)]) for a, b in zip(mine, other)]
    return torch.cat([mine, other.to(mine)])
