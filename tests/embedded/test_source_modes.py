"""Lockstep, in_step and stored agree to rounding in diffusers' own model, and cost what they say."""

import gc
import weakref
from dataclasses import replace

import pytest
import tiny
import torch

from kvlock_core import (
    Budgets, InStep, KVStore, LockSchedule, LockSession, Lockstep, MemoryTier, NoisedPath, SessionSettings, SourceError,
    SourceSettings, Stored, StoreError, codec, load_cache, save_cache, source_mode, token_mask,
)  # fmt: skip
from kvlock_diffusers import commands, edit as editing
from kvlock_diffusers.edit import EditSettings, edit_clip
from kvlock_diffusers.engine import Texts, make_scheduler, sample
from kvlock_diffusers.keeping import SourceRun, row_seconds

STEPS, CFG, BLOCKS = 5, 3.0, 3
ALWAYS = LockSchedule(kind="constant", start_percent=0.0)
TEXTS = Texts(tiny.text("edit"), tiny.text("nothing"), tiny.text("source"))
EDIT = torch.zeros(3, 4, 10)
EDIT[:, :2, 4:8] = 1
SOFT = EDIT * 0.6
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    return tiny.video_model()


def path(seed=2, batch=1):
    return NoisedPath(tiny.latent(seed, batch), tiny.latent(seed + 1, batch))


def run(model, source=None, settings=SessionSettings(lock=ALWAYS), edit=EDIT, texts=TEXTS, batch=1, seed=1):
    """-> latents, and the batch of every model call."""
    session = LockSession(settings, steps=STEPS, edit=edit, tokens=token_mask(edit), omega0=CFG, source=source)
    calls = []
    hook = model.transformer.register_forward_pre_hook(lambda net, args: calls.append(len(args[0])))
    block_hook = model.transformer.blocks[-1].ffn.register_forward_pre_hook(lambda net, args: calls.append(("last", len(args[0]))))
    try:
        out = sample(model.transformer, make_scheduler("euler", STEPS, 3.0), tiny.latent(seed, batch), texts, CFG, session=session,
                     source=path(batch=batch))  # fmt: skip
    finally:
        hook.remove()
        block_hook.remove()
    return out, calls


def memory(budget=10**8, name="same"):
    return KVStore([MemoryTier(budget)], codec(name))


def stored(model, store, settings=SessionSettings(lock=ALWAYS), edit=EDIT, texts=TEXTS, batch=1, choice=SourceSettings()):
    sigmas = make_scheduler("euler", STEPS, 3.0).sigmas.tolist()[:STEPS]
    this = SourceRun(model, path().z_src.expand(batch, -1, -1, -1, -1), path(batch=batch), texts, settings, token_mask(edit), sigmas, 1)
    return source_mode(choice, this.described(), store)[0]


WAYS = [
    dict(),
    dict(settings=SessionSettings(lock=replace(ALWAYS, ceiling=0.5))),
    dict(settings=SessionSettings(lock=replace(ALWAYS, start_percent=0.6))),
    dict(settings=SessionSettings(lock=ALWAYS, blocks=(0, 1))),
    dict(settings=SessionSettings(lock=ALWAYS, blocks=(1, 1))),
    dict(settings=SessionSettings(lock=ALWAYS, rows=("cond",))),
    dict(edit=SOFT),
    dict(edit=torch.zeros_like(EDIT)),
    dict(texts=Texts(TEXTS.cond, None, TEXTS.source)),
    dict(batch=2),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_three_modes_agree(model, way):
    lockstep, _ = run(model, Lockstep(), **way)
    in_step, _ = run(model, InStep(memory()), **way)
    store = memory()
    first, _ = run(model, stored(model, store, **way), **way)
    source = stored(model, store, **way)
    second, calls = run(model, source, **way)
    assert source.found > 0 and not source.missed and all(call in (len(first), ("last", len(first))) for call in calls)
    for other in (in_step, first, second):
        torch.testing.assert_close(other, lockstep, **CLOSE)
    assert not torch.allclose(lockstep, run(model, settings=SessionSettings(lock=None), **{k: v for k, v in way.items() if k != "settings"})[0])


def test_another_edit_of_the_clip_reads_what_the_first_recorded(model):
    store = memory()
    run(model, stored(model, store))
    other = replace(TEXTS, cond=tiny.text("something else"))
    read, _ = run(model, stored(model, store, texts=other), texts=other, seed=8)
    torch.testing.assert_close(read, run(model, texts=other, seed=8)[0], **CLOSE)


def test_the_source_goes_no_further_than_the_last_locked_block(model):
    """Lockstep: three rows up to it, two behind. In step: the call of the source ends there."""
    settings = SessionSettings(lock=ALWAYS, blocks=(0, 1))
    _, riding = run(model, Lockstep(), settings)
    assert riding == [3, ("last", 2)] * STEPS
    _, apart = run(model, InStep(memory()), settings)
    assert apart == [1, 1, ("last", 1), 1, ("last", 1)] * STEPS
    _, whole = run(model, Lockstep())
    assert whole == [3, ("last", 3)] * STEPS


def test_a_source_that_is_refreshed_seldom_runs_seldom(model):
    _, calls = run(model, Lockstep(refresh_every=2))
    assert [call for call in calls if isinstance(call, int)] == [3, 1, 1, 3, 1, 1, 3]
    once, _ = run(model, Lockstep(refresh_every=STEPS))
    assert once.isfinite().all() and not torch.allclose(once, run(model)[0])


def test_a_step_that_does_not_lock_runs_no_source(model):
    settings = SessionSettings(lock=replace(ALWAYS, ceiling=0.0))
    for source in (Lockstep(), InStep(memory()), stored(model, memory(), settings)):
        assert [call for call in run(model, source, settings)[1] if isinstance(call, int)] == [1, 1] * STEPS


@pytest.mark.parametrize("name, most", [("bf16", 0.02), ("int8", 0.02), ("fp8", 0.15)])
def test_a_codec_errs_little(model, name, most):
    store = memory(name=name)
    exact, _ = run(model, stored(model, store))
    coded, _ = run(model, stored(model, store))
    error = ((coded - exact).norm() / exact.norm()).item()
    assert 0.0 < error < most


def test_nothing_is_held_after_a_run_an_error_an_interrupt(model):
    for error in (None, RuntimeError, KeyboardInterrupt):
        kept = memory()
        held = []
        kept_put = kept.put
        kept.put = lambda key, block, k, v: held.append(weakref.ref(k)) or kept_put(key, block, k, v)

        def raising(done, steps):
            if error is not None and done == 2:
                raise error

        session = LockSession(SessionSettings(lock=ALWAYS), steps=STEPS, edit=EDIT, tokens=token_mask(EDIT), source=InStep(kept))
        try:
            sample(model.transformer, make_scheduler("euler", STEPS, 3.0), tiny.latent(), TEXTS, CFG, session=session, source=path(),
                   progress=raising)  # fmt: skip
        except (RuntimeError, KeyboardInterrupt) as stopped:
            assert type(stopped) is error
        gc.collect()
        assert held and not any(ref() is not None for ref in held) and kept.bytes_by_tier == {"memory": 0}


def test_budgets_too_small_for_a_step_are_named(model):
    with pytest.raises(SourceError, match="budgets are too small"):
        run(model, InStep(memory(100)))


def test_row_seconds_measures_and_leaves_no_hook(model):
    assert row_seconds(model, tiny.latent(), TEXTS.cond, 2, apart=True) > 0
    assert row_seconds(model, tiny.latent(), TEXTS.cond, 2, apart=False) >= 0
    assert not any(block._forward_pre_hooks or block._forward_hooks for block in model.transformer.blocks)


# whole edits, and the command -----------------------------------------------------------------------------------------

FRAMES = torch.rand(9, 32, 80, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(9, 32, 80)
MASK[:, 8:24, 32:64] = 1


def settings(**more):
    lock = SessionSettings(lock=ALWAYS)
    return EditSettings(prompt="a red circle", source_prompt="a blue circle", steps=4, session=lock, composite=False, **more)


def test_a_second_edit_of_a_clip_needs_no_source(model, tmp_path):
    store, told = memory(), []
    first = edit_clip(model, FRAMES, MASK, settings(), store=store, tell=told.append)
    assert first.source_summary.endswith("were kept (4 not: nothing was recorded before); 4 recorded now")
    assert "stored" in told[0] and " s more" in told[0]
    save_cache(store, tmp_path / "clip.safetensors")
    store.close()
    again = edit_clip(model, FRAMES, MASK, settings(seed=5), store=load_cache(tmp_path / "clip.safetensors"))
    assert again.source_summary == "source K,V of 4 of 4 locked steps were kept"
    torch.testing.assert_close(again.latents, edit_clip(model, FRAMES, MASK, settings(seed=5)).latents, **CLOSE)


@pytest.mark.parametrize(
    "field, change",
    [
        ("text", dict(source_prompt="a green circle")),
        ("noise", dict(source_seed=9)),
        ("noise", dict(source_noise="shared")),
        ("sigma", dict(shift=5.0)),
    ],
)
def test_what_does_not_fit_is_a_miss_that_says_why(model, field, change):
    store = memory()
    edit_clip(model, FRAMES, MASK, settings(), store=store)
    assert field in edit_clip(model, FRAMES, MASK, replace(settings(), **change), store=store).source_summary


def test_another_clip_or_model_is_a_miss_that_says_why(model):
    store = memory()
    edit_clip(model, FRAMES, MASK, settings(), store=store)
    assert "latent" in edit_clip(model, FRAMES.flip(0), MASK, settings(), store=store).source_summary
    other = replace(model, transformer=tiny.transformer(seed=3))
    assert "model" in edit_clip(other, FRAMES, MASK, settings(), store=store).source_summary


def test_a_smaller_mask_is_a_miss_and_a_larger_one_is_served(model):
    store = memory()
    edit_clip(model, FRAMES, MASK, settings(), store=store)
    larger = edit_clip(model, FRAMES, MASK, settings(grow=8), store=store)
    assert larger.source_summary == "source K,V of 4 of 4 locked steps were kept"
    torch.testing.assert_close(larger.latents, edit_clip(model, FRAMES, MASK, settings(grow=8)).latents, **CLOSE)
    smaller = MASK.clone()
    smaller[:, :, 48:] = 0
    assert "the mask leaves less free" in edit_clip(model, FRAMES, smaller, settings(), store=store).source_summary


def test_a_full_disk_stops_the_recording_and_not_the_edit(model, monkeypatch, tmp_path):
    choice = SourceSettings("stored", budgets=Budgets(disk=10**8))
    store, told = choice.new_store(torch.device("cpu"), tmp_path), []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvlock_core.tiers.save_file", full)
    result = edit_clip(model, FRAMES, MASK, settings(source=choice), store=store, tell=told.append)
    assert any("stops recording" in line and "No space left" in line for line in told)
    assert torch.equal(result.latents, edit_clip(model, FRAMES, MASK, settings()).latents)
    with pytest.raises(StoreError):
        save_cache(store, tmp_path / "nothing.safetensors")


def test_the_command_saves_loads_and_says_what_it_costs(model, monkeypatch, tmp_path, capsys):
    from kvlock_diffusers.video import write_video

    monkeypatch.setattr(commands, "load_model", lambda *args, **kwargs: model)
    clip, mask = tmp_path / "clip.mp4", tmp_path / "mask.mp4"
    write_video(clip, FRAMES, 8)
    write_video(mask, MASK.unsqueeze(-1).expand(-1, -1, -1, 3), 8)
    cache = tmp_path / "clip.safetensors"
    same = ["edit", "--model", "toy", "--video", str(clip), "--mask", str(mask), "--prompt", "b", "--source-prompt", "a", "--steps", "4"]
    assert commands.main([*same, "--out", str(tmp_path / "1.mp4"), "--save-cache", str(cache)]) == 0
    said = capsys.readouterr().err
    assert "source K,V: stored" in said and "3 source passes" in said and "MB" in said and cache.exists()
    assert commands.main([*same, "--out", str(tmp_path / "2.mp4"), "--load-cache", str(cache), "--seed", "3"]) == 0
    assert "source K,V of 3 of 3 locked steps were kept" in capsys.readouterr().err
    assert commands.main([*same, "--out", str(tmp_path / "3.mp4"), "--save-cache", str(cache)]) == 1
    assert "exists already" in capsys.readouterr().err
    cache.write_bytes(cache.read_bytes()[:-9])
    assert commands.main([*same, "--out", str(tmp_path / "4.mp4"), "--load-cache", str(cache)]) == 1
    assert "not a whole safetensors file" in capsys.readouterr().err


def test_the_engine_runs_the_mode_that_was_asked_for(model):
    kinds = {"lockstep": Lockstep, "in_step": InStep, "auto": Lockstep}
    for mode, kind in kinds.items():
        seen = []
        original = editing.new_session
        editing.new_session = lambda m, e, s, source=None: seen.append(type(source)) or original(m, e, s, source)
        try:
            edit_clip(model, FRAMES, MASK, settings(source=SourceSettings(mode)))
        finally:
            editing.new_session = original
        assert seen == [kind] and Stored not in seen
