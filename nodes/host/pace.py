"""How long a row of a model takes here: measured over the steps of one run, known to the estimates of later ones."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from torch import Tensor

from .identity import dtype_of
from .models import attention_shape

#: What decides it -> seconds of one row of a step, as the last such run measured them; lives as long as the process.
_KNOWN: dict[tuple, float] = {}


class Pace:
    """Of one run of `noise` (B,C,T,h,w) with a sampler, which may evaluate the model several times in a step."""

    def __init__(self, base_model, noise: Tensor, sampler):
        name = getattr(getattr(sampler, "sampler_function", sampler), "__name__", type(sampler).__name__)
        self._key = (attention_shape(base_model), dtype_of(base_model), tuple(noise.shape), str(noise.device), name)
        self._steps: defaultdict[int, float] = defaultdict(float)

    @property
    def row_seconds(self) -> float | None:
        """Seconds of one row of a step, by an earlier run; None before there was one."""
        return _KNOWN.get(self._key)

    @contextmanager
    def evaluation(self, step: int, rows: int) -> Iterator[None]:
        """Around one evaluation of `rows` rows; it must not end before the device has."""
        began = time.perf_counter()
        yield
        self._steps[step] += (time.perf_counter() - began) / rows

    def remember(self) -> None:
        """The run is over. Its first step is not counted where there are others: it brings weights and kernels."""
        seconds = list(self._steps.values())
        if seconds:
            _KNOWN[self._key] = median(seconds[1:] or seconds)
