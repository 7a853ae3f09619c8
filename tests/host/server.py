"""A real ComfyUI server with this pack, the toy weights and the test-only nodes in a folder of its own.

Standard library, and aiohttp (which every ComfyUI has) for `Events` alone: tests/browser starts a server from a Python
without it. It changes nothing of the user's ComfyUI: nodes, models, input, output and user data all lie in the base folder.
"""

import asyncio
import importlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK, TEST_PACK = "kv-lock", "kvlock-test-nodes"
#: What a release leaves out, as long as no .comfyignore says it.
NOT_RELEASED = ("tests/", "toy/", "benchmarks/", "docs/")
WEIGHTS = {"kvlock_toy_wan_t2v_fp16.safetensors": "diffusion_models", "kvlock_toy_wan_vae_fp16.safetensors": "vae"}
FOLDERS = ("custom_nodes", "models/diffusion_models", "models/vae", "input", "output", "user")
#: Each is passed where the version knows it. Only our two packs load, also where extra_model_paths.yaml names more.
OPTIONS = {
    "--disable-auto-launch": (),
    "--database-url": ("sqlite:///:memory:",),
    "--disable-api-nodes": (),
    "--disable-all-custom-nodes": (),
    "--whitelist-custom-nodes": (PACK, TEST_PACK),
}
START_SECONDS, STOP_SECONDS, POLL_SECONDS, TAIL_LINES = 180, 15, 0.1, 40


class ServerError(Exception):
    """The server did not start, or died; the message ends with its log."""


class PromptRefused(Exception):
    """The server refused a workflow before running it."""


class PromptFailed(Exception):
    """A node raised; `node` is its id in the workflow, `words` its message."""

    def __init__(self, node, kind, words):
        super().__init__(f"node {node} ({kind}): {words}")
        self.node, self.words = node, words


class PromptInterrupted(Exception):
    """The run was interrupted."""


class Server:
    """`with Server(comfyui, python, base) as server:`, then queue, wait, events; stopped at the end."""

    def __init__(self, comfyui, python, base):
        self.comfyui, self.python, self.base = Path(comfyui), Path(python), Path(base)
        self.port = free_port()
        self.log = self.base / "server.log"
        self._process = None

    def __enter__(self):
        prepare(self.base)
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.comfyui, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._await_start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_):
        self._stop()

    def command(self):
        line = [self.python, "main.py", "--cpu", "--port", self.port, "--base-directory", self.base]
        known = (self.comfyui / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        for option, values in OPTIONS.items():
            line += [option, *values] if f'"{option}"' in known else []
        return [str(word) for word in line]

    def environment(self):
        """PYTHONPATH held the lent pytest; the server gets none of it."""
        path = {"PYTHONPATH": str(templates_stand_in(self.base))} if self._wants_old_templates() else {}
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**inherited, **path, "KVLOCK_ROOT": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

    def _wants_old_templates(self):
        """Old ComfyUIs (0.3.64) serve a folder of page templates that today's package of that name no longer has,
        and die of it. The templates are of no use here."""
        source = (self.comfyui / "app" / "frontend_management.py").read_text(encoding="utf-8")
        return "legacy_templates_path" not in source

    def _await_start(self):
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            self._require_life()
            try:
                return self.object_info()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(POLL_SECONDS)
        raise ServerError(f"no answer after {START_SECONDS} s; the log ends:\n{self.log_tail()}")

    def _require_life(self):
        code = self._process.poll()
        if code is not None:
            raise ServerError(f"the server ended with {code}; the log ends:\n{self.log_tail()}")

    def _stop(self):
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_text(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self):
        return "\n".join(self.log_text().splitlines()[-TAIL_LINES:])

    # what it answers ---------------------------------------------------------------------------------------------

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path, data):
        """Body of the answer, decoded where it is JSON; urllib.error.HTTPError for 4xx and 5xx."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def object_info(self):
        return self.get("/object_info")

    def system_stats(self):
        return self.get("/system_stats")

    def version(self):
        """(0, 33, 0)"""
        words = self.system_stats()["system"]["comfyui_version"]
        return tuple(int(part) for part in words.split(".")[:3])

    def interrupt(self):
        self.post("/interrupt", {})

    def forget(self):
        """Drops cached outputs and models before the next prompt."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def queue(self, workflow, client_id=None):
        """Submits a workflow in API format. -> prompt id"""
        data = {"prompt": workflow, "client_id": client_id} if client_id else {"prompt": workflow}
        try:
            return self.post("/prompt", data)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRefused(refusal(json.load(error))) from None

    def wait(self, prompt_id, timeout=300):
        """Waits until a prompt is done. -> its entry in the history; raises what went wrong in it"""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            self._require_life()
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return checked(entry)
            time.sleep(POLL_SECONDS)
        raise ServerError(f"prompt {prompt_id} is not done after {timeout} s; the log ends:\n{self.log_tail()}")

    def run(self, workflow, client_id=None):
        return self.wait(self.queue(workflow, client_id))

    def events(self, client_id=None):
        return Events(self.port, client_id or uuid.uuid4().hex)

    def output(self, entry, node, kind):
        """Files that a node of a finished prompt saved; `kind` is what it calls them (images, latents)."""
        saved = entry["outputs"][node][kind]
        return [self.base / file["type"] / file["subfolder"] / file["filename"] for file in saved]


class Events:
    """Messages that one client gets over its web socket, read by a thread while the `with` block runs."""

    def __init__(self, port, client_id):
        self.client_id = client_id
        self._url = f"http://127.0.0.1:{port}/ws?clientId={client_id}"
        self._messages, self._changed = deque(), threading.Condition()
        self._loop, self._error = asyncio.new_event_loop(), None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._aiohttp = importlib.import_module("aiohttp")

    def __enter__(self):
        self._thread.start()
        self.wait_for("status")  # the server greets with it: from here on nothing is missed
        return self

    def __exit__(self, *_):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(STOP_SECONDS)

    def _run(self):
        self._task = self._loop.create_task(self._read())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except self._aiohttp.ClientError as error:
            self._error = error
        finally:
            self._loop.close()

    async def _read(self):
        async with self._aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as ws:
            async for message in ws:
                if message.type is self._aiohttp.WSMsgType.TEXT:  # previews are binary
                    self._keep(json.loads(message.data))

    def _keep(self, message):
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def of(self, kind):
        """The data of all messages of a type so far, in order."""
        with self._changed:
            return [message["data"] for message in self._messages if message["type"] == kind]

    def wait_for(self, kind, test=lambda data: True, timeout=60):
        """The first message's data of a type that passes `test`, past or to come."""
        until = time.monotonic() + timeout
        with self._changed:
            while time.monotonic() < until and self._error is None:
                for message in self._messages:
                    if message["type"] == kind and test(message["data"]):
                        return message["data"]
                self._changed.wait(POLL_SECONDS)
            kinds = sorted({message["type"] for message in self._messages})
        raise ServerError(f"no such {kind} message within {timeout} s; there were {kinds}; {self._error or ''}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refusal(answer):
    """The words of a refused prompt: the summary, then every node's own errors."""
    lines = [answer["error"]["message"]]
    for node, problem in answer["node_errors"].items():
        lines += [f"node {node} ({problem['class_type']}): {e['message']}: {e['details']}" for e in problem["errors"]]
    return "; ".join(lines)


def checked(entry):
    """The history entry of a prompt that succeeded; else what went wrong."""
    if entry["status"]["status_str"] == "success":
        return entry
    messages = dict(entry["status"]["messages"])
    if "execution_interrupted" in messages:
        raise PromptInterrupted(f"interrupted in node {messages['execution_interrupted']['node_id']}")
    failed = messages["execution_error"]
    raise PromptFailed(failed["node_id"], failed["node_type"], failed["exception_message"].strip())


def cached_nodes(entry):
    """Ids of the nodes that a prompt took from the cache."""
    return set(dict(entry["status"]["messages"])["execution_cached"]["nodes"])


# the base folder ------------------------------------------------------------------------------------------------------


def prepare(base):
    """Fills the base folder: the pack as it is released, the test-only nodes, the weights."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    copy_pack(ROOT, base / "custom_nodes" / PACK)
    shutil.copytree(
        Path(__file__).parent / "pack", base / "custom_nodes" / TEST_PACK, ignore=shutil.ignore_patterns("__pycache__")
    )
    for file, folder in WEIGHTS.items():
        link(ROOT / "toy" / "weights" / file, base / "models" / folder / file)


def copy_pack(root, target):
    for name in pack_files(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name)


def pack_files(root):
    """Names of what a release holds: tracked files and new ones that git does not ignore, less .comfyignore."""
    if not (root / ".git").exists():
        raise ServerError(f"{root} is no git checkout, so what belongs to the pack is not known; clone the repository")
    ignore = ("--exclude-from=.comfyignore",) if (root / ".comfyignore").exists() else ()
    names = _git_files(root, "--cached") | _git_files(root, "--others", "--exclude-standard", *ignore)
    names -= _git_files(root, "--cached", "--ignored", *ignore) if ignore else set()
    kept = names if ignore else {name for name in names if not name.startswith(NOT_RELEASED)}
    return sorted(name for name in kept if (root / name).is_file())


def _git_files(root, *options):
    listed = subprocess.run(["git", "ls-files", "-z", *options], cwd=root, capture_output=True, text=True, check=True)
    return set(filter(None, listed.stdout.split("\0")))


def link(source, target):
    """A link, or a copy where links need rights that the user lacks (Windows)."""
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def templates_stand_in(base):
    """A folder for PYTHONPATH with an empty package of ComfyUI's page templates."""
    package = base / "stand_in" / "comfyui_workflow_templates"
    (package / "templates").mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    return package.parent
