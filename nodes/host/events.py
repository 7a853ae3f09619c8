"""What a run tells the page while it runs, and the log."""

from __future__ import annotations

import logging
import math
import sys
import uuid
from dataclasses import asdict

from ...kvlock_core import RiskWindow, StepRecord
from .heat import heat_of

#: The page listens for this name; web/kvlock.js and docs/hosts.md know it too.
STEP_EVENT = "kvlock.step"

_log = logging.getLogger("kvlock")


def new_run() -> str:
    """A name by which the page keeps the steps of one sampling run together."""
    return uuid.uuid4().hex


def step_done(nodes: tuple[str, ...], run: str, record: StepRecord, total: int, tau: float | None, window: RiskWindow) -> None:
    """One finished step to the client that queued the prompt, once for each watching node id."""
    server = _server()
    if server is None or server.client_id is None or not nodes:  # nobody looks: the heat map is not even computed
        return
    step = {name: _plain(value) for name, value in asdict(record).items()}
    shown = {"run": run, **_origin(server), "total": total, "tau": tau, **step, "heat": heat_of(window)}
    for node in nodes:
        server.send_sync(STEP_EVENT, {"node": node, **shown}, server.client_id)


def note(node: str | None, text: str) -> None:
    """A line under a node, for the user to read in passing."""
    server = _server()
    if server is not None and node is not None:
        server.send_progress_text(text, node)


def say(nodes: tuple[str, ...], text: str) -> None:
    """A line that the user should see: in the log, and under each watching node."""
    _log.warning(text)
    for node in nodes:
        note(node, text)


def inform(nodes: tuple[str | None, ...], text: str) -> None:
    """A line that is not a warning."""
    _log.info(text)
    for node in nodes:
        note(node, text)


def _plain(value):
    """JSON has no NaN, and a page that is sent one drops the whole message."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _origin(server) -> dict[str, str | None]:
    """Ids of the running prompt and of the workflow it was queued from: node 12 of another open workflow is not meant.

    Asked for while it runs: a node that ComfyUI took from its cache may have been executed in another prompt.
    """
    running, _ = server.prompt_queue.get_current_queue_volatile()
    if not running:
        return {"prompt": None, "workflow": None}
    _, prompt, _, extra, *_ = running[0]
    workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
    return {"prompt": prompt, "workflow": workflow.get("id")}


def _server():
    """The running server; None where ComfyUI is used as a library."""
    module = sys.modules.get("server")
    return None if module is None else getattr(module.PromptServer, "instance", None)
