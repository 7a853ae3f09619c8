"""Theorems about a store: right K,V or a reason, within the budgets after every call, steps whole, eviction by next use."""

import itertools
import random
import weakref
from dataclasses import fields, replace
from functools import cache
from tempfile import TemporaryDirectory

import pytest
import torch

from kvlock_core import DiskTier, KVStore, MemoryTier, Moment, SourceIdentity, SourceKey, StoreError, codec, fingerprint
from kvlock_core import tiers as tiers_module
from kvlock_core.store import entry_name
from kvlock_core.tiers import FILE_OVERHEAD, packed_size

BLOCKS, L, ROOM = 2, 6, 2**20
IDENTITY = SourceIdentity("model", "latent", (1, 2, 3), "float32")
LIKE = torch.zeros(1)
#: Bytes of one block's K,V as they are.
ENTRY = 2 * 2 * L * 3 * 4


def key(at):
    return SourceKey(IDENTITY, Moment(1.0 - at / 16, f"noise {at}", "text"))


def kv(at, block, draw=0, n=L):
    generator = torch.Generator().manual_seed(1000 * draw + 10 * at + block)
    return tuple(torch.randn(2, 1, 2, n, 3, generator=generator))


@cache
def size_of(form, kind="memory"):
    """Bytes of one block's K,V in a tier, so that stacks of all codecs are equally tight."""
    with TemporaryDirectory() as folder:
        tier = DiskTier(ROOM, folder) if kind == "disk" else MemoryTier(ROOM)
        tier.put("e", codec(form).encode(*kv(0, 0)))
        return tier.used


def tier_for(entries, kind, folder, form="same"):
    """A tier that has room for so many blocks and no more; a file's size is known only when it is written."""
    budget = entries * size_of(form, kind)
    if kind == "disk":
        return DiskTier(budget and budget - size_of(form, kind) + size_of(form) + FILE_OVERHEAD, folder)
    return MemoryTier(budget, name=kind)


class Checked:
    """A tier that is over its budget, or counts wrong, in no call."""

    def __init__(self, tier, calls=None):
        self._tier, self._calls = tier, calls if calls is not None else Calls()

    def __getattr__(self, name):
        return getattr(self._tier, name)

    def put(self, name, packed):
        self._calls.pass_or_fail("put")
        self._tier.put(name, packed)
        self.check()

    def get(self, name):
        self._calls.pass_or_fail("get")
        return self._tier.get(name)

    def drop(self, name):
        self._tier.drop(name)
        self.check()

    def check(self):
        tier = self._tier
        if isinstance(tier, DiskTier):
            there = sum(path.stat().st_size for path in tier.folder.iterdir()) if tier.folder.exists() else 0
        else:
            there = sum(packed_size(packed) for packed in tier._entries.values())
        assert there == tier.used <= tier.budget, f"{tier.name}: {there} there, {tier.used} counted, budget {tier.budget}"


class Calls:
    """Counts the calls of all tiers together; the `fails_at`-th raises."""

    def __init__(self, fails_at=None, error=StoreError):
        self.made, self.fails_at, self.error = 0, fails_at, error

    def pass_or_fail(self, name):
        self.made += 1
        if self.made == self.fails_at:
            raise self.error(f"{name} fails")


#: Tier stacks as (kind, entries it has room for), from ample to none.
STACKS = {
    "memory": [("memory", 99)],
    "device, memory": [("device", 3), ("memory", 99)],
    "disk": [("disk", 99)],
    "memory, disk": [("memory", 3), ("disk", 99)],
    "three": [("device", 1), ("memory", 2), ("disk", 99)],
    "tight memory": [("memory", 5)],
    "tight three": [("device", 1), ("memory", 3), ("disk", 3)],
    "no room": [("device", 0.5), ("disk", 0)],
}
AMPLE = tuple(name for name, stack in STACKS.items() if stack[-1][1] == 99)


def tiers_of(stack, folder, form="same", calls=None):
    calls = calls or Calls()
    return [Checked(tier_for(entries, kind, folder, form), calls) for kind, entries in STACKS[stack]]


def store_of(stack, folder, form="same", calls=None, kind=KVStore):
    return kind(tiers_of(stack, folder, form, calls), codec(form))


def record(store, at, draw=0, tokens=None, blocks=range(BLOCKS), sealed=True):
    store.open(key(at), tokens)
    for block in blocks:
        k, v = kv(at, block, draw)
        store.put(key(at), block, *((k, v) if tokens is None else (k[:, :, tokens], v[:, :, tokens])))
    if sealed:
        store.seal(key(at))


def kept(store, upto, blocks=range(BLOCKS), tokens=None):
    return [at for at in range(upto) if store.lacks(key(at), blocks, tokens) is None]


class Model:
    """What a store must give if it gives anything: the last sealed recording of every evaluation, as a plain dict."""

    def __init__(self, store):
        self.store, self.sealed = store, {}

    def record(self, at, draw, tokens, sealed=True):
        self.sealed.pop(at, None)
        record(self.store, at, draw, tokens, sealed=sealed)
        if sealed:
            self.sealed[at] = draw, tokens

    def check(self, at, wanted=None, block_order=range(BLOCKS)):
        """True if the evaluation was found, and right."""
        reason = self.store.lacks(key(at), range(BLOCKS), wanted)
        if reason is not None:
            assert isinstance(reason, str) and reason
            return False
        assert at in self.sealed, f"evaluation {at} was never sealed"
        draw, tokens = self.sealed[at]
        for block in block_order:
            read, form = self.store.read(key(at), block, wanted, LIKE), self.store.codec
            chosen = slice(None) if wanted is None else wanted
            given = (x if tokens is None else x[:, :, tokens] for x in kv(at, block, draw))
            expected = form.decode(form.encode(*given), LIKE.dtype)
            if tokens is not None and wanted is not None:
                chosen = torch.isin(tokens, wanted).nonzero().squeeze(1)
            assert all(torch.equal(a, b[:, :, chosen]) for a, b in zip(read, expected)), f"wrong K,V of evaluation {at}"
        return True


# what is put comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["same", "int8"])
@pytest.mark.parametrize("stack", STACKS)
def test_what_is_sealed_is_read_back_or_there_is_a_reason(stack, form, tmp_path):
    store = store_of(stack, tmp_path, form)
    store.expect(key(at) for at in range(4))
    model = Model(store)
    for at in range(4):
        model.record(at, draw=0, tokens=None)
    found = [model.check(at) for at in range(4)]
    room = int(sum(entries for _, entries in STACKS[stack]) // BLOCKS)
    assert found == [at < room for at in range(4)]
    store.close()
    assert not any(model.check(at) for at in range(4)) and not any(store.bytes_by_tier.values())


def walk(store, seed, steps=60, faults=False):
    """A random walk over everything a store can do, checked against the model in every step."""
    rng, model = random.Random(seed), Model(store)
    masks = [None, torch.arange(L), torch.tensor([0, 2, 3, 5]), torch.tensor([2, 5]), torch.empty(0, dtype=torch.long)]
    draws, found = itertools.count(), 0
    for _ in range(steps):
        act = rng.choice(["expect", "record", "record", "record", "half", "forget", "rest", "read", "read", "read"])
        at = rng.randrange(6)
        try:
            if act == "expect":
                store.expect(key(i) for i in rng.sample(range(6), rng.randint(0, 6)))
            elif act in ("record", "half"):
                model.record(at, next(draws), rng.choice(masks), sealed=act == "record")
            elif act == "forget":
                store.forget(key(at))
            elif act == "rest":
                store.rest()
            else:
                found += model.check(at, rng.choice(masks), rng.sample(range(BLOCKS), BLOCKS))
        except StoreError:
            assert faults
            if act == "record":
                assert store.lacks(key(at), range(BLOCKS), None) is not None
        for tier in store.tiers:
            tier.check()
    return found


@pytest.mark.parametrize("form", ["same", "int8"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_random_walk_never_reads_wrong_and_never_exceeds_a_budget(stack, form, tmp_path):
    found = 0
    for seed in range(6):
        store = store_of(stack, tmp_path, form)
        found += walk(store, seed)
        store.close()
    assert found > 0  # a store that never finds anything would pass the rest; without room, masks of few tokens fit


class _WrongHit(KVStore):
    """Wrong: any recording will do."""

    def lacks(self, key, blocks, tokens):
        return None if self.keys else "nothing"

    def read(self, key, block, tokens, like):
        return super().read(self.keys[0], block, None, like)


class _Greedy(KVStore):
    """Wrong: there is always room."""

    def _made_room(self, level, size, use):
        return True


class _Unsealed(KVStore):
    """Wrong: what was broken off counts too."""

    def put(self, key, block, k, v):
        placed = super().put(key, block, k, v)
        self._recordings[key].sealed = placed
        return placed


@pytest.mark.parametrize("wrong", [_WrongHit, _Greedy, _Unsealed])
def test_the_walk_bites(wrong, tmp_path):
    with pytest.raises(AssertionError):
        for seed in range(6):
            walk(store_of("tight memory", tmp_path, kind=wrong), seed)


def test_a_block_that_comes_twice_is_kept_once(tmp_path):
    for stack in AMPLE:
        store = store_of(stack, tmp_path)
        store.open(key(0), None)
        for draw in (0, 1):
            for block in range(BLOCKS):
                store.put(key(0), block, *kv(0, block, draw))
        store.seal(key(0))
        assert torch.equal(store.read(key(0), 1, None, LIKE)[0], kv(0, 1, 1)[0])
        store.forget(key(0))
        assert not any(store.bytes_by_tier.values())


def test_a_recording_holds_no_view_of_what_it_was_given():
    store = KVStore([MemoryTier(ROOM)], codec("same"))
    k, v = kv(0, 0)
    store.open(key(0), None)
    store.put(key(0), 0, k, v)
    store.seal(key(0))
    k.zero_()
    assert torch.equal(store.read(key(0), 0, None, LIKE)[0], kv(0, 0)[0])


# tokens and blocks ----------------------------------------------------------------------------------------------------


def test_a_larger_edit_is_served_and_a_smaller_one_is_a_miss_with_a_reason(tmp_path):
    recorded, fewer, more = torch.tensor([0, 2, 3, 5]), torch.tensor([2, 5]), torch.tensor([0, 1, 2, 3, 5])
    for stack in AMPLE:
        store = store_of(stack, tmp_path)
        record(store, 0, tokens=recorded)
        for wanted in (recorded, fewer, torch.empty(0, dtype=torch.long)):
            assert store.lacks(key(0), range(BLOCKS), wanted) is None
            for block in range(BLOCKS):
                read, given = store.read(key(0), block, wanted, LIKE), kv(0, block)
                assert all(torch.equal(a, b[:, :, wanted]) for a, b in zip(read, given))
        for wanted in (more, None, torch.tensor([1]), torch.tensor([5, 7])):
            assert "mask leaves less free" in store.lacks(key(0), range(BLOCKS), wanted)
            with pytest.raises(StoreError, match="mask leaves less free"):
                store.read(key(0), 0, wanted, LIKE)


def test_blocks_that_were_not_recorded_are_a_miss_and_fewer_are_not():
    store = KVStore([MemoryTier(ROOM)], codec("same"))
    record(store, 0, blocks=(1, 2))
    assert [store.lacks(key(0), blocks, None) for blocks in ((1, 2), (2,), ())] == [None] * 3
    assert all("blocks" in store.lacks(key(0), blocks, None) for blocks in ((0, 1, 2), (3,)))
    with pytest.raises(StoreError, match="block 0 at sigma 1 is not kept"):
        store.read(key(0), 0, None, LIKE)


# identity -------------------------------------------------------------------------------------------------------------

OTHER = {
    "model": "model with a LoRA", "latent": "another clip", "grid": (1, 2, 4), "dtype": "bfloat16", "stream": "audio",
    "sigma": 1.0 - 2**-40, "noise": "noise 1", "text": "a text",
}  # fmt: skip


def changed(name):
    whole = key(0)
    part = "identity" if name in {f.name for f in fields(SourceIdentity)} else "moment"
    return replace(whole, **{part: replace(getattr(whole, part), **{name: OTHER[name]})})


def check_every_field_counts(store):
    record(store, 0)
    names = [f.name for f in (*fields(SourceIdentity), *fields(Moment))]
    assert set(names) == set(OTHER), "a field was added: say here what another value is"
    for name in names:
        reason = store.lacks(changed(name), range(BLOCKS), None)
        assert reason == f"recorded with another {name}"
        with pytest.raises(StoreError, match=name):
            store.read(changed(name), 0, None, LIKE)
    assert store.lacks(key(0), range(BLOCKS), None) is None


def test_every_field_of_the_key_counts_and_is_named():
    check_every_field_counts(KVStore([MemoryTier(ROOM)], codec("same")))


class _Textless(KVStore):
    """Wrong: any text will do."""

    def lacks(self, key, blocks, tokens):
        return super().lacks(replace(key, moment=replace(key.moment, text="text")), blocks, tokens)


def test_the_identity_checker_bites():
    with pytest.raises(AssertionError):
        check_every_field_counts(_Textless([MemoryTier(ROOM)], codec("same")))


def test_every_field_is_in_the_name_of_an_entry_and_in_a_files_header():
    keys = [key(0), *(changed(name) for name in OTHER)]
    assert len({entry_name(k, block) for k in keys for block in range(3)}) == 3 * len(keys)
    assert [SourceKey.from_dict(k.to_dict()) for k in keys] == keys


def test_the_reason_is_that_of_the_closest_recording():
    store = KVStore([MemoryTier(ROOM)], codec("same"))
    assert store.lacks(key(0), (0,), None) == "nothing is recorded yet"
    for name in ("text", "model"):
        store.open(changed(name), None)
        store.seal(changed(name))
    wanted = replace(changed("text"), identity=replace(IDENTITY, model="a third"))
    assert store.lacks(wanted, (0,), None) == "recorded with another model"


def test_fingerprints_tell_contents_apart():
    zeros = torch.zeros(4)
    texts = [("a", "b"), ("a||b",), ("a|", "b"), ("ab",), ("", "ab")]
    tensors = [(zeros,), (zeros.int(),), (zeros.view(2, 2),), (zeros[:2], zeros[:2]), (zeros + 1,)]
    parts = texts + tensors
    assert len({fingerprint(*part) for part in parts}) == len(parts)
    assert fingerprint(zeros.view(2, 2).t(), "a") == fingerprint(zeros.view(2, 2).clone(), "a")


# eviction -------------------------------------------------------------------------------------------------------------


def run(store, plan):
    """A run as `Stored` makes one: reads what is found, records what is not. Returns what was found."""
    store.expect(key(at) for at in plan)
    found = []
    for at in plan:
        if store.lacks(key(at), range(BLOCKS), None) is None:
            for block in range(BLOCKS):
                assert torch.equal(store.read(key(at), block, None, LIKE)[0], kv(at, block)[0])
            found.append(at)
        else:
            record(store, at)
    store.rest()
    return found


@pytest.mark.parametrize("stack", [[("memory", 4)], [("memory", 1), ("memory", 3)], [("disk", 4)], [("memory", 3), ("disk", 1)]])
def test_of_four_steps_with_room_for_two_the_first_two_are_found_in_the_next_run(stack, tmp_path):
    store = KVStore([Checked(tier_for(n, kind, tmp_path)) for kind, n in stack], codec("same"))
    assert [run(store, range(4)) for _ in range(3)] == [[], [0, 1], [0, 1]]
    assert store.lacks(key(3), range(BLOCKS), None) == "the budgets leave no room for this step"


def most_hits(cached, accesses, room):
    """The most accesses that any eviction policy finds, by trying all of them; an access may be passed by."""
    if not accesses:
        return 0
    now, later = accesses[0], accesses[1:]
    hit, all_of_them = now in cached, cached | {now}
    kept = itertools.chain.from_iterable(itertools.combinations(sorted(all_of_them), n) for n in range(room + 1))
    return hit + max(_most_hits(frozenset(some), later, room) for some in kept)


_most_hits = cache(most_hits)
RUNS = 3


def check_finds_as_many_as_can_be(make_store, steps, room):
    store, plan = make_store(room), tuple(range(steps))
    found = [len(run(store, plan)) for _ in range(RUNS)]
    assert found[1:] == [min(room, steps)] * (RUNS - 1)
    assert sum(found) == _most_hits(frozenset(), plan * RUNS, room)


def memory_of(room, kind=KVStore):
    return kind([Checked(MemoryTier(room * BLOCKS * ENTRY))], codec("same"))


@pytest.mark.parametrize("steps, room", [(steps, room) for steps in (1, 3, 5) for room in range(steps + 1)])
def test_no_policy_finds_more(steps, room):
    check_finds_as_many_as_can_be(memory_of, steps, room)


class _Oldest(KVStore):
    """Wrong: the next use counts for nothing, the oldest goes first."""

    def next_use(self, key, block):
        return -list(self._recordings).index(key), 0


def test_the_policy_checker_bites():
    with pytest.raises(AssertionError):
        check_finds_as_many_as_can_be(lambda room: memory_of(room, _Oldest), 3, 2)


def test_no_policy_finds_more_from_what_another_plan_left():
    first, second, room = (0, 1, 2, 3), (4, 2, 1, 5, 0), 2
    store = memory_of(room)
    run(store, first)
    left = frozenset(kept(store, 6))
    found = sum(len(run(store, second)) for _ in range(RUNS))
    assert found == _most_hits(left, second * RUNS, room)


def test_what_is_not_in_the_plan_goes_first():
    store = memory_of(2)
    run(store, (8, 9))
    run(store, (0, 1))
    assert kept(store, 10) == [0, 1]
    record(store, 5)  # nobody expects it, and nothing of the plan goes for it
    assert kept(store, 10) == [0, 1]


def test_why_a_step_was_refused_is_told_as_long_as_the_plan_names_it():
    store = memory_of(1)
    run(store, (0, 1))
    assert "no room" in store.lacks(key(1), range(BLOCKS), None)
    run(store, (0,))
    assert store.lacks(key(1), range(BLOCKS), None) == "recorded with another sigma, noise"
    assert len(store._recordings) == 1  # what was refused does not pile up over the plans


def test_a_step_is_kept_or_dropped_as_a_whole():
    """Room for a step and a half: the half one goes, with every byte."""
    store = KVStore([Checked(MemoryTier(ENTRY)), Checked(MemoryTier(2 * ENTRY, name="slow"))], codec("same"))
    store.expect([key(0), key(1)])
    record(store, 0)
    record(store, 1)
    assert store.keys == (key(0),) and store.bytes_by_tier == {"memory": ENTRY, "slow": ENTRY}


def test_a_step_over_two_tiers_that_has_to_go_goes_from_both():
    """To send its block down, the tier below would have to give up another block of the very same step."""
    store = KVStore([Checked(MemoryTier(ENTRY)), Checked(MemoryTier(ENTRY, name="slow"))], codec("same"))
    store.expect([key(0)])
    record(store, 1)
    assert store.bytes_by_tier == {"memory": ENTRY, "slow": ENTRY}
    record(store, 0)
    assert kept(store, 2) == [0] and store.bytes_by_tier == {"memory": ENTRY, "slow": ENTRY}


# failures -------------------------------------------------------------------------------------------------------------


def recorded_under_fault(stack, folder, fails_at):
    """Four steps are recorded and read while the n-th call of a tier fails. Returns store, model, calls, errors."""
    calls, errors = Calls(fails_at), []
    store = store_of(stack, folder, calls=calls)
    store.expect(key(at) for at in range(4))
    model = Model(store)
    for action in (lambda at: model.record(at, 0, None), model.check, model.check):
        for at in (2, 0, 3, 1):
            try:
                action(at)
            except StoreError as error:
                errors.append((at, action == model.check, str(error)))
    return store, model, calls, errors


@pytest.mark.parametrize("stack", STACKS)
def test_a_tier_that_fails_at_any_call_loses_nothing_else_and_surfaces(stack, tmp_path):
    for fails_at in itertools.count(1):
        store, model, calls, errors = recorded_under_fault(stack, tmp_path, fails_at)
        if calls.made < fails_at:
            break
        assert len(errors) == 1 and errors[0][2].endswith(" fails")
        (failed, reading, _), found = errors[0], [at for at in range(4) if model.check(at)]
        if stack in AMPLE:  # a read that fails loses nothing, a recording that fails only itself
            assert found == [at for at in range(4) if reading or at != failed]
        store.expect(key(at) for at in range(4))
        for at in range(4):
            store.forget(key(at))
        model.record(0, 1, None)
        assert model.check(0) == (stack != "no room")  # and the store still works
        store.close()
    assert fails_at > 1 or stack == "no room"


def test_no_memory_to_pack_in_is_a_store_that_fails_and_not_the_end_of_the_run(tmp_path, monkeypatch):
    store = store_of("memory", tmp_path)
    model = Model(store)
    model.record(0, 0, None)
    short = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(type(store.codec), "encode", short)
        with pytest.raises(StoreError, match="no memory to pack source K,V as"):
            model.record(1, 0, None)
    assert model.check(0) and not model.check(1)


def test_a_full_disk_is_raised_and_what_was_sealed_stays(tmp_path, monkeypatch):
    store, real = store_of("disk", tmp_path), tiers_module.save_file
    model = Model(store)
    model.record(0, 0, None)

    def full_after_one(tensors, path, room=iter([True])):
        if not next(room, False):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(tiers_module, "save_file", full_after_one)
    with pytest.raises(StoreError, match="No space left on device"):
        model.record(1, 0, None)
    assert model.check(0) and not model.check(1) and store.bytes_by_tier["disk"] == BLOCKS * size_of("same", "disk")
    assert store.lacks(key(1), range(BLOCKS), None) == "a tier failed while this step was recorded"
    store.tiers[0].check()


# everything is freed --------------------------------------------------------------------------------------------------


class Tracking:
    """A codec that remembers, weakly, every tensor it made."""

    def __init__(self, form):
        self._codec, self.made = codec(form), []

    def __getattr__(self, name):
        return getattr(self._codec, name)

    def encode(self, k, v):
        packed = self._codec.encode(k, v)
        self.made += [weakref.ref(tensor) for tensor in packed.values()]
        return packed

    @property
    def alive(self):
        return sum(ref() is not None for ref in self.made)


@pytest.mark.parametrize("form, parts", [("same", 2), ("int8", 4)])
def test_only_what_is_kept_is_alive(form, parts, tmp_path):
    tracking = Tracking(form)
    store = KVStore([MemoryTier(5 * size_of(form)), DiskTier(ROOM, tmp_path)], tracking)
    store.expect(key(at) for at in range(4))
    for at in range(4):
        record(store, at)
    assert tracking.alive == 5 * parts  # the others lie on the disk
    record(store, 0, sealed=False)
    store.rest()
    assert key(0) not in store.keys and tracking.alive == store.bytes_by_tier["memory"] // size_of(form) * parts
    store.close()
    assert tracking.alive == 0 and len(tracking.made) == 5 * BLOCKS * parts


def test_a_store_that_was_closed_can_be_used_again():
    store = KVStore([MemoryTier(ROOM)], codec("same"))
    for _ in range(2):
        record(store, 0)
        assert kept(store, 2) == [0]
        store.close()
        assert store.keys == () and kept(store, 2) == []
