"""What is said before a run is what is found after it."""

import pytest
import torch

from kvlock_core import (
    Budgets,
    DiskTier,
    InStep,
    KVStore,
    LockSchedule,
    Lockstep,
    MemoryTier,
    Moment,
    RunShape,
    RunSource,
    SessionSettings,
    SettingsError,
    SourceIdentity,
    SourceKey,
    SourceSettings,
    Stored,
    codec,
    locked_blocks,
    locked_schedule,
    source_mode,
)
from kvlock_core.budget import choose, estimate, in_words

SHAPE = RunShape(batch=1, heads=2, tokens=11, dim=5, dtype=torch.float32, blocks=3, model_blocks=6, last_block=2, locked=4,
                 evaluations=10, rows=2)  # fmt: skip
BLOCK = 2 * 2 * 11 * 5 * 4


def filled(shape, budgets, name, folder):
    """A store after a run of this shape."""
    tiers = [MemoryTier(budgets.device, name="device"), MemoryTier(budgets.memory), DiskTier(budgets.disk, folder)]
    store = KVStore(tiers, codec(name))
    keys = [SourceKey(SourceIdentity("", "", (), ""), Moment(1 - i / 8, "", "")) for i in range(shape.passes)]
    store.expect(keys)
    for key in keys:
        store.open(key, None)
        for block in range(shape.blocks):
            store.put(key, block, *torch.randn(2, shape.batch, shape.heads, shape.tokens, shape.dim))
        store.seal(key)
    return store


@pytest.mark.parametrize("name", ["same", "int8", "bf16"])
@pytest.mark.parametrize(
    "budgets",
    [Budgets(memory=10**6), Budgets(memory=7 * BLOCK), Budgets(2 * BLOCK, 5 * BLOCK), Budgets(disk=10**6), Budgets(BLOCK, 4 * BLOCK, 40_000), Budgets()],
)  # fmt: skip
def test_the_estimate_is_what_a_run_then_keeps(budgets, name, tmp_path):
    said = estimate("stored", "", SHAPE, codec(name), budgets)
    store = filled(SHAPE, budgets, name, tmp_path)
    assert len(store.keys) == said.fitting
    found = store.bytes_by_tier
    assert said.tiers["device"] == found["device"] and said.tiers["memory"] == found["memory"]
    assert abs(said.tiers["disk"] - found["disk"]) <= 1024 * found["disk"] / max(SHAPE.block_bytes(codec(name)), 1)  # heads of files


def test_time_is_counted_in_rows():
    assert estimate("lockstep", "", SHAPE, codec("same"), Budgets()).slowdown == 1 + 4 * 0.5 / 20  # half of the blocks
    whole = RunShape(**{**vars(SHAPE), "blocks": 6, "last_block": 5, "locked": 10})
    assert estimate("lockstep", "", whole, codec("same"), Budgets()).slowdown == 1.5
    assert estimate("stored", "", whole, codec("same"), Budgets(), found=10).slowdown == 1.0
    held = RunShape(**{**vars(whole), "refresh_every": 3})
    assert held.passes == 4 and estimate("lockstep", "", held, codec("same"), Budgets()).slowdown == 1.2
    said = estimate("lockstep", "", whole, codec("same"), Budgets(), row_seconds=2.0)
    assert said.extra_seconds == 20.0 and "20 s more" in said.text and said.rows == 30.0
    apart = estimate("in_step", "", whole, codec("same"), Budgets(memory=10**9), row_seconds=2.0)
    assert apart.slowdown == pytest.approx(1 + 0.5 * 5 / 6)  # it ends in the last locked block, once K,V are there


def test_rows_that_run_in_turn_are_counted():
    """No room for the row nor for one step: each of the two conditions has a source row of its own."""
    packing, step = codec("same"), SHAPE.step_bytes(codec("same"))
    assert estimate("lockstep", "", SHAPE, packing, Budgets(memory=step - 1), row_fits=False).slowdown == 1 + 8 * 0.5 / 20
    assert estimate("lockstep", "", SHAPE, packing, Budgets(memory=step), row_fits=False).slowdown == 1 + 4 * 0.5 / 20


def test_auto_goes_by_what_fits_and_says_so():
    packing, step = codec("same"), SHAPE.step_bytes(codec("same"))
    assert choose("auto", SHAPE, packing, Budgets(), True)[0] == "lockstep"
    assert choose("auto", SHAPE, packing, Budgets(memory=step), False)[0] == "in_step"
    mode, reason = choose("auto", SHAPE, packing, Budgets(memory=step - 1), False)
    assert mode == "lockstep" and in_words(step) in reason
    assert choose("in_step", SHAPE, packing, Budgets(), True) == ("in_step", "as set")


def run(**changes):
    given = dict(shape=SHAPE, identity=lambda: SourceIdentity("", "", (), ""), moment_of=lambda step, sigma: Moment(sigma, "", ""), positions=None,
                 blocks=(0, 1, 2), schedule=[(0, 1.0), (1, 0.5)], device=torch.device("cpu"), folder="unused")  # fmt: skip
    return RunSource(**{**given, **changes})


def test_the_mode_is_of_the_kind_that_was_chosen():
    assert type(source_mode(SourceSettings("lockstep"), run())[0]) is Lockstep
    assert type(source_mode(SourceSettings(), run())[0]) is Lockstep
    assert type(source_mode(SourceSettings(), run(row_fits=False))[0]) is InStep
    store = SourceSettings().new_store(torch.device("cpu"), "unused")
    source, said = source_mode(SourceSettings(), run(), store)
    assert type(source) is Stored and (said.mode, said.found) == ("stored", 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(SettingsError, match="store that outlives"):
        source_mode(SourceSettings("stored"), run())
    for wrong in (dict(mode="cache"), dict(codec="zip"), dict(refresh_every=0)):
        with pytest.raises(SettingsError):
            SourceSettings(**wrong)
    with pytest.raises(SettingsError, match="negative"):
        Budgets(memory=-1)
    with pytest.raises(SettingsError, match="outside a model of 6"):
        locked_blocks(SessionSettings(blocks=(6, 9)), 6)


def test_the_schedule_of_a_run_is_what_may_lock():
    settings = SessionSettings(lock=LockSchedule(kind="constant", start_percent=0.5))
    assert locked_schedule(settings, [1.0, 0.8, 0.5, 0.2], 4) == [(2, 0.5), (3, 0.2)]
    assert locked_schedule(settings, [0.5, 0.2], 4, first=2) == [(2, 0.5), (3, 0.2)]
    assert locked_schedule(SessionSettings(lock=None), [1.0], 1) == []
