"""Theorems about the prefetcher: one entry ahead, in its own thread, two alive at most, and no error is lost."""

import gc
import threading
import weakref

import pytest
import torch

from kvlock_core import DiskTier, KVStore, Moment, SourceIdentity, SourceKey, StoreError, codec
from kvlock_core.prefetch import Prefetcher

CPU = torch.device("cpu")
#: Seconds after which something that should have happened did not.
LONG = 5.0


@pytest.fixture
def prefetcher():
    made = Prefetcher(CPU)
    yield made
    made.close()


class Loads:
    """Loads that say when they begin, and can be made to wait."""

    def __init__(self):
        self.begun, self.gates, self.threads = [], {}, []
        self._changed = threading.Condition()

    def of(self, name, value=0.0, wait=False):
        if wait:
            self.gates[name] = threading.Event()

        def load():
            self.threads.append(threading.current_thread())
            with self._changed:
                self.begun.append(name)
                self._changed.notify_all()
            assert name not in self.gates or self.gates[name].wait(LONG)
            return {"key": torch.full((3,), value)}

        return load

    def wait_for(self, name):
        with self._changed:
            return self._changed.wait_for(lambda: name in self.begun, LONG)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("kvlock_prefetch")]


# one entry ahead ------------------------------------------------------------------------------------------------------


def test_what_was_started_is_loaded_before_anyone_asks_and_only_once(prefetcher):
    loads = Loads()
    prefetcher.start("a", loads.of("a", 1.0))
    assert loads.wait_for("a") and loads.threads != [threading.main_thread()]
    taken = prefetcher.take("a", loads.of("never"))
    assert torch.equal(taken["key"], torch.full((3,), 1.0)) and loads.begun == ["a"]


def test_what_was_not_started_is_loaded_when_it_is_asked_for(prefetcher):
    assert prefetcher.take("a", Loads().of("a", 2.0))["key"][0] == 2.0


def test_another_entry_than_the_one_ahead_is_never_given(prefetcher):
    loads = Loads()
    prefetcher.start("a", loads.of("a", 1.0, wait=True))
    assert loads.wait_for("a")
    prefetcher.start("b", loads.of("b", 2.0))  # a is still on its way
    loads.gates["a"].set()
    assert prefetcher.take("c", loads.of("c", 3.0))["key"][0] == 3.0
    assert prefetcher.take("b", loads.of("b again", 4.0))["key"][0] == 4.0


def test_an_entry_is_taken_once(prefetcher):
    prefetcher.start("a", Loads().of("a", 1.0))
    assert [prefetcher.take("a", Loads().of("a", value))["key"][0].item() for value in (5.0, 6.0)] == [1.0, 6.0]


def test_an_entry_that_is_let_go_is_loaded_anew(prefetcher):
    prefetcher.start("a", Loads().of("a", 1.0))
    prefetcher.let_go()
    assert prefetcher.take("a", Loads().of("a", 2.0))["key"][0] == 2.0


def test_the_copy_is_made_ahead_and_shares_nothing_with_what_is_kept(prefetcher):
    kept = {"key": torch.zeros(3)}
    taken = prefetcher.take("a", lambda: kept)
    assert torch.equal(taken["key"], kept["key"]) and taken["key"].data_ptr() != kept["key"].data_ptr()


def most_alive(prefetcher, entries=6, hoard=False):
    """Entries whose tensors are alive at once while they are read in order as a store does, one ahead."""
    refs, most, lock, hoarded = [], [0], threading.Lock(), []

    def load():
        tensor = torch.zeros(3)
        return {"key": tensor}

    def brought(bring, *args):
        packed = bring(*args)
        with lock:
            refs.append(weakref.ref(packed["key"]))
            most[0] = max(most[0], sum(ref() is not None for ref in refs))
        return packed

    real = prefetcher._bring
    prefetcher._bring = lambda load: brought(real, load)
    for at in range(entries):
        in_use = prefetcher.take(str(at), load)
        prefetcher.start(str(at + 1), load)
        prefetcher._ahead[1].exception(LONG)  # let the next one arrive while this one is in use
        hoarded.append(in_use if hoard else None)
        del in_use
    return most[0]


def test_two_entries_are_alive_at_most(prefetcher):
    assert most_alive(prefetcher) == 2


def test_the_counter_of_entries_bites(prefetcher):
    assert most_alive(prefetcher, hoard=True) > 2


# errors ---------------------------------------------------------------------------------------------------------------


def fails():
    raise StoreError("the file is gone")


def test_a_load_that_fails_surfaces_where_it_is_taken_and_the_next_one_works(prefetcher):
    prefetcher.start("a", fails)
    prefetcher._ahead[1].exception(LONG)  # it has failed by now, and nobody has noticed
    with pytest.raises(StoreError, match="the file is gone"):
        prefetcher.take("a", Loads().of("a"))
    assert prefetcher.take("a", Loads().of("a", 3.0))["key"][0] == 3.0


def test_a_load_that_fails_and_is_not_taken_disturbs_nobody(prefetcher):
    prefetcher.start("a", fails)
    assert prefetcher.take("b", Loads().of("b", 1.0))["key"][0] == 1.0


# the end --------------------------------------------------------------------------------------------------------------


def test_close_ends_the_thread_and_frees_what_was_ahead():
    before, prefetcher, refs = prefetch_threads(), Prefetcher(CPU), []

    def load():
        tensor = torch.zeros(3)
        refs.append(weakref.ref(tensor))
        return {"key": tensor}

    prefetcher.start("a", load)
    prefetcher._ahead[1].exception(LONG)
    assert len(prefetch_threads()) == len(before) + 1
    prefetcher.close()
    prefetcher.close()
    assert prefetch_threads() == before and refs and all(ref() is None for ref in refs)


def test_close_waits_for_a_load_that_is_under_way():
    loads, prefetcher = Loads(), Prefetcher(CPU)
    prefetcher.start("a", loads.of("a", wait=True))
    assert loads.wait_for("a")
    threading.Timer(0.05, loads.gates["a"].set).start()
    prefetcher.close()
    assert not prefetch_threads()


def test_a_prefetcher_that_nobody_closed_ends_its_thread_all_the_same():
    prefetcher = Prefetcher(CPU)
    prefetcher.take("a", Loads().of("a"))
    (thread,) = prefetch_threads()
    del prefetcher
    gc.collect()
    thread.join(LONG)
    assert not thread.is_alive()


# in a store -----------------------------------------------------------------------------------------------------------

KEY = SourceKey(SourceIdentity("m", "l", (1,), "float32"), Moment(0.5, "n", "t"))
LIKE = torch.zeros(1, 1, 1, 1)


class _Watched(DiskTier):
    """Says which entries were read, and by whom."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reads = Loads()

    def get(self, name):
        self.reads.of(name.rsplit("_", 1)[1])()
        return super().get(name)


@pytest.fixture
def disk_store(tmp_path):
    store = KVStore([_Watched(2**20, tmp_path)], codec("same"))
    store.open(KEY, None)
    for block in range(4):
        store.put(KEY, block, torch.full((1, 2, 6, 3), float(block)), torch.full((1, 2, 6, 3), -1.0))
    store.seal(KEY)
    yield store
    store.close()


def test_the_next_block_is_on_its_way_before_it_is_asked_for(disk_store):
    reads = disk_store.tiers[0].reads
    for block in range(4):
        k, _ = disk_store.read(KEY, block, None, LIKE)
        assert k.unique().tolist() == [block]
        assert block == 3 or reads.wait_for(str(block + 1))
    assert reads.begun == ["0", "1", "2", "3"]
    assert threading.main_thread() not in reads.threads


def test_a_block_that_is_skipped_is_only_loaded_in_vain(disk_store):
    assert [disk_store.read(KEY, block, None, LIKE)[0].unique().item() for block in (0, 2, 3, 1)] == [0, 2, 3, 1]


def test_what_was_recorded_anew_is_never_served_from_before(disk_store):
    disk_store.read(KEY, 0, None, LIKE)
    assert disk_store.tiers[0].reads.wait_for("1")  # the old block 1 is on its way
    disk_store.open(KEY, None)
    for block in range(2):
        disk_store.put(KEY, block, torch.full((1, 2, 6, 3), 10.0 + block), torch.zeros(1, 2, 6, 3))
    disk_store.seal(KEY)
    assert disk_store.read(KEY, 1, None, LIKE)[0].unique().item() == 11.0


def test_a_file_that_is_gone_surfaces_in_the_read_that_needs_it(disk_store):
    (path,) = disk_store.tiers[0].folder.glob("*_1.safetensors")
    path.unlink()
    assert disk_store.read(KEY, 0, None, LIKE)[0].unique().item() == 0
    with pytest.raises(StoreError, match="_1.safetensors"):
        disk_store.read(KEY, 1, None, LIKE)
    assert disk_store.read(KEY, 2, None, LIKE)[0].unique().item() == 2


@pytest.mark.parametrize("end", ["rest", "close"])
def test_between_runs_no_thread_is_left(disk_store, end):
    disk_store.read(KEY, 0, None, LIKE)
    assert len(prefetch_threads()) == 1
    getattr(disk_store, end)()
    assert not prefetch_threads()
