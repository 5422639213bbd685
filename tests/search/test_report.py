from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from devices.errors import UserError
from latency.ops import Conv2d, Zero, mbconv
from latency.space import SearchSpace
from search.api import search_data
from search.data import Data
from search.figures import label, network_diagram
from search.recipe import Recipe
from search.report import main, write_report


@pytest.fixture
def finished(space: SearchSpace, predictor, quick: Recipe, bands: Data, tmp_path: Path) -> Path:
    search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path / "r")
    return tmp_path / "r"


def test_the_report_is_one_file_without_network(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    outside = set(re.findall(r"""(?:href|src|url)\s*[=(]\s*["']?(https?:[^"')]+)""", text))
    assert not {link for link in outside if not link.startswith("http://www.w3.org")}
    assert "<script" not in text
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(figure)
    assert len(re.findall(r"<svg", text)) >= 7
    derived = next(
        json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines() if "derived" in line
    )
    assert f"{derived['predicted_s'] * 1e3:.3f} ms" in text
    assert "random of equal latency" in text


def test_the_report_is_the_same_again_and_shows_a_later_measurement(finished: Path) -> None:
    before = (finished / "report.html").read_bytes()
    write_report(finished)
    assert (finished / "report.html").read_bytes() == before
    verify = {"predicted_ms": 0.2, "measured_ms": 0.234, "device": {"device": "slate"}, "random": [[0.3, 0.31]]}
    (finished / "verify.json").write_text(json.dumps(verify))
    assert main([str(finished)]) == 0
    text = (finished / "report.html").read_text()
    assert "0.234 ms on slate" in text
    assert "measured, ms" in text


def test_an_unfinished_run_has_a_report(finished: Path) -> None:
    path = finished / "metrics.jsonl"
    lines = path.read_text().splitlines()
    for keep in (1, 3, 10):
        path.write_text("\n".join(lines[:keep]) + '\n{"torn')
        assert "unfinished" in write_report(finished).read_text()


def test_reports_of_nothing_say_so(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    path = finished / "metrics.jsonl"
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: not JSON"):
        write_report(finished)


def test_labels_and_diagram() -> None:
    block = mbconv(24, 24, 56, kernel=5, stride=1, expand=6)
    skip = Zero(in_channels=24, out_channels=24, height=56, width=56, shortcut=1)
    assert label(block) == "MB6 5x5"
    assert label(skip) == "skip"
    assert label(Conv2d(in_channels=3, out_channels=8, height=8, width=8, kernel=3)) == "Conv 3x3"
    root = ElementTree.fromstring(network_diagram([block, skip, block], [3e-3, 0.0, 1e-3]))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "3.00 ms, 75.0%" in texts
    assert "no cost" in texts
    assert "24 → 24, 56x56" in texts
