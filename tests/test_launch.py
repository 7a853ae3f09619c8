"""The launcher's decisions; nothing is installed here."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import launch


@pytest.fixture
def root(tmp_path):
    """A checkout with two requirement files and no environment."""
    (tmp_path / launch.REQUIREMENTS).write_text("torch==1\n-r requirements.txt\n")
    (tmp_path / "requirements.txt").write_text("numpy\n")
    return tmp_path


@pytest.fixture
def processes(monkeypatch):
    """Records what would be run; every process succeeds unless its words hold the key of an entry in `codes`."""
    seen, codes = [], {}

    def fake(command, **settings):
        seen.append((command, settings))
        if command[1:3] == ["-m", "venv"] and "venv" not in codes:
            python = launch.environment_python(Path(command[3]).parent)
            python.parent.mkdir(parents=True)
            python.touch()
        return next((code for word, code in codes.items() if word in command), 0)

    fake.seen, fake.codes = seen, codes
    monkeypatch.setattr(launch, "_run", fake)
    return fake


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 13, 99)])
def test_supported_python(version):
    assert launch.version_problem(version) is None


@pytest.mark.parametrize("version", [(2, 7), (3, 9, 18), (3, 14, 0), (4, 0)])
def test_unsupported_python_is_named(version):
    words = launch.version_problem(version)
    assert f"Python {version[0]}.{version[1]};" in words and "3.10 to 3.13" in words and "launch.py" in words


def test_this_file_says_so_on_an_unsupported_python(root, processes, monkeypatch, capsys):
    monkeypatch.setattr(launch.sys, "version_info", (3, 9, 1))
    assert launch.main(["demo"], root) == launch.SETUP_ERROR
    assert "Python 3.9" in capsys.readouterr().err and processes.seen == []


def test_missing_ensurepip_names_the_package():
    words = launch.missing_module_problem(find=lambda name: None if name == "ensurepip" else name)
    assert "ensurepip" in words and "python3-venv" in words
    assert launch.missing_module_problem(find=lambda name: name) is None


def test_interpreter_of_each_system():
    assert launch.environment_python(Path("r"), windows=True).parts[-2:] == ("Scripts", "python.exe")
    assert launch.environment_python(Path("r"), windows=False).parts[-2:] == ("bin", "python")


def test_fingerprint_follows_both_files_and_the_python(root):
    path, seen = root / launch.REQUIREMENTS, set()
    seen.add(launch.fingerprint(path))
    assert launch.fingerprint(path) in seen
    seen.add(launch.fingerprint(path, version=(3, 99)))
    (root / "requirements.txt").write_text("numpy\neinops\n")
    seen.add(launch.fingerprint(path))
    path.write_text("torch==2\n-r requirements.txt\n")
    seen.add(launch.fingerprint(path))
    assert len(seen) == 4


def test_first_call_makes_installs_and_stamps(root, processes):
    assert launch.main(["setup"], root) == 0
    made, installed = (command for command, _ in processes.seen)
    assert made[1:3] == ["-m", "venv"] and "install" in installed
    assert launch.is_ready(root)


def test_second_call_installs_nothing(root, processes):
    launch.main(["setup"], root)
    processes.seen.clear()
    assert launch.main(["demo"], root) == 0
    assert [command[1:] for command, _ in processes.seen] == [["-m", "kvlock_diffusers", "demo"]]


def test_changed_requirements_install_again_without_a_new_environment(root, processes):
    launch.main(["setup"], root)
    processes.seen.clear()
    (root / "requirements.txt").write_text("numpy>=2\n")
    assert launch.main(["setup"], root) == 0
    assert len(processes.seen) == 1 and "install" in processes.seen[0][0]


def test_failed_install_is_tried_again(root, processes, capsys):
    processes.codes["install"] = 1
    assert launch.main(["demo"], root) == launch.SETUP_ERROR
    words = capsys.readouterr().err
    assert "network" in words and "GB free" in words and not launch.is_ready(root)
    assert not any("kvlock_diffusers" in command for command, _ in processes.seen)
    processes.codes.clear()
    assert launch.main(["demo"], root) == 0


def test_failed_upgrade_forgets_the_old_stamp(root, processes):
    launch.main(["setup"], root)
    before = (root / "requirements.txt").read_text()
    (root / "requirements.txt").write_text("numpy>=2\n")
    processes.codes["install"] = 1
    launch.main(["setup"], root)
    (root / "requirements.txt").write_text(before)
    assert not launch.is_ready(root)


def test_failed_environment_is_removed(root, processes, capsys):
    processes.codes["venv"] = 1
    assert launch.main(["demo"], root) == launch.SETUP_ERROR
    assert "could not be made" in capsys.readouterr().err and not (root / ".venv").exists()


def test_absent_requirements_are_an_error_not_a_crash(root, processes, capsys):
    (root / "requirements.txt").unlink()
    assert launch.main(["setup"], root) == launch.SETUP_ERROR
    assert "requirements.txt" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "edit", "calibrate"])
def test_arguments_are_passed_on(command, root):
    line = launch.command_line(command, ["--steps", "4", "a b.mp4"], root)
    assert line == [str(launch.environment_python(root)), "-m", "kvlock_diffusers", command, "--steps", "4", "a b.mp4"]


def test_tests_run_all_unless_one_is_named(root):
    (root / "tests").mkdir()
    (root / "tests" / "test_x.py").touch()
    assert launch.command_line("test", ["-k", "fit"], root)[1:] == ["-m", "pytest", "tests", "-k", "fit"]
    assert launch.command_line("test", ["tests/test_x.py::test_a"], root)[3:] == ["tests/test_x.py::test_a"]


def test_host_tests_are_one_file_whose_output_is_seen(root):
    line = launch.command_line("host-test", ["-k", "parity"], root)
    assert line[1:] == ["-m", "pytest", launch.HOST_TESTS, "-s"] and (launch.ROOT / launch.HOST_TESTS).exists()


def test_options_reach_the_pytest_inside_comfyui(root, processes):
    launch.main(["host-test", "-k", "parity or a b", "-x"], root)
    environment = processes.seen[-1][1]["env"]
    assert shlex.split(environment[launch.HOST_OPTIONS]) == ["-k", "parity or a b", "-x"]
    assert launch.HOST_OPTIONS in (launch.ROOT / launch.HOST_TESTS).read_text()


def test_without_options_the_users_variable_stays(root):
    inherited = {launch.HOST_OPTIONS: "-v"}
    assert launch.command_environment("host-test", root, inherited)[launch.HOST_OPTIONS] == "-v"
    assert launch.HOST_OPTIONS not in launch.command_environment("test", root, {}, ["-k", "fit"])


@pytest.mark.parametrize("command", ["test", "host-test"])
def test_exit_code_is_passed_on(command, root, processes):
    processes.codes["pytest"] = 5
    assert launch.main([command], root) == 5


@pytest.mark.parametrize("command, offline", [("demo", True), ("test", True), ("host-test", True), ("edit", False), ("calibrate", False)])
def test_only_demo_and_tests_are_offline(command, offline, root):
    environment = launch.command_environment(command, root, {"A": "b"})
    assert ("HF_HUB_OFFLINE" in environment) is offline and environment["A"] == "b"


def test_code_is_found_by_path_and_the_users_path_is_kept(root):
    path = launch.command_environment("edit", root, {"PYTHONPATH": "mine"})["PYTHONPATH"]
    assert path.split(os.pathsep) == [str(root), "mine"]
    assert launch.command_environment("edit", root, {})["PYTHONPATH"] == str(root)


def test_users_relative_paths_stay_theirs(root):
    assert launch.command_folder("edit", root) == Path.cwd()
    assert launch.command_folder("test", root) == launch.command_folder("host-test", root) == root


@pytest.mark.parametrize("arguments, code", [([], 2), (["paint"], 2), (["--help"], 0), (["-h"], 0)])
def test_usage(arguments, code, root, processes, capsys):
    assert launch.main(arguments, root) == code
    assert "python launch.py demo" in capsys.readouterr().err and processes.seen == []


def test_real_exit_codes():
    assert launch._run([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_process_gives_the_shells_code():
    assert launch._run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 128 + signal.SIGKILL


def test_real_fingerprint_reads_the_real_files():
    assert len(launch.fingerprint(launch.ROOT / launch.REQUIREMENTS)) == 64


def test_launcher_needs_only_the_standard_library():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import launch; print(launch.COMMANDS)"
    # -S: without site-packages; -E: without the caller's PYTHONPATH
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code, str(launch.ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
