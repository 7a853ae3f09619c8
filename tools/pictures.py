"""Photographs the nodes and the example workflows in ComfyUI's real page, with a small clip run through the toy model.

    python tools/pictures.py nodes        web/docs/img/<NodeId>.png, which the help pages show
    python tools/pictures.py workflows    example_workflows/*.jpg, which the template browser shows, and docs/graph.png

Needs a Python with playwright, aiohttp, av, Pillow and scikit-image, and a Chromium (KVLOCK_CHROMIUM, else the one on the
path); ComfyUI runs in its own Python (COMFYUI_PATH, COMFYUI_PYTHON).
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host"), str(ROOT / "tests" / "helpers")]

import clips  # noqa: E402
import comfyui  # noqa: E402
import examples  # noqa: E402
import server  # noqa: E402
from PIL import Image  # noqa: E402

SIZE = {"width": 1900, "height": 1480}  # as high as KV-Lock Sampler with its chart
HIDDEN = (
    ".comfyui-body-top,.comfyui-body-left,.comfyui-body-right,.comfyui-body-bottom,.p-toast,.side-tool-bar-container,.workflow-tabs-container,"
    ".actionbar,.p-dialog-mask,[class*=minimap],.p-buttongroup,.graph-canvas-panel,[role=status]{display:none!important}"
)
TOP = 62  # the page's own bar
STEPS = 12
#: Node -> the example in which it is photographed; the others stand alone.
NODES = {
    "KVLockInvertCache": "01", "KVLockSampler": "01", "KVLockTokenMask": "01", "KVLockReport": "01", "KVLockApply": "02",
    "KVLockCFGSchedule": "02", "KVLockMonitor": "02", "KVLockSaveCache": None, "KVLockLoadCache": None,
}  # fmt: skip
LARGEST = 250_000
THUMBNAIL = 1280


class Studio:
    """The page, and the server behind it."""

    def __init__(self, page, started, words):
        self.page, self.server, self.words, self.info = page, started, words, started.object_info()

    def open(self, workflow: dict) -> None:
        self.page.evaluate("wf => window.app.loadGraphData(wf)", workflow)
        time.sleep(4)
        self.page.keyboard.press("Escape")
        time.sleep(0.5)

    def run(self, prompt: dict) -> None:
        """Queues a prompt in the page's name, so that its nodes show what came out."""
        client = self.page.evaluate("() => window.app.api ? window.app.api.clientId : window.comfyAPI.api.api.clientId")
        self.server.wait(self.server.queue(prompt, client), 600)
        time.sleep(2)
        self.page.wait_for_function("() => !document.body.innerText.includes('Job completed')", timeout=60000)

    def show(self, workflow: dict) -> None:
        """Loads a workflow; its mask lies over the photographed clip, its reports tell of a run of the toy's."""
        self.open(workflow)
        prompt = examples.api(workflow, self.info)
        small = {"LoadVideo": {"file": clips.TOY}, "LoadImageMask": {"image": clips.TOY_MASK}}
        try:
            self.run(examples.only(examples.toyed(prompt, self.words, STEPS, small), "KVLockReport"))
        except server.PromptFailed as error:
            sys.stderr.write(f"a picture lacks a report: {error}\n")
        self.run(examples.only(examples.toyed(prompt, self.words, STEPS), "KVLockTokenMask"))

    def shoot(self, box: list[float], scale: float, edge: float) -> Image.Image:
        """A picture of the graph's rectangle (x0,y0,x1,y1), with `edge` around it."""
        x0, y0, x1, y1 = box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge
        self.page.evaluate(
            "([x,y,s,t]) => {const c = window.app.canvas; c.ds.scale = s; c.ds.offset = [-x, -y + t / s]; c.setDirty(true, true)}",
            [x0, y0, scale, TOP],
        )
        time.sleep(2)
        clip = {"x": 0, "y": TOP, "width": min((x1 - x0) * scale, SIZE["width"]), "height": min((y1 - y0) * scale, SIZE["height"] - TOP)}
        return Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB")

    def alone(self, kind: str) -> list[float]:
        """Leaves one node of the graph in sight, made if there is none. -> its rectangle"""
        return self.page.evaluate(
            """kind => { const g = window.app.graph;
                 let n = g._nodes.find(n => n.type === kind);
                 if (!n) { g.clear(); n = LiteGraph.createNode(kind); n.pos = [0, 0]; g.add(n); n.setSize([350, n.computeSize()[1]]) }
                 g._groups.length = 0; window.app.canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
                 const [x, y] = n.pos, [w, h] = n.size; return [x, y - LiteGraph.NODE_TITLE_HEIGHT, x + w, y + h] }""",
            kind,
        )

    def whole(self) -> list[float]:
        return self.page.evaluate(
            """() => { const all = [...window.app.graph._groups, ...window.app.graph._nodes].map(n => n.boundingRect || n._bounding);
                 return [Math.min(...all.map(b => b[0])), Math.min(...all.map(b => b[1])),
                         Math.max(...all.map(b => b[0] + b[2])), Math.max(...all.map(b => b[1] + b[3]))] }"""
        )


@contextmanager
def studio(base: Path):
    comfy = comfyui.find_comfyui(os.environ)
    python = comfyui.find_python(comfy)
    words = clips.write(base / "input", python)
    examples.stand_in(base)
    saved = base / "output" / "kvlock" / "cat.safetensors"  # for Load KV Cache to name
    saved.parent.mkdir(parents=True)
    saved.touch()
    with server.Server(comfy, python, base) as started, sync_playwright() as playwright:
        chromium = os.environ.get("KVLOCK_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)
        page.goto(f"http://127.0.0.1:{started.port}/", timeout=120000)
        page.wait_for_function("window.app && window.app.graph", timeout=120000)
        time.sleep(6)
        page.keyboard.press("Escape")
        page.add_style_tag(content=HIDDEN)
        page.evaluate("() => { window.app.canvas.show_info = false }")
        yield Studio(page, started, words)
        browser.close()


def by_number(number: str) -> Path:
    return next(path for path in examples.FILES if path.name.startswith(number))


def shoot_nodes(made: Studio) -> None:
    shown = None
    for kind, number in NODES.items():
        if number and number != shown:
            made.show(examples.load(by_number(number)))
        elif number is None:
            made.page.evaluate("() => window.app.graph.clear()")
        shown = number
        picture = made.shoot(made.alone(kind), 1.3, 3)
        save(picture, ROOT / "web" / "docs" / "img" / f"{kind}.png")


def shoot_workflows(made: Studio) -> None:
    for path in examples.FILES:
        made.show(examples.load(path))
        box = made.whole()
        scale = min((SIZE["width"] - 20) / (box[2] - box[0] + 40), (SIZE["height"] - TOP - 10) / (box[3] - box[1] + 40))
        picture = made.shoot(box, scale, 20)
        small = picture.resize((THUMBNAIL, round(picture.height * THUMBNAIL / picture.width)), Image.LANCZOS)
        small.save(path.with_suffix(".jpg"), quality=82, optimize=True)
        if path.name.startswith("01"):
            save(picture, ROOT / "docs" / "graph.png")


def save(picture: Image.Image, path: Path) -> None:
    """As PNG, with fewer colours where it would be too large for a help page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        picture.quantize(200, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def main(arguments: list[str]) -> int:
    jobs = {"nodes": shoot_nodes, "workflows": shoot_workflows}
    if len(arguments) != 1 or arguments[0] not in jobs:
        sys.stderr.write(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as folder, studio(Path(folder)) as made:
        jobs[arguments[0]](made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
