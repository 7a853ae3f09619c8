"""What a run tells the page while it runs, and the log."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict

from ...kvlock_core import StepRecord

#: The page listens for this name; web/ and docs/hosts.md know it too.
STEP_EVENT = "kvlock.step"

_log = logging.getLogger("kvlock")


def step_done(nodes: tuple[str, ...], record: StepRecord, total: int, tau: float | None) -> None:
    """One finished step to the client that queued the prompt, once for each watching node id."""
    server = _server()
    if server is None:
        return
    for node in nodes:
        message = {"node": node, "total": total, "tau": tau, **asdict(record)}
        server.send_sync(STEP_EVENT, message, server.client_id)


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


def _server():
    """The running server; None where ComfyUI is used as a library."""
    module = sys.modules.get("server")
    return None if module is None else getattr(module.PromptServer, "instance", None)
