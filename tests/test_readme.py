"""The README is run: its Python as it stands, and every command's options against the command."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))
    assert "search(" in code
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), namespace)
    assert 0 < namespace["result"].predicted_s <= 0.007
    assert namespace["total_s"] > 0


def test_the_commands_of_the_readme_have_the_options_it_shows():
    commands = re.findall(r"python -m ([\w.]+)([^\n`#]*)", TEXT)
    assert len(commands) >= 4
    for module, rest in commands:
        shown = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown.stdout, f"{module} has no {option}"
