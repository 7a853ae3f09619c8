"""The nodes and the live chart in ComfyUI's own page, in both of its renderers, on a real server with the toy model."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
#: Where pictures for people go; without it into pytest's folder.
PICTURES = "KVLOCK_PICTURES"
MONITOR, SAMPLER, CHART = "KVLockMonitor", "KVLockSampler", "kvlock_chart"
STEPS = 16
#: Everywhere, so that the lock shows in the chart.
LOCK = {"start_percent": 0.25, "end_percent": 1.0}

_nonce = iter(range(1000, 10**6))


@pytest.fixture
def toy(page, build):
    """The three patches before KSampler, in the page; never seen by the server's cache before."""
    page.load_prompt(build("three_patches", nonce=next(_nonce), steps=STEPS, **LOCK), f"toy {next(_nonce)}")
    page.look_at(MONITOR)
    return page


@pytest.fixture
def told(toy):
    """The same after a run that the server did not make: what it would have sent is put into the page."""
    toy.tell(MONITOR, range(STEPS))
    assert toy.shows(MONITOR) == ("finished", STEPS)
    return toy


# the pack in the page --------------------------------------------------------------------------------------------------


def test_the_page_gets_our_modules(page):
    listed = [path for path in page.server.get("/extensions") if "/kv-lock/" in path]
    assert {Path(path).name for path in listed} == {path.name for path in (ROOT / "web").rglob("*.js")}


def test_every_node_mounts_with_its_slots_and_widgets(page):
    ours = {name: node for name, node in page.server.object_info().items() if name.startswith("KVLock")}
    page.load({"version": 0.4, "nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0}, "mount")
    made = page.run_js(
        """names => names.map((name, i) => { const node = LiteGraph.createNode(name); node.pos = [40 + 480 * (i % 3), 60 + 400 * (i / 3 | 0)];
        app.rootGraph.add(node); const saved = node.serialize();
        return [name, node.outputs.length, node.widgets?.map(w => w.name) ?? [], saved.widgets_values?.length ?? 0] })""",
        list(ours),
    )
    for name, outputs, widgets, saved in made:
        assert outputs == len(ours[name]["output"]), name
        assert (CHART in widgets) == (name in (MONITOR, SAMPLER)), name
        assert CHART not in widgets[:-1], name
        assert saved == len([widget for widget in widgets if widget != CHART]), name
    page.settle(6)
    if page.renderer == "nodes2":
        page.run_js("() => { app.canvas.ds.scale = 0.4; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true) }")
        page.settle(10)
        assert page.run_js("() => document.querySelectorAll('[data-node-id]').length") == len(ours)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_workflow(page, path):
    """Models may be missing here; a node may not, and what was saved comes back as it was."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    page.load(workflow, path.stem)
    missing = page.run_js(
        """() => { const all = graph => graph.nodes.flatMap(n => n.subgraph ? [n, ...all(n.subgraph)] : [n]);
        return all(app.rootGraph).filter(n => !n.subgraph && !(n.type in LiteGraph.registered_node_types)).map(n => n.type) }"""
    )
    assert missing == []
    saved = {node["id"]: node.get("widgets_values") or [] for node in page.saved()["nodes"] if node["type"].startswith("KVLock")}
    given = {node["id"]: node.get("widgets_values") or [] for node in workflow["nodes"] if node["type"].startswith("KVLock")}
    assert {int(name): values for name, values in saved.items()} == {int(name): values for name, values in given.items()}


# the chart -------------------------------------------------------------------------------------------------------------


def test_before_the_first_run_it_says_what_will_come(toy):
    assert toy.shows(MONITOR) == ("empty", 0)
    assert "No run yet" in toy.chart(MONITOR).inner_text()


def test_it_draws_while_it_samples(toy, tmp_path):
    empty = toy.picture(MONITOR)
    prompt = toy.queue()
    toy.wait_until(MONITOR, lambda state, records: records >= 3)
    early = toy.picture(MONITOR)
    state, _ = toy.shows(MONITOR)
    toy.server.wait(prompt)
    assert toy.wait_until(MONITOR, lambda state, records: state == "finished") == ("finished", STEPS)
    toy.settle()
    late = toy.picture(MONITOR, os.environ.get(PICTURES, str(tmp_path)) + f"/chart_{toy.renderer}.png")
    assert state == "running" and len({empty, early, late}) == 3
    drawn = toy.chart(MONITOR).evaluate(
        """e => { const c = e.querySelector('canvas'), data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return [e.querySelectorAll('svg path').length, data.filter((_, i) => i % 4 === 3 && data[i]).length] }"""
    )
    assert drawn[0] == 4 and drawn[1] > 20


def test_hover_shows_a_step_and_a_click_copies_all(told):
    box = told.chart(MONITOR).bounding_box()
    told.tab.mouse.move(box["x"] + 140, box["y"] + 80)
    told.settle()
    assert "step " in told.chart(MONITOR).text_content() and "σ" in told.chart(MONITOR).text_content()
    told.tab.mouse.click(box["x"] + 140, box["y"] + 80)
    told.tab.wait_for_function("e => e.textContent.includes('copied')", arg=told.chart(MONITOR))
    copied = json.loads(told.run_js("() => navigator.clipboard.readText()"))
    assert [step["step"] for step in copied["steps"]] == list(range(STEPS)) and copied["state"] == "finished"
    told.tab.mouse.move(5, 5)


def test_zoomed_in_the_pointer_still_finds_its_step(told):
    step = """e => e.querySelectorAll('svg line[stroke-opacity]').length
        && Number(e.querySelector('svg text').textContent.match(/step (\\d+)/)[1])"""
    found = []
    for scale in (0.5, 1.0, 1.6):
        told.look_at(MONITOR, scale)
        box = told.chart(MONITOR).bounding_box()
        told.tab.mouse.move(box["x"] + 150 * scale, box["y"] + 80 * scale)
        told.settle()
        found.append(told.chart(MONITOR).evaluate(step))
    told.tab.mouse.move(5, 5)
    assert found[0] > 0 and len(set(found)) == 1


THE_MONITOR = "app.rootGraph.nodes.find(n => n.type === 'KVLockMonitor')"


def test_it_follows_the_nodes_size_and_never_drives_it(toy):
    def sizes():
        return [toy.run_js(f"() => [...{THE_MONITOR}.size]"), toy.chart(MONITOR).evaluate("e => [e.clientWidth, e.clientHeight]")]

    def resized(width, height):
        toy.run_js(f"size => {{ {THE_MONITOR}.setSize(size); app.canvas.setDirty(true, true) }}", [width, height])
        toy.settle(10)
        before = sizes()
        toy.settle(30)
        assert sizes() == before
        return before

    _, small = resized(460, 460)
    _, large = resized(760, 700)
    _, again = resized(460, 460)
    assert large[0] >= small[0] + 250 and large[1] >= small[1] + 200
    assert again == small


def test_a_node_saved_before_there_was_a_chart_makes_room_for_it(toy):
    saved = toy.saved()
    for node in saved["nodes"]:
        node["size"] = [300, 150] if node["type"] == MONITOR else node["size"]
    toy.load(saved, "old")
    toy.look_at(MONITOR)
    toy.settle(6)
    box = toy.chart(MONITOR).bounding_box()
    height = toy.run_js("() => app.rootGraph.nodes.find(n => n.type === 'KVLockMonitor').size[1]")
    assert box["height"] >= 240 and (toy.renderer == "nodes2" or box["y"] + box["height"] <= 110 + height)


def test_light_and_dark(told):
    seen = {}
    for palette in ("light", "dark"):
        told.run_js("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", palette)
        told.tab.wait_for_timeout(400)
        told.settle(6)
        seen[palette] = told.chart(MONITOR).evaluate("e => e.querySelector('svg tspan').parentElement.getAttribute('fill')")
    assert seen == {"light": "#20242c", "dark": "#eceef2"}


def test_it_is_kept_across_undo_another_workflow_and_a_refresh(told):
    seen = told.shows(MONITOR)
    saved = told.saved()
    told.load(saved, "the same again")  # what undo does
    assert told.wait_until(MONITOR, lambda *now: now == seen)
    told.load({**saved, "id": "11111111-2222-4333-8444-555555555555"}, "another with the same ids")
    assert told.shows(MONITOR) == ("empty", 0)
    told.load(saved, "and back")
    assert told.wait_until(MONITOR, lambda *now: now == seen)
    told.tab.wait_for_timeout(700)
    told.reload()
    told.load(saved, "after a refresh")
    assert told.wait_until(MONITOR, lambda *now: now == seen)


def test_nothing_of_it_is_saved(told):
    saved = told.saved()
    assert CHART not in json.dumps(saved)
    (monitor,) = [node for node in saved["nodes"] if node["type"] == MONITOR]
    assert len(monitor["widgets_values"]) == 5
    prompt = told.run_js("async () => (await app.graphToPrompt()).output")
    assert CHART not in json.dumps(prompt)


def test_in_a_subgraph_and_beside_another_monitor(toy):
    """The server knows the node as "20:17"; its neighbour outside, and one of its own number, are not meant."""
    host, inner = toy.run_js(
        """() => { const root = app.rootGraph, node = root.nodes.find(n => n.type === 'KVLockMonitor');
        root.convertToSubgraph(new Set([node]));
        const other = LiteGraph.createNode('KVLockMonitor'); other.pos = [node.pos[0] + 500, node.pos[1]]; root.add(other);
        window.told = []; comfyAPI.api.api.addEventListener('kvlock.step', e => window.told.push(e.detail.node));
        const host = root.nodes.find(n => n.subgraph);
        return [host, host.subgraph.nodes.find(n => n.type === 'KVLockMonitor')].map(n => String(n.id)) }"""
    )
    toy.settle(6)
    toy.server.wait(toy.queue())
    toy.tab.wait_for_function("n => window.told.length >= n", arg=STEPS)
    assert set(toy.run_js("() => window.told")) == {f"{host}:{inner}"}
    toy.settle(6)
    outside = toy.shows(MONITOR, inside=False)
    toy.run_js("() => app.canvas.setGraph(app.rootGraph.nodes.find(n => n.subgraph).subgraph)")
    toy.look_at(MONITOR)
    inside = toy.wait_until(MONITOR, lambda state, records: state != "empty")
    toy.run_js("() => app.canvas.setGraph(app.rootGraph)")
    assert (outside, inside) == (("empty", 0), ("finished", STEPS))


def test_a_bypassed_monitor_is_no_monitor(toy):
    off = {MONITOR: 4, "KVLockReport": 2, "PreviewAny": 2}  # bypassed; the report is muted with what it feeds
    toy.run_js("off => app.rootGraph.nodes.forEach(n => { n.mode = off[n.type] ?? 0 })", off)
    entry = toy.server.wait(toy.queue())
    assert entry["status"]["status_str"] == "success"
    toy.settle()
    assert toy.shows(MONITOR) == ("empty", 0)


def test_an_interrupted_run_says_so(page, build):
    page.load_prompt(build("one_node", nonce=next(_nonce), steps=300, **LOCK), "long")
    page.look_at(SAMPLER)
    page.queue()
    page.wait_until(SAMPLER, lambda state, records: records >= 2)
    page.server.interrupt()
    state, records = page.wait_until(SAMPLER, lambda state, records: state != "running")
    assert state == "interrupted" and 2 <= records < 300
