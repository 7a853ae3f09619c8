"""Which ComfyUI and which Python the host tests take; small trees on disk, no real ComfyUI."""

import os
import subprocess
import sys

import comfyui
import pytest


def make_comfyui(folder):
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (folder / name).touch()
    return folder


def make_python(path):
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.fixture
def home(tmp_path):
    """A home without any ComfyUI."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def pack(tmp_path):
    return tmp_path / "elsewhere" / "kv-lock"


@pytest.mark.parametrize("missing", comfyui.LANDMARKS)
def test_a_comfyui_is_told_by_all_its_landmarks(missing, tmp_path):
    folder = make_comfyui(tmp_path / "c")
    assert comfyui.is_comfyui(folder)
    path = folder / missing
    path.rmdir() if path.is_dir() else path.unlink()
    assert not comfyui.is_comfyui(folder)


def test_none_anywhere(home, pack):
    assert comfyui.find_comfyui({}, pack, home) is None


def test_the_order_of_the_places(tmp_path, home):
    pack = tmp_path / "mine" / "custom_nodes" / "kv-lock"
    found = []
    for folder in (home / "ComfyUI", home / "comfy" / "ComfyUI", tmp_path / "mine", tmp_path / "named"):
        make_comfyui(folder)
        environ = {"COMFYUI_PATH": str(folder)} if folder.name == "named" else {}
        found.append(comfyui.find_comfyui(environ, pack, home) == folder)
    assert found == [True] * 4


def test_the_folder_above_counts_only_from_custom_nodes(tmp_path, home):
    make_comfyui(tmp_path)
    assert comfyui.find_comfyui({}, tmp_path / "checkouts" / "kv-lock", home) is None


def test_a_wrong_path_is_an_error_even_if_another_would_do(tmp_path, home, pack):
    make_comfyui(home / "ComfyUI")
    (tmp_path / "wrong").mkdir()
    with pytest.raises(comfyui.ComfyUINotFoundError, match="COMFYUI_PATH is .*wrong, which has no main.py"):
        comfyui.find_comfyui({"COMFYUI_PATH": str(tmp_path / "wrong")}, pack, home)


def test_an_empty_path_is_no_path(home, pack):
    assert comfyui.find_comfyui({"COMFYUI_PATH": ""}, pack, home) is None


def test_the_order_of_the_pythons(tmp_path):
    folder = make_comfyui(tmp_path / "a" / "ComfyUI")
    assert str(comfyui.find_python(folder, {})) == sys.executable
    for place in ("../python_embeded/python.exe", "../venv/bin/python", "../.venv/bin/python", "venv/bin/python"):
        python = make_python((folder / place).resolve())
        assert comfyui.find_python(folder, {}) == python
    python = make_python(folder / ".venv" / "Scripts" / "python.exe")
    assert comfyui.find_python(folder, {}) == python
    named = make_python(tmp_path / "named" / "python")
    assert comfyui.find_python(folder, {"COMFYUI_PYTHON": str(named)}) == named


def test_a_python_that_is_not_there_is_named(tmp_path):
    with pytest.raises(comfyui.ComfyUINotFoundError, match="COMFYUI_PYTHON is .*gone, which does not exist"):
        comfyui.find_python(tmp_path, {"COMFYUI_PYTHON": str(tmp_path / "gone")})


def test_lent_pytest_runs_without_site_packages(tmp_path):
    """-S: the lent folder alone must be enough."""
    folder = comfyui.pytest_alone(tmp_path / "lent")
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert [1] == [1]\n")
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-S", "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path / "test_it.py")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_lent_pytest_holds_nothing_compiled_and_leaves_the_folder_alone(tmp_path):
    comfyui.pytest_alone(tmp_path / "in" / "lent")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["lent"]
    assert {p.suffix for p in tmp_path.rglob("*")}.isdisjoint(comfyui.COMPILED)


def test_the_line_names_every_place_and_the_way_out(home, tmp_path):
    line = comfyui.missing_line(tmp_path / "c" / "custom_nodes" / "kv-lock", home)
    places = (tmp_path / "c", home / "comfy" / "ComfyUI", home / "ComfyUI")
    assert all(str(place) in line for place in places) and "COMFYUI_PATH" in line and "\n" not in line
