"""Runs leave nothing behind: not in the host's options, not in memory, not after an error or an interrupt."""

import gc
import weakref

import comfy.model_management
import comfy.samplers
import pytest
import torch
from world import draw, guided, guider, locked, monitored, of_pack, run, sigmas_for

#: Growth that one run may leave: what allocators keep. A latent, a window or one block's K,V is more than that.
BYTES_PER_RUN = 4096
WARM_UP = 10


def everything(pack, model, source):
    """All nodes on one model."""
    return monitored(pack, guided(pack, locked(pack, model, source)), source)


def picture(model):
    """What of a MODEL a run could change, as comparable values."""
    def frozen(value):
        if isinstance(value, dict):
            return {str(key): frozen(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [frozen(part) for part in value]
        return value if isinstance(value, (int, float, str, type(None))) else id(value)

    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.model.modules()]
    options = frozen(model.model_options)
    return options, frozen(model.wrappers), frozen(model.callbacks), frozen(model.object_patches), hooks


def test_the_picture_shows_a_change(pack, toy, source):
    model = locked(pack, toy, source)
    before = picture(model)
    model.model_options["transformer_options"]["left"] = 1
    assert picture(model) != before


def test_a_run_leaves_the_options_as_they_were(pack, toy, source):
    model, _ = everything(pack, toy, source)
    before, bare = picture(model), picture(toy)
    run(model)
    assert picture(model) == before and picture(toy) == bare


def test_patching_does_not_touch_the_model_that_came_in(pack, toy, source):
    before = picture(toy)
    everything(pack, toy, source)
    assert picture(toy) == before


class Stop(BaseException):
    """Like ComfyUI's interrupt since 0.33: not an Exception."""


def stop_at(step):
    def callback(i, x0, x, total):
        if i == step:
            raise Stop

    return callback


@pytest.mark.parametrize("step", [0, 3, 5])
def test_an_interrupt_leaves_nothing_and_the_next_run_is_right(step, pack, toy, source):
    model, report = everything(pack, toy, source)
    right, before = run(model), picture(model)
    with pytest.raises(Stop):
        run(model, callback=stop_at(step))
    assert picture(model) == before
    assert torch.equal(run(model), right) and torch.equal(run(toy), run(toy))


def test_the_hosts_own_interrupt(pack, toy, source):
    model, _ = everything(pack, toy, source)
    right = run(model)

    def callback(i, x0, x, total):
        if i == 2:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, callback=callback)
    assert torch.equal(run(model), right)


@pytest.mark.parametrize("where", ["attention", "predicted", "guidance", "begin"])
def test_an_error_inside_leaves_nothing(where, pack, toy, source, monkeypatch):
    model, _ = everything(pack, toy, source)
    right, before = run(model), picture(model)
    session = of_pack(source, "sampling").LockSession
    with monkeypatch.context() as patched:
        patched.setattr(session, where, lambda self, *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model)
    assert picture(model) == before
    assert torch.equal(run(model), right)


def test_the_guider_is_as_it_was(pack, toy, source):
    model, _ = everything(pack, toy, source)
    made = guider(model)
    options = made.model_options
    for callback in (None, stop_at(3)):
        try:
            made.sample(draw(*source.samples.shape, seed=7), torch.zeros_like(source.samples),
                        comfy.samplers.sampler_object("euler"), sigmas_for(model), callback=callback, disable_pbar=True, seed=7)  # fmt: skip
        except Stop:
            pass
        assert made.model_options is options and made.cfg == 4.0


def test_nothing_of_a_run_stays_alive(pack, toy, source, monkeypatch):
    """Weak references to every session, every source row's owner and every attention override of a run, and of a failed one."""
    alive = []
    for name, module in (("LockSession", "sampling"), ("Run", "sampling"), ("SourceRows", "sampling"), ("LockedAttention", "rows")):
        kind = getattr(of_pack(source, module), name)
        made = type(name, (kind,), {"__init__": remembered(kind.__init__, alive)})
        monkeypatch.setattr(of_pack(source, module), name, made)
    model, _ = everything(pack, toy, source)
    for callback in (None, stop_at(3)):
        try:
            run(model, callback=callback)
        except Stop:
            pass
        gc.collect()
        assert len(alive) > 8 and [kept for kept in alive if kept() is not None] == []


def remembered(init, alive):
    def noted(self, *args, **kwargs):
        alive.append(weakref.ref(self))
        init(self, *args, **kwargs)

    return noted


def test_queued_twice_is_the_same_twice(pack, toy, source):
    model, report = monitored(pack, locked(pack, toy, source, lock_schedule="risk", tau=20.0), source)
    first, second = run(model), run(model)
    assert torch.equal(first, second)
    run(model, seed=8)
    assert torch.equal(run(model), first)


def test_unpatched_sampling_after_ours_is_as_if_we_had_never_been_there(pack, toy, source):
    before = run(toy)
    run(everything(pack, toy, source)[0])
    assert torch.equal(run(toy), before)


def growth(model, runs: int) -> tuple[int, int]:
    """(bytes of all tensors, number of all Python objects) by which `runs` runs grow the process, after a warm-up."""
    sigmas = torch.tensor([1.0, 0.7, 0.0])

    def size():
        gc.collect()
        return live_tensor_bytes(), len(gc.get_objects())

    for seed in range(WARM_UP):
        run(model, sigmas=sigmas, seed=seed)
    before = size()
    for seed in range(runs):
        run(model, sigmas=sigmas, seed=seed + WARM_UP)
    return tuple(after - was for after, was in zip(size(), before))


def test_two_hundred_runs_do_not_grow(pack, toy, source):
    """With every node; a bare clone is the measure, since the host itself keeps five small objects per run of one."""
    bare_bytes, bare_objects = growth(toy.clone(), 50)
    grown_bytes, grown_objects = growth(everything(pack, toy, source)[0], 200)
    assert grown_bytes <= 4 * bare_bytes + 200 * BYTES_PER_RUN
    assert grown_objects <= 4 * bare_objects + 100, (bare_objects, grown_objects)


def live_tensor_bytes() -> int:
    """Bytes of every tensor that Python can still reach."""
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return sum(t.untyped_storage().nbytes() for t in {t.untyped_storage().data_ptr(): t for t in tensors}.values())


def test_the_growth_measure_bites():
    before = live_tensor_bytes()
    kept = [torch.zeros(16, 3, 6, 8) for _ in range(180)]
    assert live_tensor_bytes() - before > 180 * BYTES_PER_RUN and len(kept) == 180
