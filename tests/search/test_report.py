from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from devices.errors import UserError
from latency.ops import Conv2d, Zero, mbconv
from latency.space import SearchSpace, load_architecture
from latency.spaces.proxyless_cifar import make as make_cifar
from latency.wiring import is_wired
from search.api import search_data
from search.data import Data
from search.diagram import cells, lines
from search.figures import cell_maps, label, network_diagram
from search.recipe import Recipe
from search.report import main, write_report
from tests.search.conftest import FakePredictor, make_data


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


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the space of tree cells that ships for tests, shrunk to maps of 8x8."""
    space = make_cifar("trees", blocks=1, width=32, stem=4, bottleneck=2, branches=(2, 2), image_size=8)
    recipe = Recipe(batch_size=8, warmup_steps=2, search_steps=4, train_steps=2, alpha_every=2)
    folder = tmp_path_factory.mktemp("runs") / "tree"
    search_data(space, FakePredictor(), make_data(60, size=8, classes=2), recipe=recipe, run_dir=folder)
    return folder


def test_a_search_on_trees_ends_in_a_network_and_a_report(tree: Path) -> None:
    """The whole way: search, derivation, training, architecture.json, ONNX that agrees with torch, report."""
    architecture = load_architecture(tree / "architecture.json")
    assert is_wired(architecture.ops)
    assert (tree / "network.onnx").stat().st_size > 0
    derived = next(
        r for r in map(json.loads, (tree / "metrics.jsonl").read_text().splitlines()) if r["phase"] == "derived"
    )
    seconds, _ = FakePredictor().network_s(architecture.ops)
    assert derived["predicted_s"] == pytest.approx(seconds)
    text = (tree / "report.html").read_text()
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(figure)
    for cell in ("stage1.0", "stage2.0", "stage3.0"):
        assert f'font-weight="bold">{cell}</text>' in text
    assert "Its 3 cells in order" in text


def test_cells_hold_the_ops_of_the_network(tree: Path) -> None:
    row = json.loads((tree / "metrics.jsonl").read_text().splitlines()[0])
    indices = [i % 7 for i in range(18)]
    found = cells(row, indices)
    assert [c.name for c in found] == ["stage1.0", "stage2.0", "stage3.0"]
    chosen = [leaf for c in found for leaf in c.leaves if leaf.block is not None]
    assert [str(leaf.op) for leaf in chosen] == [
        b["candidates"][i] for b, i in zip(row["blocks"], indices, strict=True)
    ]
    assert sum(c.seconds for c in found) == pytest.approx(
        sum(b["cost_s"][i] for b, i in zip(row["blocks"], indices, strict=True))
    )
    assert lines(found[0].nodes) == [
        "+ Conv 1x1",
        "  + Sep 3x3 → (Sep 5x5 + Sep 7x7)",
        "  + Sep 3x3 d2 → (identity + avg pool 3x3)",
        "  Conv 1x1",
        "+ pad to 16",
    ]


def test_many_edges_share_a_map(tree: Path) -> None:
    rows = [{"probs": [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]}]
    blocks = [{"name": "a/0"}, {"name": "a/1"}, {"name": "b/0"}]
    figure = ElementTree.fromstring(cell_maps(rows, blocks, [["x", "y"]] * 3))
    assert figure.tag.endswith("svg")


def test_runs_side_by_side(space: SearchSpace, quick: Recipe, bands: Data, tree: Path, tmp_path: Path) -> None:
    """Each network by each run's own costs, worked out here; networks of another space have a column and no number."""
    fast, slow = FakePredictor(scale=1.0), FakePredictor(scale=4.0)
    for name, predictor in (("fast", fast), ("slow", slow)):
        search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path / name)
    out = tmp_path / "all.html"
    assert main([str(tmp_path / "fast"), str(tmp_path / "slow"), str(tree), "--out", str(out)]) == 0
    text = out.read_text()
    ops = load_architecture(tmp_path / "slow" / "architecture.json").ops
    assert f"{fast.network_s(ops)[0] * 1e3:.3f} ms" in text
    assert ">-<" in text
    assert "stage3.0" in text
    assert "<script" not in text
    assert not re.findall(r"""(?:href|src)=["']https?:""", text.replace("http://www.w3.org", ""))


def test_comparisons_of_nothing_say_so(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished), str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main([str(finished), str(finished), "--out", str(tmp_path / "x.html")]) == 2
    assert "two runs have one name" in capsys.readouterr().err
    assert main([str(finished), "--out", "x.html"]) == 2
    assert "goes with several runs" in capsys.readouterr().err
    shutil.copytree(finished, tmp_path / "half")
    lines_ = (finished / "metrics.jsonl").read_text().splitlines()[:3]
    (tmp_path / "half" / "metrics.jsonl").write_text("\n".join(lines_) + "\n")
    assert main([str(finished), str(tmp_path / "half")]) == 2
    assert "has found no network yet" in capsys.readouterr().err


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
