"""The words of the nodes in the form of ComfyUI's locales/<language>/nodeDefs.json (0.33: GET /i18n serves them)."""

from __future__ import annotations

import re

from chinese import INPUTS, NODES, OUTPUTS, OWN_INPUTS

#: The page compiles every text as a message of vue-i18n, where these have a meaning.
SPECIAL = re.compile(r"[@{}|]")


def english(info: dict) -> dict:
    """From a server's /object_info: nothing is written twice."""
    ours = {name: told for name, told in info.items() if name.startswith("KVLock") and told["category"] == "KV-Lock"}
    return {name: _node(told) for name, told in sorted(ours.items())}


def _node(told: dict) -> dict:
    given = {name: spec for kind in ("required", "optional") for name, spec in told["input"].get(kind, {}).items()}
    inputs = {name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in given.items()}
    if any(spec[1].get("control_after_generate") for spec in given.values()):
        inputs["control_after_generate"] = {"name": "control after generate"}
    outputs = {str(i): {"name": name, "tooltip": tip} for i, (name, tip) in enumerate(zip(told["output_name"], told["output_tooltips"]))}
    return {"display_name": told["display_name"], "description": told["description"], "inputs": inputs, "outputs": outputs}


def leaves(tree: dict, at: str = "") -> dict[str, str]:
    """Every text by its path."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        found |= leaves(value, f"{at}{name}/") if isinstance(value, dict) else {f"{at}{name}": value}
    return found


def unfit(tree: dict) -> list[str]:
    """Paths of texts that the page would not show as they are."""
    return [path for path, text in leaves(tree).items() if not text.strip() or SPECIAL.search(text)]


def chinese(english_nodes: dict) -> dict:
    """The same keys, in Chinese. Raises KeyError for a text that tools/chinese.py lacks."""
    return {name: _in_chinese(name, told) for name, told in english_nodes.items()}


def _in_chinese(node: str, told: dict) -> dict:
    display, description = NODES[node]
    inputs = {name: _input(node, name) for name in told["inputs"]}
    outputs = {slot: dict(zip(("name", "tooltip"), OUTPUTS[node, one["name"]])) for slot, one in told["outputs"].items()}
    return {"display_name": display, "description": description, "inputs": inputs, "outputs": outputs}


def _input(node: str, name: str) -> dict:
    shown, tooltip = INPUTS[name]
    tooltip = OWN_INPUTS.get((node, name), tooltip)
    return {"name": shown, **({"tooltip": tooltip} if tooltip else {})}
