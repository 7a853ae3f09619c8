"""What users read, held against the nodes themselves: the English words of the page, and the defaults in the help pages."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture(scope="module")
def locales():
    sys.path.append(str(TOOLS))  # behind ComfyUI, whose names must win
    spec = importlib.util.spec_from_file_location("kvlock_tools_locales", TOOLS / "locales.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def info(pack):
    """What /object_info says of our nodes."""
    return {name: node.GET_NODE_INFO_V1() for name, node in pack.items()}


def shipped(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_the_english_words_are_the_nodes_own(info, locales):
    """python tools/make.py locales"""
    assert shipped("en") == locales.english(info)
    changed = {**info, "KVLockApply": {**info["KVLockApply"], "description": "another"}}
    assert shipped("en") != locales.english(changed)


def test_the_chinese_words_are_those_of_the_command(info, locales):
    assert shipped("zh") == locales.chinese(locales.english(info))
    more = locales.english(info)
    more["KVLockApply"]["inputs"]["brand_new"] = {}
    with pytest.raises(KeyError, match="brand_new"):
        locales.chinese(more)


def told_defaults(page):
    """Input -> the last column of its row in a help page."""
    table = page.split("## Inputs")[1].split("## Outputs")[0]
    return dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", table, re.MULTILINE))


def real_defaults(node):
    required, optional = node["input"].get("required", {}), node["input"].get("optional", {})
    return {**{name: as_told(*spec) for name, spec in required.items()}, **dict.fromkeys(optional, "optional")}


def as_told(kind, settings):
    if "default" not in settings:
        return "pick one" if kind == "COMBO" or isinstance(kind, list) else "link it"
    default = settings["default"]
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_help_pages_tell_the_defaults(info):
    for name, node in info.items():
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert told_defaults(page) == real_defaults(node), name
    wrong = page.replace("| link it |", "| 7 |", 1)
    assert wrong != page and told_defaults(wrong) != real_defaults(node)
