"""Source modes in ComfyUI: they agree, the source is computed once, files come back, misses say why."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from world import STEPS, call, guided, load_toy, locked, mask, of_pack, run, source_latent, text

CLOSE = dict(rtol=2e-3, atol=2e-3)


@pytest.fixture
def made(pack, toy):
    """Makes a source with other widgets."""
    def make(model=toy, edit_mask=None, **widgets):
        given = {"source_latent": source_latent(), "edit_mask": mask() if edit_mask is None else edit_mask}
        return call(pack["KVLockInvertCache"], model=model, **{**given, **widgets})[0]

    return make


@pytest.fixture
def rows(toy):
    """Batch sizes of all model calls, and of what reaches the end of the last block."""
    seen = []
    inner = toy.model.diffusion_model
    hooks = [
        inner.register_forward_pre_hook(lambda module, args, kwargs: seen.append(len(args[0])), with_kwargs=True),
        inner.blocks[-1].ffn.register_forward_pre_hook(lambda module, args: seen.append(-len(args[0]))),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def calls(seen) -> list[int]:
    return [rows for rows in seen if rows > 0]


WAYS = {
    "full": {},
    "half": {"alpha_ceiling": 0.5},
    "late": {"start_percent": 0.5},
    "first blocks": {"last_block": 2},
    "positive only": {"locked_rows": "positive"},
}


@pytest.mark.parametrize("cfg", [4.0, 1.0])
@pytest.mark.parametrize("way", WAYS)
def test_the_three_modes_agree(way, cfg, pack, toy, made, caplog):
    def result(source):
        return run(locked(pack, toy, source, **WAYS[way]), cfg=cfg)

    lockstep, keeping = result(made(source_mode="lockstep")), made(source_mode="stored")
    for other in (result(made(source_mode="in_step")), result(keeping), result(keeping)):
        torch.testing.assert_close(other, lockstep, **CLOSE)
    assert not torch.allclose(lockstep, run(toy, cfg=cfg), **CLOSE)


def test_a_second_edit_has_no_source_row(pack, toy, made, rows):
    source = made(source_mode="stored", source_conditioning=text(5))
    run(locked(pack, toy, source))
    assert calls(rows) == [3] * STEPS
    rows.clear()
    run(locked(pack, toy, source), seed=9, positive=text(8))
    assert calls(rows) == [2] * STEPS


def test_in_step_runs_the_source_alone_and_only_as_far_as_needed(pack, toy, made, rows):
    run(locked(pack, toy, made(source_mode="in_step"), last_block=3))
    assert rows == [1, 2, -2] * STEPS


def test_lockstep_drops_the_source_behind_the_last_locked_block(pack, toy, made, rows):
    run(locked(pack, toy, made(), last_block=3))
    assert rows == [3, -2] * STEPS


def test_refresh_every_runs_the_source_seldom(pack, toy, made, rows):
    run(locked(pack, toy, made(source_mode="lockstep", refresh_every=3)))
    assert calls(rows) == [3, 2, 2, 3, 2, 2]


def test_called_apart_the_source_is_computed_once(pack, toy, made, rows, monkeypatch):
    """Texts of two lengths: the host calls them apart. The source rides with one and is held for the other."""
    at_once = run(locked(pack, toy, made()))
    rows.clear()
    source = made()
    monkeypatch.setattr(of_pack(source, "memory"), "fits", lambda *args: False)
    apart = run(locked(pack, toy, made(source_mode="lockstep")))
    assert sorted(calls(rows)) == sorted([2, 1] * STEPS)
    torch.testing.assert_close(apart, at_once, **CLOSE)


def test_without_budgets_the_source_rides_again(pack, toy, made, rows, monkeypatch):
    source = made(source_mode="lockstep", cache_ram_gb=0.0)
    monkeypatch.setattr(of_pack(source, "memory"), "fits", lambda *args: False)
    run(locked(pack, toy, source))
    assert calls(rows) == [2, 2] * STEPS


def test_auto_goes_by_free_memory_and_says_so(pack, toy, made, monkeypatch, caplog):
    caplog.set_level("INFO", "kvlock")
    source = made()
    run(locked(pack, toy, source))
    assert "lockstep (one more row fits)" in caplog.text
    monkeypatch.setattr(of_pack(source, "memory"), "fits", lambda *args: False)
    caplog.clear()
    run(locked(pack, toy, source))
    assert "in_step (no room for one more row" in caplog.text


def test_the_estimate_is_what_is_kept(pack, toy, made, caplog):
    caplog.set_level("INFO", "kvlock")
    source = made(source_mode="stored")
    run(locked(pack, toy, source, start_percent=0.5))
    kept = source.store.bytes_by_tier["memory"]
    assert f"3 source passes, {kept / 1e6:.2f} MB in memory; time 1.25 x plain sampling" in caplog.text
    caplog.clear()
    run(locked(pack, toy, source, start_percent=0.5))
    assert "3 of them kept already" in caplog.text and "1.00 x plain sampling" in caplog.text and "s more" not in caplog.text


def test_seconds_are_told_once_a_run_of_this_size_has_shown_them(pack, toy, made, caplog, monkeypatch):
    caplog.set_level("INFO", "kvlock")
    monkeypatch.setattr(of_pack(made(), "pace"), "_KNOWN", {})
    run(locked(pack, toy, made()))
    assert "x plain sampling" in caplog.text and "s more" not in caplog.text
    caplog.clear()
    run(locked(pack, toy, made(edit_mask=mask(), source_seed=5)))  # another source, the same model and size
    assert " s more" in caplog.text
    caplog.clear()
    run(locked(pack, toy, made()), sampler="heun")  # more evaluations a step
    assert "s more" not in caplog.text


MISSES = {
    "text": ({}, {"source_conditioning": text(6)}),
    "noise": ({}, {"source_seed": 4}),
    "latent": ({}, {"source_latent": source_latent(22)}),
}


@pytest.mark.parametrize("field", MISSES)
def test_a_source_that_is_not_the_recorded_one_is_a_miss_that_says_why(field, pack, toy, made, caplog):
    caplog.set_level("INFO", "kvlock")
    first = made(source_mode="stored", source_conditioning=text(5))
    run(locked(pack, toy, first))
    other = made(source_mode="stored", **{"source_conditioning": text(5), **MISSES[field][1]})
    from dataclasses import replace

    exact = run(locked(pack, toy, made(**{"source_conditioning": text(5), **MISSES[field][1]})))
    caplog.clear()
    torch.testing.assert_close(run(locked(pack, toy, replace(other, store=first.store))), exact, **CLOSE)
    assert f"recorded with another {field}" in caplog.text


def test_a_lora_on_the_model_is_another_model(pack, toy, made, caplog):
    caplog.set_level("INFO", "kvlock")
    source = made(source_mode="stored")
    run(locked(pack, toy, source))
    name = "diffusion_model.blocks.0.self_attn.k.weight"
    patched = toy.clone()
    weight = toy.model.diffusion_model.blocks[0].self_attn.k.weight
    assert patched.add_patches({name: (torch.ones_like(weight) * 0.01,)}, 1.0)
    caplog.clear()
    run(locked(pack, patched, source))
    assert "recorded with another model" in caplog.text
    caplog.clear()
    run(locked(pack, toy, source))  # and the recording of the bare model is still there, or was made again
    assert "locked steps were kept" in caplog.text


def test_an_interrupt_leaves_no_half_step(pack, toy, made):
    source = made(source_mode="stored")

    def stop(step, *_):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(locked(pack, toy, source), callback=stop)
    assert 2 <= len(source.store.keys) <= 3
    blocks = {source.store.blocks_of(key) for key in source.store.keys}
    assert blocks == {tuple(range(6))}
    torch.testing.assert_close(run(locked(pack, toy, source)), run(locked(pack, toy, made())), **CLOSE)


def test_what_is_kept_goes_with_the_source(pack, toy, made):
    source = made(source_mode="stored")
    run(locked(pack, toy, source))
    kept = weakref.ref(source.store.packed(source.store.keys[0], 0)["key"])
    assert kept() is not None
    del source
    gc.collect()
    assert kept() is None


# files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def output(made, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path / "kvlock"


def test_a_saved_cache_serves_after_a_restart(pack, toy, made, output, rows):
    source = made(source_mode="stored", source_conditioning=text(5))
    latent = run(locked(pack, toy, source))
    call(pack["KVLockSaveCache"], source=source, latent={"samples": latent}, filename="clips/dog")
    call(pack["KVLockSaveCache"], source=source, latent={"samples": latent}, filename="clips/dog")
    assert sorted(p.name for p in output.rglob("*")) == ["clips", "dog.safetensors", "dog_2.safetensors"]
    assert pack["KVLockLoadCache"].GET_SCHEMA().inputs[1].options == ["clips/dog.safetensors", "clips/dog_2.safetensors"]
    fresh = load_toy()  # as after a restart: the same file, another object
    (loaded,) = call(pack["KVLockLoadCache"], source=made(fresh, source_conditioning=text(5)), cache_file="clips/dog.safetensors")
    torch.testing.assert_close(run(locked(pack, fresh, loaded)), latent, **CLOSE)
    rows.clear()
    run(locked(pack, toy, loaded), seed=3)
    assert calls(rows) == [2] * STEPS


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "", "  ", "..", "kvlock/../../x"])
def test_names_stay_inside_the_folder(name, pack, toy, made, output):
    source = made(source_mode="stored")
    run(locked(pack, toy, source))
    with pytest.raises(ValueError, match="is not a name inside"):
        call(pack["KVLockSaveCache"], source=source, latent={}, filename=name)
    with pytest.raises(ValueError, match="is not a name inside"):
        call(pack["KVLockLoadCache"], source=source, cache_file=name)
    assert not list(output.parent.rglob("evil*"))


def test_files_that_are_none_of_ours_are_refused(pack, toy, made, output):
    output.mkdir()
    (output / "a.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        call(pack["KVLockLoadCache"], source=made(), cache_file="a.safetensors")
    with pytest.raises(ValueError, match="there is no b.safetensors"):
        call(pack["KVLockLoadCache"], source=made(), cache_file="b.safetensors")
    with pytest.raises(ValueError, match="keeps nothing; set source_mode"):
        call(pack["KVLockSaveCache"], source=made(), latent={}, filename="a")
    with pytest.raises(ValueError, match="no source K,V were recorded"):
        call(pack["KVLockSaveCache"], source=made(source_mode="stored"), latent={}, filename="a")


def test_guidance_and_a_store_work_together(pack, toy, made):
    source = made(source_mode="stored")
    model = guided(pack, locked(pack, toy, source))
    first = run(model)
    torch.testing.assert_close(run(model), first, **CLOSE)
