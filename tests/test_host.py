"""Runs tests/host in ComfyUI's own Python, in a process of its own: two torches cannot share one.

KVLOCK_HOST_PYTEST holds further arguments for that pytest; `python launch.py host-test -k words` sets it. The child
writes where pytest writes, so its output is shown when it fails, and while it runs with -s.
"""

import os
import shlex
import subprocess

import comfyui
import pytest

HOST = comfyui.ROOT / "tests" / "host"
ARGUMENTS = "KVLOCK_HOST_PYTEST"
#: COMFYUI_PATH is ours to set; PYTHONPATH and PYTHONSAFEPATH would mix up whose packages are found.
OURS = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTEST_ADDOPTS")


@pytest.fixture(scope="module")
def host():
    folder = comfyui.find_comfyui()
    if folder is None:
        pytest.skip(comfyui.missing_line())
    return folder


@pytest.fixture(scope="module")
def python(host):
    path = comfyui.find_python(host)
    tried = subprocess.run([path, "-c", "import torch"], env=_clean(os.environ), capture_output=True, text=True)
    if tried.returncode != 0:
        last = (tried.stderr.strip().splitlines() or ["it says nothing"])[-1]
        pytest.skip(
            f"COMFYUI'S PYTHON CANNOT IMPORT TORCH: the tests of the ComfyUI nodes did NOT run. {path}: {last}; "
            f"{comfyui.PYTHON} names another."
        )
    return path


def _clean(environ):
    return {name: value for name, value in environ.items() if name not in OURS}


def test_in_comfyui(host, python, tmp_path):
    environ = {**_clean(os.environ), "COMFYUI_PATH": str(host), "PYTHONPATH": str(comfyui.pytest_alone(tmp_path / "lent"))}
    further = shlex.split(environ.get(ARGUMENTS, ""))
    command = [python, "-m", "pytest", "-c", HOST / "pytest.ini", HOST, *further]
    # `python -m` puts the current folder first on sys.path: in the root our nodes/ would hide ComfyUI's nodes.py
    code = subprocess.run(command, cwd=tmp_path, env=environ).returncode
    assert code == 0, f"pytest in {host} ended with {code}; its output is shown with this failure"
