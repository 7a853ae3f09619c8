"""Runs KV-Lock's embedded engine in an environment of its own. Needs nothing but Python 3.10 to 3.13.

    python launch.py demo [options]     the demo, on the weights that come with the code
    python launch.py edit [options]     edit a video of yours
    python launch.py calibrate [options]
                                        measure a clip's risk without a lock, and suggest tau
    python launch.py test [options]     the tests; options go to pytest
    python launch.py host-test [options]
                                        the tests that need a ComfyUI, in ComfyUI's own Python; skipped loudly where
                                        none is found (COMFYUI_PATH names one); options go to that pytest
    python launch.py setup              only make the environment

The first call makes .venv beside this file and installs requirements-embedded.txt into it; later calls start
at once, until that file changes. What follows the command is passed on, and so is the exit code.
"""

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 10), (3, 13)
COMMANDS = ("demo", "edit", "calibrate", "test", "host-test", "setup")
TESTS = ("test", "host-test")
OFFLINE = ("demo", *TESTS)  # these must never reach for a model hub
HOST_TESTS = "tests/test_host.py"  # starts a second pytest, which finds its options in the variable
HOST_OPTIONS = "KVLOCK_HOST_PYTEST"
REQUIREMENTS = "requirements-embedded.txt"
STAMP = "kvlock-requirements.sha256"
USAGE_ERROR, SETUP_ERROR = 2, 3  # exit codes of our own; all others are the command's


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def version_problem(version):
    """(major, minor, ...) -> why this Python cannot be used and what to do, or None."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    found, oldest, newest = (".".join(map(str, v[:2])) for v in (version, OLDEST, NEWEST))
    return (
        f"This is Python {found}; KV-Lock needs {oldest} to {newest}. Install one of them and name it, "
        f"for example: python{newest} launch.py demo   (on Windows: py -{newest} launch.py demo)"
    )


def missing_module_problem(find=importlib.util.find_spec):
    """Why no environment can be made with this Python, or None. Debian ships venv without its other half."""
    missing = [name for name in ("venv", "ensurepip") if find(name) is None]
    if not missing:
        return None
    return (
        f"This Python lacks {' and '.join(missing)}. On Debian and Ubuntu: sudo apt install python3-venv   "
        "(elsewhere: install Python from your system's packages or with its own installer)"
    )


def environment_python(root, windows=os.name == "nt"):
    """The interpreter inside .venv."""
    return root / ".venv" / ("Scripts/python.exe" if windows else "bin/python")


def fingerprint(path, version=sys.version_info):
    """Hash of a requirements file, of those it includes with -r, and of the Python version."""
    digest = hashlib.sha256(".".join(map(str, version[:2])).encode())
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        digest.update(line.encode() + b"\n")
        if line.startswith("-r "):
            digest.update(fingerprint(path.parent / line[3:].strip(), version).encode())
    return digest.hexdigest()


def is_ready(root):
    """True if .venv is there and what is installed in it is what the requirements ask for today."""
    stamp = root / ".venv" / STAMP
    ready = environment_python(root).exists() and stamp.exists()
    return ready and stamp.read_text(encoding="utf-8").strip() == fingerprint(root / REQUIREMENTS)


def command_line(command, arguments, root):
    """The process that does the work, as a list; not for `setup`."""
    python = str(environment_python(root))
    if command == "host-test":
        return [python, "-m", "pytest", HOST_TESTS, "-s"]
    if command != "test":
        return [python, "-m", "kvlock_diffusers", command, *arguments]
    named = any((root / a.split("::")[0]).exists() for a in arguments if not a.startswith("-"))
    return [python, "-m", "pytest", *([] if named else ["tests"]), *arguments]


def command_environment(command, root, inherited, arguments=()):
    """Environment variables of that process. The code is found by path, so users keep their own folder."""
    path = [str(root), *filter(None, [inherited.get("PYTHONPATH")])]
    ours = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"}
    if command in OFFLINE:
        ours["HF_HUB_OFFLINE"] = "1"
    if command == "host-test" and arguments:
        ours[HOST_OPTIONS] = shlex.join(arguments)
    return {**inherited, **ours}


def command_folder(command, root):
    """Tests run in the root; the rest where the user is, so that relative paths mean what they say."""
    return root if command in TESTS else Path.cwd()


def prepare(root):
    """Makes .venv and installs into it, as far as that is not done yet. Raises SetupError."""
    if is_ready(root):
        return
    if not environment_python(root).exists():
        _make_environment(root)
    _install(root)


def _make_environment(root):
    problem = missing_module_problem()
    if problem:
        raise SetupError(problem)
    folder, existed = root / ".venv", (root / ".venv").exists()
    _say("[1/2] making the environment .venv")
    if _run([sys.executable, "-m", "venv", str(folder)]) == 0:
        return
    if not existed:
        shutil.rmtree(folder, ignore_errors=True)
    raise SetupError(f"{folder} could not be made ({_free(root)}); delete the folder if it exists, then try again")


def _install(root):
    stamp, wanted = root / ".venv" / STAMP, fingerprint(root / REQUIREMENTS)
    stamp.unlink(missing_ok=True)  # from here on the environment is neither the old one nor the new
    _say("[2/2] installing packages; the first time this takes some minutes")
    pip = [str(environment_python(root)), "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
    if _run([*pip, "-r", str(root / REQUIREMENTS)]) != 0:
        raise SetupError(
            "The packages could not be installed; the lines above say which. Check the network connection and the "
            f"disk ({_free(root)}; 2 GB are enough without GPU packages, 10 GB with), then run the same command "
            "again: it goes on where it stopped. If it fails alike, delete the folder .venv first"
        )
    stamp.write_text(wanted + "\n", encoding="utf-8")


def _free(root):
    return f"{shutil.disk_usage(root).free / 1e9:.1f} GB free"


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _run(command, **settings):
    """Runs a process and returns its exit code. Ctrl-C reaches the process too, and it is left time to tidy up."""
    process = subprocess.Popen(command, **settings)
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            continue


def main(arguments, root=ROOT):
    """Runs one command. -> exit code"""
    problem = version_problem(sys.version_info)
    if problem:
        _say(problem)
        return SETUP_ERROR
    if not arguments or arguments[0] not in COMMANDS:
        _say(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else USAGE_ERROR
    command, *rest = arguments
    try:
        prepare(root)
    except (SetupError, OSError) as error:
        _say(f"\nKV-Lock is not ready. {error}")
        return SETUP_ERROR
    if command == "setup":
        return 0
    environment = command_environment(command, root, os.environ, rest)
    return _run(command_line(command, rest, root), env=environment, cwd=command_folder(command, root))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
