"""ComfyUI's own page in a real browser: how the tests open it and what they ask of it."""

import re
import time
import uuid

#: Nodes 2.0 draws nodes as elements of the page, the classic renderer on one canvas.
RENDERERS = {"classic": False, "nodes2": True}
#: The page asks for these when it starts for the first time: a tour, and news of the release, over everything.
QUIET = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.49.6", "Comfy.Release.Status": "skip"}
#: What the page itself writes: it looks for the sizes of models that examples name and for files that a new user lacks, and
#: reads its own graph too early when it starts.
HOSTS_OWN = re.compile(r"huggingface\.co|Content Security Policy|Failed to load resource|graph accessed before initialization")
START_MS, WAIT_MS, POLL_SECONDS = 60_000, 30_000, 0.05
#: Nothing that lies over the nodes in pictures.
BARE = """.p-toast, [class^="comfyui-body-"], [class*=" comfyui-body-"], .graph-canvas-panel, .minimap-main-container,
  .side-tool-bar-container, .workflow-tabs-container { visibility: hidden !important }"""


def message(step, total=16):
    """What nodes/host/events.py sends, less the ids of the page."""
    active = step >= 4
    heat = {"width": 6, "height": 4, "max": 0.5, "levels": [-1, *range(0, 230, 10)]} if step else None
    return {
        "run": "run", "prompt": "prompt", "total": total, "tau": 0.2, "step": step, "sigma": 1 - step / total, "active": active,
        "risk": 40 / (1 + step) ** 2 if step else None, "alpha": 0.8 if active else 0.0, "omega": 4.0, "s_star": 0.98,
        "needs_source": active, "heat": heat,
    }  # fmt: skip


class Page:
    """One tab on a server's page, in one renderer, and what went wrong in it since `errors` was emptied."""

    def __init__(self, tab, server, renderer):
        self.tab, self.server, self.renderer = tab, server, renderer
        self.errors = []
        tab.on("console", lambda message: self._heard(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: self._heard(str(error)))
        tab.on("response", self._answered)

    def open(self):
        for name, value in {**QUIET, "Comfy.VueNodes.Enabled": RENDERERS[self.renderer]}.items():
            self.server.post(f"/settings/{name}", value)
        self.tab.goto(f"http://127.0.0.1:{self.server.port}", wait_until="domcontentloaded")
        self.ready()
        return self

    def reload(self):
        self.tab.reload(wait_until="domcontentloaded")
        self.ready()

    def ready(self):
        for sign in ("window.app?.isGraphReady && app.extensionManager?.setting && window.LiteGraph",
                     "'KVLockMonitor' in LiteGraph.registered_node_types"):  # fmt: skip
            self.tab.wait_for_function(sign, timeout=START_MS)
        self.settle()

    def settle(self, frames=3):
        """Lets the page draw."""
        self.tab.evaluate(
            """frames => new Promise(done => { const next = n => n ? requestAnimationFrame(() => next(n - 1)) : done();
            next(frames) })""",
            frames,
        )

    def run_js(self, script, *given):
        return self.tab.evaluate(script, *given)

    def _heard(self, words):
        if not HOSTS_OWN.search(words):
            self.errors.append(words)

    def _answered(self, answer):
        if answer.status >= 400 and "/kv-lock/" in answer.url:
            self.errors.append(f"{answer.status} for {answer.url}")

    # graphs ----------------------------------------------------------------------------------------------------------

    def load(self, workflow, name):
        """A workflow as the page saves it."""
        self.run_js("([graph, name]) => app.loadGraphData(graph, true, true, name)", [workflow, name])
        self.settle()

    def load_prompt(self, prompt, name):
        """A workflow in the API's format, arranged by the page, as a workflow of its own."""
        self.run_js("([prompt, name]) => app.loadApiJson(prompt, name)", [prompt, name])
        self.load({**self.saved(), "id": str(uuid.uuid4())}, name)  # the page gives it the id of the one before

    def saved(self):
        """What the page would write into a file."""
        return self.run_js("() => JSON.parse(JSON.stringify(app.rootGraph.serialize()))")

    def queue(self):
        """Presses Run. -> prompt id; the result is the server's matter"""
        before = set(self.server.get("/history"))
        self.run_js("async () => { await app.queuePrompt(0) }")
        until = time.monotonic() + WAIT_MS / 1000
        while time.monotonic() < until:
            queue = self.server.get("/queue")
            known = [item[1] for item in (*queue["queue_running"], *queue["queue_pending"])]
            known += [prompt for prompt in self.server.get("/history") if prompt not in before]
            if known:
                return known[0]
            time.sleep(POLL_SECONDS)
        raise AssertionError("the page queued nothing")

    # charts ----------------------------------------------------------------------------------------------------------

    def chart(self, node_type, inside=True):
        """The chart of the first node of a type; with `inside` those in subgraphs come first."""
        handle = self.tab.evaluate_handle(
            """([type, inside]) => { const below = graph => graph.nodes.flatMap(n => n.subgraph ? all(n.subgraph) : []);
            const all = graph => [...(inside ? below(graph) : []), ...graph.nodes];
            const node = all(app.rootGraph).find(n => n.type === type);
            return node?.widgets?.find(w => w.name === 'kvlock_chart')?.element ?? null }""",
            [node_type, inside],
        ).as_element()
        assert handle is not None, f"no chart on {node_type}"
        return handle

    def shows(self, node_type, inside=True):
        """(state, records) of its chart."""
        state, records = self.chart(node_type, inside).evaluate("e => [e.dataset.state, Number(e.dataset.records)]")
        return state, records

    def wait_until(self, node_type, test, seconds=WAIT_MS / 1000):
        """Waits until `test(state, records)`; -> both"""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            seen = self.shows(node_type)
            if test(*seen):
                return seen
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"the chart of {node_type} still shows {seen}")

    def look_at(self, node_type, scale=1.0):
        """Moves the canvas so that the node is in view; `scale` is the graph's zoom."""
        self.run_js(
            """([type, scale]) => { const node = app.canvas.graph.nodes.find(n => n.type === type); app.canvas.ds.scale = scale;
            app.canvas.ds.offset = [120 / scale - node.pos[0], 110 / scale - node.pos[1]]; app.canvas.setDirty(true, true) }""",
            [node_type, scale],
        )
        self.settle(6)

    def tell(self, node_type, steps, **more):
        """Stands in for the server: steps of a run at the first node of a type in the root graph."""
        self.run_js(
            """([type, messages]) => { const node = app.rootGraph.nodes.find(n => n.type === type);
            for (const detail of messages) comfyAPI.api.api.dispatchEvent(new CustomEvent('kvlock.step',
              { detail: { node: String(node.id), workflow: app.rootGraph.id, ...detail } })) }""",
            [node_type, [{**message(step), **more} for step in steps]],
        )
        self.settle()

    def picture(self, node_type, path=None):
        """A picture of the node with its chart, as png bytes."""
        box = self.chart(node_type).bounding_box()
        assert box is not None, "the chart is not in the page"
        return self.tab.screenshot(path=path, clip=box)
