"""What the pack says about itself: help pages, equation tags, example workflows, pictures, languages. Needs no ComfyUI.

Names of nodes and inputs come from locales/en/nodeDefs.json, which tests/host holds against the nodes. Every rule is a function
from what it judges to what is wrong with it, and is shown to find something in a bad input.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HELP = ROOT / "web" / "docs"
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
LARGEST_PICTURE = 300_000
HEADINGS = ("Inputs", "Outputs", "Hints", "Messages")
PAGES_OWN = "control_after_generate"
#: vue-i18n, which shows the texts, gives these a meaning.
SPECIAL = re.compile(r"[@{}|]")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
TAG = re.compile(r"\bM\d+\b")


def text(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def node_defs(language: str = "en") -> dict:
    return json.loads(text(f"locales/{language}/nodeDefs.json"))


NODES = node_defs()

# the rules ------------------------------------------------------------------------------------------------------------


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))


def rows(table: str) -> list[str]:
    """Names in the first column."""
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def wrong_help(page: str, node: dict) -> list[str]:
    found, parts = [], sections(page)
    found += [f"no section {name}" for name in HEADINGS if not parts.get(name, "").strip()]
    inputs = [name for name in node["inputs"] if name != PAGES_OWN]
    for heading, wanted in (("Inputs", inputs), ("Outputs", [out["name"] for out in node["outputs"].values()])):
        told = rows(parts.get(heading, ""))
        found += [f"{name} is not explained" for name in wanted if told.count(name) != 1]
        found += [f"{name} does not exist" for name in told if name not in wanted]
    found += [f"no line {word}" for word in ("**When:**", "**Change first:**") if word not in page]
    known = {*NODES_WORDS, *inputs, *(out["name"] for out in node["outputs"].values())}
    found += [f"`{word}` is no input" for word in re.findall(r"`([a-z_]+_[a-z_]+)`", page) if word not in known]
    return found + ([] if page.startswith(f"# {node['display_name']}\n") else ["the title is another"])


#: Names of all inputs and outputs, and of choices that look like one.
NODES_WORDS = {name for node in NODES.values() for name in node["inputs"]} | {"in_step", "rf_solver", "uni_inv"}


def wrong_pictures(page: str, folder: Path) -> list[str]:
    named = [name for name in PICTURE.findall(page) if "://" not in name]
    wrong = [f"{name} is missing" for name in named if not (folder / name).is_file()]
    there = [name for name in named if (folder / name).is_file()]
    return wrong + [f"{name} is too large" for name in there if (folder / name).stat().st_size >= LARGEST_PICTURE]


def wrong_workflow(workflow: dict, nodes: dict) -> list[str]:
    found = []
    for made in workflow["nodes"]:
        if not made["type"].startswith("KVLock"):
            continue
        told = nodes.get(made["type"])
        if told is None:
            found.append(f"no node {made['type']}")
            continue
        outputs = [out["name"] for out in told["outputs"].values()]
        found += [f"no input {one['name']}" for one in made["inputs"] if one["name"] not in told["inputs"]]
        found += [f"no output {one['name']}" for one in made["outputs"] if one["name"] not in outputs]
    return found


def table_of_tags(method: str) -> dict[str, list[str]]:
    """Tag -> names of functions and classes, from the first table of docs/method.md."""
    found: dict[str, list[str]] = {}
    for tags, told in re.findall(r"^\| (M\d+(?:, M\d+)*) \|[^|]*\|([^|]*)\|", method, re.MULTILINE):
        for tag in tags.split(", "):
            found[tag] = [*found.get(tag, []), *re.findall(r"`([\w.]+)", told)]
    return found


def names_in(tree: ast.Module) -> set[str]:
    """Functions, classes, and methods as Class.method."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in tree.body if isinstance(node, kinds)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, kinds)}
    return names


def docstring_tags(tree: ast.Module) -> set[str]:
    kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    told = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return {tag for words in told for tag in TAG.findall(words)}


def wrong_tags(method: str, trees: list[ast.Module]) -> list[str]:
    table, names = table_of_tags(method), set().union(*map(names_in, trees))
    used = set().union(*map(docstring_tags, trees))
    wrong = [f"{tag}: there is no {name}" for tag, told in table.items() for name in told if name not in names]
    wrong += [f"{tag} names nothing" for tag, told in table.items() if not told]
    wrong += [f"{tag} of a docstring is not in the table" for tag in sorted(used - set(table))]
    return wrong + [f"{tag} is in no docstring" for tag in sorted(set(table) - used)]


def keys_of(tree: dict, at: str = "") -> dict[str, str]:
    """Every text by its path."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        found |= keys_of(value, f"{at}{name}/") if isinstance(value, dict) else {f"{at}{name}": value}
    return found


def wrong_language(told: dict, english: dict) -> list[str]:
    mine, theirs = keys_of(told), keys_of(english)
    wrong = [f"{path} is in one language only" for path in sorted(set(mine) ^ set(theirs))]
    return wrong + [f"{path} cannot be shown" for path, words in mine.items() if not words.strip() or SPECIAL.search(words)]


# what we have ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NODES)
def test_help(name):
    page = text(HELP / f"{name}.md")
    assert wrong_help(page, NODES[name]) == []
    assert len(PICTURE.findall(page)) == 1 and wrong_pictures(page, HELP) == []


def test_there_is_no_help_for_what_is_not_there():
    assert {path.stem for path in HELP.glob("*.md")} == set(NODES)
    assert {path.stem for path in (HELP / "img").glob("*.png")} == set(NODES)


def test_pictures_of_the_readme():
    assert wrong_pictures(text("README.md"), ROOT) == []


def test_the_page_finds_the_help():
    assert 'WEB_DIRECTORY = "./web"' in text("__init__.py")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_what_exists(path):
    assert wrong_workflow(json.loads(path.read_text(encoding="utf-8")), NODES) == []


def test_every_node_but_the_cache_files_is_in_an_example():
    used = {node["type"] for path in WORKFLOWS for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    assert set(NODES) - used == {"KVLockSaveCache", "KVLockLoadCache"}


def test_tags():
    files = [path for package in ("kvlock_core", "nodes") for path in (ROOT / package).rglob("*.py")]
    assert wrong_tags(text("docs/method.md"), [ast.parse(path.read_text(encoding="utf-8")) for path in files]) == []
    assert sorted(table_of_tags(text("docs/method.md")), key=lambda tag: int(tag[1:])) == [f"M{i}" for i in range(1, 11)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_languages(language):
    assert wrong_language(node_defs(language), NODES) == []


def test_the_chinese_is_chinese():
    words = keys_of(node_defs("zh"))
    plain = {path: said for path, said in words.items() if not re.search(r"[\u4e00-\u9fff]", said)}
    assert set(plain.values()) <= {"cfg", "tau", "Latent", "Sigmas", "JSON"}


# every rule bites -----------------------------------------------------------------------------------------------------

NODE = {"display_name": "A", "inputs": {"seed": {}, PAGES_OWN: {}}, "outputs": {"0": {"name": "latent"}}}
PAGE = (
    "# A\n\nWhat.\n\n**When:** x\n\n**Change first:** `seed`\n\n## Inputs\n\n| `seed` | m | 0 |\n\n## Outputs\n\n| `latent` | m |\n\n"
    "## Hints\n\n- a\n\n## Messages\n\n| a | b |\n"
)


@pytest.mark.parametrize(
    "old, new",
    [
        ("| `seed` | m | 0 |", "| seed | m | 0 |"), ("| `seed` | m | 0 |", "| `seed` | m | 0 |\n| `steps` | m | 1 |"),
        ("| `latent` | m |", ""), ("# A", "# B"), ("## Hints", "## Tips"), ("- a", ""), ("**When:**", "When:"),
        ("**Change first:** `seed`", "**Change first:** `seed_of_it`"),
    ],
)  # fmt: skip
def test_a_wrong_help_page_is_found(old, new):
    assert wrong_help(PAGE, NODE) == []
    assert wrong_help(PAGE.replace(old, new), NODE) != []


def test_a_missing_or_large_picture_is_found(tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(LARGEST_PICTURE))
    (tmp_path / "b.png").write_bytes(b"b")
    assert wrong_pictures("![x](b.png) [text](none.md) ![y](https://example.org/c.png)", tmp_path) == []
    assert wrong_pictures("![x](a.png) ![y](c.png)", tmp_path) == ["c.png is missing", "a.png is too large"]


@pytest.mark.parametrize(
    "made",
    [
        {"type": "KVLockGone", "inputs": [], "outputs": []},
        {"type": "KVLockA", "inputs": [{"name": "sead"}], "outputs": []},
        {"type": "KVLockA", "inputs": [], "outputs": [{"name": "image"}]},
    ],
)
def test_a_workflow_with_an_unknown_name_is_found(made):
    good = {"type": "KVLockA", "inputs": [{"name": "seed"}], "outputs": [{"name": "latent"}]}
    assert wrong_workflow({"nodes": [good, {"type": "KSampler"}]}, {"KVLockA": NODE}) == []
    assert len(wrong_workflow({"nodes": [good, made]}, {"KVLockA": NODE})) == 1


METHOD = "| tag | says | function |\n|---|---|---|\n| M1 | a | `one`, `Two.three(x)` |\n| M1, M2 | b | `Two` |\n"
CODE = 'def one():\n    "(M1)"\n\nclass Two:\n    "M2"\n    def three(self): ...\n'


@pytest.mark.parametrize(
    "method, code",
    [
        (METHOD.replace("`one`", "`gone`"), CODE), (METHOD.replace("Two.three", "Two.four"), CODE),
        (METHOD, CODE.replace("(M1)", "(M1, M3)")), (METHOD, CODE.replace("M2", "")), (METHOD.replace("`Two` |", "|"), CODE),
    ],
)  # fmt: skip
def test_a_wrong_tag_is_found(method, code):
    assert wrong_tags(METHOD, [ast.parse(CODE)]) == []
    assert len(wrong_tags(method, [ast.parse(code)])) == 1


@pytest.mark.parametrize("told", [{}, {"a": {"b": ""}}, {"a": {"b": "x | y"}}, {"a": {"b": "{x}"}}, {"a": {"b": "x", "c": "y"}}])
def test_a_wrong_language_file_is_found(told):
    assert wrong_language({"a": {"b": "x"}}, {"a": {"b": "x"}}) == []
    assert wrong_language(told, {"a": {"b": "x"}}) != []
