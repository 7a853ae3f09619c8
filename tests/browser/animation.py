"""python tests/browser/animation.py docs/monitor.gif      # the animated picture of the README

A real run of the toy model in ComfyUI's own page, photographed step by step: needs a ComfyUI, chromium and playwright.
"""

import io
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "helpers")]

import comfyui  # noqa: E402
import conftest as made  # noqa: E402

MONITOR, STEPS = "KVLockMonitor", 24
LOCK = {"lock_schedule": "risk", "tau": 2.0, "start_percent": 0.2, "end_percent": 0.9}
WINDOW, COLORS = {"width": 700, "height": 760}, 96
#: Below the page's own bar.
LOWER = "() => { app.canvas.ds.offset[1] += 60; app.canvas.setDirty(true, true) }"
NODE = "e => { const b = e.closest('[data-node-id]').getBoundingClientRect(); return { x: b.x, y: b.y, width: b.width, height: b.height } }"
STEP_MS, LAST_MS, POLL_MS = 220, 2500, 60


def main(target):
    os.environ["OMP_NUM_THREADS"] = "1"
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        base = Path(folder)
        (base / "input").mkdir()
        made.flows.write_inputs(base / "input")
        comfy = comfyui.find_comfyui()
        browser = playwright.chromium.launch(executable_path=made.installed_browser(), args=["--no-sandbox"])
        with made.harness.Server(comfy, comfyui.find_python(comfy), base) as server:
            tab = browser.new_context(viewport=WINDOW).new_page()
            page = made.pages.Page(tab, server, "nodes2").open()
            page.load_prompt(made.with_numbers(server, "three_patches", steps=STEPS, **LOCK), "run")
            page.look_at(MONITOR)
            page.run_js(LOWER)
            page.settle(6)
            tab.add_style_tag(content=made.pages.BARE)
            frames = photographed(page)
        browser.close()
    save(frames, target)


def photographed(page):
    """One picture a step, from the empty chart to the finished one."""
    box = page.chart(MONITOR).evaluate(NODE)
    frames, seen = [page.tab.screenshot(clip=box)], 0
    page.queue()
    state = "running"
    while state != "finished":
        state, records = page.shows(MONITOR)
        if records != seen or state == "finished":
            seen = records
            frames.append(page.tab.screenshot(clip=box))
        page.tab.wait_for_timeout(POLL_MS)
    return frames


def save(frames, target):
    opened = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    palette = opened[-1].quantize(COLORS)  # the last picture has every colour
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in opened]
    times = [LAST_MS // 2, *[STEP_MS] * (len(pictures) - 2), LAST_MS]
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
