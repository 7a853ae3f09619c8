"""One server and one browser for all tests here; skipped on one loud line where something is missing."""

import importlib.util
import os
import shutil
from pathlib import Path
from unittest import mock

import comfyui
import pytest

HOST_TESTS = comfyui.ROOT / "tests" / "host"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOUD = "the tests of the live chart in a browser did NOT run."
#: As large as fits the sampler's node; two device pixels a pixel, as on most laptops.
WINDOW, PIXELS = {"width": 1400, "height": 1300}, 2


def by_path(path):
    """A module by path: ComfyUI has a `server` of its own, and importlib mode puts no folder on sys.path."""
    spec = importlib.util.spec_from_file_location(f"kvlock_browser_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


harness, flows = by_path(HOST_TESTS / "server.py"), by_path(HOST_TESTS / "workflows.py")
pages = by_path(Path(__file__).with_name("page.py"))


def installed_browser():
    """Its path, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def chromium():
    missing = f"NO PLAYWRIGHT FOUND: {LOUD} Install the Python package playwright."
    sync_api = pytest.importorskip("playwright.sync_api", reason=missing)
    found = installed_browser()
    if found is None:
        pytest.skip(f"NO CHROMIUM FOUND: {LOUD} Looked for {', '.join(BROWSERS)} on the PATH.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory, chromium):
    comfy = comfyui.find_comfyui()
    if comfy is None:
        pytest.skip(f"{comfyui.missing_line()} So {LOUD}")
    base = tmp_path_factory.mktemp("comfyui")
    (base / "input").mkdir()
    flows.write_inputs(base / "input")
    alone = mock.patch.dict(os.environ, OMP_NUM_THREADS="1")  # the browser needs the other cores, and the model is small
    with alone, harness.Server(comfy, comfyui.find_python(comfy), base) as started:
        yield started


@pytest.fixture(scope="session", params=pages.RENDERERS)
def page(request, chromium, server):
    """The page in one renderer, then in the other."""
    may = ["clipboard-read", "clipboard-write"]
    context = chromium.new_context(viewport=WINDOW, device_scale_factor=PIXELS, permissions=may)
    opened = pages.Page(context.new_page(), server, request.param).open()
    yield opened
    context.close()


@pytest.fixture(autouse=True)
def no_errors(page):
    """No test here may leave an error in the page's console."""
    page.errors.clear()
    yield
    assert page.errors == []


@pytest.fixture
def build(server):
    """`name, **changes -> workflow`, see `with_numbers`."""
    return lambda name, **changes: with_numbers(server, name, **changes)


def with_numbers(server, name, **changes):
    """A workflow of tests/host/workflows.py in the API's format, with the numbers for ids that the page wants."""
    named = flows.without_video(getattr(flows, name)(server.version(), server.object_info(), **changes))
    ids = {name: str(i + 1) for i, name in enumerate(named)}
    inputs = {name: {k: _renamed(v, ids) for k, v in node["inputs"].items()} for name, node in named.items()}
    return {ids[name]: {**node, "inputs": inputs[name]} for name, node in named.items()}


def _renamed(value, ids):
    return [ids[value[0]], value[1]] if isinstance(value, list) else value
