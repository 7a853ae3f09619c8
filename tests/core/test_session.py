"""Theorems about a whole run, on a model small enough to read: two blocks of self-attention over 36 tokens."""

import logging
import math
from dataclasses import replace
from itertools import zip_longest

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from kvlock_core import (
    PAPER_GUIDANCE,
    PAPER_LOCK,
    PAPER_RISK,
    GridMismatchError,
    GuidanceSchedule,
    InStep,
    LockSchedule,
    LockSession,
    MaskError,
    NoisedPath,
    NonFiniteError,
    RiskSettings,
    RiskWindow,
    RunTrace,
    ScheduleError,
    SessionError,
    SessionSettings,
    SettingsError,
    Site,
    SourceError,
    StoreError,
    TrajectoryPath,
    fuse,
    latent_mask,
    lock_strength,
    s_star,
    token_mask,
)

C, T, H, W = 2, 3, 5, 7
HEADS, DIM, BLOCKS, STEPS = 2, 5, 2, 10
OMEGA0 = 3.0
SIGMAS = [1 - k / STEPS for k in range(STEPS)] + [0.0]


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {name: draw(4 * C, HEADS * DIM, seed=i) / 3 for i, name in enumerate("qkv")}
BACK = draw(HEADS * DIM, 4 * C, seed=4) / 3
PROMPTS = {"cond": draw(4 * C, seed=5), "uncond": draw(4 * C, seed=6), "source": draw(4 * C, seed=7)}


def to_tokens(z):
    return rearrange(F.pad(z, (0, W % 2, 0, H % 2)), "b c t (h p) (w q) -> b (t h w) (c p q)", p=2, q=2)


def to_latent(x):
    z = rearrange(x, "b (t h w) (c p q) -> b c t (h p) (w q)", t=T, h=(H + 1) // 2, p=2, q=2)
    return z[..., :H, :W]


def velocity(rows, latents, session=None):
    """One batched call of the model; returns the velocity of every row by name."""
    x = to_tokens(torch.cat(latents)) + torch.stack([PROMPTS[row] for row in rows])[:, None]
    for block in range(BLOCKS):
        q, k, v = (rearrange(x @ WEIGHTS[name], "b l (h d) -> b h l d", h=HEADS) for name in "qkv")
        if session is not None:
            k, v = session.attention(Site(block), k, v, rows)
        out = F.scaled_dot_product_attention(q, k, v)
        x = x + rearrange(out, "b h l d -> b l (h d)") @ BACK
    return dict(zip(rows, to_latent(x).split(1)))


def sample(session=None, path=None, start=None, steps=range(STEPS)):
    """A host in ten lines, as a generator so that two runs can be interleaved. Yields z after every step."""
    z = draw(1, C, T, H, W, seed=8) if start is None else start
    for k in steps:
        s, s_next = SIGMAS[k : k + 2]
        plan = session.begin(k, s) if session else None
        locked = plan is not None and plan.needs_source
        rows = ("cond", "uncond", "source") if locked else ("cond", "uncond")
        v = velocity(rows, [z, z, path.at(k, s)] if locked else [z, z], session)
        if session:
            session.predicted(z - s * v["cond"])
            guided = session.guide(v["cond"], v["uncond"])
            session.end()
        else:
            guided = v["uncond"] + OMEGA0 * (v["cond"] - v["uncond"])
        z = z + (s_next - s) * guided
        yield z


def final(*args, **kwargs):
    return list(sample(*args, **kwargs))[-1]


def some_edit():
    edit = torch.zeros(T, H, W)
    edit[1:, 1:4, 2:5] = 1
    return edit


def make_session(settings=None, edit=None, **kwargs):
    edit = some_edit() if edit is None else edit
    settings = SessionSettings() if settings is None else settings
    return LockSession(settings, steps=STEPS, edit=edit, tokens=token_mask(edit), omega0=OMEGA0, **kwargs)


def always(alpha=1.0, projection=True, **kwargs):
    """A lock in every step; s_star comes along, since a lock that rests has to leave guidance alone too."""
    return SessionSettings(LockSchedule("constant", ceiling=alpha, start_percent=0.0), projection=projection, **kwargs)


#: The paper's lock, which rests in the first six of ten steps.
PAPER = SessionSettings(PAPER_LOCK, risk=PAPER_RISK, projection=True)


def source_path(seed=9):
    return NoisedPath(draw(1, C, T, H, W, seed=seed), draw(1, C, T, H, W, seed=seed + 1))


# what must not change anything ----------------------------------------------------------------------------------------


def check_changes_nothing(session):
    assert torch.equal(final(session, source_path()), final())
    assert not any(step.needs_source for step in session.trace.steps)


WATCH = SessionSettings(lock=None, risk=RiskSettings(detrend=True, normalise=True), projection=True)
IDLE = {
    "monitor": (WATCH, None),
    "alpha 0": (always(0.0), None),
    "all editable": (always(1.0), torch.ones(T, H, W)),
    "empty range": (SessionSettings(LockSchedule("constant", start_percent=0.5, end_percent=0.5), projection=True), None),
}


@pytest.mark.parametrize("name", list(IDLE))
def test_an_idle_session_changes_nothing_bit_for_bit(name):
    settings, edit = IDLE[name]
    check_changes_nothing(make_session(settings, edit))


def test_before_the_active_range_nothing_changes():
    plain, locked = list(sample()), list(sample(make_session(PAPER), source_path()))
    same = [torch.equal(a, b) for a, b in zip(plain, locked)]
    assert same == [k < 6 for k in range(STEPS)]


class _Nudging(LockSession):
    """Wrong: touches keys although nothing is to be locked."""

    def attention(self, site, key, value, rows):
        return key * (1 + 1e-6), value


class _AlwaysProjecting(LockSession):
    """Wrong: applies s_star although nothing is locked."""

    def _projects(self):
        return True


@pytest.mark.parametrize("wrong", [_Nudging, _AlwaysProjecting])
def test_the_idle_checker_bites(wrong):
    session = wrong(WATCH, steps=STEPS, edit=some_edit(), tokens=None, omega0=OMEGA0)
    with pytest.raises(AssertionError):
        check_changes_nothing(session)


# what must change exactly this ----------------------------------------------------------------------------------------


def batch(rows=3, seed=20):
    return draw(rows, HEADS, 36, DIM, seed=seed)


ROWS = ("cond", "uncond", "source")


def open_session(settings, edit=None, step=STEPS - 1, **kwargs):
    session = make_session(settings, edit, **kwargs)
    session.begin(step, SIGMAS[step])
    return session


def check_locks_only_the_background(attention, alpha):
    key, value, editable = batch(), batch(seed=21), token_mask(some_edit()) == 1
    for new, out in zip((key, value), attention(Site(1), key, value, ROWS)):
        assert torch.equal(out[2], new[2])
        for row in (0, 1):
            assert torch.equal(out[row][:, editable], new[row][:, editable])
            expected = (1 - alpha) * new[row] + alpha * new[2]
            assert torch.allclose(out[row][:, ~editable], expected[:, ~editable], atol=1e-6)
            if alpha == 1.0:
                assert torch.equal(out[row][:, ~editable], new[2][:, ~editable])


@pytest.mark.parametrize("alpha", [1.0, 0.75, 0.1])
def test_editable_tokens_are_untouched_and_the_rest_is_the_mix(alpha):
    check_locks_only_the_background(open_session(always(alpha)).attention, alpha)


def _locks_everything(site, key, value, rows):
    return tuple(x[2:].expand(3, -1, -1, -1) for x in (key, value))


def _keys_only(site, key, value, rows):
    return open_session(always()).attention(site, key, value, rows)[0], value


def _inside_out(site, key, value, rows):
    return tuple(fuse(x, x[2:], token_mask(some_edit())) for x in (key, value))


@pytest.mark.parametrize("wrong", [_locks_everything, _keys_only, _inside_out])
def test_the_lock_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_locks_only_the_background(wrong, 1.0)


def test_a_full_lock_makes_every_row_the_source():
    session = open_session(always(), torch.zeros(T, H, W))
    for new, out in zip((batch(), batch(seed=21)), session.attention(Site(0), batch(), batch(seed=21), ROWS)):
        assert torch.equal(out, new[2:].expand(3, -1, -1, -1))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_soft_mask_locks_softly(alpha):
    tokens = torch.linspace(0, 1, 36)
    session = LockSession(always(alpha), steps=STEPS, edit=some_edit(), tokens=tokens)
    session.begin(0, 1.0)
    key, _ = session.attention(Site(0), batch(), batch(), ROWS)
    assert torch.equal(key[0], fuse(batch()[0], batch()[2], alpha * (1 - tokens)))


def test_a_wide_batch_is_divided_among_the_rows():
    wide = draw(6, HEADS, 36, DIM, seed=22)  # two samples per role
    out, _ = open_session(always(), torch.zeros(T, H, W)).attention(Site(0), wide, wide, ROWS)
    assert torch.equal(out, torch.cat([wide[4:]] * 3))


def test_rows_may_come_in_any_order_and_alone():
    background = token_mask(some_edit()) == 0
    out, _ = open_session(always()).attention(Site(0), batch(2), batch(2), ("source", "uncond"))
    assert torch.equal(out[1][:, background], batch(2)[0][:, background])


def test_only_the_chosen_rows_are_locked():
    out, _ = open_session(always(rows=("cond",))).attention(Site(0), batch(), batch(), ROWS)
    assert not torch.equal(out[0], batch()[0]) and torch.equal(out[1], batch()[1])


def test_a_call_that_is_not_locked_returns_the_same_objects():
    key, value = batch(), batch(seed=21)
    cases = [
        (open_session(always(blocks=(1, 1))), Site(0), ROWS),
        (open_session(always(blocks=(1, 1))), Site(2), ROWS),
        (open_session(always(rows=("cond",))), Site(0), ("uncond", "uncond", "source")),
        (open_session(always(), torch.ones(T, H, W)), Site(0), ROWS),
        (open_session(PAPER, step=0), Site(0), ROWS),
        (open_session(WATCH), Site(0), ROWS),
    ]
    for session, site, rows in cases:
        k, v = session.attention(site, key, value, rows)
        assert k is key and v is value
    k, _ = open_session(always(blocks=(1, 1))).attention(Site(1), key, value, ROWS)
    assert k is not key


def test_attention_leaves_its_inputs_alone():
    key, value = batch(), batch(seed=21)
    open_session(always()).attention(Site(0), key, value, ROWS)
    assert torch.equal(key, batch()) and torch.equal(value, batch(seed=21))


def test_a_full_lock_on_the_own_path_reproduces_the_source_run():
    """All-zero edit mask, alpha 1, the same prompt and noise: the anchors are the keys that are already there."""
    start = draw(1, C, T, H, W, seed=8)
    clean = list(sample(start=start))
    own_path = TrajectoryPath([start, *clean], SIGMAS)
    prompt, PROMPTS["source"] = PROMPTS["source"], PROMPTS["cond"]
    try:
        settings = always(rows=("cond",), projection=False)
        again = final(make_session(settings, torch.zeros(T, H, W)), own_path, start)
    finally:
        PROMPTS["source"] = prompt
    assert torch.allclose(again, clean[-1], atol=1e-4)


def test_a_lock_pulls_the_result_towards_another_source():
    """Not a theorem, but the reason for everything else: another source, another result."""
    one, other = (final(make_session(always()), source_path(seed)) for seed in (9, 31))
    assert not torch.allclose(one, other, atol=1e-2)


# alpha, omega, s_star over a run --------------------------------------------------------------------------------------


def check_alpha_follows_the_step_before(trace, tau):
    steps = trace.steps
    for before, step in zip(steps, steps[1:]):
        expected = lock_strength(before.risk, tau) if step.active else 0.0
        assert step.alpha == expected


#: So large that alpha is neither 0 nor 1 on this random model.
TAU = 2000.0


def risk_driven(tau=1.0):
    lock, guidance = (replace(paper, tau=tau, start_percent=start) for paper, start in ((PAPER_LOCK, 0.3), (PAPER_GUIDANCE, 0.5)))
    return SessionSettings(lock, guidance, projection=True)


def test_alpha_uses_the_risk_of_the_steps_before():
    session = make_session(risk_driven(tau=TAU))
    final(session, source_path())
    assert 0 < max(step.alpha for step in session.trace.steps) < 1  # tau was chosen so that the test means something
    check_alpha_follows_the_step_before(session.trace, TAU)


def test_the_alpha_checker_bites():
    session = make_session(risk_driven(tau=TAU))
    final(session, source_path())
    with pytest.raises(AssertionError):
        check_alpha_follows_the_step_before(session.trace, 25.0)
    ahead = [replace(s, alpha=lock_strength(s.risk, TAU) if s.active else 0.0) for s in session.trace.steps]
    with pytest.raises(AssertionError):
        check_alpha_follows_the_step_before(RunTrace({}, tuple(ahead)), TAU)


def test_omega_includes_the_risk_of_its_own_step():
    session = make_session(risk_driven(tau=TAU))
    final(session, source_path())
    schedule = session.settings.guidance
    for step in session.trace.steps:
        assert step.omega == schedule.omega(OMEGA0, step.step, STEPS, step.risk)


def test_a_host_that_combines_itself_gets_what_guide_applies():
    session = make_session(always(guidance=GuidanceSchedule("linear", start_percent=0.0)))
    session.begin(3, 0.5)
    session.predicted(X0)
    cond, uncond = draw(1, C, T, H, W, seed=24), draw(1, C, T, H, W, seed=25)
    omega, s = session.guidance(cond, uncond)
    assert omega == session.omega() > OMEGA0 and torch.equal(s, s_star(cond, uncond))
    record = session.end()
    assert (record.omega, record.s_star) == (omega, float(s.mean()))


def test_s_star_is_applied_exactly_where_the_lock_acts():
    session = make_session(always(0.5))
    final(session, source_path())
    assert all(step.s_star != 1.0 for step in session.trace.steps)
    session = make_session(PAPER)
    final(session, source_path())
    assert [step.s_star == 1.0 for step in session.trace.steps] == [k < 6 for k in range(STEPS)]
    session = make_session(always(projection=False))
    final(session, source_path())
    assert all(step.s_star == 1.0 for step in session.trace.steps)


def test_a_guidance_schedule_works_without_a_lock():
    guidance = replace(PAPER_GUIDANCE, kind="linear", start_percent=0.5)
    session = make_session(SessionSettings(lock=None, guidance=guidance, projection=True))
    assert not torch.equal(final(session), final())
    assert [step.omega for step in session.trace.steps[4:6]] == [OMEGA0, 2 * OMEGA0]
    assert [step.s_star == 1.0 for step in session.trace.steps] == [k < 5 for k in range(STEPS)]
    assert not any(step.needs_source for step in session.trace.steps)


def test_without_an_unconditional_row_guidance_is_none_but_the_lock_works():
    session = open_session(always())
    out, _ = session.attention(Site(0), batch(2), batch(2), ("cond", "source"))
    assert not torch.equal(out, batch(2))
    cond = draw(1, C, T, H, W, seed=23)
    session.predicted(cond)
    assert session.guide(cond, None) is cond
    record = session.end()
    assert record.omega is None and record.s_star is None and record.alpha == 1.0


def test_the_record_is_what_happened():
    session = make_session(risk_driven())
    final(session, source_path())
    trace = session.trace
    assert [step.step for step in trace.steps] == list(range(STEPS))
    assert [step.sigma for step in trace.steps] == SIGMAS[:-1]
    assert [step.active for step in trace.steps] == [k >= 3 for k in range(STEPS)]
    assert trace.steps[0].risk is None and trace.steps[1].risk > 0
    assert RunTrace.from_json(trace.to_json()) == trace


def test_a_trend_runs_over_sigma():
    """A prediction that is straight in sigma has no detrended risk, however unevenly the steps lie."""
    session = make_session(WATCH)
    for k, sigma in enumerate((1.0, 0.9, 0.5, 0.1)):
        session.begin(k, sigma)
        risk = session.predicted(torch.ones(1, C, T, H, W) + sigma * draw(1, C, T, H, W, seed=24))
        session.end()
    assert risk == pytest.approx(0.0, abs=1e-9)


def test_region_all_needs_no_mask():
    settings = SessionSettings(lock=None, risk=RiskSettings(region="all"), projection=True)
    session = LockSession(settings, steps=STEPS, edit=None, tokens=None, omega0=OMEGA0)
    check_changes_nothing(session)
    assert session.trace.steps[-1].risk > 0


# runs do not see each other -------------------------------------------------------------------------------------------


def check_do_not_see_each_other(make):
    """Two runs step by step in turn give what each gives alone."""
    jobs = [(risk_driven(TAU), source_path(9)), (always(0.5), source_path(31))]
    alone = [final(make(settings), path) for settings, path in jobs]
    together = list(zip_longest(*(sample(make(settings), path) for settings, path in jobs)))[-1]
    assert all(torch.equal(a, b) for a, b in zip(alone, together))


def test_interleaved_runs_do_not_see_each_other():
    check_do_not_see_each_other(make_session)


class _Sharing(LockSession):
    """Wrong: the risk lives in the class."""

    shared: float | None = None

    def begin(self, step, sigma):
        self.window.risk = _Sharing.shared
        return super().begin(step, sigma)

    def predicted(self, x0):
        _Sharing.shared = super().predicted(x0)
        return _Sharing.shared


def test_the_isolation_checker_bites():
    def make(settings):
        edit = some_edit()
        return _Sharing(settings, steps=STEPS, edit=edit, tokens=token_mask(edit), omega0=OMEGA0)

    with pytest.raises(AssertionError):
        check_do_not_see_each_other(make)


def test_a_session_does_not_touch_the_masks_it_was_given():
    edit = some_edit()
    tokens = token_mask(edit)
    session = LockSession(always(), steps=STEPS, edit=edit, tokens=tokens, omega0=OMEGA0)
    final(session, source_path())
    assert torch.equal(edit, some_edit()) and torch.equal(tokens, token_mask(some_edit()))


# wrong use ------------------------------------------------------------------------------------------------------------

X0 = torch.zeros(1, C, T, H, W)


def _twice(call):
    def run(session):
        session.begin(3, 0.7)
        call(session)
        call(session)

    return run


def _guide_then_predict(session):
    session.begin(3, 0.7)
    session.predicted(X0)
    session.guide(X0, X0)
    session.predicted(X0)


def _guide_unpredicted(session):
    session.begin(9, 0.1)
    session.guide(X0, X0)


def _backwards(session):
    for step in (4, 3):
        session.begin(step, 0.5)
        session.predicted(X0)
        session.end()


@pytest.mark.parametrize(
    "misuse, says",
    [
        (lambda s: s.end(), r"end\(\) outside a step"),
        (lambda s: s.predicted(X0), r"predicted\(\) outside"),
        (lambda s: s.guide(X0, X0), r"guide\(\) outside"),
        (lambda s: s.guidance(X0, X0), r"guidance\(\) outside"),
        (lambda s: s.omega(), r"omega\(\) outside"),
        (lambda s: s.attention(Site(0), batch(), batch(), ROWS), r"attention\(\) outside"),
        (_twice(lambda s: s.begin(4, 0.5)), "step 3 is still open"),
        (_twice(lambda s: s.predicted(X0)), r"predicted\(\) of step 3"),
        (_twice(lambda s: s.guide(X0, None)), r"guide\(\) of step 3"),
        (_twice(lambda s: s.guide(X0, X0)), "omega of step 3 needs its risk"),
        (_guide_then_predict, r"predicted\(\) of step 3"),
        (_guide_unpredicted, r"step 9 .*predicted\(x0\) first"),
        (_twice(lambda s: s.end()), r"step 3 ended without predicted"),
        (_backwards, "step 3 comes after step 4"),
    ],
)
def test_calls_out_of_order_are_named(misuse, says):
    with pytest.raises(SessionError, match=says):
        misuse(make_session(risk_driven()))


def test_two_evaluations_of_one_step_are_two_records():
    session = make_session()
    for sigma in (0.5, 0.4):
        session.begin(5, sigma)
        session.predicted(X0)
        session.end()
    assert [(step.step, step.sigma) for step in session.trace.steps] == [(5, 0.5), (5, 0.4)]


def test_a_step_outside_the_run_is_named():
    with pytest.raises(ScheduleError, match="step 10 .*10 steps"):
        make_session().begin(10, 0.0)


def test_another_token_grid_is_named():
    with pytest.raises(GridMismatchError, match=r"block 1: key \(3, 2, 35, 5\).*36 tokens"):
        wrong = draw(3, HEADS, 35, DIM, seed=1)
        open_session(always()).attention(Site(1), wrong, wrong, ROWS)
    with pytest.raises(GridMismatchError, match=r"\(3, 36, 10\)"):
        wrong = draw(3, 36, 10, seed=1)
        open_session(always()).attention(Site(1), wrong, wrong, ROWS)


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(GridMismatchError, match="batch of 4"):
        open_session(always()).attention(Site(0), batch(4), batch(4), ROWS)


def test_a_missing_source_row_is_named():
    with pytest.raises(SourceError, match="'cond', 'uncond'"):
        open_session(always()).attention(Site(0), batch(2), batch(2), ("cond", "uncond"))


def test_a_broken_prediction_is_named_with_its_step():
    session = make_session()
    session.begin(4, 0.6)
    with pytest.raises(NonFiniteError, match=r"step 4, sigma 0.6"):
        session.predicted(torch.full((1, C, T, H, W), math.nan))


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: SessionSettings(rows=()), SettingsError, r"\(\)"),
        (lambda: SessionSettings(rows="cond"), SettingsError, "'cond'"),
        (lambda: SessionSettings(rows=("cond", "source")), SettingsError, "source"),
        (lambda: SessionSettings(blocks=(5, 2)), SettingsError, r"\(5, 2\)"),
        (lambda: SessionSettings(blocks=(-1, 2)), SettingsError, r"\(-1, 2\)"),
        (lambda: SessionSettings(blocks=(1,)), SettingsError, r"\(1,\)"),
        (lambda: RiskSettings(region="mask"), SettingsError, "'mask'"),
        (lambda: RiskSettings(window=1), SettingsError, "1"),
        (lambda: RiskSettings(window=2, detrend=True), SettingsError, "2"),
        (lambda: LockSession(always(), steps=0, edit=some_edit(), tokens=torch.ones(36)), SettingsError, "0"),
        (lambda: LockSession(always(), steps=9, edit=some_edit(), tokens=None), SettingsError, "token mask"),
        (lambda: LockSession(WATCH, steps=9, edit=None, tokens=None), SettingsError, "edit mask"),
        (lambda: LockSession(always(), steps=9, edit=torch.ones(36), tokens=torch.ones(36)), MaskError, r"\(36,\)"),
        (lambda: LockSession(always(), steps=9, edit=some_edit(), tokens=some_edit()), MaskError, r"\(3, 5, 7\)"),
        (lambda: LockSession(always(), steps=9, edit=some_edit(), tokens=torch.full((36,), 2.0)), MaskError, "tokens"),
    ],
)
def test_bad_settings_are_named(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    "settings, edit, says",
    [
        (always(), torch.ones(T, H, W), "every token"),
        (always(), torch.zeros(T, H, W), "is empty"),
        (SessionSettings(LockSchedule(start_percent=0.95)), None, "none of the 10 steps"),
        (always(), None, ""),
    ],
)
def test_what_would_silently_do_nothing_or_everything_is_reported(settings, edit, says, caplog):
    with caplog.at_level(logging.WARNING, "kvlock"):
        make_session(settings, edit)
    assert (says in caplog.text) if says else not caplog.records


@pytest.mark.parametrize("settings, share", [(SessionSettings(), 1.0), (PAPER, 0.4)], ids=["default", "paper"])
def test_from_pixels_to_a_locked_run(settings, share):
    """The public names end to end, as a host uses them."""
    pixels = torch.zeros(9, 40, 56)
    pixels[4:, 16:24, 8:32] = 1
    edit = latent_mask(pixels, size=(T, H, W))
    session = LockSession(settings, steps=STEPS, edit=edit, tokens=token_mask(edit), omega0=OMEGA0)
    result = final(session, source_path())
    assert result.isfinite().all() and not torch.equal(result, final())
    assert session.trace.summary()["locked_share"] == share


def test_without_a_word_a_session_only_locks():
    settings = SessionSettings()
    assert settings.lock == LockSchedule() and settings.guidance is None and not settings.projection
    assert (settings.risk, settings.rows, settings.blocks) == (RiskSettings(), ("cond", "uncond"), None)
    session = make_session()
    final(session, source_path())
    assert {(step.alpha, step.omega, step.s_star) for step in session.trace.steps} == {(1.0, OMEGA0, 1.0)}


# a host that cannot batch the source with every row -------------------------------------------------------------------


def test_in_step_serves_what_was_recorded_and_rides_along_where_it_can():
    session = open_session(always(), source=InStep())
    new, source = batch(2), batch(1) + 1.0
    assert session.supply == "apart"
    assert session.attention(Site(0), source, source, ("source",))[0] is source
    assert session.supply == "kept"
    alone, _ = session.attention(Site(0), new, new, ("cond", "uncond"))
    together, _ = session.attention(Site(0), torch.cat([new, source]), torch.cat([new, source]), ROWS)
    assert torch.equal(alone, together[:2]) and not torch.equal(alone, new)


def test_in_step_has_no_block_that_was_not_recorded_in_this_step():
    session = open_session(always(), source=InStep(), step=STEPS - 2)
    session.attention(Site(0), batch(1), batch(1), ("source",))
    with pytest.raises(StoreError, match="block 1"):
        session.attention(Site(1), batch(2), batch(2), ("cond", "uncond"))
    session.predicted(torch.zeros(1, C, T, H, W))
    session.end()
    session.begin(STEPS - 1, SIGMAS[STEPS - 1])
    with pytest.raises(SourceError, match="block 0"):
        session.attention(Site(0), batch(2), batch(2), ("cond", "uncond"))


# a run that continues another -----------------------------------------------------------------------------------------


def halves(settings, window_of):
    """The steps of a run whose last half is played by a second session, which gets `window_of(first session)`."""
    path, half = source_path(), STEPS // 2
    first = make_session(settings)
    z = final(first, path, steps=range(half))
    second = make_session(settings, window=window_of(first))
    final(second, path, z, steps=range(half, STEPS))
    return [*first.trace.steps, *second.trace.steps]


def test_a_continued_run_is_the_run_itself():
    settings = risk_driven(tau=TAU)
    whole = make_session(settings)
    final(whole, source_path())
    assert halves(settings, lambda first: first.window.moved_to("cpu")) == list(whole.trace.steps)
    assert halves(settings, lambda first: None) != list(whole.trace.steps)


def test_a_moved_window_goes_on_by_itself():
    window = RiskWindow(3)
    window.push(X0)
    window.push(X0 + 1.0)
    copied, risk = window.moved_to("cpu"), window.risk
    copied.push(X0 + 5.0)
    assert window.risk == risk != copied.risk


def test_a_window_of_other_settings_cannot_be_continued():
    with pytest.raises(SettingsError, match="window of 3 predictions"):
        make_session(window=RiskWindow(3))
