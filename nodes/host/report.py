"""Carries the trace of a finished run to the node that shows it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor

from ...kvlock_core import RunTrace
from .errors import HostError

#: One model may feed several samplers; traces are a few kB each.
REPORTS_KEPT = 8


class Report:
    """The last traces, each under the latent that its run made.

    A host runs branches in any order and keeps outputs of earlier prompts, so "the last run" would be a guess.
    """

    def __init__(self):
        self._traces: OrderedDict[str, RunTrace] = OrderedDict()

    def __deepcopy__(self, memo) -> Report:
        return self

    def add(self, samples: Tensor, trace: RunTrace) -> None:
        """`samples` the latent that the run returned."""
        key = fingerprint(samples)
        self._traces.pop(key, None)
        self._traces[key] = trace
        while len(self._traces) > REPORTS_KEPT:
            self._traces.popitem(last=False)

    def trace_of(self, samples: Tensor) -> RunTrace:
        """The trace of the run that made `samples`. Raises HostError."""
        trace = self._traces.get(fingerprint(samples))
        if trace is None:
            raise HostError(
                f"none of the {len(self._traces)} runs of this report made the linked latent; link the sampler's own "
                "`output` (not denoised_output), and let the report come from the nodes before that sampler"
            )
        return trace


def fingerprint(samples: Tensor) -> str:
    """Same content, same text, also after the host moved the latent to another device or rounded it to float16."""
    content = samples.detach().to("cpu", torch.float16).contiguous()
    return hashlib.sha256(content.numpy().tobytes()).hexdigest() + str(tuple(samples.shape))
