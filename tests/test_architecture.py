"""The house rules that a machine can hold: who may import whom, sizes, and no side effects on import.

Everything works on syntax trees; nothing is imported. Every rule is shown to fail on a source that breaks it.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXEMPT_FROM_SIZES = ("toy", "tests", "benchmarks", "tools")
PACKAGES = ("kvlock_core", "kvlock_diffusers", "nodes", *EXEMPT_FROM_SIZES)

FILE_LINES, NODE_FILE_LINES, FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 300, 120, 45, 8

#: errors <- types <- {pure mathematics, places} <- {settings, trace, metrics} <- store <- source <- session; a module imports lower ones.
CORE_LAYERS = {
    "errors": 0,
    **dict.fromkeys(("types", "identity"), 1),
    **dict.fromkeys(("tokens", "fuse", "risk", "schedule", "guidance", "invert", "codec", "tiers", "early_end"), 2),
    **dict.fromkeys(("composite", "prefetch", "settings", "trace", "metrics"), 3),
    "store": 4,
    **dict.fromkeys(("source", "cachefile", "budget"), 5),
    **dict.fromkeys(("session", "calibrate", "supply"), 6),
    "__init__": 7,
}
#: settings hands schedules on; metrics grows masks. trace sees nothing above types. A store is what some sources keep.
CORE_SAME_LAYER: set[tuple[str, str]] = set()
CORE_LIMITS = {"trace": {"errors", "types"}, "metrics": {"errors", "types", "tokens"}}
CORE_THIRD_PARTY = {"torch", "einops", "safetensors", "kornia"}

#: package -> packages of this project that it must not import
FORBIDDEN = {
    "kvlock_core": {"nodes", "kvlock_diffusers", "toy", "benchmarks", "tests"},
    "kvlock_diffusers": {"nodes", "toy", "benchmarks", "tests"},
    "nodes": {"kvlock_diffusers", "toy", "benchmarks", "tests"},
    "toy": {"nodes", "tests"},
}
#: `demo` and `--model toy` need the toy's clips and weights; one file fetches them, all others stay free of it.
PORTS = {"kvlock_diffusers/toyworld.py": {"toy"}}
#: Only nodes/host names the host's internals.
HOST_INTERNALS = {"comfy", "comfy_execution", "comfy_extras", "execution", "nodes", "server", "folder_paths"}


def python_files(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)


def project_files(*without: str) -> list[Path]:
    return [path for package in PACKAGES if package not in without for path in python_files(package)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(source: str) -> list[tuple[int, str]]:
    """(level, dotted name) of every import anywhere in a file; level 0 = absolute."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.level, name) for name in names]
    return found


def first(dotted: str) -> str:
    return dotted.split(".")[0]


# the rules: each takes (name, source) and returns what is wrong -------------------------------------------------------


def core_imports(name: str, source: str) -> list[str]:
    module = Path(name).stem
    wrong = [f"{n} is not allowed" for level, n in imports_of(source) if level == 0 and not _core_may_use(first(n))]
    wrong += [f"{n} leaves the package" for level, n in imports_of(source) if level > 1]
    siblings = {first(n) for level, n in imports_of(source) if level == 1}
    return wrong + [f"{module} imports {n}" for n in sorted(siblings) if not _is_below(n, module)]


def _core_may_use(package: str) -> bool:
    return package in CORE_THIRD_PARTY or package in sys.stdlib_module_names


def _is_below(lower: str, module: str) -> bool:
    if module in CORE_LIMITS:
        return lower in CORE_LIMITS[module]
    return CORE_LAYERS[lower] < CORE_LAYERS[module] or (module, lower) in CORE_SAME_LAYER


def package_imports(name: str, source: str) -> list[str]:
    forbidden = FORBIDDEN.get(first(name.replace("/", ".")), set()) - PORTS.get(name, set())
    names = {first(n) for level, n in imports_of(source) if level == 0}
    climbing = {first(n) for level, n in imports_of(source) if level > 1}  # ..other_package
    return [f"imports {n}" for n in sorted((names | climbing) & forbidden)]


def host_stays_in_its_folder(name: str, source: str) -> list[str]:
    if not name.startswith("nodes/") or name.startswith("nodes/host/"):
        return []
    return [f"names {n}" for level, n in imports_of(source) if level == 0 and first(n) in HOST_INTERNALS]


def pack_is_relative(name: str, source: str) -> list[str]:
    # inside nodes/host an absolute `nodes` is ComfyUI's own nodes.py
    own = {"kvlock_core"} if name.startswith("nodes/host/") else {"kvlock_core", "nodes"}
    return [f"imports {n} absolutely" for level, n in imports_of(source) if level == 0 and first(n) in own]


def core_knows_no_host(name: str, source: str) -> list[str]:
    hosts = ("com" + "fy", "diff" + "users")
    return [f"names {host}" for host in hosts if host in source.lower()]


def no_side_effects(name: str, source: str) -> list[str]:
    """At module level only a docstring, imports, definitions, assignments and `if TYPE_CHECKING`."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    harmless = (ast.Import, ast.ImportFrom, *definitions, ast.Assign, ast.AnnAssign)
    body = ast.parse(source).body
    return [f"line {n.lineno} runs on import" for n in body if not (isinstance(n, harmless) or _is_quiet(n))]


def _is_quiet(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def no_print(name: str, source: str) -> list[str]:
    calls = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    return [f"line {call.lineno} prints" for call in calls if call.func.id == "print"]


def no_blind_except(name: str, source: str) -> list[str]:
    handlers = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ExceptHandler)]
    bare = [f"line {h.lineno}: bare except" for h in handlers if h.type is None]
    return bare + [f"line {h.lineno}: except: pass" for h in handlers if [type(n) for n in h.body] == [ast.Pass]]


def file_is_short(name: str, source: str) -> list[str]:
    limit = NODE_FILE_LINES if name.startswith("nodes/") and name.count("/") == 1 else FILE_LINES
    count = len(source.splitlines())
    return [f"{count} lines, limit {limit}"] if count >= limit else []


def function_lines(source: str) -> dict[str, int]:
    """Lines of code per function: from the line after the signature's start, without docstring, blanks and comments."""
    lines = source.splitlines()
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {f"{f.name}:{f.lineno}": _code_lines(f, lines) for f in functions}


def _code_lines(function: ast.FunctionDef, lines: list[str]) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    span = (line.strip() for line in lines[body[0].lineno - 1 : body[-1].end_lineno])
    return sum(1 for line in span if line and not line.startswith("#"))


def functions_are_short(name: str, source: str) -> list[str]:
    return [f"{f} has {n} lines" for f, n in function_lines(source).items() if n > FUNCTION_LINES]


CORE_RULES = (core_imports, core_knows_no_host, no_side_effects, no_print)
PACK_RULES = (file_is_short, functions_are_short, no_blind_except)


def broken(rules, paths: list[Path]) -> list[str]:
    texts = ((name_of(path), path.read_text(encoding="utf-8")) for path in paths)
    return [f"{name}: {rule.__name__}: {wrong}" for name, text in texts for rule in rules for wrong in rule(name, text)]


# the project keeps them -----------------------------------------------------------------------------------------------


def test_there_is_something_to_check():
    assert len(python_files("kvlock_core")) >= 12


def test_every_core_module_has_a_layer():
    assert {path.stem for path in python_files("kvlock_core")} <= set(CORE_LAYERS)


def test_core():
    assert broken(CORE_RULES, python_files("kvlock_core")) == []


def test_core_files_of_any_kind_know_no_host():
    texts = {p: p.read_bytes() for p in (ROOT / "kvlock_core").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert [name_of(p) for p, data in texts.items() if b"com" + b"fy" in data.lower()] == []


def test_every_package():
    assert broken((package_imports,), project_files()) == []


def test_sizes_and_errors():
    assert broken(PACK_RULES, project_files(*EXEMPT_FROM_SIZES)) == []


def test_the_pack_imports_itself_relatively():
    paths = [*python_files("kvlock_core"), *python_files("nodes")]
    assert broken((pack_is_relative, host_stays_in_its_folder), paths) == []


def test_functions_are_short_in_the_middle_too():
    texts = [path.read_text(encoding="utf-8") for path in python_files("kvlock_core")]
    counts = [lines for text in texts for lines in function_lines(text).values()]
    assert sorted(counts)[len(counts) // 2] <= MEDIAN_FUNCTION_LINES


# and every rule bites -------------------------------------------------------------------------------------------------

LONG = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1)

BREAKS = [
    (core_imports, "kvlock_core/risk.py", "import numpy"),
    (core_imports, "kvlock_core/risk.py", "from kvlock_core.types import Site"),
    (core_imports, "kvlock_core/risk.py", "from ..nodes import x"),
    (core_imports, "kvlock_core/risk.py", "from .session import LockSession"),
    (core_imports, "kvlock_core/risk.py", "from .tokens import latent_mask"),
    (core_imports, "kvlock_core/risk.py", "from . import session"),
    (core_imports, "kvlock_core/risk.py", "def f():\n    from .session import LockSession"),
    (core_imports, "kvlock_core/errors.py", "from .types import Site"),
    (core_imports, "kvlock_core/trace.py", "from .risk import RiskWindow"),
    (core_imports, "kvlock_core/store.py", "from .source import Lockstep"),
    (core_knows_no_host, "kvlock_core/risk.py", "# as in Com" + "fyUI"),
    (core_knows_no_host, "kvlock_core/risk.py", "HOST = 'diff" + "users'"),
    (no_side_effects, "kvlock_core/risk.py", "setup()"),
    (no_side_effects, "kvlock_core/risk.py", "for i in range(3):\n    pass"),
    (no_side_effects, "kvlock_core/risk.py", "if True:\n    x = 1"),
    (no_side_effects, "kvlock_core/risk.py", "try:\n    import x\nexcept ImportError:\n    x = None"),
    (no_print, "kvlock_core/risk.py", "def f():\n    print(1)"),
    (no_blind_except, "nodes/lock.py", "try:\n    f()\nexcept:\n    g()"),
    (no_blind_except, "nodes/lock.py", "try:\n    f()\nexcept ValueError:\n    pass"),
    (package_imports, "kvlock_core/risk.py", "from nodes.host import memory"),
    (package_imports, "kvlock_diffusers/adapter.py", "import toy.scenes"),
    (package_imports, "kvlock_diffusers/adapter.py", "from ..nodes import lock"),
    (package_imports, "nodes/host/memory.py", "from ...kvlock_diffusers import adapter"),
    (package_imports, "toy/train.py", "from nodes import lock"),
    (host_stays_in_its_folder, "nodes/lock.py", "import com" + "fy.model_management"),
    (host_stays_in_its_folder, "nodes/lock.py", "def f():\n    from server import PromptServer"),
    (pack_is_relative, "nodes/lock.py", "from kvlock_core import fuse"),
    (pack_is_relative, "nodes/host/ksampler.py", "import kvlock_core"),
    (pack_is_relative, "nodes/lock.py", "import nodes"),
    (file_is_short, "kvlock_core/risk.py", "x = 1\n" * FILE_LINES),
    (file_is_short, "nodes/lock.py", "x = 1\n" * NODE_FILE_LINES),
    (functions_are_short, "kvlock_core/risk.py", LONG),
    (functions_are_short, "kvlock_core/risk.py", "class A:\n    " + LONG.replace("\n", "\n    ")),
]

#: The valid twin of each rule.
KEEPS = [
    (core_imports, "kvlock_core/session.py", "import torch\nimport einops\nfrom .risk import RiskWindow"),
    (core_imports, "kvlock_core/metrics.py", "from kornia.metrics import ssim\nfrom .tokens import grow_mask"),
    (core_imports, "kvlock_core/source.py", "from .store import KVStore"),
    (core_knows_no_host, "kvlock_core/risk.py", "# a host"),
    (no_side_effects, "kvlock_core/risk.py", '"""Doc."""\nimport a\nfrom typing import TYPE_CHECKING\nX: int = 1'),
    (no_side_effects, "kvlock_core/risk.py", "if TYPE_CHECKING:\n    import a"),
    (no_print, "kvlock_core/risk.py", "_log.info('print')"),
    (no_blind_except, "nodes/lock.py", "try:\n    f()\nexcept ValueError as exc:\n    raise KeyError from exc"),
    (package_imports, "toy/train.py", "import kvlock_core\nimport kvlock_diffusers"),
    (host_stays_in_its_folder, "nodes/host/memory.py", "import com" + "fy.model_management"),
    (host_stays_in_its_folder, "nodes/lock.py", "from com" + "fy_api.latest import io"),
    (pack_is_relative, "nodes/lock.py", "from ..kvlock_core import fuse"),
    (pack_is_relative, "nodes/host/ksampler.py", "import nodes"),
    (file_is_short, "nodes/host/memory.py", "x = 1\n" * NODE_FILE_LINES),
    (functions_are_short, "kvlock_core/risk.py", 'def f():\n    """' + "\n" * 99 + '"""\n    return 1'),
]


@pytest.mark.parametrize("rule, name, source", BREAKS)
def test_the_rule_bites(rule, name, source):
    assert rule(name, source) != []


@pytest.mark.parametrize("rule, name, source", KEEPS)
def test_the_rule_lets_good_code_pass(rule, name, source):
    assert rule(name, source) == []


def test_every_rule_is_shown_to_bite():
    assert {rule for rule, _, _ in BREAKS} >= {*CORE_RULES, *PACK_RULES, package_imports, pack_is_relative}
