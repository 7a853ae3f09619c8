"""The example workflows as a server takes them, what is wrong with one, and one cut down to the toy world.

Standard library only, since tools/pictures.py reads this too, in another Python.
"""

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "example_workflows"
FILES = sorted(FOLDER.glob("*.json"))
NOTES = ("Note", "MarkdownNote")
#: What the page adds to a widget, and saves behind its value.
CONTROL, UPLOADS = "control_after_generate", ("image_upload", "video_upload")
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
#: Folder of models/ -> the toy's weights that can stand in for any file of it.
WEIGHTS = {"diffusion_models": "kvlock_toy_wan_t2v_fp16.safetensors", "vae": "kvlock_toy_wan_vae_fp16.safetensors"}


def load(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def spec_of(told):
    """Inputs of a node type from /object_info: name -> (type, settings)."""
    given = {**told["input"].get("required", {}), **told["input"].get("optional", {})}
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in given.items()}


def is_widget(kind, settings):
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not settings.get("forceInput")


def value_names(told):
    """Names of a node's saved values, in their order; None for a value that is the page's own."""
    names = []
    for name, (kind, settings) in spec_of(told).items():
        if not is_widget(kind, settings):
            continue
        names.append(name)
        names += [None] if settings.get(CONTROL) else []
        names += [f"{name}.{inner}" for inner in _inner(kind, settings)]
    uploads = any(settings.get(word) for _, settings in spec_of(told).values() for word in UPLOADS)
    return names + ([None] if uploads else [])  # the button stands behind all others


def _inner(kind, settings):
    """Inputs that a dynamic combo has for its first choice, which is what we ship."""
    parts = settings["options"][0]["inputs"] if kind == DYNAMIC else {}
    return [name for group in parts.values() for name in group]


def api(workflow, info):
    """A saved workflow in the API's format, by the ids of its nodes."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    made = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        names = value_names(info[node["type"]])
        values = {name: value for name, value in zip(names, node.get("widgets_values") or []) if name is not None}
        linked = {one["name"]: sources[one["link"]] for one in node["inputs"] if one.get("link") is not None}
        title = {"title": node.get("title", node["type"])}
        made[str(node["id"])] = {"class_type": node["type"], "inputs": {**values, **linked}, "_meta": title}
    return made


# what is wrong --------------------------------------------------------------------------------------------------------


def wrong(workflow, info):
    """Node types, inputs, values and links that this server does not have or take."""
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    found = [f"no node {kind}" for kind in kinds.values() if kind not in info and kind not in NOTES]
    if found:
        return found
    for node in workflow["nodes"]:
        if node["type"] not in NOTES:
            found += [f"{node['type']}: {words}" for words in _wrong_node(node, info[node["type"]])]
    for _, source, out, target, slot, kind in workflow["links"]:
        leaving = info[kinds[source]]["output"][out : out + 1]
        name = next(node for node in workflow["nodes"] if node["id"] == target)["inputs"][slot]["name"]
        taken = spec_of(info[kinds[target]]).get(name, (None, {}))[0]
        if leaving != [kind] or taken != kind:
            found.append(f"{kinds[source]} gives {leaving}, {kinds[target]}.{name} takes {taken}, the link says {kind}")
    return found


def _wrong_node(node, told):
    names, values, spec = value_names(told), node.get("widgets_values") or [], spec_of(told)
    found = [] if len(names) == len(values) else [f"{len(values)} values for {len(names)} widgets"]
    shown = {one["name"] for one in node["inputs"]}
    inner = {name for name in names if name and "." in name}
    found += [f"input {name} is unknown" for name in shown - set(spec) - inner - {"upload"}]
    linked = {one["name"] for one in node["inputs"] if one.get("link") is not None}
    required = told["input"].get("required", {})
    found += [f"{name} is not linked" for name in required if name not in linked and not is_widget(*spec[name])]
    for name, value in zip(names, values):
        if name in spec and not _fits(value, *spec[name]):
            found.append(f"{name} cannot be {value!r}")
    outputs = [one["name"] for one in node["outputs"]]
    return found + ([] if outputs == told["output_name"] else [f"outputs are {outputs}"])


def _fits(value, kind, settings):
    if isinstance(kind, list) or kind == "COMBO":
        return value in (kind if isinstance(kind, list) else settings["options"])
    if kind == DYNAMIC:
        return value in [option["key"] for option in settings["options"]]
    if kind in ("INT", "FLOAT"):
        number = isinstance(value, (int, float) if kind == "FLOAT" else int) and not isinstance(value, bool)
        return number and settings.get("min", value) <= value <= settings.get("max", value)
    return isinstance(value, {"BOOLEAN": bool, "STRING": str}[kind])


# in the toy world -----------------------------------------------------------------------------------------------------


def toyed(prompt, words, steps, files=None):
    """`prompt` with the toy world's text encoder (`words` by the first word of a node's title) and few steps.

    The loaders stay as they are: the server's folders hold the toy's weights under the names that are shipped.
    """
    made = {}
    for name, node in prompt.items():
        inputs, title = dict(node["inputs"]), node["_meta"]["title"]
        if node["class_type"] == "CLIPLoader":
            continue
        if node["class_type"] == "CLIPTextEncode":
            told = words[title.split()[0].rstrip(":").lower()]
            node = {**node, "class_type": "KVLockTestText"}
            inputs = {"prompt": told, "nonce": 0}
        if "steps" in inputs:
            inputs["steps"] = steps
        for half in ("start_at_step", "end_at_step"):
            if 0 < inputs.get(half, 0) < 10000:
                inputs[half] = steps // 2
        made[name] = {**node, "inputs": {**inputs, **(files or {}).get(node["class_type"], {})}}
    return made


def only(prompt, *wanted):
    """The part of a prompt that leads to nodes of these types."""
    kept, todo = set(), [name for name, node in prompt.items() if node["class_type"] in wanted]
    while todo:
        name = todo.pop()
        kept.add(name)
        links = [value[0] for value in prompt[name]["inputs"].values() if isinstance(value, list)]
        todo += [link for link in links if link not in kept]
    return {name: node for name, node in prompt.items() if name in kept}


def shipped_files():
    """File -> folder of models/, as the example workflows name them."""
    told = [m for path in FILES for node in load(path)["nodes"] for m in node["properties"].get("models", ())]
    return {model["name"]: model["directory"] for model in told}


def stand_in(base):
    """Files under the shipped names, before a server starts in `base`: toy weights, and empty ones (a LoRA that changes nothing)."""
    for name, folder in shipped_files().items():
        path = base / "models" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder in WEIGHTS:
            path.symlink_to(ROOT / "toy" / "weights" / WEIGHTS[folder])
        else:
            header = json.dumps({"__metadata__": {}}).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header)
