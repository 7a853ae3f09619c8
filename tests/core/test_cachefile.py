"""A saved recording comes back whole, and nothing else passes for one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kvlock_core import (
    CacheFileError,
    DiskTier,
    KVStore,
    MemoryTier,
    Moment,
    SourceIdentity,
    SourceKey,
    StoreError,
    codec,
    load_cache,
    save_cache,
)
from kvlock_core.cachefile import UNFINISHED

HEADS, LENGTH, DIM, BLOCKS = 2, 7, 5, 3
TOKENS = torch.tensor([0, 2, 5])
WHO = SourceIdentity(model="m", latent="z", grid=(1, 4, 2, 3, 5), dtype="torch.float32")
ROOT = Path(__file__).resolve().parents[2]


def key(step):
    return SourceKey(WHO, Moment(1.0 - step / 8, "n", "t"))


def pair(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, HEADS, len(TOKENS), DIM, generator=generator).to(dtype) for _ in "kv")


def recorded(name="same", steps=3, tiers=None, tokens=TOKENS, dtype=torch.float32):
    store = KVStore(tiers or [MemoryTier(10**6)], codec(name))
    for step in range(steps):
        store.open(key(step), tokens)
        for block in range(BLOCKS):
            store.put(key(step), block, *pair(10 * step + block, dtype))
        store.seal(key(step))
    return store


@pytest.fixture
def saved(tmp_path):
    save_cache(recorded(), tmp_path / "clip.safetensors")
    return tmp_path / "clip.safetensors"


@pytest.mark.parametrize("name", ["same", "bf16", "fp8", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_what_was_kept(name, dtype, tmp_path):
    store, like = recorded(name, dtype=dtype), torch.empty(0, dtype=dtype)
    size = save_cache(store, tmp_path / "a.safetensors")
    again = load_cache(tmp_path / "a.safetensors")
    assert size == os.path.getsize(tmp_path / "a.safetensors") and set(again.keys) == set(store.keys)
    for step in range(3):
        assert again.lacks(key(step), range(BLOCKS), TOKENS) is None
        for block in range(BLOCKS):
            for kept, read in zip(store.read(key(step), block, TOKENS, like), again.read(key(step), block, TOKENS, like)):
                assert torch.equal(kept, read)


def test_any_reader_of_safetensors_can_read_the_file(saved):
    tensors = load_file(saved)
    assert len(tensors) == 3 * (BLOCKS * 2 + 1) and torch.equal(tensors["0.tokens"], TOKENS)


def test_a_recording_of_all_tokens_and_one_on_a_disk_are_saved_too(tmp_path):
    store = recorded(tiers=[DiskTier(10**6, tmp_path)], tokens=None)
    save_cache(store, tmp_path / "a.safetensors")
    assert load_cache(tmp_path / "a.safetensors").lacks(key(0), range(BLOCKS), None) is None


def test_a_loaded_store_records_what_it_lacks_and_can_be_saved_again(saved, tmp_path):
    store = load_cache(saved, [MemoryTier(10**6)])
    store.open(key(5), TOKENS)
    for block in range(BLOCKS):
        assert store.put(key(5), block, *pair(block))
    store.seal(key(5))
    save_cache(store, saved)  # onto the file it reads from
    assert len(load_cache(saved).keys) == 4
    assert torch.equal(store.read(key(0), 0, TOKENS, torch.empty(0))[0], pair(0)[0])


def test_progress_reaches_the_end(saved, tmp_path):
    seen = []
    save_cache(recorded(), tmp_path / "b.safetensors", lambda done, total: seen.append(done / total))
    assert seen == sorted(seen) and seen[-1] == 1.0


# what is refused ------------------------------------------------------------------------------------------------------


def flipped(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def changed_in_place(path, old, new):
    """Another text of the same length in the head, so that the file is as whole as before."""
    data = path.read_bytes()
    assert data.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))


def with_header(path, change):
    """The same tensors under another header of ours."""
    header = json.loads(safe_metadata(path)["kvlock"])
    change(header)
    save_file(load_file(path), path, {"kvlock": json.dumps(header)})


def safe_metadata(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


SPOILT = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "not a whole safetensors"),
    "cut in its head": (lambda path: path.write_bytes(path.read_bytes()[:30]), "not a whole safetensors"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors"),
    "a text": (lambda path: path.write_text("hello" * 100), "not a whole safetensors"),
    "not ours": (lambda path: save_file({"a": torch.zeros(3)}, path), "not one of source K,V"),
    "one bit of the data": (lambda path: flipped(path, -5), "changed after it was saved"),
    "another noise level in its head": (lambda path: changed_in_place(path, b"0.875", b"0.625"), "changed after it was saved"),
    "another clip in its head": (lambda path: changed_in_place(path, b'latent\\": \\"z', b'latent\\": \\"y'), "changed after it was saved"),
    "another digest": (lambda path: with_header(path, lambda h: h.update(sha256="1" * 64)), "changed after it was saved"),
    "no JSON": (lambda path: save_file({"a": torch.zeros(3)}, path, {"kvlock": "{"}), "cannot be read"),
    "another version": (lambda path: with_header(path, lambda h: h.update(version=1)), "version 1"),
    "no digest": (lambda path: with_header(path, lambda h: h.pop("sha256")), "changed after it was saved"),
    "a gone": (lambda path: path.unlink(), "not a whole safetensors"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_refused_with_the_reason(name, saved):
    spoil, reason = SPOILT[name]
    spoil(saved)
    with pytest.raises(CacheFileError, match=reason):
        load_cache(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(codec="zip"),
        lambda h: h.pop("evaluations"),
        lambda h: h["evaluations"][0]["blocks"].append(9),
        lambda h: h["evaluations"][0]["key"]["identity"].pop("model"),
        lambda h: h["evaluations"][0]["key"].update(moment=3),
    ],
)
def test_a_header_that_contradicts_the_file_is_refused(change, saved):
    """save_file orders tensors its own way, so the digest is made to fit first: the contradiction itself must be seen."""
    from kvlock_core import cachefile

    def fitted(header):
        change(header)
        header["sha256"] = "x"

    with_header(saved, fitted)
    original = cachefile._digest_of
    cachefile._digest_of = lambda *_: "x"
    try:
        with pytest.raises(CacheFileError, match="does not hold what its header says"):
            load_cache(saved)
    finally:
        cachefile._digest_of = original


def test_nothing_recorded_is_nothing_to_save(tmp_path):
    with pytest.raises(CacheFileError, match="no source K,V were recorded"):
        save_cache(recorded(steps=0), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


# a save that fails ----------------------------------------------------------------------------------------------------


def test_a_failing_save_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CacheFileError, match="No space left"):
        save_cache(recorded(steps=1), saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_store_that_cannot_be_read_leaves_the_old_file(saved):
    before, store = saved.read_bytes(), recorded(steps=1)
    store.tiers[0].get = lambda name: (_ for _ in ()).throw(StoreError("broken"))
    with pytest.raises(StoreError, match="broken"):
        save_cache(store, saved)
    assert saved.read_bytes() == before


KILLED = """
import sys, time
sys.path[:0] = [{root!r}, {here!r}]
from test_cachefile import recorded
from kvlock_core import save_cache
def slow(done, total):
    print(done, flush=True)
    time.sleep(60)
save_cache(recorded(steps=3), {path!r}, slow)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_process_killed_in_a_save_leaves_the_old_file_and_the_next_save_works(saved):
    before = saved.read_bytes()
    code = KILLED.format(root=str(ROOT), here=str(Path(__file__).parent), path=str(saved))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()  # it is in the middle
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    time.sleep(0.05)
    assert saved.read_bytes() == before and saved.with_name(saved.name + UNFINISHED).exists()
    save_cache(recorded(steps=1), saved)
    assert len(load_cache(saved).keys) == 1 and not saved.with_name(saved.name + UNFINISHED).exists()
