"""Workflows on a real server: ComfyUI's own loaders, samplers and savers around our nodes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def beside(name):
    """A module of this folder, by path: ComfyUI has a `server` of its own."""
    spec = importlib.util.spec_from_file_location(f"kvlock_test_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


harness, flows, examples = beside("server"), beside("workflows"), beside("examples")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for all tests: what a run leaves behind shows in the next."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "input").mkdir()
    flows.write_inputs(base / "input")
    examples.stand_in(base)
    with harness.Server(os.environ["COMFYUI_PATH"], sys.executable, base) as started:
        yield started


@pytest.fixture(scope="module")
def version(server):
    return server.version()


def latent(server, entry):
    (file,) = server.output(entry, "latent", "latents")
    return load_file(file)["latent_tensor"]


def sampled(server, workflow):
    """The history entry of a run that is not decoded, and its latent."""
    entry = server.run(flows.without_video(workflow))
    return entry, latent(server, entry)


def clip(server, entry):
    (file,) = server.output(entry, "saved", "images")
    return flows.read_clip(file)


@pytest.fixture(scope="module")
def plain(server, version):
    """The result without any node of ours."""
    return server.run(flows.plain(version))


# without our nodes: the harness itself --------------------------------------------------------------------------------


def test_plain_workflow_saves_a_video(server, plain):
    frames = clip(server, plain)
    assert frames.shape == (17, 128, 128, 3) and frames.std() > 5
    assert latent(server, plain).shape == (1, 16, 5, 16, 16)


def test_a_nonce_runs_the_sampler_again_with_the_same_result(server, version, plain):
    entry, again = sampled(server, flows.plain(version, nonce=1))
    cached = harness.cached_nodes(entry)
    assert "result" not in cached and "shifted" in cached
    assert torch.equal(again, latent(server, plain))
    _, other = sampled(server, flows.plain(version, seed=flows.SEED + 1))
    assert not torch.equal(other, latent(server, plain))


def test_a_refused_workflow_names_node_and_input(server, version):
    wrong = flows.plain(version)
    del wrong["result"]["inputs"]["steps"]
    with pytest.raises(harness.PromptRefused, match=r"node result \(KSampler\): .*steps"):
        server.queue(wrong)


def test_a_failing_node_is_named(server, version):
    wrong = flows.plain(version)
    wrong["positive"]["inputs"]["prompt"] = "a purple elephant"
    with pytest.raises(harness.PromptFailed, match="does not know purple, elephant") as caught:
        server.run(wrong)
    assert caught.value.node == "positive"


def test_interrupt(server, version, plain):
    with server.events() as events:
        prompt = server.queue(flows.plain(version, steps=400), events.client_id)
        events.wait_for("progress", lambda data: data["prompt_id"] == prompt)
        server.interrupt()
        with pytest.raises(harness.PromptInterrupted, match="in node result"):
            server.wait(prompt)
    _, after = sampled(server, flows.plain(version, nonce=2))
    assert torch.equal(after, latent(server, plain))


def test_a_server_that_cannot_start_shows_its_log(tmp_path):
    for name in ("comfy", "app"):
        (tmp_path / "host" / name).mkdir(parents=True)
    (tmp_path / "host" / "comfy" / "cli_args.py").touch()
    (tmp_path / "host" / "app" / "frontend_management.py").touch()
    (tmp_path / "host" / "main.py").write_text("raise SystemExit('the reason')")
    with pytest.raises(harness.ServerError, match="ended with 1.*\n.*the reason"):
        harness.Server(tmp_path / "host", sys.executable, tmp_path / "base").__enter__()


def test_the_pack_is_copied_as_it_is_released(tmp_path):
    def write(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)

    write("__init__.py", "nodes/new.py", "tests/test_x.py", "docs/a.md", "web/docs/A.md", "made.pyc", "gone.py")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "__init__.py", "docs", "tests", "gone.py"], cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    assert harness.pack_files(tmp_path) == [".gitignore", "__init__.py", "nodes/new.py", "web/docs/A.md"]
    (tmp_path / ".comfyignore").write_text(".*\n/docs/\n*/new.py\n")
    assert harness.pack_files(tmp_path) == ["__init__.py", "tests/test_x.py", "web/docs/A.md"]


# with our nodes -------------------------------------------------------------------------------------------------------

NODES = {
    f"KVLock{name}"
    for name in ("InvertCache", "Sampler", "Apply", "CFGSchedule", "Monitor", "Report", "TokenMask", "SaveCache", "LoadCache")
}
#: The hardest lock in every step.
EVERYWHERE = {"start_percent": 0.0, "end_percent": 1.0, "alpha_ceiling": 1.0, "lock_schedule": "constant"}
OFF = {"lock_schedule": "off", "omega_schedule": "off", "use_s_star": False, "keep_background": False}


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


@pytest.fixture(params=["one_node", "three_patches"])
def build(request, version, info):
    """Both ways to use the pack, as `build(**changes) -> workflow`."""
    return lambda **changes: getattr(flows, request.param)(version, info, **changes)


def trace(entry):
    return json.loads(entry["outputs"]["json"]["text"][0])


def test_the_pack_loads(server, info):
    assert NODES <= set(info)
    assert "IMPORT FAILED" not in server.log_text()


def test_end_to_end_the_background_is_held(server, build, plain, info):
    entry = server.run(build(**EVERYWHERE))
    frames = clip(server, entry)
    assert frames.shape == (17, 128, 128, 3)
    assert flows.background_error(frames) < 0.5 * flows.background_error(clip(server, plain))
    assert [step["alpha"] for step in trace(entry)["steps"]] == [1.0] * flows.STEPS
    (chart,) = server.output(entry, "report", "images")
    assert chart.stat().st_size > 1000


def test_as_installed_the_background_is_the_sources_but_for_the_vae(server, version, info):
    """The defaults, against the same without the composite; the mask is one picture for all frames."""
    kept, free = (clip(server, server.run(flows.one_node(version, info, **more))) for more in ({}, {"keep_background": False}))
    assert flows.background_error(kept) < 0.3 * flows.background_error(free)


def test_queued_twice_it_is_the_same(server, build):
    (first, one), (second, two) = (sampled(server, build(nonce=nonce, **EVERYWHERE)) for nonce in (10, 11))
    assert "result" not in harness.cached_nodes(second) and "held" in harness.cached_nodes(second)
    assert torch.equal(one, two)
    assert trace(first) == trace(second)


def test_after_our_nodes_comfyui_is_as_before(server, version, build, plain):
    """A bypassed node is a workflow without it. The model stays loaded in between, so what we leave on it shows."""
    _, locked = sampled(server, build(nonce=20, **EVERYWHERE))
    entry, without = sampled(server, flows.plain(version, nonce=20))
    assert "model" in harness.cached_nodes(entry) and "result" not in harness.cached_nodes(entry)
    assert not torch.equal(locked, latent(server, plain))
    assert torch.equal(without, latent(server, plain))


def test_with_everything_off_it_is_ksampler(server, version, info, plain):
    _, off = sampled(server, flows.one_node(version, info, nonce=30, **OFF))
    assert torch.equal(off, latent(server, plain))


def test_a_mask_of_another_length_is_named_on_its_node(server, build):
    _, good = sampled(server, build(nonce=40))
    with pytest.raises(harness.PromptFailed, match=rf"\b{flows.SHORT}\b.* frames") as caught:
        server.run(build(mask="short"))
    assert caught.value.node == "held"
    _, after = sampled(server, build(nonce=41))
    assert torch.equal(after, good)


def test_after_an_interrupt_the_next_run_is_right(server, build):
    _, good = sampled(server, build(nonce=50, **EVERYWHERE))
    with server.events() as events:
        prompt = server.queue(build(steps=400, **EVERYWHERE), events.client_id)
        events.wait_for("kvlock.step")
        server.interrupt()
        with pytest.raises(harness.PromptInterrupted):
            server.wait(prompt)
    _, after = sampled(server, build(nonce=51, **EVERYWHERE))
    assert torch.equal(after, good)


def test_steps_reach_the_client_that_queued(server, build):
    workflow = flows.without_video(build(nonce=60, **EVERYWHERE))
    with server.events() as mine, server.events() as other:
        entry = server.run(workflow, mine.client_id)
        mine.wait_for("execution_success")
    steps = mine.of("kvlock.step")
    assert {step["node"] for step in steps} == {"watched" if "watched" in workflow else "result"}
    assert [(step["step"], step["total"]) for step in steps] == [(i, flows.STEPS) for i in range(flows.STEPS)]
    assert [step["alpha"] for step in steps] == [step["alpha"] for step in trace(entry)["steps"]]
    assert len({step["run"] for step in steps}) == 1 and {step["prompt"] for step in steps} == {entry["prompt"][1]}
    assert [step["heat"] is None for step in steps] == [step["risk"] is None for step in steps]
    assert other.of("kvlock.step") == []


def test_two_equal_monitors_are_two(server, version, info):
    """Each tells its own sampler's steps, although ComfyUI sees the same inputs on both."""
    workflow = flows.without_video(flows.three_patches(version, info, nonce=70))
    workflow["twin"] = workflow["watched"]
    workflow["again"] = {**workflow["result"], "inputs": {**workflow["result"]["inputs"], "model": ["twin", 0]}}
    workflow["kept"] = flows.node("SaveLatent", samples=["again", 0], filename_prefix="kvlock")
    with server.events() as events:
        server.run(workflow, events.client_id)
        events.wait_for("execution_success")
    assert {step["node"] for step in events.of("kvlock.step")} == {"watched", "twin"}


def test_keys_and_values_are_saved_and_serve_another_edit(server, version, info):
    """Record and save in one prompt; load in the next, with another seed: no source row, the same as computed anew."""
    stored = flows.without_video(flows.one_node(version, info, nonce=70))
    stored["held"]["inputs"]["source_mode"] = "stored"
    stored["kept"] = flows.filled(info, "KVLockSaveCache", source=["held", 0], latent=["result", 0], filename="demo")
    server.run(stored)
    loaded = flows.without_video(flows.one_node(version, server.object_info(), nonce=71))
    loaded["result"]["inputs"]["seed"] = 99
    loaded["again"] = flows.node("KVLockLoadCache", source=["held", 0], cache_file="demo.safetensors")
    loaded["result"]["inputs"]["source"] = ["again", 0]
    entry = server.run(loaded)
    assert "source K,V of 3 of 3 locked steps were kept" in server.log_text()
    fresh = flows.without_video(flows.one_node(version, info, nonce=72))
    fresh["result"]["inputs"]["seed"] = 99
    anew = server.run(fresh)
    torch.testing.assert_close(latent(server, entry), latent(server, anew), rtol=2e-3, atol=2e-3)


def test_a_cache_file_outside_the_folder_is_refused(server, version, info):
    wrong = flows.one_node(version, info, nonce=73)
    wrong["again"] = flows.node("KVLockLoadCache", source=["held", 0], cache_file="../../secret.safetensors")
    wrong["result"]["inputs"]["source"] = ["again", 0]
    with pytest.raises(harness.PromptRefused, match="node again"):
        server.queue(wrong)


def test_the_page_gets_words_help_and_pictures(server):
    """As the frontend asks: /i18n, and the help of a node under the folder of the pack."""
    words = server.get("/i18n")
    assert NODES <= set(words["en"]["nodeDefs"]) and words["zh"]["nodeDefs"]["KVLockSampler"]["inputs"]["steps"]["name"] == "步数"
    for name in NODES:
        page = served(server, f"/extensions/{harness.PACK}/docs/{name}.md").decode()
        (picture,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
        assert served(server, f"/extensions/{harness.PACK}/docs/{picture}").startswith(b"\x89PNG")


def served(server, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
        return answer.read()


def test_the_template_browser_lists_the_examples(server):
    assert {path.stem for path in examples.FILES} == set(server.get("/workflow_templates")[harness.PACK])


# the example workflows ------------------------------------------------------------------------------------------------

#: Steps of the cut-down runs: two for each of two experts.
FEW = 4
SMALL = {"LoadVideo": {"file": flows.SMALL}, "LoadImageMask": {"image": flows.SMALL_MASK}}
#: Files were saved by this page; older ones lack some of its inputs.
SAVED_WITH = (0, 33, 0)


@pytest.fixture(params=examples.FILES, ids=lambda path: path.stem)
def example(request, version):
    if version < SAVED_WITH:
        pytest.skip(f"the examples are of ComfyUI {SAVED_WITH}, this is {version}")
    return examples.load(request.param)


def test_an_example_fits(example, info):
    assert examples.wrong(example, info) == []


def test_the_examples_are_those_of_the_command(info, version, monkeypatch):
    """python tools/make.py workflows"""
    if version != SAVED_WITH:
        pytest.skip(f"the examples are of ComfyUI {SAVED_WITH}, this is {version}")
    monkeypatch.syspath_prepend(str(harness.ROOT / "tools"))
    import flows as command

    shipped = {path.stem: examples.load(path) for path in examples.FILES}
    versions = {node["properties"]["cnr_id"]: node["properties"]["ver"] for node in shipped[examples.FILES[0].stem]["nodes"] if node["properties"]}
    assert command.made_workflows(info, versions) == shipped


def test_an_example_runs(example, server, info):
    """On the toy's weights under the shipped names, as it is but for the words, the clip and the steps. The background ends as the
    source's; in the comparison that is the clip at the right."""
    entry = server.run(examples.toyed(examples.api(example, info), flows.WORDS, FEW, SMALL))
    saved = [file for out in entry["outputs"].values() for file in out.get("images", ()) if file["filename"].endswith(".mp4")]
    (frames,) = [flows.read_clip(server.base / file["type"] / file["subfolder"] / file["filename"]) for file in saved]
    assert frames.shape[:2] == (5, 64)
    assert flows.background_error(frames[:, :, -128:], flows.HALF) < 0.01


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda flow: node_of(flow, "KVLockSampler").update(type="KVLockSampled"), "no node KVLockSampled"),
        (lambda flow: node_of(flow, "KVLockSampler")["widgets_values"].pop(), "25 values for 26 widgets"),
        (lambda flow: node_of(flow, "KVLockSampler")["widgets_values"].__setitem__(3, "high"), "cfg cannot be"),
        (lambda flow: node_of(flow, "LoadImageMask")["widgets_values"].reverse(), "image cannot be"),
        (lambda flow: node_of(flow, "KVLockSampler")["inputs"][0].update(link=None), "model is not linked"),
        (lambda flow: node_of(flow, "KVLockSampler")["inputs"][0].update(name="modell"), "input modell is unknown"),
        (lambda flow: node_of(flow, "KVLockReport")["outputs"].pop(), "outputs are"),
        (lambda flow: flow["links"][0].__setitem__(5, "VAE"), "the link says VAE"),
    ],
)
def test_a_wrong_example_is_found(spoil, words, version, info):
    if version < SAVED_WITH:
        pytest.skip(f"the examples are of ComfyUI {SAVED_WITH}, this is {version}")
    flow = examples.load(examples.FILES[0])
    spoil(flow)
    assert words in "; ".join(examples.wrong(flow, info))


def node_of(flow, kind):
    return next(node for node in flow["nodes"] if node["type"] == kind)
