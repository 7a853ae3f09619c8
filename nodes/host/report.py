"""Things of a finished run that outlive it, each filed under the latent that the run made.

A host runs branches in any order and keeps outputs of earlier prompts, so "the last run" would be a guess.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from ...kvlock_core import RunTrace, fingerprint
from .errors import HostError

#: One model may feed several samplers; traces are a few kB each.
REPORTS_KEPT = 8


class ByLatent:
    """The last `kept` values, found again by the content of a latent."""

    def __init__(self, kept: int):
        self._kept = kept
        self._values: OrderedDict[str, Any] = OrderedDict()

    def __deepcopy__(self, memo) -> ByLatent:
        return self  # ComfyUI up to 0.8 deep-copies what hangs on a model

    def __len__(self) -> int:
        return len(self._values)

    def file(self, samples: Tensor, value: Any) -> None:
        key = name_of(samples)
        self._values.pop(key, None)
        self._values[key] = value
        while len(self._values) > self._kept:
            self._values.popitem(last=False)

    def find(self, samples: Tensor) -> Any | None:
        return self._values.get(name_of(samples)) if self._values else None


class Report:
    """Carries the traces of finished runs to the node that shows them."""

    def __init__(self):
        self._traces = ByLatent(REPORTS_KEPT)

    def __deepcopy__(self, memo) -> Report:
        return self

    def add(self, samples: Tensor, trace: RunTrace) -> None:
        """`samples` the latent that the run returned."""
        self._traces.file(samples, trace)

    def trace_of(self, samples: Tensor) -> RunTrace:
        """The trace of the run that made `samples`. Raises HostError."""
        trace = self._traces.find(samples)
        if trace is None:
            raise HostError(
                f"none of the {len(self._traces)} runs of this report made the linked latent; link the sampler's own "
                "`output` (not denoised_output), and let the report come from the nodes before that sampler"
            )
        return trace


def name_of(samples: Tensor) -> str:
    """Same content, same text, also after the host moved the latent to another device or rounded it to float16."""
    return fingerprint(samples.to(torch.float16))
