"""Makes what the pack ships beside its code. Runs in ComfyUI's own Python; COMFYUI_PATH names the ComfyUI.

    python tools/make.py workflows     example_workflows/*.json, from tools/flows.py and a server's list of nodes
    python tools/make.py locales       locales/en/nodeDefs.json from the nodes, locales/zh/nodeDefs.json from tools/chinese.py
    python tools/make.py check         says what would change, and changes nothing

Pictures need a browser: see tools/pictures.py.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host"), str(ROOT / "tests" / "helpers")]

import comfyui  # noqa: E402
import locales  # noqa: E402
import server  # noqa: E402
from flows import made_workflows  # noqa: E402

FOLDER = "example_workflows"


def as_text(made: object) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def workflow_texts(info: dict, comfy_version: str) -> dict[str, str]:
    """Path below the root -> text."""
    versions = {"kv-lock": pack_version(), "comfy-core": comfy_version}
    return {f"{FOLDER}/{name}.json": as_text(made) for name, made in made_workflows(info, versions).items()}


def locale_texts(info: dict) -> dict[str, str]:
    english = locales.english(info)
    return {
        "locales/en/nodeDefs.json": as_text(english),
        "locales/zh/nodeDefs.json": as_text(locales.chinese(english)),
    }


def pack_version() -> str:
    return re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE).group(1)


def ask(comfy: Path) -> tuple[dict, str]:
    """/object_info and version of a server with this pack."""
    with tempfile.TemporaryDirectory() as folder, server.Server(comfy, sys.executable, Path(folder)) as started:
        return started.object_info(), ".".join(map(str, started.version()))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in ("workflows", "locales", "check"):
        sys.stderr.write(__doc__)
        return 2
    comfy = comfyui.find_comfyui(os.environ)
    if comfy is None:
        sys.stderr.write("No ComfyUI found: set COMFYUI_PATH to the folder of its main.py\n")
        return 3
    info, version = ask(comfy)
    made = {**(workflow_texts(info, version) if arguments[0] != "locales" else {}),
            **(locale_texts(info) if arguments[0] != "workflows" else {})}  # fmt: skip
    stale = [path for path, text in made.items() if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text]
    for path in stale:
        sys.stdout.write(f"{'would change' if arguments[0] == 'check' else 'written'}: {path}\n")
        if arguments[0] != "check":
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(made[path], encoding="utf-8")
    return int(arguments[0] == "check" and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
