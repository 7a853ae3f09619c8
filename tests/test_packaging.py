"""What the Comfy Registry and ComfyUI-Manager get: pyproject.toml, .comfyignore, the changelog, the example workflows.

Every rule is a function from what it judges to what is wrong with it, and is shown to find something in a bad input.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))

SEMVER = re.compile(r"\d+\.\d+\.\d+")
#: A part of requires-comfyui, as comfy-cli 1.23 reads it; a part of another form empties the whole field.
COMFYUI_RANGE = re.compile(r"(==|>=|<=|!=|~=|>|<|<>|=)\s*\d+\.\d+\.\d+")
#: The Registry's rules for an id, which is also the folder that users get.
PACK_ID = re.compile(r"[a-z](?:[a-z0-9]|-(?!-))*[a-z0-9]")
OPERATING_SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = ("GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "NPU :: Huawei Ascend", "GPU :: Apple Metal")
#: ComfyUI's own business: Manager refuses to install them, and other installers would replace a CUDA build.
TORCH = {"torch", "torchvision", "torchaudio", "torchsde", "xformers"}

KEPT = (
    "__init__.py", "nodes/__init__.py", "nodes/host/patch.py", "kvlock_core/__init__.py", "requirements.txt", "pyproject.toml",
    "README.md", "LICENSE", "CHANGELOG.md", "example_workflows/a.json", "example_workflows/a.jpg", "web/docs/KVLockSampler.md",
    "web/kvlock.js", "web/lib/chart_view.js", "web/package.json",
    "web/docs/img/KVLockSampler.png", "locales/en/nodeDefs.json", "locales/zh/nodeDefs.json",
)  # fmt: skip
DROPPED = (
    "tests/test_packaging.py", "tests/host/conftest.py", "toy/weights/a.safetensors", "benchmarks/__init__.py", "docs/demo.png",
    "kvlock_diffusers/__init__.py", "tools/make.py", "launch.py", "requirements-embedded.txt", ".ci/run", ".gitignore",
)  # fmt: skip


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def config() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    return tomllib.loads(text("pyproject.toml"))


# the rules ------------------------------------------------------------------------------------------------------------


def wrong_project(config: dict) -> list[str]:
    project = config["project"]
    fits = {
        "name": PACK_ID.fullmatch(project.get("name", "")) and "comfyui" not in project["name"],
        "version": SEMVER.fullmatch(project.get("version", "")),
        "description": 0 < len(project.get("description", "")) <= 1000,
        "license": project.get("license") == "Apache-2.0",
        "license-files": project.get("license-files") == ["LICENSE"],
        "requires-python": project.get("requires-python") == ">=3.10",
        "urls.Repository": isinstance(project.get("urls", {}).get("Repository"), str),
    }
    return [f"{name} does not fit" for name, good in fits.items() if not good]


def wrong_comfy(config: dict) -> list[str]:
    comfy = config.get("tool", {}).get("comfy", {})
    parts = comfy.get("requires-comfyui", "").split(",")
    wrong = [f"requires-comfyui {part!r}" for part in parts if not COMFYUI_RANGE.fullmatch(part.strip())]
    wrong += [f"{name} is missing" for name in ("PublisherId", "DisplayName") if not isinstance(comfy.get(name), str)]
    return wrong + ["web is set: ComfyUI would serve the pages under another path"] * ("web" in comfy)


def wrong_classifiers(config: dict) -> list[str]:
    """One bad entry makes the Registry drop all of its kind."""
    named = config["project"].get("classifiers", [])
    systems = [c for c in named if c.startswith("Operating System :: ")]
    devices = [c for c in named if c.startswith("Environment ::")]
    wrong = [c for c in systems if not c.removeprefix("Operating System :: ").startswith(OPERATING_SYSTEMS)]
    return wrong + [c for c in devices if c.removeprefix("Environment :: ") not in ACCELERATORS]


def wrong_dependencies(dependencies: list[str], requirements: str) -> list[str]:
    lines = [line.strip() for line in requirements.splitlines()]
    needed = [line for line in lines if line and not line.startswith("#")]
    wrong = [f"{d} is in one place only" for d in sorted(set(dependencies) ^ set(needed))]
    wrong += [f"{d} is ComfyUI's own" for d in dependencies if distribution(d) in TORCH]
    wrong += [f"{d} pins one version" for d in dependencies if "==" in d]
    return wrong + [f"{d} is an option or an address" for d in needed if d.startswith("-") or "://" in d]


def distribution(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


def wrong_changelog(changelog: str, version: str) -> list[str]:
    """The version, or what is to come, has a section that says something."""
    sections = dict(re.findall(r"^## \[?([^\s\]]+)[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL))
    told = [name for name in ("Unreleased", version) if re.search(r"^- \S", sections.get(name, ""), re.MULTILINE)]
    return [] if told else [f"neither Unreleased nor {version} says anything"]


def ignore_lines(comfyignore: str) -> list[str]:
    lines = [line.strip() for line in comfyignore.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def wrong_ignore_lines(comfyignore: str) -> list[str]:
    """Only /name and /name/: what git, comfy-cli and `ships` read alike, and what cannot drop web/docs/ by mistake."""
    return [line for line in ignore_lines(comfyignore) if not re.fullmatch(r"/[\w.-]+/?", line)]


def ships(path: str, comfyignore: str) -> bool:
    lines = ignore_lines(comfyignore)
    top = "/" + path.split("/")[0]
    return not (top in lines or ("/" in path and top + "/" in lines))


def wrong_release(comfyignore: str) -> list[str]:
    missing = [f"{path} is left out" for path in KEPT if not ships(path, comfyignore)]
    return missing + [f"{path} is shipped" for path in DROPPED if ships(path, comfyignore)]


def wrong_workflow(workflow: dict, name: str, version: str) -> list[str]:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    wrong = [] if workflow.get("version") == 0.4 else ["not version 0.4"]
    for node in nodes.values():
        wrong += wrong_origin(node, name, version) + wrong_models(node)
    wrong += [f"link {link[0]} is loose" for link in workflow["links"] if not is_tied(link, nodes)]
    return wrong + [f"{found} is a path" for found in re.findall(r'"(?:/|~|[A-Za-z]:\\\\)[^"]*"', json.dumps(workflow))]


def wrong_origin(node: dict, name: str, version: str) -> list[str]:
    """Today's page does not write where a node comes from, and finds a missing pack by nothing else."""
    if node["type"] in ("Note", "MarkdownNote"):  # made by the page itself
        return []
    ours = node["type"].startswith("KVLock")
    origin, at = node["properties"].get("cnr_id"), node["properties"].get("ver", "")
    wrong = [] if origin == (name if ours else "comfy-core") else [f"{node['type']}: cnr_id {origin!r}"]
    known = bool(SEMVER.fullmatch(at)) and (not ours or numbers(at) <= numbers(version))
    return wrong + ([] if known else [f"{node['type']}: ver {at!r}"])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def wrong_models(node: dict) -> list[str]:
    """A file that a loader names has a download that the page offers: https, a known host, the file's own name."""
    files = [value for value in node.get("widgets_values") or () if str(value).endswith(".safetensors")]
    told = {model["name"]: model for model in node["properties"].get("models", ())}
    host = "https://huggingface.co/"
    good = [f for f in files if f in told and told[f]["url"].startswith(host) and told[f]["url"].endswith("/" + f)]
    good = [f for f in good if told[f].get("directory")]
    return [f"{node['type']}: no download for {file}" for file in files if file not in good]


def is_tied(link: list, nodes: dict) -> bool:
    number, source, out, target, into, kind = link
    if not {source, target} <= set(nodes):
        return False
    leaving, entering = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
    return number in (leaving["links"] or ()) and entering["link"] == number and leaving["type"] == kind


# what we have ---------------------------------------------------------------------------------------------------------


def test_project(config):
    assert wrong_project(config) == []
    assert config["project"]["name"] == "kv-lock"
    assert "Apache License" in text("LICENSE")


def test_comfy(config):
    assert wrong_comfy(config) == []
    assert config["tool"]["comfy"]["DisplayName"] == "KV-Lock"


def test_classifiers(config):
    assert wrong_classifiers(config) == []


def test_dependencies(config):
    assert wrong_dependencies(config["project"]["dependencies"], text("requirements.txt")) == []


def test_no_settings_of_tools_in_the_root(config):
    """A pytest or a build that takes the root for a package imports ComfyUI's face; see tests/pytest.ini."""
    assert set(config) == {"project", "tool"} and set(config["tool"]) == {"comfy"}


def test_changelog(config):
    assert wrong_changelog(text("CHANGELOG.md"), config["project"]["version"]) == []


def test_release():
    assert wrong_ignore_lines(text(".comfyignore")) == []
    assert wrong_release(text(".comfyignore")) == []


def test_what_is_left_out_exists():
    stale = [line for line in ignore_lines(text(".comfyignore")) if not (ROOT / line.strip("/")).exists()]
    assert stale == []


def test_there_is_a_workflow():
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow(path, config):
    project = config["project"]
    assert wrong_workflow(json.loads(path.read_text(encoding="utf-8")), project["name"], project["version"]) == []
    assert path.with_suffix(".jpg").read_bytes().startswith(b"\xff\xd8\xff")


# every rule bites -----------------------------------------------------------------------------------------------------

GOOD = {
    "project": {
        "name": "kv-lock", "version": "0.1.0", "description": "d", "license": "Apache-2.0", "license-files": ["LICENSE"],
        "requires-python": ">=3.10", "urls": {"Repository": ""}, "classifiers": ["Operating System :: OS Independent"],
    },
    "tool": {"comfy": {"PublisherId": "", "DisplayName": "KV-Lock", "requires-comfyui": ">=0.3.64"}},
}  # fmt: skip


def changed(part: dict, key: str, value) -> dict:
    """A copy with one value replaced, or removed where it is None."""
    part = copy.deepcopy(part)
    part.pop(key, None)
    return part if value is None else {**part, key: value}


def test_the_good_one_is_good():
    assert wrong_project(GOOD) == wrong_comfy(GOOD) == wrong_classifiers(GOOD) == []


@pytest.mark.parametrize(
    "key, value",
    [
        ("name", "KV-Lock"), ("name", "-kv"), ("name", "kv--lock"), ("name", "comfyui-kv-lock"), ("name", None),
        ("version", "0.1"), ("version", "v0.1.0"), ("version", None), ("description", ""), ("description", "d" * 1001),
        ("license", "MIT"), ("license", None), ("license-files", None), ("requires-python", ">=3.8"), ("urls", None), ("urls", {}),
    ],
)  # fmt: skip
def test_a_wrong_project_is_found(key, value):
    (found,) = wrong_project({"project": changed(GOOD["project"], key, value)})
    assert key in found


@pytest.mark.parametrize(
    "key, value",
    [
        ("requires-comfyui", "0.3.64"), ("requires-comfyui", ">=0.3"), ("requires-comfyui", ">=0.3.64;<1.0.0"),
        ("requires-comfyui", None), ("PublisherId", None), ("DisplayName", None), ("web", "web"),
    ],
)  # fmt: skip
def test_a_wrong_comfy_table_is_found(key, value):
    (found,) = wrong_comfy({"tool": {"comfy": changed(GOOD["tool"]["comfy"], key, value)}})
    assert key in found


@pytest.mark.parametrize("entry", ["Operating System :: Linux", "Environment :: GPU", "Environment :: GPU :: CUDA"])
def test_a_wrong_classifier_is_found(entry):
    classifiers = [*GOOD["project"]["classifiers"], entry]
    assert wrong_classifiers({"project": changed(GOOD["project"], "classifiers", classifiers)}) == [entry]


@pytest.mark.parametrize(
    "dependencies, requirements",
    [
        (["einops>=0.7"], "einops>=0.7\nkornia>=0.7.1\n"),
        (["einops>=0.7"], "# einops>=0.7\n"),
        (["einops>=0.8"], "einops>=0.7\n"),
        (["torch>=2.1"], "torch>=2.1\n"),
        (["TorchVision"], "TorchVision\n"),
        (["einops==0.7"], "einops==0.7\n"),
        (["-r more.txt"], "-r more.txt\n"),
        (["git+https://example.org/a"], "git+https://example.org/a\n"),
    ],
)
def test_wrong_dependencies_are_found(dependencies, requirements):
    assert wrong_dependencies(["numpy>=1.25"], "# ours\nnumpy>=1.25\n") == []
    assert wrong_dependencies(dependencies, requirements) != []


@pytest.mark.parametrize("changelog", ["# Changelog\n", "## Unreleased\n\n## 0.0.9\n\n- old\n", "## 0.1.0\nnothing\n", "- 0.1.0\n"])
def test_a_silent_changelog_is_found(changelog):
    assert wrong_changelog(changelog, "0.1.0") != []


@pytest.mark.parametrize("changelog", ["## Unreleased\n\n- a\n", "# C\n\n## 0.1.0 - 2026-11-22\n\n- a\n", "## [0.1.0]\n- a\n\n## 0.0.9\n"])
def test_a_changelog_that_speaks_passes(changelog):
    assert wrong_changelog(changelog, "0.1.0") == []


@pytest.mark.parametrize("line", ["docs/", "*.md", "!/nodes/", "/docs/*.png", "**/tests", "/a b"])
def test_an_ambiguous_ignore_line_is_found(line):
    assert wrong_ignore_lines(f"# why\n/tests/\n\n/launch.py\n{line}\n") == [line]


@pytest.mark.parametrize("path", KEPT)
def test_a_file_left_out_is_found(path):
    top = path.split("/")[0]
    comfyignore = f"{text('.comfyignore')}\n/{top}{'/' if '/' in path else ''}\n"
    assert f"{path} is left out" in wrong_release(comfyignore)


@pytest.mark.parametrize("path", DROPPED)
def test_a_file_shipped_is_found(path):
    top = "/" + path.split("/")[0]
    comfyignore = "\n".join(line for line in ignore_lines(text(".comfyignore")) if line.rstrip("/") != top)
    assert f"{path} is shipped" in wrong_release(comfyignore)


def test_a_folder_line_spares_a_file_of_that_name():
    assert ships("docs", "/docs/") and not ships("docs/a.md", "/docs/") and ships("web/docs/A.md", "/docs/")


URL = "https://huggingface.co/org/repo/resolve/main/vae/a.safetensors"


def small_workflow() -> dict:
    """A loader, linked to a node of ours, beside a note."""
    core = {"cnr_id": "comfy-core", "ver": "0.33.0", "models": [{"name": "a.safetensors", "url": URL, "directory": "vae"}]}
    ours = {"cnr_id": "kv-lock", "ver": "0.1.0"}
    return {
        "version": 0.4,
        "nodes": [
            {"id": 1, "type": "VAELoader", "properties": core, "widgets_values": ["a.safetensors"],
             "outputs": [{"type": "VAE", "links": [9]}]},
            {"id": 2, "type": "KVLockSampler", "properties": ours, "inputs": [{"link": 9}]},
            {"id": 3, "type": "MarkdownNote", "properties": {}},
        ],
        "links": [[9, 1, 0, 2, 0, "VAE"]],
    }  # fmt: skip


def set_in(tree: dict, path: tuple, value) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@pytest.mark.parametrize(
    "path, value",
    [
        (("version",), 1),
        (("nodes", 1, "properties", "cnr_id"), "comfy-core"),
        (("nodes", 0, "properties", "cnr_id"), "kv-lock"),
        (("nodes", 1, "properties", "ver"), "9.0.0"),
        (("nodes", 0, "properties", "ver"), "unknown"),
        (("nodes", 0, "properties", "models"), []),
        (("nodes", 0, "properties", "models", 0, "name"), "b.safetensors"),
        (("nodes", 0, "properties", "models", 0, "url"), URL + "?download=true"),
        (("nodes", 0, "properties", "models", 0, "url"), "https://example.org/a.safetensors"),
        (("nodes", 0, "properties", "models", 0, "directory"), ""),
        (("nodes", 0, "widgets_values"), ["/home/me/b.mp4"]),
        (("nodes", 0, "widgets_values"), ["C:\\me\\b.mp4"]),
        (("nodes", 0, "outputs", 0, "links"), None),
        (("nodes", 0, "outputs", 0, "type"), "CLIP"),
        (("nodes", 1, "inputs", 0, "link"), 8),
        (("links", 0, 3), 7),
    ],
)
def test_a_wrong_workflow_is_found(path, value):
    assert wrong_workflow(small_workflow(), "kv-lock", "0.1.0") == []
    workflow = small_workflow()
    set_in(workflow, path, value)
    assert wrong_workflow(workflow, "kv-lock", "0.1.0") != []
