"""From pixels to pixels and from files to files, with a tiny model in the place of Wan."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import tiny
import torch

from kvlock_core import COMPOSITE_LOCK, LockSchedule, NonFiniteError, RiskSettings, RunTrace, SessionSettings, SettingsError
from kvlock_diffusers import commands, edit
from kvlock_diffusers.edit import EditSettings, draw, edit_clip, latent_edit_mask, plan_fit
from kvlock_diffusers.errors import ClipTooShortError, ModelError
from kvlock_diffusers.loading import load_model
from kvlock_diffusers.options import DEMO, DEMO_CLIP, edit_settings, parser
from kvlock_diffusers.video import read_video, write_video

FRAMES, HEIGHT, WIDTH = 7, 19, 37


@pytest.fixture(scope="module")
def model():
    return tiny.video_model()


def clip(frames=FRAMES):
    return torch.rand(frames, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


def mask():
    painted = torch.zeros(FRAMES, HEIGHT, WIDTH)
    painted[:, 3:7, 20:24] = 1
    return painted


def settings(**more):
    return EditSettings(prompt="edit", **{**dict(steps=3), **more})


def test_any_size_comes_back_in_its_own_size(model):
    result = edit_clip(model, clip(), mask(), settings())
    assert result.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert 0 <= result.frames.min() and result.frames.max() <= 1
    assert len(result.trace.steps) == 3 and result.path_error == 0.0


def test_the_same_seed_gives_the_same_clip_and_another_one_does_not(model):
    first, again = (edit_clip(model, clip(), mask(), settings()).latents for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, edit_clip(model, clip(), mask(), settings(seed=1)).latents)


@pytest.mark.parametrize("other", [dict(source_seed=7), dict(source_noise="shared"), dict(source_noise="fresh"), dict(source_prompt="x")])
def test_every_source_setting_reaches_the_lock(model, other):
    plain = edit_clip(model, clip(), mask(), settings()).latents
    assert not torch.equal(plain, edit_clip(model, clip(), mask(), settings(**other)).latents)


@pytest.mark.parametrize("solver", ["euler", "rf_solver", "uni_inv"])
def test_ode_paths_report_how_well_they_lead_back(model, solver):
    result = edit_clip(model, clip(), mask(), settings(source_path=solver))
    assert result.path_error > 0


def test_encode_and_decode_normalise_alike(model):
    """decode(encode(x)) is what the VAE itself makes of x, whatever the latent statistics."""
    frames = clip(5)[:, :16, :32]
    pixels = (frames * 2 - 1).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        raw = model.vae.encode(pixels).latent_dist.mode()
        own = model.vae.decode(raw, return_dict=False)[0][0].permute(1, 2, 3, 0) / 2 + 0.5
    z = model.encode(frames)
    assert torch.allclose(model.decode(z), own, atol=1e-5)
    assert torch.allclose(z[0, 1], raw[0, 1] / 2.0, atol=1e-6)


def test_the_mask_lands_where_it_was_painted(model):
    fit = plan_fit(model, clip())
    cells = latent_edit_mask(model, fit.apply_mask(mask()))
    assert cells.shape == (3, 4, 6)
    assert cells.nonzero()[:, 1:].unique(dim=0).tolist() == [[0, 2]]


def test_grow_and_invert_reach_the_session(model):
    everything = edit_clip(model, clip(), torch.zeros_like(mask()), settings(invert=True))
    assert not any(step.needs_source for step in everything.trace.steps)
    wide = edit_clip(model, clip(), mask(), settings(grow=40))
    assert not any(step.needs_source for step in wide.trace.steps)


def background(model, **more):
    """Latents of an edit and of its source outside the latent edit mask."""
    fit = plan_fit(model, clip())
    outside = latent_edit_mask(model, fit.apply_mask(mask())) == 0
    edited = edit_clip(model, clip(), mask(), settings(**more)).latents
    assert outside.any() and not torch.allclose(edited[..., ~outside], model.encode(fit.apply(clip()))[..., ~outside], atol=0.1)
    return edited[..., outside], model.encode(fit.apply(clip()))[..., outside]


WAYS = [{}, dict(source_noise="shared"), dict(source_noise="fresh"), dict(source_path="euler"),
        dict(sampler="unipc"), dict(session=SessionSettings(lock=None))]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=["default", "shared", "fresh", "euler", "unipc", "no lock"])
def test_with_the_composite_the_background_latents_are_the_sources(model, way):
    torch.testing.assert_close(*background(model, **way), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS, ids=["default", "shared", "fresh", "euler", "unipc", "no lock"])
def test_without_the_composite_they_are_not(model, way):
    edited, source = background(model, composite=False, **way)
    assert not torch.allclose(edited, source, atol=0.1)


@pytest.mark.parametrize("way", WAYS[:4], ids=["default", "shared", "fresh", "euler"])
def test_the_composites_way_begins_where_sampling_begins(model, monkeypatch, way):
    """Else the first step would see a background of another noise than its foreground."""
    seen = []
    monkeypatch.setattr(edit, "sample", lambda *args, **more: seen.append((args, more)) or args[2])
    edit_clip(model, clip(), mask(), settings(**way))
    (_, scheduler, start, *_), more = seen[0]
    held = more["composite"].noisy(start, 0, float(scheduler.sigmas[0]))
    assert torch.equal(held, start) and not torch.equal(more["composite"].noisy(start, 1, float(scheduler.sigmas[1])), start)


def test_the_composite_follows_invert(model):
    """All of the clip is kept if nothing may change, and nothing is if all may."""
    source = model.encode(plan_fit(model, clip()).apply(clip()))
    kept, free = (edit_clip(model, clip(), torch.ones_like(mask()), settings(invert=yes)).latents for yes in (True, False))
    torch.testing.assert_close(kept, source, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(free, source, atol=0.1)


def test_noise_depends_on_nothing_but_the_seed():
    assert torch.equal(draw(torch.zeros(2, 3), 5), draw(torch.ones(2, 3), 5))


@pytest.mark.parametrize(
    "bad", [dict(steps=0), dict(sampler="heun"), dict(source_noise="mine"), dict(source_path="ddim"), dict(shift=-1.0)]
)
def test_impossible_settings_are_refused_at_once(bad):
    with pytest.raises(SettingsError, match=str(next(iter(bad.values())))):
        settings(**bad)


def test_too_short_a_clip(model):
    with pytest.raises(ClipTooShortError, match="4"):
        edit_clip(model, clip(4), mask()[:4], settings())


def test_nan_in_the_clip_names_the_step(model):
    poisoned = clip()
    poisoned[0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="step"):
        edit_clip(model, poisoned, mask(), settings(session=SessionSettings(lock=LockSchedule(start_percent=0.0))))


# the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A clip and a mask on disk, and the tiny model wherever a model is asked for."""
    write_video(tmp_path / "in.mp4", clip(), Fraction(8))
    write_video(tmp_path / "mask.mp4", mask()[..., None].expand(-1, -1, -1, 3).contiguous(), Fraction(8), crf=0)
    monkeypatch.setattr(commands, "load_model", lambda name, **options: tiny.video_model())
    return tmp_path


def arguments(files, *more):
    return ["edit", *clip_arguments(files), "--steps", "2", "--out", str(files / "out.mp4"), *map(str, more)]


def clip_arguments(files):
    return ["--model", "tiny", "--prompt", "edit", "--video", str(files / "in.mp4"), "--mask", str(files / "mask.mp4")]


def test_edit_writes_the_clip_and_its_trace(files, capsys):
    assert commands.main(arguments(files, "--trace", files / "trace.json")) == 0
    edited, source = read_video(files / "out.mp4"), read_video(files / "in.mp4")
    assert edited.frames.shape == source.frames.shape and edited.fps == source.fps
    assert len(RunTrace.from_json((files / "trace.json").read_text()).steps) == 2
    assert "out.mp4" in capsys.readouterr().out


def test_an_existing_output_is_kept_and_found_before_any_work(files, monkeypatch, capsys):
    (files / "out.mp4").write_bytes(b"precious")
    monkeypatch.setattr(commands, "load_model", lambda *a, **k: pytest.fail("the model was loaded first"))
    assert commands.main(arguments(files)) == 1
    assert (files / "out.mp4").read_bytes() == b"precious" and "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--tau", "0"], "tau is 0.0"),
        (["--window", "1"], "window size 1"),
        (["--start-percent", "0.9", "--end-percent", "0.5"], "0.9 .. 0.5"),
        (["--steps", "0"], "0 steps"),
        (["--video", "absent.mp4"], "absent.mp4"),
        (["--mask", "absent.png"], "absent.png"),
        (["--max-frames", "3"], "3"),
    ],
)
def test_bad_input_is_explained_and_writes_nothing(files, capsys, wrong, said):
    assert commands.main(arguments(files, *wrong)) == 1
    assert said in capsys.readouterr().err and not (files / "out.mp4").exists()


@pytest.mark.parametrize("value, said", [(0.0, "empty"), (1.0, "covers everything")])
def test_an_empty_or_full_mask_is_a_warning(files, caplog, value, said):
    write_video(files / "mask.mp4", torch.full((FRAMES, HEIGHT, WIDTH, 3), value), Fraction(8))
    assert commands.main(arguments(files)) == 0
    assert said in caplog.text


DEFAULTS_IN_HELP = {
    "--lock": "(default: risk, with --no-composite constant)",
    "--tau": "(default: 16.0, with --no-composite 0.2)",
    "--alpha-floor": "(default: 0.0)",
    "--alpha-ceiling": "(default: 0.5, with --no-composite 1.0)",
    "--start-percent": "(default: 0.0)",
    "--end-percent": "(default: 0.6, with --no-composite 1.0)",
    "--window": "(default: a fifth of the steps)",
    "--risk-form": "(default: rate)",
    "--guidance": "(default: off)",
    "--omega-ceiling": "(default: 1.25)",
    "--no-composite": "end as the source's own",
    "--projection": "without it plain CFG",
}


def test_help_names_every_setting_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # no sentence is broken
    with pytest.raises(SystemExit):
        commands.main(["edit", "--help"])
    parts = capsys.readouterr().out.split("\n  --")[1:]
    told = {"--" + part.split()[0]: part for part in parts}
    assert {option for option, default in DEFAULTS_IN_HELP.items() if default not in told[option]} == set()
    assert "(default: True)" not in "".join(parts) and "(default: False)" not in "".join(parts)


def given(*words, command="edit"):
    """Settings of an edit or a calibration that is told nothing but `words`."""
    needed = ["--model", "toy", "--video", "a.mp4", "--mask", "b.mp4", "--prompt", "edit"]
    out = ["--out", "c.mp4"] if command == "edit" else []
    return edit_settings(parser().parse_args([command, *needed, *out, *words]))


def test_options_without_a_word_are_the_methods_defaults():
    assert given() == EditSettings(prompt="edit")
    assert given().composite and given().session == SessionSettings(lock=COMPOSITE_LOCK, guidance=None, projection=False)


def test_calibrate_understands_the_same_options():
    words = ("--no-composite", "--lock", "linear", "--steps", "7", "--risk-form", "variance")
    assert given(*words, command="calibrate") == given(*words) != given()


def test_without_the_composite_the_lock_is_the_one_that_works_alone():
    alone = given("--no-composite")
    assert alone == EditSettings(prompt="edit", composite=False, session=SessionSettings())
    assert alone.session.lock == LockSchedule()


@pytest.mark.parametrize(
    "option, word, field, value",
    [
        ("--lock", "cosine", "kind", "cosine"),
        ("--tau", "3", "tau", 3.0),
        ("--alpha-floor", "0.1", "floor", 0.1),
        ("--alpha-ceiling", "0.7", "ceiling", 0.7),
        ("--start-percent", "0.2", "start_percent", 0.2),
        ("--end-percent", "0.9", "end_percent", 0.9),
        ("--start-percent", "0", "start_percent", 0.0),
    ],
)
def test_a_lock_option_that_was_given_wins_with_and_without_the_composite(option, word, field, value):
    assert given(option, word).session.lock == replace(COMPOSITE_LOCK, **{field: value})
    assert given(option, word, "--no-composite").session.lock == replace(LockSchedule(), **{field: value})


def test_guidance_projection_and_the_form_of_the_risk_are_asked_for():
    session = given("--guidance", "linear", "--projection", "--risk-form", "variance", "--window", "10").session
    assert session.projection and session.guidance.kind == "linear"
    assert (session.guidance.floor, session.guidance.ceiling) == (1.0, 1.25)
    assert session.risk == RiskSettings(window=10, form="variance")


def test_the_demo_has_defaults_of_its_own():
    options = parser().parse_args(["demo"])
    assert options.clip == DEMO_CLIP and {name: getattr(options, name) for name in DEMO} == DEMO
    assert DEMO == {"steps": 20} and edit_settings(options) == EditSettings(prompt="", steps=20)


def test_lock_off_only_watches():
    assert edit_settings(parser().parse_args(["demo", "--lock", "off", "--guidance", "off"])).session.lock is None


# the command that suggests tau ------------------------------------------------------------------------------------


def calibration(files, *more):
    """-> exit code. Six steps, so that more than one step of the range knows a risk."""
    return commands.main(["calibrate", *clip_arguments(files), "--steps", "6", *more])


def suggested_tau(capsys):
    return float(re.search(r"--tau (\S+) gives a mean alpha of", capsys.readouterr().out)[1])


@pytest.mark.parametrize("more, halfway", [([], "0.25"), (["--no-composite"], "0.5"), (["--alpha-floor", "0.4"], "0.45")])
def test_calibrate_suggests_a_tau_and_writes_nothing(files, capsys, more, halfway):
    before = set(files.iterdir())
    assert calibration(files, *more) == 0
    said = capsys.readouterr().out
    assert re.search(rf"--tau \d\S* gives a mean alpha of {halfway}\n", said) and "risk over" in said
    assert set(files.iterdir()) == before


def test_a_harder_lock_needs_a_smaller_tau(files, capsys):
    taus = []
    for wanted in ("0.1", "0.3", "0.45"):
        assert calibration(files, "--mean-alpha", wanted) == 0
        taus.append(suggested_tau(capsys))
    assert taus[0] > taus[1] > taus[2] > 0


def test_calibrate_watches_without_a_lock(files, monkeypatch):
    """Neither the lock whose tau is sought nor guidance may change the risk that is measured."""
    seen = []
    monkeypatch.setattr(commands, "edit_clip", lambda *args, **more: seen.append(edit_clip(*args, **more)) or seen[-1])
    assert calibration(files, "--guidance", "risk", "--projection") == 0
    assert len(seen[0].trace.steps) == 6
    assert {(step.alpha, step.omega, step.s_star) for step in seen[0].trace.steps} == {(0.0, 3.0, 1.0)}


@pytest.mark.parametrize(
    "more, said",
    [
        (["--mean-alpha", "2"], "mean alpha 2.0 is not between floor 0.0 and ceiling 0.5"),
        (["--mean-alpha", "0"], "mean alpha 0.0"),
        (["--steps", "1"], "run more steps"),
        (["--video", "absent.mp4"], "absent.mp4"),
    ],
)
def test_a_calibration_that_says_nothing_is_explained(files, capsys, more, said):
    before = set(files.iterdir())
    assert calibration(files, *more) == 1
    told = capsys.readouterr()
    assert said in told.err and told.out == "" and set(files.iterdir()) == before


def test_a_model_that_is_none_is_explained(tmp_path):
    with pytest.raises(ModelError, match="model_index.json"):
        load_model(str(tmp_path))
    with pytest.raises(ModelError, match="float8"):
        load_model("toy", dtype="float8")
    with pytest.raises(ModelError, match="abacus"):
        load_model("toy", device="abacus")


def test_a_saved_wan_pipeline_is_loaded_and_edits(tmp_path, files):
    """The real loader, on a pipeline as diffusers saves it: tokenizer, UMT5, transformer, VAE, scheduler."""
    tiny.save_pipeline(tmp_path / "wan")
    model = load_model(str(tmp_path / "wan"), device="cpu")
    assert model.shift == 5.0 and model.transformer.dtype == torch.float32
    assert model.encode_text("a red circle").shape[2] == tiny.TEXT_DIM
    assert not torch.equal(model.encode_text("a red circle"), model.encode_text("a blue circle"))
    result = edit_clip(model, clip(), mask(), settings(steps=2))
    assert result.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
