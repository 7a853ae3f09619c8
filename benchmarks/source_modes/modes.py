"""A variant made ready to run again and again: what is planned and recorded before is not part of what is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from kvlock_core import Estimate, KVStore, SourceKV

from .world import Bench, Variant

OTHER_PROMPT = 1


class Ready:
    """`run()` once for every `begin()`; `timed`: the estimate is in seconds too; `store`, `source` and `estimate` are those of the last run."""

    def __init__(self, bench: Bench, variant: Variant, *, timed: bool = False):
        self.bench, self.variant, self.timed = bench, variant, timed
        self.store: KVStore | None = None
        self.estimate: Estimate | None = None
        self.source: SourceKV | None = None
        self._run: Callable[[], Tensor] | None = None

    def begin(self) -> None:
        """Everything before sampling: an empty store, or one that an earlier edit filled."""
        bench, variant = self.bench, self.variant
        if variant.mode == "plain":
            self._run = lambda: bench.sampled_together(variant.source_too) if variant.together else bench.sampled(None)
            return
        if variant.mode == "stored" and self.store is None:
            self.store = bench.new_store(variant)
            if variant.second:
                bench.sampled(bench.source(variant, self.store)[0], OTHER_PROMPT)
        self.source, self.estimate = bench.source(variant, self.store, timed=self.timed)
        if variant.second and self.estimate.found != self.estimate.passes:
            raise SystemExit(f"{variant.name}: {self.estimate.found} of {self.estimate.passes} evaluations found")
        self._run = lambda: bench.sampled(self.source)

    def run(self) -> Tensor:
        return self._run()

    def end(self) -> None:
        """A first run must not find what itself recorded."""
        if self.store is not None and not self.variant.second:
            self.close()

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None


@contextmanager
def rows_counted(bench: Bench) -> Iterator[list[int]]:
    """Inside, rows that go through the first block are appended."""
    rows: list[int] = []
    hook = bench.model.transformer.blocks[0].register_forward_pre_hook(lambda block, given: rows.append(len(given[0])))
    yield rows
    hook.remove()
