"""The source in every model call of a locked step: as one more row, or alone before it, or not at all where it is kept (M3)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...kvlock_core import LockSession, SourceError, SourcePath, StepPlan
from ...kvlock_core.types import SOURCE_ROW
from . import events, memory
from .attention import LockedAttention, watched
from .calls import ModelCall
from .errors import UnsupportedGraphError
from .models import ModelFamily

#: The guider's table of conditions holds the source's own text under this name for the length of a run.
SOURCE_CONDS = "kvlock_source"

SPLIT = "KV-Lock: not enough free memory for all rows at once, so locked steps use one smaller call per condition"


@dataclass(frozen=True, eq=False)
class SourceRows:
    """What stays the same over a run. `grid` (C,T,h,w) of the latent; `last_block` that is locked; `conditions` that the
    guider wants predictions for in every evaluation."""

    guider: object
    family: ModelFamily
    grid: tuple[int, ...]
    path: SourcePath
    last_block: int
    conditions: int
    watchers: tuple[str, ...]
    #: One for the whole run: other packs' caches are keyed by it.
    key: uuid.UUID = field(default_factory=uuid.uuid4)
    #: What the user was told already.
    said: list[str] = field(default_factory=list)

    def predict(self, executor, call: ModelCall, session: LockSession, plan: StepPlan) -> Tensor:
        """The model's output for the rows of `call`, locked. Raises UnsupportedGraphError, BypassedAttentionError."""
        if tuple(call.x.shape[1:]) != self.grid:
            raise UnsupportedGraphError(
                f"the model is called on a part {tuple(call.x.shape[1:])} of the latent {self.grid}; KV-Lock does not "
                "follow context windows or regional conditions: remove them, or bypass KV-Lock"
            )
        if session.supply == "row" and not self._fits(call):
            parts = [call.chunk(i) for i in range(call.chunks)]
        else:
            parts = [call]
        predictions = [self._locked(executor, part, session, plan) for part in parts]
        return predictions[0] if len(parts) == 1 else torch.cat(predictions)

    def _locked(self, executor, call: ModelCall, session: LockSession, plan: StepPlan) -> Tensor:
        roles = tuple(self._role(key) for key in call.options["uuids"])
        if not set(roles) & set(session.settings.rows):
            return call.run(executor)
        if session.supply == "kept":
            return self._watched(executor, call, session, roles)
        source = self._source_call(call, plan)
        if session.supply == "row" and call.can_join(source):
            if call.chunks < self.conditions:
                session.hold()  # the other conditions come in calls of their own: the source is computed once for all
            return self._watched(executor, call.joined(source), session, (*roles, SOURCE_ROW))[: len(call.x)]
        self._watched(executor, source, session, (SOURCE_ROW,))
        if session.supply != "kept":
            raise SourceError(
                "the source's keys and values do not fit into the budgets of Invert & Cache KV for one step; raise cache_ram_gb, "
                "or set source_mode to lockstep and leave source_conditioning empty"
            )
        return self._watched(executor, call, session, roles)

    def _watched(self, executor, call: ModelCall, session: LockSession, rows: tuple[str, ...]) -> Tensor:
        tokens = self.family.token_count(*self.grid[1:])
        attention = LockedAttention(session, rows, tokens, call.text_lengths(), self.last_block, self.family.side_blocks)
        return watched(executor, call, attention)

    def _source_call(self, call: ModelCall, plan: StepPlan) -> ModelCall:
        """The source alone: its latent at this noise level, its own text or else the edit's positive."""
        z_src = self.path.at(plan.step, plan.sigma).to(call.x)
        given = {
            name: c.process_cond(batch_size=len(z_src), area=None).cond for name, c in self.conds_at(plan.sigma).items()
        }  # fmt: skip
        options = {**call.options, "uuids": [self.key], "cond_or_uncond": [0]}
        return ModelCall.of(z_src, call.t[: len(z_src)], transformer_options=options, **given)

    def conds_at(self, sigma: float) -> dict[str, Any]:
        """The source's conditions at a noise level, as the host keeps them."""
        conds = self.guider.conds.get(SOURCE_CONDS) or self.guider.conds["positive"]
        return _active(conds, sigma)["model_conds"]

    def _role(self, key: uuid.UUID) -> str:
        negative = self.guider.conds.get("negative") or []
        return "uncond" if any(cond.get("uuid") == key for cond in negative) else "cond"

    def _fits(self, call: ModelCall) -> bool:
        rows = len(call.x) + len(call.x) // call.chunks
        if call.chunks == 1 or memory.fits(self.guider.inner_model, rows, self.grid, call.cond_shapes()):
            return True
        if not self.said:
            self.said.append(SPLIT)
            events.say(self.watchers, SPLIT)
        return False


def _active(conds: list[dict], sigma: float) -> dict:
    """The first condition whose time range holds `sigma`; the host uses all of them, a source has one text."""
    for cond in conds:
        if cond.get("timestep_end", 0.0) <= sigma <= cond.get("timestep_start", float("inf")):
            return cond
    return conds[0]
