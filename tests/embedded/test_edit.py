"""From pixels to pixels and from files to files, with a tiny model in the place of Wan."""

from fractions import Fraction

import pytest
import tiny
import torch

from kvlock_core import GuidanceSchedule, LockSchedule, NonFiniteError, RunTrace, SessionSettings, SettingsError
from kvlock_diffusers import commands
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


def test_noise_depends_on_nothing_but_the_seed():
    assert torch.equal(draw(torch.zeros(2, 3), 5), draw(torch.ones(2, 3), 5))


@pytest.mark.parametrize("bad", [dict(steps=0), dict(sampler="heun"), dict(source_noise="mine"), dict(source_path="ddim"), dict(shift=-1.0)])
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
    named = ["--video", files / "in.mp4", "--mask", files / "mask.mp4", "--out", files / "out.mp4"]
    return ["edit", "--model", "tiny", "--prompt", "edit", "--steps", "2", *map(str, named), *map(str, more)]


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


def test_help_names_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        commands.main(["edit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for piece in ("--tau", "(default: 0.01)", "--window", "(default: 10)", "--start-percent", "(default: 0.6)", "--omega-ceiling"):
        assert piece in text


def test_options_without_a_word_are_the_methods_defaults():
    needed = ["--model", "toy", "--video", "a.mp4", "--mask", "b.mp4", "--prompt", "edit", "--out", "c.mp4"]
    given = edit_settings(parser().parse_args(["edit", *needed]))
    assert given == EditSettings(prompt="edit", session=SessionSettings(guidance=GuidanceSchedule()))


def test_the_demo_has_defaults_of_its_own():
    options = parser().parse_args(["demo"])
    assert options.clip == DEMO_CLIP and {name: getattr(options, name) for name in DEMO} == DEMO
    assert edit_settings(options).session.lock.start_percent == 0.0


def test_lock_off_only_watches():
    assert edit_settings(parser().parse_args(["demo", "--lock", "off", "--guidance", "off"])).session.lock is None


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
