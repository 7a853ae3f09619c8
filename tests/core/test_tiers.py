"""Theorems about one tier: what is put comes back, `used` is the truth, a failure changes nothing, closing frees it all."""

import gc
import os
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from kvlock_core import CODECS, DiskTier, MemoryTier, StoreError, codec
from kvlock_core import tiers as tiers_module
from kvlock_core.tiers import FILE_OVERHEAD, packed_size

ROOM = 2**20
TIERS = ("memory", "disk")


def make(kind, folder, budget=ROOM):
    return MemoryTier(budget) if kind == "memory" else DiskTier(budget, folder)


def entry(seed, n=6, form="same"):
    k, v = torch.randn(2, 1, 2, n, 3, generator=torch.Generator().manual_seed(seed))
    return codec(form).encode(k, v)


def same(a, b):
    """As bytes, since float8 has no comparison everywhere."""
    return set(a) == set(b) and all(
        a[part].dtype == b[part].dtype and torch.equal(a[part].view(torch.uint8), b[part].view(torch.uint8)) for part in a
    )


def files_of(tier):
    return sorted(tier.folder.iterdir())


# conformance ----------------------------------------------------------------------------------------------------------


def check_conforms(tier):
    """What is put is read back, `used` is what is there, what is dropped is gone."""
    entries = {f"e{i}": entry(i, n=4 + i, form=CODECS[i % len(CODECS)]) for i in range(6)}
    sizes, last = {}, tier.used
    assert last == 0
    for name, packed in entries.items():
        tier.put(name, packed)
        sizes[name], last = tier.used - last, tier.used
        assert packed_size(packed) <= sizes[name] <= packed_size(packed) + tier.overhead
    assert all(same(tier.get(name), packed) for name, packed in entries.items())
    for name in ("e3", "e0", "e5"):
        tier.drop(name)
        del entries[name]
        assert tier.used == sum(sizes[left] for left in entries)
    assert all(same(tier.get(name), packed) for name, packed in entries.items())
    tier.close()
    assert tier.used == 0


@pytest.mark.parametrize("kind", TIERS)
def test_a_tier_keeps_what_it_is_given_and_counts_it(kind, tmp_path):
    check_conforms(make(kind, tmp_path))


class _Mixing(MemoryTier):
    """Wrong: every name gives what was put last."""

    def get(self, name):
        return list(self._entries.values())[-1]


class _Undercounting(MemoryTier):
    """Wrong: counts numbers and not bytes."""

    def put(self, name, packed):
        super().put(name, packed)
        self.used -= packed_size(packed) // 2


class _NeverFreeing(MemoryTier):
    """Wrong: what is dropped still counts."""

    def drop(self, name):
        self._entries.pop(name)


@pytest.mark.parametrize("wrong", [_Mixing, _Undercounting, _NeverFreeing])
def test_the_tier_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_conforms(wrong(ROOM))


@pytest.mark.parametrize("form", CODECS)
@pytest.mark.parametrize("n", [0, 1, 4096])
def test_a_file_is_never_larger_than_its_tensors_and_the_overhead(form, n, tmp_path):
    tier, packed = DiskTier(ROOM, tmp_path), entry(1, n=n, form=form)
    tier.put("e", packed)
    (path,) = files_of(tier)
    assert tier.used == path.stat().st_size <= packed_size(packed) + FILE_OVERHEAD


def test_only_memory_of_the_same_device_can_be_computed_with_as_it_is(tmp_path):
    cpu = torch.device("cpu")
    assert MemoryTier(ROOM).is_at(cpu) and not MemoryTier(ROOM).is_at(torch.device("cuda", 0))
    assert MemoryTier(ROOM, "cuda:1").is_at(torch.device("cuda", 1)) and not MemoryTier(ROOM, "cuda:1").is_at(cpu)
    assert MemoryTier(ROOM, "cuda").is_at(torch.device("cuda", 0)) and not MemoryTier(ROOM, "cuda:1").is_at(torch.device("cuda", 0))
    assert not DiskTier(ROOM, tmp_path).is_at(cpu)


def test_tiers_have_names_that_users_know(tmp_path):
    names = [MemoryTier(1).name, MemoryTier(1, "cuda:1").name, MemoryTier(1, name="fast").name, DiskTier(1, tmp_path).name]
    assert names == ["memory", "cuda:1", "fast", "disk"]


# failures -------------------------------------------------------------------------------------------------------------


def check_a_failed_put_changes_nothing(tier, says):
    """`tier` holds "old" and is about to fail."""
    used, old = tier.used, tier.get("old")
    with pytest.raises(StoreError, match=says):
        tier.put("new", entry(2))
    assert tier.used == used > 0 and same(tier.get("old"), old)
    if isinstance(tier, DiskTier):
        assert [path.stem for path in files_of(tier)] == ["old"]


def full_disk(tensors, path):
    Path(path).write_bytes(b"begun")
    raise OSError(28, "No space left on device")


def failing_writer(tensors, path):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("save", [full_disk, failing_writer])
def test_a_full_disk_is_named_and_leaves_nothing_half(save, tmp_path, monkeypatch):
    tier = DiskTier(ROOM, tmp_path)
    tier.put("old", entry(1))
    monkeypatch.setattr(tiers_module, "save_file", save)
    check_a_failed_put_changes_nothing(tier, "No space left on device.*lower the disk budget")


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError("no pages")])
def test_memory_that_cannot_be_had_is_named(error, monkeypatch):
    tier = MemoryTier(ROOM, name="device")
    tier.put("old", entry(1))
    raised, real = iter([None, error]), torch.Tensor.to  # the key still finds room, the value does not

    def here(tensor, *where, **how):
        if where == (tier.device,) and (now := next(raised)) is not None:
            raise now
        return real(tensor, *where, **how)

    monkeypatch.setattr(torch.Tensor, "to", here)
    check_a_failed_put_changes_nothing(tier, f"{error}; lower the budget of device")


class _HalfPut(MemoryTier):
    """Wrong: counts before it fails."""

    def put(self, name, packed):
        self.used += packed_size(packed)
        raise StoreError("no")


def test_the_failure_checker_bites():
    tier = _HalfPut(ROOM)
    MemoryTier.put(tier, "old", entry(1))
    with pytest.raises(AssertionError):
        check_a_failed_put_changes_nothing(tier, "no")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept in .*file.*name a folder"):
        DiskTier(ROOM, tmp_path / "file" / "cache")

    def read_only(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tiers_module.tempfile, "mkdtemp", read_only)
    with pytest.raises(StoreError, match="Permission denied.*name a folder"):
        DiskTier(ROOM, tmp_path)


def test_a_disk_that_became_read_only_is_still_a_store_error(tmp_path, monkeypatch):
    tier = DiskTier(ROOM, tmp_path)

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tiers_module, "save_file", read_only)
    monkeypatch.setattr(tiers_module.Path, "unlink", read_only)
    with pytest.raises(StoreError, match="Read-only file system"):
        tier.put("new", entry(1))


def test_a_file_that_cannot_be_deleted_is_left_to_the_folder(tmp_path, monkeypatch):
    tier = DiskTier(ROOM, tmp_path)
    tier.put("e", entry(1))

    def busy(*args, **kwargs):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(tiers_module.Path, "unlink", busy)
    tier.drop("e")
    assert tier.used == 0
    tier.close()
    assert not tier.folder.exists()


@pytest.mark.parametrize("spoil", [os.remove, lambda path: path.write_bytes(path.read_bytes()[:50])], ids=["deleted", "cut"])
def test_a_file_that_is_gone_or_cut_is_named(spoil, tmp_path):
    tier = DiskTier(ROOM, tmp_path)
    tier.put("one", entry(1))
    tier.put("two", entry(2))
    spoil(tier.folder / "one.safetensors")
    with pytest.raises(StoreError, match="one.safetensors.*record anew"):
        tier.get("one")
    assert same(tier.get("two"), entry(2))
    tier.drop("one")
    tier.drop("two")
    assert tier.used == 0 and not files_of(tier)


# the end --------------------------------------------------------------------------------------------------------------


def test_two_disk_tiers_of_one_folder_do_not_meet(tmp_path):
    one, two = DiskTier(ROOM, tmp_path), DiskTier(ROOM, tmp_path)
    one.put("e", entry(1))
    two.put("e", entry(2))
    one.close()
    assert same(two.get("e"), entry(2))


def test_the_folder_goes_with_its_tier_however_it_goes(tmp_path):
    (tmp_path / "others").write_text("")
    closed, forgotten = DiskTier(ROOM, tmp_path / "new" / "deep"), DiskTier(ROOM, tmp_path)
    folders = closed.folder, forgotten.folder
    for tier in (closed, forgotten):
        tier.put("e", entry(1))
    assert all(folder.exists() for folder in folders)
    closed.close()
    closed.close()
    del forgotten, tier
    gc.collect()
    assert not any(folder.exists() for folder in folders)
    assert (tmp_path / "others").exists()


def test_memory_goes_when_an_entry_is_dropped_and_when_the_tier_is_closed():
    tier, packed = MemoryTier(ROOM), {name: entry(i) for i, name in enumerate("ab")}
    alive = {name: [weakref.ref(tensor) for tensor in parts.values()] for name, parts in packed.items()}
    for name, parts in packed.items():
        tier.put(name, parts)
    del packed, parts
    tier.drop("a")
    assert all(ref() is None for ref in alive["a"]) and all(ref() is not None for ref in alive["b"])
    tier.close()
    assert all(ref() is None for ref in alive["b"])


def test_what_was_read_from_a_disk_outlives_the_file(tmp_path):
    tier = DiskTier(ROOM, tmp_path)
    tier.put("e", entry(1, n=4096))
    read = tier.get("e")
    tier.close()
    assert same(read, entry(1, n=4096))
