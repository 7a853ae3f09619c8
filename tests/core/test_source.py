"""Theorems about the source modes: all give the same run, the source runs no oftener than it must, and all is freed.

The model is so small that it works row by row, so that "the same" is bit for bit however a host batches its rows.
"""

import gc
import math
import threading
import weakref
from dataclasses import replace

import pytest
import torch

from kvlock_core import (
    DiskTier,
    InStep,
    KVStore,
    LockSchedule,
    LockSession,
    Lockstep,
    MemoryTier,
    Moment,
    RiskSettings,
    SessionSettings,
    SettingsError,
    Site,
    SourceError,
    SourceIdentity,
    Stored,
    StoreError,
    codec,
)

HEADS, DIM, BLOCKS, STEPS, L = 2, 4, 3, 7, 10
ROOM = 2**20
SIGMAS = [1 - k / STEPS for k in range(STEPS + 1)]
IDENTITY = SourceIdentity("model", "clip", (1, L), "float32")

HARD = torch.tensor([0.0, 1, 1, 0, 0, 0, 1, 0, 0, 0])  # 1 = may change
WIDER = torch.tensor([0.0, 1, 1, 1, 0, 0, 1, 0, 1, 0])
SOFT = torch.tensor([0.0, 1, 0.5, 0.25, 0, 0, 1, 0, 0, 0.75])
FULL = torch.zeros(L)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On a busy machine threads that wait for each other cost a hundred times what these small tensors do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {name: draw(DIM, HEADS * DIM, seed=i) / 2 for i, name in enumerate("qkv")}
BACK = draw(HEADS * DIM, DIM, seed=4) / 2
PROMPTS = {row: draw(DIM, seed=seed) for row, seed in (("cond", 5), ("uncond", 6), ("source", 7))}
START, CLIP, NOISE = (draw(L, DIM, seed=seed) for seed in (8, 9, 10))


def always(alpha=1.0, **kwargs):
    return SessionSettings(LockSchedule("constant", ceiling=alpha, start_percent=0.0), risk=RiskSettings(region="all"), **kwargs)


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


class Host:
    """Samples a run with a source mode. `apart`: one model call per row; else one for all. Counts calls of the source."""

    def __init__(self, source=None, settings=None, tokens=HARD, *, apart=False, frozen=1, on_call=None):
        settings = settings or always()
        self.session = LockSession(settings, steps=STEPS, edit=None, tokens=tokens, source=source)
        self.apart, self.frozen, self.on_call = apart, frozen, on_call
        self.source_calls, self.supplies, self.seen = 0, [], []

    def run(self):
        return list(self.steps())[-1]

    def steps(self):
        """The latent after every step. The session is closed whatever happens, as a host does."""
        z = START
        try:
            for step in range(STEPS):
                v = self._velocities(step, z)
                z = z + (SIGMAS[step + 1] - SIGMAS[step]) * (3 * v["cond"] - 2 * v["uncond"])
                self.session.end()
                yield z
        finally:
            self.session.close()

    def _velocities(self, step, z):
        latents = {"cond": z, "uncond": z, "source": self._source_at(step)}
        self.supplies.append(self.session.begin(step, SIGMAS[step]).supply)
        calls = [("cond",), ("uncond",)] if self.apart else [("cond", "uncond")]
        if self.apart:
            self.session.hold()
        velocities = {}
        for rows in calls:
            if self.session.supply == "apart":
                self._model(step, ("source",), latents)
            with_source = (*rows, "source") if self.session.supply == "row" else rows
            velocities |= self._model(step, with_source, latents)
        return velocities

    def _source_at(self, step):
        sigma = SIGMAS[step - step % self.frozen]
        return (1 - sigma) * CLIP + sigma * NOISE

    def _model(self, step, rows, latents):
        self.source_calls += "source" in rows
        x = [latents[row] + PROMPTS[row] for row in rows]
        for block in range(BLOCKS):
            if self.on_call is not None:
                self.on_call(self, step, block)
            q, k, v = (torch.stack([(row @ w).view(L, HEADS, DIM).transpose(0, 1) for row in x]) for w in WEIGHTS.values())
            self.seen += [weakref.ref(k), weakref.ref(v)]
            k, v = self.session.attention(Site(block), k, v, rows)
            out = (attend(*parts).transpose(0, 1).reshape(L, -1) for parts in zip(q, k.contiguous(), v.contiguous()))
            x = [row + more @ BACK for row, more in zip(x, out)]
        return dict(zip(rows, x))


def moment_of(step, sigma):
    return Moment(sigma, "noise", "text")


def stored(store, refresh_every=1, *, identity=IDENTITY, moment=moment_of, blocks=range(BLOCKS), locked=range(STEPS), **kwargs):
    schedule = [(step, SIGMAS[step]) for step in locked]
    return Stored(store, identity, moment, blocks=blocks, schedule=schedule, refresh_every=refresh_every, **kwargs)


def memory_store(form=None):
    return KVStore([MemoryTier(ROOM)], form or codec("same"))


# all modes are one method ---------------------------------------------------------------------------------------------

CASES = {
    "hard": (always(), HARD),
    "half": (always(0.5), HARD),
    "soft": (always(), SOFT),
    "soft half": (always(0.5), SOFT),
    "everything": (always(), FULL),
    "one block": (always(blocks=(1, 1)), HARD),
    "last blocks": (always(0.5, blocks=(1, 7)), SOFT),
    "cond only": (always(rows=("cond",)), HARD),
}


def check_all_modes_agree(case, refresh_every, folder, make=stored):
    """Every mode, first and later runs, rows together and apart: the run of lockstep, bit for bit."""
    settings, tokens = CASES[case]
    locked = [block for block in range(BLOCKS) if settings.locks_block(block)]
    lockstep = Host(Lockstep(refresh_every=refresh_every), settings, tokens)
    expected, once = lockstep.run(), math.ceil(STEPS / refresh_every)
    assert lockstep.source_calls == once
    for apart in (False, True):
        store = KVStore([MemoryTier(1000), DiskTier(ROOM, folder)], codec("same"))
        modes = [
            (lambda: Lockstep(refresh_every=refresh_every), once),
            (lambda: InStep(refresh_every=refresh_every), once),
            (lambda: InStep(KVStore([DiskTier(ROOM, folder)], codec("same")), refresh_every=refresh_every), once),
            (lambda: make(store, refresh_every, blocks=locked), once),  # records
            (lambda: make(store, refresh_every, blocks=locked), 0),  # reads
            (lambda: make(store, refresh_every, blocks=locked), 0),
        ]
        for source, calls in modes:
            host = Host(source(), settings, tokens, apart=apart)
            assert torch.equal(host.run(), expected)
            assert host.source_calls == calls
        assert all(store.bytes_by_tier.values())  # both tiers had their part
        store.close()


@pytest.mark.parametrize("refresh_every", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_all_modes_give_the_same_run(case, refresh_every, tmp_path):
    check_all_modes_agree(case, refresh_every, tmp_path)


def _any_sigma(*args, **kwargs):
    """Wrong: one recording for all noise levels."""
    return stored(*args, moment=lambda step, sigma: Moment(0.5, "", ""), **kwargs)


def _never_refreshed(store, refresh_every=1, **kwargs):
    """Wrong: the first K,V are held for ever."""
    return stored(store, 10 * STEPS, **kwargs)


def _shifted(*args, **kwargs):
    """Wrong: one token too far."""
    source = stored(*args, **kwargs)
    use = source.use
    source.use = lambda tokens: use((tokens + 1) % L)
    return source


@pytest.mark.parametrize("wrong", [_any_sigma, _never_refreshed, _shifted])
def test_the_agreement_checker_bites(wrong, tmp_path):
    with pytest.raises(AssertionError):
        check_all_modes_agree("hard", 1, tmp_path, make=wrong)


def test_a_run_without_the_lock_is_another_run():
    """So that the agreement above means something."""
    unlocked, locked, held = (
        Host(source, settings).run()
        for source, settings in ((None, always(0.0)), (Lockstep(), always()), (Lockstep(refresh_every=3), always()))
    )
    assert not torch.allclose(unlocked, locked, atol=1e-3) and not torch.allclose(held, locked, atol=1e-3)


@pytest.mark.parametrize("mode", [Lockstep, InStep])
def test_a_refreshed_source_is_the_source_of_the_last_refresh(mode):
    held = Host(mode(refresh_every=3)).run()
    assert torch.equal(held, Host(mode(), frozen=3).run())


# the source runs no oftener than it must ------------------------------------------------------------------------------

LATE = replace(always(), lock=LockSchedule("constant", start_percent=0.4))
FADING = replace(always(), lock=LockSchedule("linear", start_percent=0.3))  # alpha 0 in the very last step
RESTING = {"late": (LATE, range(3, STEPS)), "fading": (FADING, range(3, STEPS - 1)), "never": (always(0.0), ())}


@pytest.mark.parametrize("name", RESTING)
@pytest.mark.parametrize("refresh_every", [1, 3])
@pytest.mark.parametrize("mode", [Lockstep, InStep, lambda **k: stored(memory_store(), **k)], ids=["lockstep", "in_step", "stored"])
def test_steps_that_do_not_lock_do_not_pay(mode, refresh_every, name):
    settings, locked = RESTING[name]
    host = Host(mode(refresh_every=refresh_every), settings)
    host.run()
    assert [supply != "none" for supply in host.supplies] == [step in locked for step in range(STEPS)]
    assert host.source_calls == math.ceil(len(locked) / refresh_every)


@pytest.mark.parametrize("apart, holds, calls", [(False, True, 1), (True, True, 1), (True, False, 2)])
def test_a_host_that_calls_rows_apart_runs_the_source_once_if_it_asks_to_hold_it(apart, holds, calls):
    host = Host(Lockstep(), apart=apart)
    if not holds:
        host.session.hold = lambda: None
    assert torch.equal(host.run(), Host(Lockstep()).run())
    assert host.source_calls == calls * STEPS


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "2"])
def test_a_refresh_that_is_no_count_is_named(wrong):
    with pytest.raises(SettingsError, match="refresh_every is "):
        Lockstep(refresh_every=wrong)


# stored runs ----------------------------------------------------------------------------------------------------------


def test_a_wider_edit_of_the_same_clip_is_served_and_a_narrower_one_is_recorded_anew():
    store = memory_store()
    Host(stored(store), tokens=HARD).run()
    wider, narrower = stored(store), stored(store)
    assert torch.equal(Host(wider, tokens=WIDER).run(), Host(tokens=WIDER).run()) and wider.found == STEPS
    assert torch.equal(Host(narrower, tokens=FULL).run(), Host(tokens=FULL).run()) and narrower.found == 0
    assert f"{STEPS} not: the mask leaves less free" in narrower.summary
    again = stored(store)
    assert torch.equal(Host(again, tokens=HARD).run(), Host(tokens=HARD).run()) and again.found == STEPS


@pytest.mark.parametrize(
    "field, changed",
    [
        ("model", {"identity": replace(IDENTITY, model="with a LoRA")}),
        ("latent", {"identity": replace(IDENTITY, latent="another")}),
        ("noise", {"moment": lambda step, sigma: Moment(sigma, "another", "text")}),
        ("text", {"moment": lambda step, sigma: Moment(sigma, "noise", "another")}),
    ],
)
def test_what_was_recorded_for_something_else_is_not_used_and_the_summary_says_why(field, changed):
    store = memory_store()
    Host(stored(store, **changed)).run()
    source = stored(store)
    assert torch.equal(Host(source).run(), Host().run())
    assert source.found == 0 and f"recorded with another {field}" in source.summary


@pytest.mark.parametrize("refresh_every", [1, 3])
def test_with_room_for_two_evaluations_the_first_two_are_found(refresh_every):
    evaluation = BLOCKS * 2 * HEADS * DIM * int((HARD == 0).sum()) * 4
    store, told = KVStore([MemoryTier(2 * evaluation)], codec("same")), []
    expected = Host(Lockstep(refresh_every=refresh_every)).run()
    for found in (0, 2, 2):
        source = stored(store, refresh_every, tell=told.append)
        host = Host(source, apart=True)
        result = host.run()
        assert source.found == found and store.bytes_by_tier["memory"] == 2 * evaluation
        assert refresh_every > 1 or torch.equal(result, expected)
    assert "the budgets leave no room for this step" in source.summary and not told


def test_runs_that_share_a_store_step_by_step_do_not_disturb_each_other():
    store = memory_store()
    other = {"moment": lambda step, sigma: Moment(sigma, "another", "text")}
    for found in (0, STEPS):
        sources = stored(store), stored(store, **other)
        hosts = Host(sources[0]), Host(sources[1], always(0.5), WIDER, frozen=2)
        results = list(zip(*(host.steps() for host in hosts)))[-1]
        for source, host, result in zip(sources, hosts, results):
            host.session.close()
            assert source.found == found
            assert torch.equal(result, Host(None, host.session.settings, 1 - host.session._lock, frozen=host.frozen).run())


# failures -------------------------------------------------------------------------------------------------------------


class Failing(MemoryTier):
    """Fails once, at the `at`-th call of `call`."""

    def __init__(self, call, at):
        super().__init__(ROOM)
        self.call, self.left, self.failed = call, at, False

    def put(self, name, packed):
        self._count("put")
        super().put(name, packed)

    def get(self, name):
        self._count("get")
        return super().get(name)

    def is_at(self, device):
        return self.call == "get away" and super().is_at(device)

    def _count(self, call):
        self.left -= call == self.call.split()[0]
        if self.left == 0 and not self.failed:
            self.failed = True
            raise StoreError("the tier is broken")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("at", range(1, BLOCKS * STEPS + 1, 2))
def test_a_tier_that_fails_while_recording_is_told_once_and_changes_no_bit(at, apart):
    store, told = KVStore([Failing("put", at)], codec("same")), []
    assert torch.equal(Host(stored(store, tell=told.append), apart=apart).run(), Host().run())
    (message,) = told
    assert "the tier is broken" in message and "what was recorded before is kept" in message
    again = stored(store, tell=told.append)
    assert torch.equal(Host(again, apart=apart).run(), Host().run())
    assert again.found == (at - 1) // BLOCKS and len(told) == 1  # whole steps before the failure


@pytest.mark.parametrize("call", ["get", "get away"], ids=["prefetched", "at hand"])
@pytest.mark.parametrize("at", range(1, BLOCKS * STEPS + 1, 4))
def test_a_tier_that_fails_while_reading_surfaces_and_loses_nothing(at, call):
    store = KVStore([Failing(call, at)], codec("same"))
    Host(stored(store)).run()
    with pytest.raises(StoreError, match="the tier is broken"):
        Host(stored(store)).run()
    again = stored(store)  # what could not be read is forgotten, so that running again helps
    assert torch.equal(Host(again).run(), Host().run()) and again.found == STEPS - 1


def test_what_a_step_cannot_do_without_is_an_error():
    with pytest.raises(SourceError, match="budgets are too small"):
        Host(InStep(KVStore([MemoryTier(100)], codec("same")))).run()
    with pytest.raises(StoreError, match="the tier is broken"):
        Host(InStep(KVStore([Failing("put", 2)], codec("same")))).run()


class _Stop(Exception):
    pass


def breaks(error, step, block):
    def on_call(host, now_step, now_block):
        if (now_step, now_block) == (step, block):
            raise error("stop")

    return on_call


@pytest.mark.parametrize("error", [_Stop, KeyboardInterrupt])
@pytest.mark.parametrize("step, block", [(0, 0), (0, 2), (3, 1), (STEPS - 1, 2)])
def test_a_run_that_breaks_off_leaves_no_half_recording(step, block, error):
    store = memory_store()
    with pytest.raises(error):
        Host(stored(store), on_call=breaks(error, step, block)).run()
    assert [key.moment.sigma for key in store.keys] == SIGMAS[:step]
    again = stored(store)
    assert torch.equal(Host(again).run(), Host().run()) and again.found == step


# everything is freed --------------------------------------------------------------------------------------------------


class Tracking:
    """A codec that remembers, weakly, every tensor it made."""

    name = "same"

    def __init__(self):
        self.made = []

    def encode(self, k, v):
        packed = codec("same").encode(k, v)
        self.made += [weakref.ref(tensor) for tensor in packed.values()]
        return packed

    def decode(self, packed, dtype):
        return codec("same").decode(packed, dtype)

    @property
    def alive(self):
        return sum(ref() is not None for ref in self.made)


MODES = {
    "lockstep apart": (Lockstep, True),
    "lockstep refreshed": (lambda store: Lockstep(store, refresh_every=3), False),
    "in_step": (InStep, False),
    "in_step refreshed": (lambda store: InStep(store, refresh_every=3), False),
    "stored": (stored, False),
    "stored refreshed": (lambda store: stored(store, 3), True),
}


@pytest.mark.parametrize("error", [None, _Stop, KeyboardInterrupt])
@pytest.mark.parametrize("mode", MODES)
def test_after_a_run_an_error_or_an_interrupt_only_what_was_sealed_is_alive(mode, error):
    make, apart = MODES[mode]
    tracking = Tracking()
    store = memory_store(tracking)
    host = Host(make(store), on_call=error and breaks(error, 3, 1), apart=apart)
    if error is None:
        host.run()
    else:
        with pytest.raises(error):
            host.run()
        gc.collect()  # the error holds frames
    sealed = len(store.keys)
    assert tracking.made and (sealed > 0) == mode.startswith("stored")
    assert tracking.alive == sealed * BLOCKS * 2
    store.close()
    assert tracking.alive == 0 and not any(store.bytes_by_tier.values())


@pytest.mark.parametrize("mode", ["lockstep apart", "lockstep refreshed", "in_step", "in_step refreshed"])
def test_no_more_than_one_evaluation_is_held_at_a_time(mode):
    make, apart = MODES[mode]
    tracking, during, after = Tracking(), [], []
    host = Host(make(memory_store(tracking)), on_call=lambda *_: during.append(tracking.alive), apart=apart)
    for _ in host.steps():
        after.append(tracking.alive)
    one = BLOCKS * 2
    assert max(during) == one
    assert set(after) == ({one} if mode.endswith("refreshed") else {0})  # between steps only what the next one needs


@pytest.mark.parametrize("refresh_every, kept", [(1, 0), (3, BLOCKS * 2)])
def test_lockstep_alone_keeps_nothing(refresh_every, kept):
    """Of the tensors of a call; what is held for later steps are copies of the locked tokens."""
    host = Host(Lockstep(refresh_every=refresh_every))
    for _ in host.steps():
        assert not any(ref() is not None for ref in host.seen)
        held = host.session._source._store
        assert (0 if held is None else len(held.tiers[0]._entries) * 2) == kept


def test_the_thread_that_reads_ahead_ends_with_the_run(tmp_path):
    store = KVStore([DiskTier(ROOM, tmp_path)], codec("same"))
    threads, during = threading.active_count(), []
    Host(stored(store)).run()
    Host(stored(store), on_call=lambda *_: during.append(threading.active_count())).run()
    assert max(during) == threads + 1 and threading.active_count() == threads
    with pytest.raises(_Stop):
        Host(stored(store), on_call=breaks(_Stop, 3, 1)).run()
    assert threading.active_count() == threads


def test_another_token_stream_is_never_kept_nor_given_under_the_first_ones_name():
    source, here = InStep(), torch.zeros(1, HEADS, L, DIM)
    source.begin(0, 1.0)
    with pytest.raises(SourceError, match="token stream 'text'"):
        source.record(Site(0, "text"), here, here)
    source.record(Site(0), here, here)
    with pytest.raises(SourceError, match="token stream 'text'"):
        source.provide(Site(0, "text"), here, here, ("cond",))
    assert source.provide(Site(0), here, here, ("cond",))[0].equal(here)
