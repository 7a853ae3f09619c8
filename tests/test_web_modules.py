"""Runs the tests of web/lib, which are JavaScript, with Node's own runner. Skipped loudly without Node."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEB, TESTS = ROOT / "web", ROOT / "tests" / "web"
#: The first with a test runner that takes a folder's files and modules of type "module" alike.
OLDEST_NODE = 20
NO_NODE = "NO NODE {0} OR NEWER FOUND: the tests of the page's JavaScript did NOT run. Install Node.js {0} and put `node` on the PATH."
LINES = 250
#: What only kvlock.js may name: the host's page and its globals.
HOST_WORDS = re.compile(r"scripts/(?:app|api)\.js|\b(?:app|api)\.\w|LiteGraph|sessionStorage|localStorage")
#: At module level: imports, definitions and comments. Anything else would run when the page loads the file by itself.
STATEMENT = re.compile(r"^(?:import |export |const |function |async function |class |}|\)|[\]})];|/\*\*| \*|//|\s|$)")


@pytest.fixture(scope="module")
def node():
    path = shutil.which("node")
    answer = subprocess.run([path, "--version"], capture_output=True, text=True).stdout if path else ""
    found = re.match(r"v(\d+)\.", answer)
    if not found or int(found[1]) < OLDEST_NODE:
        pytest.skip(NO_NODE.format(OLDEST_NODE))
    return path


def test_in_node(node):
    files = sorted(map(str, TESTS.glob("*.test.mjs")))
    result = subprocess.run([node, "--test", *files], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"^# pass (\d+)", result.stdout, re.MULTILINE)[1]) > 40


def modules():
    return sorted((WEB / "lib").glob("*.js"))


def names_of_the_host(source: str) -> list[str]:
    return HOST_WORDS.findall(source)


def runs_on_import(source: str) -> list[str]:
    return [line for line in source.splitlines() if not STATEMENT.match(line)]


def addresses(source: str) -> list[str]:
    """Of anything but the name of SVG's namespace, which is never fetched."""
    return [found for found in re.findall(r"https?://[^\s\"'`]+", source) if found != "http://www.w3.org/2000/svg"]


def test_only_one_file_touches_the_host():
    assert len(modules()) >= 5
    assert {path.name: names_of_the_host(path.read_text(encoding="utf-8")) for path in modules()} == {p.name: [] for p in modules()}
    assert names_of_the_host((WEB / "kvlock.js").read_text(encoding="utf-8"))


def test_pure_modules_do_nothing_when_loaded():
    """ComfyUI's page loads every .js file under web/, also those that are only there to be imported."""
    assert {path.name: runs_on_import(path.read_text(encoding="utf-8")) for path in modules()} == {p.name: [] for p in modules()}


def test_nothing_is_fetched_from_elsewhere():
    assert [addresses(path.read_text(encoding="utf-8")) for path in [*modules(), WEB / "kvlock.js"]] == [[]] * (len(modules()) + 1)


def test_files_are_short_and_there_are_no_tests_in_the_folder_that_every_page_loads():
    assert {path.name: n for path in WEB.rglob("*.js") if (n := len(path.read_text(encoding="utf-8").splitlines())) > LINES} == {}
    assert [path.name for path in WEB.rglob("*.js") if path.parent.name not in ("web", "lib") or "test" in path.name] == []


@pytest.mark.parametrize("rule, source", [
    (names_of_the_host, 'import { app } from "../../scripts/app.js";'),
    (names_of_the_host, "  app.registerExtension({});"),
    (names_of_the_host, "  sessionStorage.clear();"),
    (runs_on_import, "window.x = 1;"),
    (runs_on_import, "start();"),
    (runs_on_import, "let counter = 0;"),
    (addresses, 'import "https://cdn.example.org/chart.js";'),
])  # fmt: skip
def test_the_rule_bites(rule, source):
    assert rule(source) != []


def test_the_rules_let_good_code_pass():
    source = '// @ts-check\nimport { a } from "./a.js";\n\nexport const B = 1;\nfunction f() {\n  return a;\n}\n'
    assert names_of_the_host(source) == runs_on_import(source) == addresses(source) == []
