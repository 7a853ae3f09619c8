"""Finds a ComfyUI on this machine and its Python, and lends that Python our pytest without installing anything.

Standard library only: it runs before anything of ComfyUI is known to work.
"""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path, PurePath

ROOT = Path(__file__).resolve().parents[2]
PATH, PYTHON = "COMFYUI_PATH", "COMFYUI_PYTHON"
LANDMARKS = ("main.py", "nodes.py", "comfy")  # what tells a ComfyUI from any other folder
ENVIRONMENTS = (".venv", "venv")
PORTABLE_PYTHON = "python_embeded/python.exe"  # spelt so in ComfyUI's Windows download

PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
#: pytest asks for these on Python 3.10 only, where all three come with it. Lent to a newer host they would
#: needlessly stand before its own copies.
BACKPORTS = ("exceptiongroup", "tomli", "typing_extensions")
COMPILED = (".so", ".pyd", ".pyc")


class ComfyUINotFoundError(Exception):
    """An environment variable names something that is not there; the message says which and what to set."""


def is_comfyui(folder):
    return all((folder / name).exists() for name in LANDMARKS)


def find_comfyui(environ=os.environ, root=ROOT, home=None):
    """The folder of a ComfyUI, or None. COMFYUI_PATH decides alone when it is set; a wrong one is an error."""
    if environ.get(PATH):
        return _named(Path(environ[PATH]).expanduser())
    return next(filter(is_comfyui, _usual_places(root, home or Path.home())), None)


def _named(folder):
    if is_comfyui(folder):
        return folder.resolve()
    missing = ", ".join(name for name in LANDMARKS if not (folder / name).exists())
    raise ComfyUINotFoundError(f"{PATH} is {folder}, which has no {missing}; set it to the folder of ComfyUI's main.py")


def _usual_places(root, home):
    above = [root.parent.parent] if root.parent.name == "custom_nodes" else []
    return [*above, home / "comfy" / "ComfyUI", home / "ComfyUI"]


def find_python(comfyui, environ=os.environ):
    """The interpreter that this ComfyUI runs in; ours when none lies near it."""
    if environ.get(PYTHON):
        return _named_python(Path(environ[PYTHON]).expanduser())
    near = [place / name / file for place in (comfyui, comfyui.parent) for name in ENVIRONMENTS for file in _interpreters()]
    return next((path for path in [*near, comfyui.parent / PORTABLE_PYTHON] if path.exists()), Path(sys.executable))


def _named_python(path):
    if path.exists():
        return path
    raise ComfyUINotFoundError(f"{PYTHON} is {path}, which does not exist; set it to the Python that starts your ComfyUI")


def _interpreters():
    return ("bin/python", "Scripts/python.exe")


def pytest_alone(folder):
    """Copies pytest and what it imports into `folder`, for a host's PYTHONPATH. -> folder"""
    names = PYTEST + (BACKPORTS if sys.version_info < (3, 11) else ())
    for name in names:
        _copy_distribution(metadata.distribution(name), folder)
    return folder


def _copy_distribution(distribution, folder):
    for file in distribution.files or ():
        source = Path(distribution.locate_file(file))
        if _is_portable(file) and source.exists():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _is_portable(file):
    """False for scripts beside the package folder and for what only fits the Python that it was made for."""
    path = PurePath(file)
    return ".." not in path.parts and not path.is_absolute() and path.suffix not in COMPILED


def missing_line(root=ROOT, home=None):
    """What to say where no ComfyUI was found."""
    places = ", ".join(map(str, _usual_places(root, home or Path.home())))
    return f"NO COMFYUI FOUND: the tests of the ComfyUI nodes did NOT run. Looked at {places}; {PATH} names another folder."
