"""The nodes as a graph uses them: what they hand on, what they show, and what they say to wrong input."""

import json
import math
from pathlib import Path

import pytest
import torch
from world import FRAMES, HEIGHT, SHAPE, WIDTH, call, draw, guided, load_toy, locked, mask, monitored, run, source_latent, text

IDS = {
    "KVLockInvertCache": "Invert & Cache KV",
    "KVLockSampler": "KV-Lock Sampler",
    "KVLockMonitor": "Hallucination Monitor",
    "KVLockCFGSchedule": "CFG Schedule",
    "KVLockApply": "KV-Lock (Patch Model)",
    "KVLockTokenMask": "KV-Lock Mask",
    "KVLockReport": "KV-Lock Report",
    "KVLockSaveCache": "Save KV Cache",
    "KVLockLoadCache": "Load KV Cache",
}


def test_the_ids_are_those_that_workflows_hold(pack):
    assert {name: node.GET_SCHEMA().display_name for name, node in pack.items()} == IDS


@pytest.mark.parametrize("name", IDS)
def test_every_input_is_explained_in_a_sentence(name, pack):
    schema = pack[name].GET_SCHEMA()
    assert len(schema.description) > 40 and schema.category == "KV-Lock"
    for one in schema.inputs:
        tooltip = one.tooltip or ""
        assert 10 < len(tooltip) < 160 and "\n" not in tooltip and not tooltip.endswith("."), (name, one.id, tooltip)
    assert all(len(one.tooltip or "") > 10 for one in schema.outputs)


#: Saved workflows hold widget values by position: new ones go behind these, whatever is added to a node.
WIDGETS = {
    "KVLockInvertCache": "source_noise source_seed source_path source_mode cache_ram_gb cache_vram_gb cache_disk_gb cache_format "
    "refresh_every",
    "KVLockSaveCache": "filename",
    "KVLockLoadCache": "cache_file",
    "KVLockApply": "lock_schedule start_percent end_percent alpha_ceiling alpha_floor tau locked_rows first_block last_block",
    "KVLockCFGSchedule": "omega_schedule omega_ceiling start_percent end_percent omega_floor use_s_star tau",
    "KVLockMonitor": "risk_window risk_region risk_detrend risk_normalise risk_form",
    "KVLockTokenMask": "grow invert snap",
    "KVLockReport": "",
    "KVLockSampler": "seed steps cfg sampler_name scheduler denoise keep_background lock_schedule start_percent end_percent alpha_ceiling "
    "omega_schedule omega_ceiling alpha_floor tau omega_floor use_s_star locked_rows first_block last_block risk_window "
    "risk_region risk_detrend risk_normalise risk_form",
}


@pytest.mark.parametrize("name", IDS)
def test_released_widgets_keep_their_places(name, pack):
    widgets = [one.id for one in pack[name].GET_SCHEMA().inputs if type(one).__name__ == "Input" and is_widget(one)]
    wanted = WIDGETS[name].split()
    assert widgets[: len(wanted)] == wanted


def is_widget(one) -> bool:
    from comfy_api.latest import io

    return isinstance(one, io.WidgetInput)


def workflow_mismatches(made: dict, schema) -> list[str]:
    """What a node of a saved workflow has otherwise than its schema: inputs, outputs, number of widget values."""
    widgets = [one for one in schema.inputs if is_widget(one)]
    values = sum(2 if getattr(one, "control_after_generate", None) else 1 for one in widgets)
    found = [] if len(made.get("widgets_values") or []) == values else [f"{len(made['widgets_values'])} values, {values} widgets"]
    for kind, wanted in (("inputs", {one.id for one in schema.inputs}), ("outputs", {one.display_name for one in schema.outputs})):
        found += [f"{kind} differ in {name}" for name in wanted ^ {one["name"] for one in made.get(kind, [])}]
    return found


def test_the_example_workflows_fit_the_nodes(pack):
    files = sorted((Path(__file__).parents[2] / "example_workflows").glob("*.json"))
    ours = [made for file in files for made in json.loads(file.read_text(encoding="utf-8"))["nodes"] if made["type"] in pack]
    assert len(ours) >= 4
    assert {made["type"]: workflow_mismatches(made, pack[made["type"]].GET_SCHEMA()) for made in ours if
            workflow_mismatches(made, pack[made["type"]].GET_SCHEMA())} == {}  # fmt: skip
    cut = {**ours[-1], "widgets_values": [], "inputs": []}
    assert workflow_mismatches(cut, pack[cut["type"]].GET_SCHEMA())


# what they hand on ------------------------------------------------------------------------------------------------------


def sampled(pack, model, source, **widgets):
    given = {"positive": text(1), "negative": text(2), "steps": 4, "cfg": 4.0, "seed": 7}
    return call(pack["KVLockSampler"], model=model, source=source, **{**given, **widgets})


def test_the_sampler_is_the_patch_nodes_with_ksampler(pack, toy, source):
    import nodes

    latent, _ = sampled(pack, toy, source, keep_background=False, omega_schedule="risk", use_s_star=True)
    lock = {"lock_schedule": "risk", "start_percent": 0.0, "end_percent": 0.6, "alpha_ceiling": 0.5, "tau": 16.0}
    model = guided(pack, locked(pack, toy, source, **lock), end_percent=0.6, tau=16.0)
    (same,) = nodes.KSampler().sample(model, 7, 4, 4.0, "euler", "simple", text(1), text(2), {"samples": torch.zeros(SHAPE)}, 1.0)
    assert torch.equal(latent["samples"], same["samples"])


def test_the_sampler_off_is_ksampler(pack, toy, source):
    import nodes

    latent, _ = sampled(pack, toy, source, lock_schedule="off", keep_background=False)
    (plain,) = nodes.KSampler().sample(toy, 7, 4, 4.0, "euler", "simple", text(1), text(2), {"samples": torch.zeros(SHAPE)}, 1.0)
    assert torch.equal(latent["samples"], plain["samples"])


# the composite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m", "lcm"])
def test_keep_background_ends_with_the_sources_latents_outside_the_mask(sampler, pack, toy, source):
    kept, _ = sampled(pack, toy, source, sampler_name=sampler)
    free, _ = sampled(pack, toy, source, sampler_name=sampler, keep_background=False)
    outside = (source.edit == 0).expand_as(source.samples)
    near = 0.02 if sampler == "uni_pc" else 1e-4  # ComfyUI's uni_pc stops at sigma 0.001
    torch.testing.assert_close(kept["samples"][outside], source.samples[outside], atol=near, rtol=0)
    assert (free["samples"] - source.samples)[outside].abs().max() > 0.1
    assert (kept["samples"] - source.samples)[~outside].abs().max() > 0.1


def test_the_latent_of_invert_does_the_same_for_ksampler(pack, toy):
    import nodes

    source, latent = invert(pack, toy)
    model = locked(pack, toy, source, lock_schedule="risk", end_percent=0.6, alpha_ceiling=0.5, tau=16.0)
    (out,) = nodes.KSampler().sample(model, 7, 4, 4.0, "euler", "simple", text(1), text(2), latent, 1.0)
    same, _ = sampled(pack, toy, source)
    assert torch.equal(out["samples"], same["samples"])


def test_the_mask_of_the_composite_frees_the_latent_frame_that_was_painted(pack, toy):
    """A pixel mask would be stretched over the latent frames, and one painted frame could vanish (docs/hosts.md)."""
    pixels = torch.zeros(FRAMES, HEIGHT, WIDTH)
    pixels[0] = 1.0
    _, latent = invert(pack, toy, edit_mask=pixels)
    assert latent["noise_mask"].shape == (1, 1, *SHAPE[2:]) and latent["noise_mask"].mean((0, 1, 3, 4)).tolist() == [1.0, 0.0, 0.0]


def test_a_noise_mask_that_the_latent_brings_holds_too(pack, toy, source):
    ours = {"samples": source.samples, "noise_mask": torch.zeros(1, HEIGHT, WIDTH)}
    out, _ = sampled(pack, toy, source, latent_image=ours)
    torch.testing.assert_close(out["samples"], source.samples, atol=1e-4, rtol=0)


def test_a_latent_image_of_another_size_is_refused_with_the_remedy(pack, toy, source):
    with pytest.raises(Exception, match=r"\(1, 16, 4, 6, 8\).*keep_background off"):
        sampled(pack, toy, source, latent_image={"samples": torch.zeros(1, 16, 4, 6, 8)})


def test_below_denoise_one_the_sampler_starts_from_the_source(pack, toy, source):
    kept, _ = sampled(pack, toy, source, denoise=0.3)
    new, _ = sampled(pack, toy, source)
    clean = source.samples
    assert (kept["samples"] - clean).square().mean() < (new["samples"] - clean).square().mean()
    again, _ = sampled(pack, toy, source, denoise=0.3, latent_image={"samples": clean})
    assert torch.equal(again["samples"], kept["samples"])


def test_report(pack, toy, source):
    latent, report = sampled(pack, toy, source, steps=10)
    chart, risk, alpha, share, text_, tau = call(pack["KVLockReport"], report=report, latent=latent)
    trace = json.loads(text_)
    assert chart.ndim == 4 and chart.shape[-1] == 3 and 0.0 <= chart.min() < chart.max() <= 1.0
    assert risk == trace["steps"][-1]["risk"] > 0 and share == 0.6 and 0 < alpha <= 0.5
    assert [step["step"] for step in trace["steps"]] == list(range(10)) and trace["settings"]["lock"]["tau"] == 16.0
    again, _ = sampled(pack, toy, source, steps=10, tau=tau, alpha_ceiling=1.0)
    assert tau > 0 and not torch.equal(again["samples"], latent["samples"])


def test_the_report_tells_two_runs_of_one_monitor_apart(pack, toy, source):
    model, report = monitored(pack, toy, source)
    first, second = run(model, seed=1), run(model, seed=2)
    risks = [call(pack["KVLockReport"], report=report, latent={"samples": out})[1] for out in (first, second)]
    assert risks[0] != risks[1]


def test_a_report_of_a_short_or_unmeasured_run_is_still_a_chart(pack, toy):
    model, report = monitored(pack, toy)
    out = run(model, sigmas=torch.tensor([1.0, 0.0]), cfg=1.0)
    chart, risk, alpha, share, _, tau = call(pack["KVLockReport"], report=report, latent={"samples": out})
    assert math.isnan(risk) and math.isnan(tau) and alpha == share == 0.0 and chart.std() > 0


def test_the_monitor_without_a_source_measures_everything(pack, toy, source):
    (inside, of_inside), (everywhere, of_everywhere) = monitored(pack, toy, source), monitored(pack, toy)
    out = run(inside)
    assert torch.equal(out, run(everywhere))
    assert of_everywhere.trace_of(out).settings["risk"]["region"] == "all"
    assert of_inside.trace_of(out).settings["risk"]["region"] == "edit"
    assert of_inside.trace_of(out).steps[-1].risk != of_everywhere.trace_of(out).steps[-1].risk


# masks ------------------------------------------------------------------------------------------------------------------


def test_the_mask_lands_where_it_was_painted(pack, toy):
    """One pixel of one frame frees exactly the token that covers it, for the frames of its latent frame."""
    pixels = torch.zeros(FRAMES, HEIGHT, WIDTH)
    pixels[6, 20, 40] = 1.0
    source, _ = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=pixels)
    tokens = source.tokens.reshape(3, 3, 4)
    assert tokens.sum() == 1 and tokens[2, 1, 2] == 1  # frames 5..8, rows 16..31, columns 32..47
    shown, preview = call(pack["KVLockTokenMask"], model=toy, edit_mask=pixels, snap=True)
    assert shown.shape == pixels.shape and preview.shape == (*pixels.shape, 3)
    expected = torch.zeros_like(pixels)
    expected[5:9, 16:32, 32:48] = 1.0
    assert torch.equal(shown, expected)


def test_the_mask_node_grows_inverts_and_keeps_the_pixels_unless_asked_to_snap(pack, toy):
    pixels = mask()
    (kept, _) = call(pack["KVLockTokenMask"], model=toy, edit_mask=pixels)
    (inverted, _) = call(pack["KVLockTokenMask"], model=toy, edit_mask=pixels, invert=True)
    (grown, _) = call(pack["KVLockTokenMask"], model=toy, edit_mask=pixels, grow=4)
    assert torch.equal(kept, pixels) and torch.equal(inverted, 1 - pixels) and grown.sum() > pixels.sum()


def test_the_preview_tints_the_frames_where_tokens_may_change(pack, toy):
    frames = draw(FRAMES, HEIGHT, WIDTH, 3, seed=3).abs().clamp(0, 1)
    shown, preview = call(pack["KVLockTokenMask"], model=toy, edit_mask=mask(), frames=frames, snap=True)
    outside = shown == 0
    assert torch.equal(preview[outside], frames[outside]) and not torch.equal(preview[~outside], frames[~outside])


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH), (HEIGHT, WIDTH), (1, 2 * HEIGHT, 2 * WIDTH), (FRAMES, 30, 50)])
def test_masks_of_one_frame_or_another_size(shape, pack, toy):
    source, _ = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=torch.ones(shape))
    assert source.tokens.shape == (3 * 3 * 4,) and source.tokens.min() == 1
    frames = torch.zeros(FRAMES, HEIGHT, WIDTH, 3)
    shown, _ = call(pack["KVLockTokenMask"], model=toy, edit_mask=torch.ones(shape), frames=frames, snap=True)
    assert shown.shape == (FRAMES, HEIGHT, WIDTH) and shown.min() == 1


# wrong input ------------------------------------------------------------------------------------------------------------


def invert(pack, toy, **given):
    return call(pack["KVLockInvertCache"], **{"model": toy, "source_latent": source_latent(), "edit_mask": mask(), **given})


class Unknown:
    """A MODEL of a family that is not in the table."""

    class model:
        diffusion_model = torch.nn.Identity()


def nan(latent):
    latent["samples"][0, 0, 0, 0, 0] = float("nan")
    return latent


@pytest.mark.parametrize(
    "given, says",
    [
        ({"model": Unknown()}, r"does not know the model .*Wan 2\.1"),
        ({"edit_mask": torch.zeros(13, HEIGHT, WIDTH)}, r"13 frames.*latent has 3.*mask of the same clip"),
        ({"edit_mask": torch.full((FRAMES, HEIGHT, WIDTH), float("nan"))}, "without NaN"),
        ({"edit_mask": mask() * 255}, "scale it to 0"),
        ({"source_latent": {"samples": torch.zeros(1, 16, 6, 8)}}, "encode one clip with this video model's VAE"),
        ({"source_latent": {"samples": torch.zeros(2, *SHAPE[1:])}}, "encode one clip"),
        ({"source_latent": nan(source_latent())}, "NaN or infinity; encode the clip again"),
    ],
)
def test_invert_says_what_is_wrong(given, says, pack, toy):
    with pytest.raises(Exception, match=says) as caught:
        invert(pack, toy, **given)
    assert any(base.__name__ == "KVLockError" for base in type(caught.value).__mro__)


def test_a_latent_of_another_size_is_named_with_both_sizes(pack, toy, source):
    model = locked(pack, toy, source)
    with pytest.raises(Exception, match=r"\(1, 16, 3, 6, 8\).*\(1, 16, 4, 6, 8\).*same width, height and number of frames"):
        run(model, latent=torch.zeros(1, 16, 4, 6, 8))
    assert torch.isfinite(run(model)).all()


def test_a_source_for_another_family_is_refused(pack, toy, source):
    import dataclasses

    other = dataclasses.replace(source, family=dataclasses.replace(source.family, name="Another"))
    with pytest.raises(Exception, match="made for Another, but the sampler runs Wan 2.1"):
        run(locked(pack, toy, other))


def test_shared_noise_where_the_sampler_adds_none_is_refused(pack, toy):
    shared, _ = invert(pack, toy, source_noise="shared")
    with pytest.raises(Exception, match="adds none.*source_noise of Invert & Cache KV to own"):
        run(locked(pack, toy, shared), noise=torch.zeros(SHAPE), latent=source_latent()["samples"])


def test_a_report_without_the_runs_latent_says_which_to_link(pack, toy, source):
    _, report = sampled(pack, toy, source)
    with pytest.raises(Exception, match="1 runs of this report.*link the sampler's own"):
        call(pack["KVLockReport"], report=report, latent={"samples": torch.zeros(SHAPE)})


def test_a_prediction_of_nan_names_the_step(pack, toy, source):
    model, _ = monitored(pack, toy, source)
    model.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]) * float("nan"))
    with pytest.raises(Exception, match=r"step 0, sigma 1\.0.*not finite"):
        run(model)


def test_context_windows_are_refused_with_the_remedy(pack, toy, source):
    import comfy.context_windows as windows

    model = locked(pack, toy, source).clone()
    model.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID), context_length=2, context_overlap=1, dim=2,
    )  # fmt: skip
    with pytest.raises(Exception, match="does not follow context windows.*bypass KV-Lock"):
        run(model)


@pytest.mark.parametrize(
    "node, widgets, says",
    [
        ("KVLockApply", {"start_percent": 0.8, "end_percent": 0.5}, "0.8"),
        ("KVLockApply", {"alpha_floor": 0.9, "alpha_ceiling": 0.5}, "0.9"),
        ("KVLockApply", {"first_block": 4, "last_block": 2}, r"\(4, 2\)"),
        ("KVLockCFGSchedule", {"omega_floor": 3.0, "omega_ceiling": 2.0}, "3.0"),
        ("KVLockMonitor", {"risk_window": 2, "risk_detrend": True}, "2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_sampling(node, widgets, says, pack, toy, source):
    given = {"source": source} if node == "KVLockApply" else {}
    with pytest.raises(Exception, match=says):
        call(pack[node], model=toy, **given, **widgets)


def test_unpatched_weights_are_never_touched(toy):
    again = load_toy()
    for (name, one), (_, other) in zip(toy.model.state_dict().items(), again.model.state_dict().items()):
        assert torch.equal(one, other), name
