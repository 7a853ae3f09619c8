"""Builds a workflow in the page's own format (0.4): nodes stacked in groups, groups stacked in columns, nothing overlaps."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

#: What the page itself gives a node: a title, a row for each socket, a row for each widget, and room below.
TITLE, SOCKET, WIDGET, FOOT, FOOT_OF_WIDGETS = 30, 20, 24, 6, 14
NODE_GAP, GROUP_GAP, COLUMN_GAP, MARGIN, GROUP_TITLE = 26, 20, 56, 14, 54
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
#: Room for what a node shows: a text field, a picture, a clip, a chart, lines of text after a run.
TEXT_FIELD, PICTURE, CLIP, CHART = 64, 250, 220, 340
LINES = 76
#: The live chart: LEAST_HEIGHT of web/lib/chart_layout.js and its margins.
LIVE = 260
SHOWS = {
    "KVLockTokenMask": PICTURE, "KVLockReport": CHART, "LoadVideo": CLIP, "LoadImageMask": PICTURE, "GetImageSize": LINES,
    "KVLockInvertCache": LINES, "KVLockSampler": LIVE + LINES, "KVLockMonitor": LIVE + LINES,
}  # fmt: skip
BLUE, GREEN, ORANGE = "#3f789e", "#4c7a3d", "#a1682f"
NOTE = {"color": "#432", "bgcolor": "#653"}
GOOD, BAD = {"color": "#232", "bgcolor": "#353"}, {"color": "#322", "bgcolor": "#533"}
#: The page that these files were looked at in.
FRONTEND = "1.49.6"


class GraphError(ValueError):
    """A node or an input that this ComfyUI does not have; the message names it."""


@dataclass(frozen=True)
class Out:
    """An output of a node, to be linked."""

    node: int
    slot: int
    type: str


@dataclass
class Node:
    outs: dict[str, Out]

    def __getitem__(self, name: str) -> Out:
        return self.outs[name]


@dataclass
class Graph:
    """`info` is a server's /object_info, `versions` cnr_id -> version, `models` file -> (address, directory)."""

    info: dict
    versions: dict[str, str]
    models: dict[str, tuple[str, str]]
    nodes: list[dict] = field(default_factory=list)
    links: list[list] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)
    _x: int = -COLUMN_GAP
    _y: int = 0
    _width: int = 0

    def column(self, width: int) -> None:
        self._x, self._y, self._width = self._x + self._width + COLUMN_GAP, 0, width

    def group(self, title: str, color: str) -> None:
        """What is added from here on stands in it, until the next group or column."""
        self._y += MARGIN + GROUP_GAP if self._y else 0
        self.groups.append({"id": len(self.groups) + 1, "title": title, "color": color, "flags": {},
                            "bounding": [self._x - MARGIN, self._y, self._width + 2 * MARGIN, 0]})  # fmt: skip
        self._y += GROUP_TITLE - NODE_GAP

    def note(self, text: str, height: int, title: str = "Start here") -> None:
        made = {"type": "MarkdownNote", "title": title, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [text], **NOTE}
        self._y += MARGIN + GROUP_GAP if self._y else 0
        self._place(made, height)

    def add(self, kind: str, title: str | None = None, colors: dict | None = None, **given) -> Node:
        """`given` links (Out) and widget values by name; other widgets have their defaults. Raises GraphError."""
        if kind not in self.info:
            raise GraphError(f"this ComfyUI has no node {kind}")
        sockets, widgets = split_inputs(self.info[kind])
        unknown = set(given) - set(sockets) - {name for name, _ in widgets}
        if unknown:
            raise GraphError(f"{kind} has no input {', '.join(sorted(unknown))}")
        told, number = self.info[kind], len(self.nodes) + 1
        entries = [*sockets.items(), *((name, kind_of(name, told)) for name, _ in widgets if name != CONTROL)]
        values = [default if isinstance(given.get(name), Out) else given.get(name, default) for name, default in widgets]
        made = {
            "type": kind,
            "inputs": [self._entry(number, slot, name, kind, name not in sockets, given.get(name)) for slot, (name, kind) in enumerate(entries)],
            "outputs": [{"localized_name": n, "name": n, "type": t, "links": None} for n, t in outputs_of(told)],
            "properties": self._properties(kind, values),
            "widgets_values": values,
            **({"title": title} if title else {}),
            **(colors or {}),
        }
        self._place(made, height_of(kind, len(sockets), len(made["outputs"]), len(widgets), told))
        around = self.groups[-1]["bounding"]
        around[3] = self._y + MARGIN - around[1]
        return Node({name: Out(number, slot, t) for slot, (name, t) in enumerate(outputs_of(told))})

    def build(self, name: str) -> dict:
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"kv-lock/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [130, 110]}, "frontendVersion": FRONTEND, "workflowRendererVersion": "LG"},
            "version": 0.4,
        }

    def _place(self, made: dict, height: int) -> dict:
        self._y += NODE_GAP + TITLE
        place = {"id": len(self.nodes) + 1, "type": made["type"], "pos": [self._x, self._y], "size": [self._width, height]}
        self.nodes.append({**place, "flags": {}, "order": len(self.nodes), "mode": 0, **made})
        self._y += height
        return self.nodes[-1]

    def _entry(self, target: int, slot: int, name: str, kind: str, is_widget: bool, given: object) -> dict:
        """What the page saves of one input; a widget has an entry too, since it can be linked."""
        shown = "choose file to upload" if name == "upload" else name
        link = self._link(given, target, slot, kind) if isinstance(given, Out) else None
        return {"localized_name": shown, "name": name, "type": kind, **({"widget": {"name": name}} if is_widget else {}), "link": link}

    def _link(self, out: Out, target: int, slot: int, kind: str) -> int:
        if out.type != kind:
            raise GraphError(f"an input of node {target} takes {kind}, not {out.type}")
        self.links.append([len(self.links) + 1, out.node, out.slot, target, slot, kind])
        leaving = self.nodes[out.node - 1]["outputs"][out.slot]
        leaving["links"] = [*(leaving["links"] or []), len(self.links)]
        return len(self.links)

    def _properties(self, kind: str, values: list) -> dict:
        pack = "kv-lock" if kind.startswith("KVLock") else "comfy-core"
        made = {"cnr_id": pack, "ver": self.versions[pack], "Node name for S&R": kind}
        files = [value for value in values if value in self.models]
        told = [{"name": f, "url": self.models[f][0], "directory": self.models[f][1]} for f in files]
        return {**made, **({"models": told} if told else {})}


# what the page makes of a node's inputs -------------------------------------------------------------------------------

CONTROL = "control_after_generate"


def all_inputs(told: dict) -> list[tuple[str, list]]:
    return [pair for kind in ("required", "optional") for pair in told["input"].get(kind, {}).items()]


def is_widget(spec: list) -> bool:
    settings = spec[1] if len(spec) > 1 else {}
    return (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not settings.get("forceInput")


def split_inputs(told: dict) -> tuple[dict[str, str], list[tuple[str, object]]]:
    """Sockets name -> type, and widgets (name, default) in the order in which the page saves their values."""
    sockets = {name: spec[0] for name, spec in all_inputs(told) if not is_widget(spec)}
    widgets: list[tuple[str, object]] = []
    for name, spec in all_inputs(told):
        if is_widget(spec):
            widgets.append((name, default_of(spec)))
            settings = spec[1] if len(spec) > 1 else {}
            widgets += [(CONTROL, "fixed")] if settings.get(CONTROL) else []
            widgets += [(f"{name}.{inner}", "auto") for inner in inner_names(spec, "auto")]
    return sockets, widgets + [("upload", "image")] * any(map(is_upload, told_settings(told)))


def told_settings(told: dict) -> list[dict]:
    return [spec[1] for _, spec in all_inputs(told) if len(spec) > 1]


def is_upload(settings: dict) -> bool:
    """The page adds a button for files, behind all other widgets."""
    return bool(settings.get("image_upload") or settings.get("video_upload"))


def default_of(spec: list) -> object:
    settings = spec[1] if len(spec) > 1 else {}
    if "default" in settings:
        return settings["default"]
    options = spec[0] if isinstance(spec[0], list) else settings.get("options", [])
    first = options[0] if options else ""
    return first["key"] if isinstance(first, dict) else first


def inner_names(spec: list, key: str) -> list[str]:
    """Inputs that a dynamic combo shows for the choice `key`."""
    if spec[0] != "COMFY_DYNAMICCOMBO_V3":
        return []
    chosen = next((option for option in spec[1]["options"] if option["key"] == key), {"inputs": {}})
    return [name for kind in chosen["inputs"].values() for name in kind]


def outputs_of(told: dict) -> list[tuple[str, str]]:
    return list(zip(told["output_name"], told["output"]))


def kind_of(name: str, told: dict) -> str:
    """Type of a widget as the page names it."""
    spec = dict(all_inputs(told)).get(name, ["IMAGEUPLOAD" if name == "upload" else "COMFY_DYNAMICCOMBO_V3"])
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def height_of(kind: str, sockets: int, outputs: int, widgets: int, told: dict) -> int:
    fields = sum(bool(len(spec) > 1 and spec[1].get("multiline")) for _, spec in all_inputs(told))
    height = SOCKET * max(sockets, outputs) + WIDGET * widgets + (FOOT_OF_WIDGETS if widgets else FOOT)
    return height + TEXT_FIELD * fields + SHOWS.get(kind, 0)
