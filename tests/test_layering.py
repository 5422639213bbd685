"""search -> latency -> devices: nothing imports upward, and --help needs nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LAYERS = {"devices": 0, "latency": 1, "search": 2}
HEAVY = ("torch", "sklearn", "scipy", "pandas", "numpy", "onnxruntime", "datasets", "matplotlib")
CLIS = sorted(
    f"{path.parent.name}.{path.stem}"
    for package in LAYERS
    for path in (ROOT / package).glob("*.py")
    if "def main(" in path.read_text(encoding="utf-8")
)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_imports_upward(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for module in imported(path):
            top = module.split(".")[0]
            assert LAYERS.get(top, -1) <= LAYERS[package], f"{path.relative_to(ROOT)} imports {module}"


def test_the_known_commands_are_found():
    assert {"latency.profile", "latency.fit", "latency.verify", "search.run"} <= set(CLIS)


@pytest.mark.parametrize("cli", CLIS)
def test_help_imports_nothing_heavy(cli):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{cli}', '--help']\n"
        f"try: runpy.run_module('{cli}', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "--json" in done.stdout


@pytest.mark.parametrize("cli", CLIS)
def test_unknown_option_is_one_line_and_exit_2(cli):
    done = subprocess.run([sys.executable, "-m", cli, "--no-such-option"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
